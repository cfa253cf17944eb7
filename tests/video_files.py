"""Small video files of many kinds, encoded by PyAV on the spot; every frame differs from every other."""

import io
import json
import struct
import tarfile
from fractions import Fraction

import av
import numpy as np


NUM_FRAMES = 40


def pictures(num_frames=NUM_FRAMES, height=48, width=64):
    """A gradient that moves and grows brighter: (T, H, W, 3), uint8."""
    y, x = np.mgrid[:height, :width]
    return np.stack(
        [
            np.stack([(4 * x + 5 * i) % 256, (3 * y + 7 * i) % 256, np.full_like(x, 6 * i % 256)], axis=-1)
            for i in range(num_frames)
        ]
    ).astype(np.uint8)


def encode(path, codec="libx264", pixels="yuv420p", stamps=None, frames=None, setup=None, container=None, **options):
    """Write frames; `stamps` are the times of the frames in tenths of a second, `setup` changes the stream."""
    frames = pictures() if frames is None else frames
    with av.open(str(path), "w", options=container or {}) as output:
        stream = output.add_stream(codec, rate=10, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        stream.codec_context.time_base = Fraction(1, 10)
        if setup is not None:
            setup(stream)
        for i, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = (stamps[i] if stamps else i), Fraction(1, 10)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def remux(source, path, change, container=None):
    """Copy the packets of a file, each changed or, where `change` answers False, left out."""
    with av.open(str(source)) as read, av.open(str(path), "w", options=container or {}) as write:
        stream = write.add_stream_from_template(read.streams.video[0])
        for number, packet in enumerate(read.demux(video=0)):
            if packet.size and change(number, packet) is not False:
                packet.stream = stream
                write.mux(packet)
    return path


def add_audio(output):
    """A stream of silence, in front of the video."""
    stream = output.add_stream("aac", rate=16000, layout="mono")
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
    frame.sample_rate = 16000
    return stream, frame


def audio_first(path):
    with av.open(str(path), "w") as output:
        audio, silence = add_audio(output)
        video = output.add_stream("libx264", rate=10, options={"g": "12"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        output.mux(audio.encode(silence))
        for picture in pictures():
            output.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(video.encode())
        output.mux(audio.encode())
    return path


def two_videos(path):
    """Two streams of pictures; FFmpeg's choice is the one to read."""
    with av.open(str(path), "w") as output:
        streams = [output.add_stream("libx264", rate=10, options={"g": "12"}) for _ in range(2)]
        for stream, (width, height) in zip(streams, ((32, 32), (64, 48)), strict=True):
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in pictures():
            for stream in streams:
                frame = av.VideoFrame.from_ndarray(picture[: stream.height, : stream.width].copy(), format="rgb24")
                output.mux(stream.encode(frame))
        for stream in streams:
            output.mux(stream.encode())
    return path


def cut_by_edit_list(path):
    """The first 17 frames are in the file, as others refer to them, but not shown."""
    source = encode(path.with_suffix(".whole.mp4"), g="12", bf="2")

    def earlier(number, packet):
        packet.pts -= 17 * packet.duration
        packet.dts -= 17 * packet.duration

    return remux(source, path, earlier, {"avoid_negative_ts": "disabled"})


def rotated(degrees):
    def make(path):
        return encode(path, g="12", setup=lambda stream: stream.set_display_rotation(degrees))

    return make


def with_display_matrix(source, path, matrix):
    """A copy that says that the pixel in column p and row q is shown in column ap + cq and row bp + dq."""
    a, b, c, d = matrix
    content = bytearray(source.read_bytes())
    place = content.index(b"tkhd") + 44  # ISO 14496-12, 8.3.2
    content[place : place + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


def upright(stream):
    stream.codec_context.sample_aspect_ratio = Fraction(2, 1)


def interlaced(stream):
    stream.codec_context.flags |= 1 << 18 | 1 << 29  # interlaced coding and motion


def pal(stream):
    stream.codec_context.framerate = 25
    stream.codec_context.time_base = Fraction(1, 25)


def full_range(stream):
    stream.codec_context.color_range = 2


def bt709(stream):
    stream.codec_context.colorspace = 1


def hidden_frames(path):
    """VP8 with frames that are never shown: every fifth packet says so (RFC 6386, 9.1), as encoders' references do."""
    source = encode(path.with_suffix(".all.webm"), "libvpx", g="12")

    def hide(number, packet):
        if number % 5 == 4 and not packet.is_keyframe:
            content = bytearray(bytes(packet))
            content[0] &= ~0x10
            packet.update(bytes(content))

    return remux(source, path, hide)


def without_its_start(path):
    """A recording that begins between key frames: what comes before the first one cannot be decoded."""
    source = encode(path.with_name("whole_" + path.name), g="12", bf="2")
    return remux(source, path, lambda number, packet: number >= 5)


def with_a_jump(path):
    """Decoded at a constant distance, but not shown at it: twelve frames in the middle of a group are left out."""
    source = encode(path.with_name("whole_" + path.name), g="12", bf="0")

    def later(number, packet):
        if number >= 20:
            packet.pts += 12 * packet.duration

    return remux(source, path, later)


def without_time_stamps(path):
    """Bare H.264 put into a container: the time stamps are those of decoding, the order of display is not told."""
    source = encode(path.with_name("whole_" + path.name), g="12", bf="3")

    def as_decoded(number, packet):
        packet.dts = packet.pts = number * packet.duration

    return remux(source, path, as_decoded)


STAMPS = np.cumsum(np.random.default_rng(0).integers(1, 6, NUM_FRAMES)).tolist()  # frames at uneven distances

# name -> how to make it
VIDEOS = {
    "closed_groups.mp4": lambda p: encode(p, g="12", bf="3"),
    "open_groups.mp4": lambda p: encode(p, g="12", bf="3", **{"x264-params": "open-gop=1"}),
    "one_key_frame.mp4": lambda p: encode(p, g="1000", bf="2"),
    "key_frames_only.mp4": lambda p: encode(p, g="1"),
    "intra_refresh.mp4": lambda p: encode(p, g="12", **{"intra-refresh": "1"}),
    "fragments.mp4": lambda p: encode(p, g="12", container={"movflags": "frag_keyframe+empty_moov"}),
    "hevc.mp4": lambda p: encode(p, "libx265", g="12", **{"x265-params": "log-level=none"}),
    "av1.mp4": lambda p: encode(p, "libsvtav1", g="12", preset="10", **{"svtav1-params": "lp=1"}),
    "uneven.mp4": lambda p: encode(p, stamps=STAMPS, g="12", bf="2"),
    "edit_list.mp4": cut_by_edit_list,
    "rotated_90.mp4": rotated(90),
    "rotated_180.mp4": rotated(180),
    "rotated_270.mp4": rotated(-90),
    "odd_size.mp4": lambda p: encode(p, pixels="yuv444p", frames=pictures(height=47, width=61), g="12"),
    "ten_bits.mp4": lambda p: encode(p, pixels="yuv420p10le", g="12"),
    "grey.mp4": lambda p: encode(p, pixels="gray", g="12"),
    "wide_pixels.mp4": lambda p: encode(p, g="12", setup=upright),
    "full_range.mp4": lambda p: encode(p, g="12", setup=full_range),
    "bt709.mp4": lambda p: encode(p, g="12", setup=bt709),
    "one_frame.mp4": lambda p: encode(p, frames=pictures(1)),
    "alpha.mov": lambda p: encode(p, "qtrle", "argb"),
    "prores.mov": lambda p: encode(p, "prores_ks", "yuv422p10le"),
    "h264.mkv": lambda p: encode(p, g="12", bf="3"),
    "uneven.mkv": lambda p: encode(p, stamps=STAMPS, g="12", bf="2"),
    "two_videos.mkv": two_videos,
    "audio_first.mkv": audio_first,
    "vp8.webm": lambda p: encode(p, "libvpx", g="12"),
    "vp8_hidden.webm": hidden_frames,
    "vp9.webm": lambda p: encode(p, "libvpx-vp9", g="12"),
    "h264.ts": lambda p: encode(p, g="12", bf="3"),
    "interlaced.ts": lambda p: encode(p, "mpeg2video", g="12", bf="2", setup=interlaced),
    "mpeg2.mpg": lambda p: encode(
        p, "mpeg2video", g="12", bf="2", setup=lambda s: setattr(s.codec_context, "framerate", 25)
    ),
    "mpeg4.avi": lambda p: encode(p, "mpeg4", g="12", bf="2"),
    "mpeg4.mp4": lambda p: encode(p, "mpeg4", g="12", bf="2"),
    "mjpeg.avi": lambda p: encode(p, "mjpeg", "yuvj420p"),
    "flash.flv": lambda p: encode(p, "flv", g="12"),
    "windows.wmv": lambda p: encode(p, "wmv2", g="12"),
    "palette.gif": lambda p: encode(p, "gif", "rgb8"),
    "starts_late.ts": without_its_start,
    "starts_late.mkv": without_its_start,
    "jump.mp4": with_a_jump,
    "no_stamps.mp4": without_time_stamps,
    "interlaced.mp4": lambda p: encode(p, g="12", flags="+ildct+ilme", **{"x264-params": "tff=1"}),
    "bare.mjpeg": lambda p: encode(p, "mjpeg", "yuvj420p"),
    "bare.h264": lambda p: encode(p, g="12", bf="2"),
}


def write_shards(folder, content, shards, samples, suffix="mp4"):
    """Tar files of <key>.mp4, <key>.cls and <key>.json."""
    for shard in range(shards):
        with tarfile.open(folder / f"train-{shard}.tar", "w") as tar:
            for i in range(samples):
                key = f"{shard:02}{i:02}"
                label = (shard * samples + i) % 3
                entries = {suffix: content, "cls": b"%d" % label, "json": json.dumps({"name": "abc"[label]}).encode()}
                for name, data in entries.items():
                    info = tarfile.TarInfo(f"{key}.{name}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
