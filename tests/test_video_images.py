"""Videos whose frames are images: folders, lists of files, animated WebP."""

import av
import numpy as np
import pytest
import torch
from conftest import make_model
from PIL import Image
from transformers import pipeline
from transformers.testing_utils import CaptureLogger
from transformers.utils import logging
from video_files import pictures

from ila_hf import ILAVideoProcessor, VideoLimits, VideoReadError, read_video
from ila_hf.demo.tiny import tiny_config, tiny_processor
from ila_hf.video_sources import VideoNotFoundError
from ila_hf.video_windows import sliding_windows


FRAMES = torch.from_numpy(pictures(12)).permute(0, 3, 1, 2)


@pytest.fixture
def folder(tmp_path):
    """Twelve frames, whose names sort otherwise as texts, and what is no frame."""
    folder = tmp_path / "clip"
    folder.mkdir()
    for i, picture in enumerate(pictures(12)):
        Image.fromarray(picture).save(folder / f"img_{i}.png")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "notes.txt").write_text("twelve frames")
    return folder


def test_a_folder_of_images_is_a_video(folder):
    for source in (folder, str(folder)):
        frames, metadata = read_video(source)
        assert torch.equal(frames, FRAMES)
        assert (metadata.total_num_frames, metadata.fps, metadata.video_backend) == (12, None, "pillow")
        assert (metadata.height, metadata.width) == (48, 64)
    assert torch.equal(read_video(folder, [11, 3, 3])[0], FRAMES[[11, 3, 3]])


def test_a_list_of_images_is_a_video_in_its_order(folder):
    files = [folder / f"img_{i}.png" for i in (3, 0, 11)]
    for source in (files, tuple(map(str, files))):
        assert torch.equal(read_video(source)[0], FRAMES[[3, 0, 11]])


def test_the_processor_takes_folders_and_lists(folder):
    processor = ILAVideoProcessor(num_frames=4, size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    expected = processor(FRAMES, do_sample_frames=True, return_tensors="pt").pixel_values
    files = [str(folder / f"img_{i}.png") for i in range(12)]
    for videos, count in ((folder, 1), (files, 1), ([files], 1), ([files, files], 2), ([folder, files], 2)):
        pixel_values = processor(videos, return_tensors="pt").pixel_values
        assert torch.equal(pixel_values, expected.repeat(count, 1, 1, 1, 1))


@pytest.mark.parametrize("kind", ["bytes", "rows", "webp"])
def test_images_in_a_list_are_frames_however_they_are_given(folder, kind):
    """In a list of lists, too: each is a clip, not each image."""
    files = [folder / f"img_{i}.png" for i in (3, 0, 11)]
    if kind == "webp":
        for file in files:
            Image.open(file).save(file.with_suffix(".webp"), lossless=True)
        images = [file.with_suffix(".webp") for file in files]
    else:
        images = [file.read_bytes() for file in files]
        images = [{"bytes": content, "path": None} for content in images] if kind == "rows" else images
    assert torch.equal(read_video(images)[0], FRAMES[[3, 0, 11]])
    processor = ILAVideoProcessor(num_frames=4, size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    one = processor(FRAMES[[3, 0, 11]], do_sample_frames=True, return_tensors="pt").pixel_values
    assert torch.equal(processor(images, return_tensors="pt").pixel_values, one)
    assert torch.equal(processor([images, images], return_tensors="pt").pixel_values, one.repeat(2, 1, 1, 1, 1))


def test_what_moves_is_no_frame(folder, video_file):
    """A batch of videos as bytes, and of animated WebP, stays one."""
    pictures_ = [Image.open(folder / f"img_{i}.png") for i in range(4)]
    pictures_[0].save(folder / "moving.webp", save_all=True, append_images=pictures_[1:], lossless=True)
    processor = ILAVideoProcessor(num_frames=4, size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    for video in (video_file.read_bytes(), folder / "moving.webp", (folder / "moving.webp").read_bytes()):
        assert processor([video, video], return_tensors="pt").pixel_values.shape == (2, 4, 3, 32, 32)


def test_bytes_of_videos_that_pillow_would_open_are_videos(tmp_path):
    """MJPEG is images one after the other, and of MPEG Pillow knows the head."""
    processor = ILAVideoProcessor(num_frames=4, size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    for name, codec in (("a.mjpeg", "mjpeg"), ("a.m1v", "mpeg1video")):
        with av.open(str(tmp_path / name), "w", format={"a.mjpeg": "mjpeg", "a.m1v": "mpeg1video"}[name]) as container:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height = 64, 48
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for picture in pictures(6):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        content = (tmp_path / name).read_bytes()
        assert processor([content, content], return_tensors="pt").pixel_values.shape == (2, 4, 3, 32, 32)


def test_photographs_of_two_lenses_are_frames(folder):
    images = [Image.open(folder / f"img_{i}.png").convert("RGB") for i in range(3)]
    for i, image in enumerate(images):
        image.save(folder / f"photo_{i}.jpg", format="MPO", save_all=True, append_images=[images[0]], quality=95)
    files = [folder / f"photo_{i}.jpg" for i in range(3)]
    frames = read_video(files)[0]
    assert torch.equal(read_video([file.read_bytes() for file in files])[0], frames)
    assert len(frames) == 3


@pytest.mark.parametrize("row", [{}, {"bytes": None}, {"path": None}])
def test_rows_without_a_video(row):
    for source in ([row], row):
        with pytest.raises((VideoReadError, ValueError)):
            read_video(source)


def test_the_rate_of_images_is_told_by_the_user(folder):
    files = [str(folder / f"img_{i}.png") for i in range(12)]
    processor = ILAVideoProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    metadata = [{"total_num_frames": 12, "fps": 6}]
    batch = processor([files], fps=2, video_metadata=metadata, return_tensors="pt", return_metadata=True)
    assert batch.pixel_values.shape[1] == 4
    assert batch["video_metadata"][0].fps == 6
    for unknown in (None, [None]):
        with pytest.raises(ValueError, match="`fps` of 2 needs the frame rate"):
            processor([files], fps=2, video_metadata=unknown)


@pytest.mark.parametrize("kind", ["file", "array"])
def test_a_video_of_one_frame_is_told(folder, kind):
    processor = ILAVideoProcessor(num_frames=4, size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    logging.warning_once.cache_clear()  # another test may have had it told
    with CaptureLogger(logging.get_logger("ila_hf.video_reading")) as logs:
        processor(FRAMES[:2], do_sample_frames=True)
        assert not logs.out
        processor([folder / "img_0.png"] if kind == "file" else FRAMES[:1], do_sample_frames=True)
    assert "one frame, which is repeated: 4 are wanted" in logs.out


@pytest.mark.parametrize("suffix", [".bmp", ".ppm", ".tif", ".TIFF", ".png"])
def test_image_formats(tmp_path, suffix):
    Image.fromarray(pictures(1)[0]).save(tmp_path / f"1{suffix}")
    assert torch.equal(read_video([tmp_path / f"1{suffix}"])[0], FRAMES[:1])


def test_images_of_sixteen_bits(tmp_path):
    grey = pictures(1)[0, :, :, 0]
    Image.fromarray(257 * grey.astype(np.uint16)).save(tmp_path / "1.png")
    assert torch.equal(read_video([tmp_path / "1.png"])[0], torch.from_numpy(grey).expand(1, 3, -1, -1))


def test_images_are_turned_as_their_exif_says(tmp_path):
    image = Image.fromarray(pictures(1)[0])
    exif = image.getexif()
    exif[0x0112] = 6  # a quarter turn clockwise
    image.save(tmp_path / "1.png", exif=exif)
    assert torch.equal(read_video([tmp_path / "1.png"])[0], FRAMES[:1].rot90(-1, (2, 3)))


def test_animated_webp(tmp_path):
    images = [Image.fromarray(picture) for picture in pictures(12)]
    path = tmp_path / "clip.webp"
    images[0].save(path, save_all=True, append_images=images[1:], lossless=True, duration=100)
    for source in (path, path.read_bytes(), path.open("rb")):
        frames, metadata = read_video(source, [11, 3])
        assert torch.equal(frames, FRAMES[[11, 3]])
        assert metadata.total_num_frames == 12
    images[0].save(path, lossless=True)
    assert torch.equal(read_video(path)[0], FRAMES[:1])


def test_images_of_floats(tmp_path):
    grey = pictures(1)[0, :, :, 0].astype(np.float32)
    Image.fromarray(grey).save(tmp_path / "1.tif")
    assert torch.equal(read_video([tmp_path / "1.tif"])[0], torch.from_numpy(grey).byte().expand(1, 3, -1, -1))
    for scaled in (grey / 255, grey - 100, 4 * grey):
        Image.fromarray(scaled).save(tmp_path / "1.tif")
        with pytest.raises(VideoReadError, match="floating point values, which must be 0 to 255"):
            read_video([tmp_path / "1.tif"])


def test_pipelines_and_windows_of_images(folder, tmp_path):
    with pytest.raises(VideoReadError, match="frames are images, which have no time stamps"):
        next(sliding_windows(folder, range, 1.0))
    images = [Image.fromarray(picture) for picture in pictures(12)]
    images[0].save(tmp_path / "clip.webp", save_all=True, append_images=images[1:])
    with pytest.raises(VideoReadError, match="windows of WebP are not read"):
        next(sliding_windows(tmp_path / "clip.webp", range, 1.0))
    config = tiny_config()
    model = make_model()
    classify = pipeline("video-classification", model=model, video_processor=tiny_processor(config).video_processor)
    files = [str(folder / f"img_{i}.png") for i in range(12)]
    answer = classify(str(folder))
    assert classify(files) == answer
    assert classify([files, str(folder)]) == [answer, answer]


def test_images_that_cannot_be_read(folder, tmp_path):
    (folder / "img_5.png").write_bytes((folder / "img_5.png").read_bytes()[:60])
    with pytest.raises(
        VideoReadError, match=r"Cannot read the video '.*clip': '.*img_5\.png' cannot be read as an image"
    ):
        read_video(folder)
    (folder / "img_5.png").write_bytes(b"<html>")
    with pytest.raises(VideoReadError, match=r"img_5\.png': it is no video but an HTML page"):
        read_video(folder)
    (folder / "img_5.png").unlink()
    with pytest.raises(VideoNotFoundError, match=r"img_5\.png': there is no such file"):
        read_video([folder / "img_5.png"])
    Image.new("RGB", (8, 9)).save(folder / "img_5.png")
    with pytest.raises(VideoReadError, match=r"several sizes \(height, width\): \[\(9, 8\), \(48, 64\)\]"):
        read_video(folder)
    with pytest.raises(VideoReadError, match="frames of 64 × 48 pixels exceed `max_pixels` of 99"):
        read_video(folder, [0], VideoLimits(max_pixels=99))
    with pytest.raises(VideoReadError, match="longer than `decode_seconds`"):
        read_video(folder, [0], VideoLimits(decode_seconds=1e-9))
    with pytest.raises(IndexError, match="has 12 frames; there are no frames"):
        read_video(folder, [12])
    with pytest.raises(VideoReadError, match=r"Cannot read the video '.*gone_1\.png and 1 more'"):
        read_video([folder / "gone_1.png", folder / "gone_2.png"])
    (folder / "cover.png").write_bytes(b"")
    with pytest.raises(VideoReadError, match="not the frames of one video, whose names differ in a number only"):
        read_video(folder)
