# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Where a video comes from, and what reading it may cost: paths, bytes, file objects, http(s) URLs and the Hub."""

import http.client
import os
import queue
import re
import string
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from io import BytesIO
from os import PathLike
from typing import Any, BinaryIO

from huggingface_hub import HfFileSystem


# A dict has the path or the bytes, as rows of `datasets.Video(decode=False)`
VideoSource = str | PathLike[str] | bytes | BinaryIO | dict[str, Any]

URL_TIMEOUT = 30.0  # seconds without an answer
_CHUNK = 1 << 16  # bytes of a download at a time
_HEAD = 1024  # bytes that tell what a file is
# Beginnings of files that are no videos, and what they are. Playlists (HLS, ffconcat, DASH and IMF, SDP) would make
# FFmpeg open other files and addresses
_NO_VIDEOS = [
    (re.compile(rb"(?:\xef\xbb\xbf)?\s*" + start, re.IGNORECASE), kind)
    for start, kind in (
        (
            rb"(?=<[!?a-z])[^\0]*?<(!doctype html|html|head|body)\b",
            "an HTML page: the address shows a page, not the file itself",
        ),
        (rb"<[!?a-z]", "XML: a playlist, which names other files, or the error of a server"),
        (rb"(#EXTM3U|ffconcat|v=0|\[playlist\])", "a playlist, which names other files"),
        (rb"version https://git-lfs", "a pointer of Git LFS: `git lfs pull` fetches the file itself"),
        (rb"[{\[]\s*[\"{\[]", "JSON"),
        (rb"%PDF-", "a PDF"),
        (rb"(PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!)", "an archive: unpack it"),
    )
]


class VideoReadError(ValueError):
    """A video that cannot be read; the message names it and the cause."""


class VideoNotFoundError(VideoReadError, FileNotFoundError):
    """A path at which there is no file."""


@dataclass(frozen=True)
class VideoLimits:
    """What reading one video may cost; beyond, it counts as unreadable. None lifts a limit.

    Args:
        decode_seconds (float, defaults to 120): To download and decode what is asked for.
        max_pixels (int, defaults to 2²⁵): width · height of a frame; 8K fits.
        max_url_bytes (int, defaults to 2³⁰): Size of the file behind a URL.
    """

    decode_seconds: float | None = 120.0
    max_pixels: int | None = 1 << 25
    max_url_bytes: int | None = 1 << 30

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not (isinstance(value, int | float) and value > 0):
                raise ValueError(f"`{field.name}` must be positive, or None for no limit, got {value!r}.")

    def check_size(self, width: int, height: int) -> None:
        """Raise VideoReadError for frames that are too large."""
        if self.max_pixels is not None and width * height > self.max_pixels:
            raise VideoReadError(f"its frames of {width} × {height} pixels exceed `max_pixels` of {self.max_pixels}")


class Deadline:
    """The end of the time that a video may take, or that may pass until its next frame; it starts when it is made."""

    def __init__(self, seconds: float | None, for_each_frame: bool = False):
        self._seconds, self.for_each_frame = seconds, for_each_frame
        self.restart()

    def restart(self) -> None:
        """Begin anew."""
        self._end = float("inf") if self._seconds is None else time.monotonic() + self._seconds

    def check(self) -> None:
        """Raise VideoReadError when the time is over."""
        if time.monotonic() > self._end:
            raise VideoReadError(f"it takes longer than `decode_seconds` of {self._seconds}")


def is_url(source: Any) -> bool:
    """Whether a source is an address, `scheme://…`, and not a path."""
    return isinstance(source, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source) is not None


def source_name(source: Any) -> str:
    """How messages call a source."""
    if isinstance(source, dict):
        source = source.get("path") or source.get("bytes")
    if isinstance(source, list | tuple) and len(source) > 1:
        return f"{source_name(source[0])} and {len(source) - 1} more"
    if isinstance(source, bytes):
        return f"<{len(source)} bytes>"
    return str(source) if isinstance(source, str | PathLike) else str(getattr(source, "name", source))


@contextmanager
def open_source(source: Any, limits: VideoLimits, deadline: Deadline) -> Iterator[str | BinaryIO]:
    """A path or a seekable file object that decoders can open more than once.

    Raises:
        VideoReadError: For what is no file, for files that are something else than a video, and for URLs that cannot
            be loaded, that are not http(s) or lead elsewhere, or whose files are too large.
    """
    if isinstance(source, dict):
        source = source.get("path") if source.get("bytes") is None else source["bytes"]
    if source is None:
        raise VideoReadError("there is neither a path nor bytes")
    if is_url(source) and str(source).startswith("hf://"):
        try:
            opened: Any = HfFileSystem().open(str(source))
        except ValueError as error:
            raise VideoReadError(f"it is no file of the Hub: {error}") from error
        with opened as remote:
            _check_head(remote)
            yield remote
    elif is_url(source):
        with tempfile.TemporaryFile() as download:
            _download(str(source), download, limits, deadline)
            _check_head(download)
            yield download
    elif isinstance(source, str | PathLike):
        path = os.path.abspath(os.fspath(source))  # FFmpeg would take "concat:a" for more than a name
        if not os.path.exists(path):
            raise VideoNotFoundError("there is no such file")
        if not os.path.isfile(path):
            raise VideoReadError("it is not a file")
        with open(path, "rb") as content:
            _check_head(content)
        yield path
    else:
        file: Any = BytesIO(source) if isinstance(source, bytes | bytearray | memoryview) else source
        if not hasattr(file, "read"):
            raise VideoReadError(f"it is no path, URL, bytes or file, but of the type {type(source).__name__}")
        if not (hasattr(file, "seek") and (not hasattr(file, "seekable") or file.seekable())):
            file = BytesIO(file.read())
        _check_head(file)
        yield file


def _check_head(file: BinaryIO) -> None:
    file.seek(0)
    head = file.read(_HEAD)
    file.seek(0)
    if not isinstance(head, bytes):
        raise VideoReadError("it is opened as text; open it in binary mode")
    if not head:
        raise VideoReadError("it is empty")
    for start, kind in _NO_VIDEOS:
        if start.match(head):
            raise VideoReadError(f"it is no video but {kind}")


def _encoded(url: str) -> str:
    """The address with what is not ASCII, and spaces, as percent signs, and the name of the host as IDNA has it."""
    parts = urllib.parse.urlsplit(url)
    host = parts.netloc.encode("idna").decode() if not parts.netloc.isascii() else parts.netloc
    path, query = (urllib.parse.quote(part, safe=string.punctuation) for part in (parts.path, parts.query))
    return urllib.parse.urlunsplit((parts.scheme, host, path, query, ""))


def _download(url: str, file: BinaryIO, limits: VideoLimits, deadline: Deadline) -> None:
    scheme = url.partition("://")[0].lower()
    if scheme not in ("http", "https"):
        raise VideoReadError(f"URLs must be http, https or hf, not {scheme}")
    too_large = f"it is larger than `max_url_bytes` of {limits.max_url_bytes}"
    limit = float("inf") if limits.max_url_bytes is None else limits.max_url_bytes
    # Without handlers for other schemes, a redirect to one of them is an error
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    try:
        address = _encoded(url)
        with _within(deadline, lambda: opener.open(address, timeout=URL_TIMEOUT)) as response:
            if int(response.headers.get("Content-Length") or 0) > limit:
                raise VideoReadError(too_large)
            size = 0
            while chunk := response.read1(_CHUNK):
                deadline.check()
                size += len(chunk)
                if size > limit:
                    raise VideoReadError(too_large)
                file.write(chunk)
            if response.length:  # read1 takes an early end for the end
                raise VideoReadError(f"the connection ended {response.length} bytes before the file")
    except VideoReadError:
        raise
    except (
        OSError,
        ValueError,
        http.client.HTTPException,
    ) as error:  # ValueError: addresses and headers that are none
        raise VideoReadError(str(error)) from error


def _within(deadline: Deadline, call: Callable[[], Any]) -> Any:
    """The result of a call that may trickle on for longer than there is time; it is then left to itself."""
    results: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue()

    def run() -> None:
        try:
            results.put((call(), None))
        except BaseException as error:  # handed over, to be raised below
            results.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    while True:
        deadline.check()
        with suppress(queue.Empty):
            result, error = results.get(timeout=0.1)
            break
    if error is not None:
        raise error
    return result
