# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Chosen frames of a file with PyAV, decoding as little as possible.

A frame is reached through its time stamp: seek to the nearest key frame before it, decode on from there, and skip the
frames in between that no other frame refers to. Which time stamp frame i has is told by the header, where that lists
all frames at a constant distance (mp4, mov), otherwise by a pass over the packets, without decoding. Where time stamps
do not tell, or do not keep what they promise, the file is decoded from its start, and what that gives is frame i.
"""

import math
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import chain, islice
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch

from .video_sources import Deadline, VideoLimits, VideoReadError


# Frames that it is cheaper to decode than to seek over: a seek discards what the decoder has in its pipeline
_SEEK_COST = 4
# Decoders that skip a frame to which no other refers when told so for its packet; those of AV1 and VP9 do not listen
_SKIPPING = ("h264", "hevc", "mpeg4", "mpeg2video")
# Bytes from one packet to the next: more than a frame of 8K in 16 bits has
_MAX_GAP = 1 << 28
# Containers that are sought in; in others, such as a stream without a container, that may lead into a frame
_CONTAINERS = {"mp4", "matroska", "mpegts", "mpeg", "avi", "flv", "asf", "ogg", "mxf", "nut"}


class FrameIndex(NamedTuple):
    """When the frames of a video are shown, and how they are reached.

    Args:
        pts: Time stamps of the frames in the order of display.
        end: Time stamp of the end of the last frame.
        unit: Of the time stamps, in seconds; None if the frames have no time.
        keys: Numbers of the key frames, ascending; None: frames are reached from the start only.
        delay: Told by a header only: how much later than it is decoded a frame is shown, if none is shown before it
            that is decoded after it.
    """

    pts: range | np.ndarray
    end: int
    unit: Fraction | None
    keys: Sequence[int] | None = None
    delay: int | None = None

    @classmethod
    def of_even_frames(cls, num_frames: int, rate: Any) -> "FrameIndex":
        """Of frames at a constant distance, `rate` a second."""
        return cls(range(num_frames), num_frames, 1 / Fraction(rate) if rate else None)

    @property
    def duration(self) -> Fraction | None:
        """Seconds from the first frame to the end of the last; exact, so that 25 frames a second are 25."""
        return None if self.unit is None else (self.end - int(self.pts[0])) * self.unit


class Orientation(NamedTuple):
    """How stored frames become upright: turned counterclockwise, in degrees, then mirrored left to right or not."""

    rotation: int = 0
    mirrored: bool = False

    @classmethod
    def of_frame(cls, frame: Any) -> "Orientation":
        """As the display matrix (a b u; c d v; x y w) says: column p, row q is shown at ap + cq, bp + dq.

        Of other angles than multiples of 90° the nearest; frames at 45°, and with a matrix of zeros, stay as stored.
        """
        matrix = frame.side_data.get("DISPLAYMATRIX")
        if matrix is None:
            return cls()
        a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
        if abs(a * d) > abs(b * c):
            return cls(180 if d < 0 else 0, (a < 0) != (d < 0))
        if abs(a * d) < abs(b * c):
            return cls(90 if b < 0 else 270, (b < 0) == (c < 0))
        return cls()

    def applied_to(self, frame: torch.Tensor) -> torch.Tensor:
        """(H, W, 3), upright."""
        frame = torch.rot90(frame, self.rotation // 90) if self.rotation else frame  # it would copy
        return frame.flip(1) if self.mirrored else frame


class WatchedFile:
    """A file as FFmpeg sees it. Without an end, it would be read on where no packet comes: in a file full of zeros.

    Raises:
        VideoReadError: In `read`, when the time is over, or after too many bytes without a packet.
    """

    def __init__(self, file: str | BinaryIO, deadline: Deadline):
        self._is_ours = isinstance(file, str)
        self._file: BinaryIO = open(file, "rb") if isinstance(file, str) else file  # noqa: SIM115
        self._file.seek(0)
        self._deadline, self._bytes = deadline, 0
        self.name = file if isinstance(file, str) else getattr(file, "name", "")  # FFmpeg looks at the suffix
        self.seek, self.tell = self._file.seek, self._file.tell

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        self._deadline.check()
        if self._bytes > _MAX_GAP:
            raise VideoReadError(f"no frame comes in {self._bytes} bytes of it")
        content = self._file.read(size)
        self._bytes += len(content)
        return content

    def packet_came(self) -> None:
        """Count anew."""
        self._bytes = 0

    def close(self) -> None:
        """Close what was opened here."""
        if self._is_ours:
            self._file.close()


class MisplacedFrameError(Exception):
    """The time stamps of a file do not lead to its frames."""


class SeekableVideo:
    """A file opened with PyAV; close it, or use it in a `with`.

    Raises:
        VideoReadError: If it has no video stream or its frames are too large.
        av.FFmpegError: If it cannot be opened.
    """

    def __init__(self, file: str | BinaryIO, limits: VideoLimits, deadline: Deadline):
        import av  # not needed by those who pass frames or decoders

        # IndexError: PyAV does not know streams that show up late, in damaged files
        self.damage = (av.FFmpegError, IndexError)
        self.end = av.EOFError
        self.limits, self.deadline = limits, deadline
        self.file = WatchedFile(file, deadline)
        # What a file refers to is not opened, and "%03d" in a name means itself
        options = {"protocol_whitelist": "none", "pattern_type": "none"}
        try:
            self.container: Any = av.open(self.file, options=options, metadata_errors="replace")
        except BaseException:
            self.file.close()
            raise
        self.orientation = Orientation()  # of all frames, as the first that is decoded tells it
        self._reformatter = av.video.reformatter.VideoReformatter()  # of the video: it is not made anew for each frame
        try:
            self.stream = self._video_stream()
        except VideoReadError:
            self.__exit__()
            raise
        context = self.stream.codec_context
        self.codec: str = context.codec.canonical_name
        self.size = context.width, context.height
        context.thread_type = "NONE"  # loaders decode many files at once, one thread each
        if limits.max_pixels is not None:
            context.options = {"max_pixels": str(limits.max_pixels)}  # frames may grow in mid-stream

    def _video_stream(self) -> Any:
        from av.stream import Disposition

        try:
            stream: Any = self.container.streams.best("video")
        except IndexError:
            stream = None
        if stream is None or stream.disposition & Disposition.attached_pic:  # the cover of a record
            raise VideoReadError("it has no video stream")
        if stream.codec_context is None:
            raise VideoReadError("its codec is unknown")
        self.limits.check_size(stream.codec_context.width, stream.codec_context.height)
        return stream

    @property
    def header_duration(self) -> float | None:
        """Seconds, as the header tells; None if it does not."""
        import av

        duration = self.container.duration
        return None if duration is None else float(duration / av.time_base)

    def __enter__(self) -> "SeekableVideo":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.container.close()
        self.file.close()

    def _demux(self) -> Iterator[Any]:
        """The packets of the stream, in the time there is."""
        for packet in self.container.demux(self.stream):
            self.file.packet_came()
            self.deadline.check()
            yield packet

    def header_index(self) -> FrameIndex | None:
        """The frames as the header lists them; None if it does not list all, or not at a constant distance."""
        entries, stream = self.stream.index_entries, self.stream
        if not 1 < len(entries) == stream.frames or "mp4" not in self.container.format.name.split(","):
            return None
        rows = [(entry.timestamp, entry.is_keyframe, entry.is_discard) for entry in entries]
        stamps, keys, discarded = np.array(rows, dtype=np.int64).T  # decoding time stamps, in the order of decoding
        steps = np.diff(stamps)
        if steps[0] <= 0 or (steps != steps[0]).any() or discarded.any() or stream.start_time is None:
            return None
        delay = stream.start_time - int(stamps[0])
        if not keys[0] or (delay == 0 and stream.codec_context.has_b_frames):
            return None
        # Frames that are decoded at a constant distance are mostly shown at it: where not, `_packets_of` finds out
        step = int(steps[0])
        pts = range(stream.start_time, stream.start_time + step * len(rows), step)
        return FrameIndex(pts, pts.stop, stream.time_base, keys.nonzero()[0].tolist(), delay)

    def packet_index(self) -> FrameIndex | None:
        """The frames as the packets tell them; None if some have no time stamp, or several the same."""
        name, has_b_frames = self.container.format.name, bool(self.stream.codec_context.has_b_frames)
        if _CONTAINERS.isdisjoint(name.split(",")) or (name == "avi" and has_b_frames):
            return None  # avi has no time stamps of display; those of FFmpeg are guesses
        pts, keys, end, in_order = array("q"), [], 0, True
        highest = -math.inf
        try:
            for packet in self._demux():
                if packet.size == 0 or self._is_hidden(packet):
                    continue
                if packet.pts is None:
                    return None
                in_order &= packet.pts == packet.dts
                if packet.is_keyframe:
                    if packet.pts < highest:
                        return None  # shown before frames that are decoded earlier, as in files put together
                    keys.append(packet.pts)
                highest = max(highest, packet.pts)
                if not packet.is_discard:  # left out by an edit list, but others may need it
                    pts.append(packet.pts)
                    end = max(end, packet.pts + (packet.duration or 0))
        except self.damage:
            return None
        stamps = np.unique(np.array(pts, dtype=np.int64))
        numbers = np.unique(np.searchsorted(stamps, keys))
        if len(stamps) == 0 or len(stamps) < len(pts) or len(numbers) == 0 or numbers[0] > 0:
            return None  # what comes before the first key frame may be shown or not
        if has_b_frames and in_order and len(stamps) > 1:
            return None  # the time stamps are those of decoding
        return FrameIndex(stamps, end, self.stream.time_base, numbers[numbers < len(stamps)].tolist())

    def decoded_index(self) -> FrameIndex:
        """The frames as they are when all are decoded; where they tell no time, by their number in a second.

        Raises:
            VideoReadError: If no frame can be decoded.
        """
        stamps: list[int | None] = []
        end, stream = 0, self.stream
        for frame in self.decode_in_order():
            stamps.append(frame.pts)
            end = (frame.pts or 0) + (frame.duration or 0)
        if not stamps:
            raise VideoReadError("no frame of it can be decoded")
        if None not in stamps:
            pts = np.array(stamps, dtype=np.int64)
            if (np.diff(pts) > 0).all() and end > pts[0]:
                return FrameIndex(pts, end, stream.time_base)
        rate = stream.average_rate
        if not rate and stream.duration:
            rate = len(stamps) / (stream.duration * stream.time_base)
        return FrameIndex.of_even_frames(len(stamps), rate)

    def _is_hidden(self, packet: Any) -> bool:
        """Whether a packet holds a frame that is not shown: VP8 stores such frames by themselves (RFC 6386, 9.1)."""
        return self.codec == "vp8" and not bytes(packet)[0] & 0x10

    def frames_at(self, index: FrameIndex, numbers: Iterable[int]) -> dict[int, torch.Tensor]:
        """Frames (3, H, W), uint8 RGB, by their numbers.

        Raises:
            MisplacedFrameError: If a time stamp of the index does not lead to a frame.
        """
        if index.keys is None:
            last, wanted = max(numbers, default=-1), set(numbers)
            decoded = islice(enumerate(self.decode_in_order()), last + 1)
            return {number: self.to_tensor(frame) for number, frame in decoded if number in wanted}
        frames = {}
        for key, run in plan_runs(sorted(set(numbers)), index.keys):
            for number, frame in self._decode_run(index, index.keys, key, run):
                frames[number] = self.to_tensor(frame)
        return frames

    def _decode_run(
        self, index: FrameIndex, keys: Sequence[int], key: int, run: Sequence[int]
    ) -> Iterator[tuple[int, Any]]:
        """Decode on from a key frame to the last frame of a run."""
        context = self.stream.codec_context
        can_skip = self.codec in _SKIPPING
        wanted = {int(index.pts[number]): number for number in run}
        to_decode = set(wanted)
        last = None
        packets = self._packets_of(index, keys, key, run[-1])
        for packet in packets:
            context.skip_frame = "NONREF" if can_skip and packet.pts not in to_decode else "DEFAULT"
            to_decode.discard(packet.pts)
            decoded = context.decode(packet)
            if not to_decode:
                decoded += context.decode(None)  # what it holds back to bring frames into the order of display
            for frame in decoded:
                if frame.key_frame:
                    self._look_at(frame)
                if frame.pts is None or (last is not None and frame.pts <= last):
                    raise MisplacedFrameError
                last = frame.pts
                if frame.pts in wanted:
                    yield wanted.pop(frame.pts), frame
            if not to_decode:
                break
        if wanted:
            raise MisplacedFrameError
        deque(packets, maxlen=0)  # read on, without decoding, for what `_packets_of` finds out

    def _packets_of(self, index: FrameIndex, keys: Sequence[int], key: int, last: int) -> Iterator[Any]:
        """Packets from a key frame on, until none can be shown up to the frame `last`.

        Raises:
            MisplacedFrameError: At the end, if a header promises other time stamps than the packets have.
        """
        stamps = []
        for packet in self._packets_from(index, keys, key):
            if packet.size == 0 or (packet.dts is not None and packet.dts > index.pts[last]):
                break
            stamps.append(packet.pts)
            yield packet
        if index.delay is not None and isinstance(index.pts, range):
            shown = sorted(stamp for stamp in stamps if stamps[0] <= stamp <= index.pts[last])
            if shown != list(index.pts[index.pts.index(stamps[0]) : last + 1]):
                raise MisplacedFrameError

    def _packets_from(self, index: FrameIndex, keys: Sequence[int], key: int) -> Iterator[Any]:
        """Packets from the key frame with a number, or from one before it where seeking does not reach it."""
        context = self.stream.codec_context
        position = bisect_right(keys, key) - 1
        back = 0
        while True:
            number = keys[max(position - back, 0)]
            self.container.seek(int(index.pts[number]), stream=self.stream)
            packets = self._demux()
            first = next((packet for packet in packets if packet.is_keyframe and packet.size), None)
            if first is not None and first.pts is not None and first.pts <= index.pts[key]:
                break
            if back > position:
                raise MisplacedFrameError
            back = 2 * back + 1
        if index.delay is not None and (first.pts not in index.pts or first.pts - first.dts != index.delay):
            raise MisplacedFrameError  # shown after frames that are decoded later: the header does not tell which
        if self.codec == "h264" and not _is_intra(bytes(first), context.extradata):
            raise MisplacedFrameError
        return chain([first], packets)

    def decode_in_order(self) -> Iterator[Any]:
        """All frames, decoded from the start; packets that cannot be decoded are passed over."""
        packets = self._demux()
        while True:
            try:
                packet = next(packets, None)
            except self.damage:  # a damaged file ends where it cannot be read on
                packet = None
            try:
                for frame in self.stream.codec_context.decode(packet if packet is not None and packet.size else None):
                    if frame.key_frame:
                        self._look_at(frame)
                    yield frame
                    if self.deadline.for_each_frame:
                        self.deadline.restart()
            except self.end:
                return
            except self.damage:
                if packet is None:
                    return
            if packet is None or packet.size == 0:
                return

    def _look_at(self, frame: Any) -> None:
        """Take the orientation from a frame. Where the stream tells it, and not the file, only key frames have it."""
        if self.orientation == Orientation():
            self.orientation = Orientation.of_frame(frame)

    def to_tensor(self, frame: Any) -> torch.Tensor:
        """(3, H, W), upright; in the size of the stream, also where that changes on the way."""
        self._look_at(frame)
        width, height = self.size
        rgb = self._reformatter.reformat(frame, width, height, "rgb24", threads=1).to_ndarray()
        return self.orientation.applied_to(torch.from_numpy(rgb)).permute(2, 0, 1)


def ways_to_frames(
    file: str | BinaryIO, limits: VideoLimits, deadline: Deadline
) -> Generator[tuple[SeekableVideo, FrameIndex], None, None]:
    """The ways that may lead to the frames of a file, cheapest first: by the header, by the packets, from the start.

    Each comes with the file opened anew, until the next is asked for. The last, whose index has no key frames, leads
    there in any case; it has decoded the file once to count the frames.

    Raises:
        VideoReadError: If there are no frames.
    """

    def opened() -> SeekableVideo:
        if deadline.for_each_frame:
            deadline.restart()
        return SeekableVideo(file, limits, deadline)

    for find in (SeekableVideo.header_index, SeekableVideo.packet_index):
        with opened() as video:
            index = find(video)
            if index is not None:
                yield video, index
    with opened() as video:
        index = video.decoded_index()
    with opened() as video:
        yield video, index


def _is_intra(packet: bytes, extradata: bytes | None) -> bool:
    """Whether the first slice of an H.264 packet is intra.

    Encoders with intra refresh mark frames as key frames that are whole only some frames later, and not to the last
    bit: what is decoded from there is not what decoding from the start gives.
    """
    if extradata and extradata[0] == 1:  # units of data with their length in front (ISO 14496-15, 5.3.3.1)
        size, units, start = (extradata[4] & 3) + 1, [], 0
        while start + size < len(packet):
            end = start + size + int.from_bytes(packet[start : start + size], "big")
            units.append(packet[start + size : end])
            start = end
    else:  # with a mark in front (H.264, annex B)
        units = packet.split(b"\0\0\1")[1:]
    slices = [unit for unit in units if unit and unit[0] & 0x1F in (1, 5)]
    if not slices or len(slices[0]) < 3:
        return False
    bits = f"{int.from_bytes(slices[0][1:3], 'big'):016b}"
    return bits.startswith(("1011", "10001000"))  # the first block is 0, the type 2 or 7 (H.264, 7.3.3 and 9.1)


def plan_runs(numbers: Iterable[int], keys: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Which frames are decoded on from which key frame.

    Args:
        numbers: Numbers of the frames wanted, ascending.
        keys: Numbers of the key frames, ascending.
    """
    runs: list[tuple[int, list[int]]] = []
    for number in numbers:
        position = bisect_right(keys, number) - 1
        if position < 0:
            raise MisplacedFrameError  # frames before the first key frame
        if runs and keys[position] - runs[-1][1][-1] <= _SEEK_COST:
            runs[-1][1].append(number)
        else:
            runs.append((keys[position], [number]))
    return runs
