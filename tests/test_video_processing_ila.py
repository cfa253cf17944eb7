"""The video processor: kinds of input, drop-in for VideoMAE's, the published preprocessing."""

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from transformers import VideoMAEVideoProcessor

from ila_hf import (
    ILAConfig,
    ILAVideoProcessor,
    VideoReadError,
    read_video,
    sample_frame_indices,
    video_processing_ila,
)


@pytest.fixture
def processor():
    return ILAVideoProcessor(num_frames=4)


@pytest.fixture
def frames():
    return torch.randint(0, 256, (6, 3, 60, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def pixels(processor, *args, **kwargs):
    return processor(*args, return_tensors="pt", **kwargs)["pixel_values"]


def test_drop_in_for_videomae(frames):
    for arguments in (
        {},
        {"size": {"shortest_edge": 100}, "crop_size": {"height": 90, "width": 70}},
        {"do_center_crop": False, "do_resize": False},
        {"do_normalize": False},
        {"do_rescale": False, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    ):
        statistics = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
        arguments = {"size": {"shortest_edge": 256}, **statistics, **arguments}
        expected = pixels(VideoMAEVideoProcessor(), frames, **arguments)
        assert torch.equal(pixels(ILAVideoProcessor(), frames, **arguments), expected)


def test_published_preprocessing(processor):
    """Short side to 256, centre crop 224, ImageNet mean and standard deviation."""
    ramp = torch.arange(512, dtype=torch.float).div(2).byte().expand(1, 3, 256, 512)
    clip = pixels(processor, ramp)
    assert clip.shape == (1, 1, 3, 224, 224)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (ramp[0, 0, 0, 144:368].float() / 255 - mean[:, None]) / std[:, None]
    torch.testing.assert_close(clip[0, 0, :, 100], expected)


def test_frames_that_were_decoded_are_all_kept(processor, frames):
    for video in (frames, frames.numpy(), frames.permute(0, 2, 3, 1).numpy(), list(frames), frames[None]):
        assert pixels(processor, video).shape == (1, 6, 3, 224, 224)
    images = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in frames]
    assert torch.equal(pixels(processor, images), pixels(processor, frames))
    assert pixels(processor, [images, images]).shape == (2, 6, 3, 224, 224)
    assert pixels(processor, [frames[None], frames]).shape == (2, 6, 3, 224, 224)
    expected = pixels(processor, [frames, frames])
    assert torch.equal(pixels(processor, [frames.numpy(), images]), expected)  # channels first and last in one batch
    assert torch.equal(pixels(processor, [images, frames]), expected)
    assert pixels(processor, [image.convert("RGBA") for image in images]).shape == (1, 6, 3, 224, 224)
    assert pixels(processor, [images[0].convert("L")]).shape == (1, 1, 3, 224, 224)
    assert torch.equal(pixels(processor, [frames, frames])[1], pixels(processor, frames)[0])


def test_sampling_on_request(processor, frames):
    expected = pixels(processor, frames)[:, sample_frame_indices(6, 4)]
    assert torch.equal(pixels(processor, frames, do_sample_frames=True), expected)
    short = pixels(processor, frames[:3], do_sample_frames=True)  # fewer than four: frames repeat
    assert torch.equal(short, pixels(processor, frames)[:, [0, 1, 1, 2]])
    uniform = pixels(processor, frames, do_sample_frames=True, sampling_strategy="uniform", num_frames=2)
    assert torch.equal(uniform, pixels(processor, frames)[:, sample_frame_indices(6, 2, "uniform")])
    dense = pixels(
        processor, frames, do_sample_frames=True, sampling_strategy="dense", frame_sampling_rate=2, num_frames=2
    )
    assert torch.equal(dense, pixels(processor, frames)[:, [1, 3]])


def test_files_are_sampled(processor, numbered_video):
    decoded, _ = read_video(numbered_video)
    expected = pixels(processor, decoded[sample_frame_indices(40, 4)])
    for video in (str(numbered_video), numbered_video, numbered_video.read_bytes(), numbered_video.open("rb")):
        assert torch.equal(pixels(processor, video), expected)
    assert torch.equal(pixels(processor, [numbered_video, str(numbered_video)]), expected.repeat(2, 1, 1, 1, 1))
    assert torch.equal(pixels(processor, [[str(numbered_video)], [str(numbered_video)]])[1:], expected)
    assert pixels(processor, numbered_video, do_sample_frames=False).shape[1] == 40
    assert pixels(processor, numbered_video, fps=2).shape[1] == 8
    assert pixels(ILAVideoProcessor(fps=2), numbered_video).shape[1] == 8
    assert torch.equal(
        pixels(processor, numbered_video, num_frames=2, sampling_strategy="dense", frame_sampling_rate=3),
        pixels(processor, decoded[[17, 20]]),
    )


@pytest.mark.parametrize(("height", "width"), [(40, 70), (70, 40)])
def test_views_are_clips_and_crops(height, width):
    """Against one clip and one crop at a time, cut by hand."""
    processor = ILAVideoProcessor(num_frames=4, size={"shortest_edge": 40}, crop_size={"height": 40, "width": 40})
    video = torch.randint(0, 256, (23, 3, height, width), dtype=torch.uint8)
    views = pixels(processor, [video, video.flip(0)], num_clips=2, num_crops=3)
    assert views.shape == (2, 6, 4, 3, 40, 40)
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    for v, (clip, place) in enumerate((c, p) for c in range(2) for p in (0, 15, 30)):
        frames = video[sample_frame_indices(23, 4, clip=clip, num_clips=2)]
        frames = frames[..., place : place + 40] if width > height else frames[..., place : place + 40, :]
        torch.testing.assert_close(views[0, v], (frames / 255 - mean) / std)
    assert torch.equal(pixels(processor, video, num_clips=2, num_crops=3)[0], views[0])
    one = pixels(processor, video, do_sample_frames=True)  # one crop is the one in the middle
    assert torch.equal(pixels(processor, video, do_sample_frames=True, num_crops=3)[:, 1], one)
    batch = processor([video], num_clips=3)  # without `return_tensors`
    assert batch["pixel_values"][0].shape == (3, 4, 3, 40, 40)


def test_three_crops_resize_the_short_side_to_the_crop(frames):
    processor = ILAVideoProcessor()
    assert pixels(processor, frames, num_crops=3).shape == (1, 3, 6, 3, 224, 224)
    one = pixels(processor, frames, size={"shortest_edge": 224})
    assert torch.equal(pixels(processor, frames, num_crops=3)[:, 1], one)


def test_views_of_files_and_of_frames_that_are_sampled(processor, numbered_video):
    decoded, _ = read_video(numbered_video)
    views = pixels(processor, numbered_video, num_clips=2)
    indices = [i for c in range(2) for i in sample_frame_indices(40, 4, clip=c, num_clips=2)]
    assert torch.equal(pixels(processor, decoded, num_clips=2), views)
    assert torch.equal(pixels(processor, decoded[indices], num_clips=2, do_sample_frames=False), views)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_clips": 0}, "`num_clips` must be at least 1, got 0"),
        ({"num_crops": 2}, "`num_crops` must be 1 or 3, got 2"),
        ({"num_clips": 4, "do_sample_frames": False}, r"Videos of \[6\] frames make no 4 clips each"),
        ({"num_clips": 2, "fps": 3, "do_sample_frames": True}, "`fps` takes one clip, got `num_clips` of 2"),
        ({"num_crops": 3, "crop_size": {"height": 40, "width": 32}}, "Three crops are squares"),
    ],
)
def test_views_that_do_not_exist(processor, frames, arguments, message):
    with pytest.raises(ValueError, match=message):
        processor(frames, **arguments)


def test_files_and_frames_in_one_batch(processor, numbered_video, frames):
    batch = pixels(processor, [numbered_video, frames], do_sample_frames=True)
    assert torch.equal(batch[:1], pixels(processor, numbered_video))
    assert torch.equal(batch[1:], pixels(processor, frames, do_sample_frames=True))


def test_metadata(processor, numbered_video):
    batch = processor(numbered_video, return_metadata=True)
    assert batch["video_metadata"][0].frames_indices == sample_frame_indices(40, 4)
    assert batch["video_metadata"][0].fps == 10


def test_saving_and_loading(tmp_path):
    processor = ILAVideoProcessor(num_frames=16, sampling_strategy="uniform", size={"shortest_edge": 384})
    processor.save_pretrained(tmp_path)
    loaded = ILAVideoProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    assert (loaded.num_frames, loaded.sampling_strategy) == (16, "uniform")


@pytest.mark.parametrize(
    ("preset", "size", "short", "strategy"),
    [("ila-base-patch16", 224, 256, "sparse"), ("ila-large-patch14-336-16-frames-ssv2", 336, 384, "uniform")],
)
def test_processor_of_a_preset(preset, size, short, strategy):
    config = ILAConfig.from_preset(preset)
    processor = ILAVideoProcessor.from_config(config)
    assert processor.size["shortest_edge"] == short
    assert processor.crop_size["height"] == processor.crop_size["width"] == size
    assert (processor.num_frames, processor.sampling_strategy) == (config.num_frames, strategy)


def test_one_frame_of_grey(processor):
    assert pixels(processor, np.zeros((2, 1, 40, 50), np.uint8)).shape == (1, 2, 3, 224, 224)


def sixteen_bits(frames):
    return 257 * frames.astype(np.uint16)


@pytest.mark.parametrize(
    "change",
    [
        lambda frames: frames.astype(np.int64),
        lambda frames: frames.astype(">i4"),
        lambda frames: frames.astype(np.float64),
        lambda frames: frames.astype(np.float16),
        lambda frames: frames.astype(">f4"),
        sixteen_bits,
        lambda frames: sixteen_bits(frames).astype(">u2"),
        lambda frames: torch.from_numpy(sixteen_bits(frames)),
        lambda frames: torch.from_numpy(frames).to(torch.bfloat16),
        lambda frames: torch.from_numpy(frames).to(torch.int32),
        lambda frames: frames[::-1].copy()[::-1],
        lambda frames: frames[:, ::-1, ::-1].copy()[:, ::-1, ::-1],
        lambda frames: np.asfortranarray(frames),
        lambda frames: np.repeat(frames, 2, axis=0)[::2],
        lambda frames: frames.transpose(0, 3, 1, 2),
        lambda frames: np.frombuffer(frames.tobytes(), np.uint8).reshape(frames.shape),  # read-only
        lambda frames: list(sixteen_bits(frames)),
    ],
)
def test_frames_of_every_data_type_and_layout(processor, change):
    frames = np.random.default_rng(0).integers(0, 256, (4, 40, 50, 3), dtype=np.uint8)
    # Floats are not rounded after resizing: one of 255 levels, divided by the smallest standard deviation
    torch.testing.assert_close(pixels(processor, change(frames)), pixels(processor, frames), atol=0.018, rtol=0)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I", "F", "L", "1", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_images_of_every_mode(processor, mode):
    grey = np.where(np.random.default_rng(0).integers(0, 2, (40, 50)) == 1, 255, 0).astype(np.uint8)
    deep = {"I;16": np.dtype("<u2"), "I;16B": np.dtype(">u2")}.get(mode)
    if deep is not None:
        image = Image.frombytes(mode, (50, 40), (257 * grey.astype(np.uint16)).astype(deep).tobytes())
    else:
        image = Image.fromarray(grey)
        image = (image.convert("RGB") if mode in ("CMYK", "YCbCr", "RGBA") else image).convert(mode)
    expected = pixels(processor, [Image.fromarray(grey).convert("RGB")])
    torch.testing.assert_close(pixels(processor, [image]), expected, atol=0.018, rtol=0)


@pytest.mark.parametrize(
    ("video", "arguments", "message"),
    [
        (np.zeros((2, 40, 50, 3), bool), {}, "Video 0 is of the type bool: frames are whole numbers or floats"),
        (torch.zeros(2, 3, 40, 50, dtype=torch.bool), {}, "Video 0 is of the type torch.bool"),
        (np.zeros((2, 40, 50, 3), complex), {}, "Video 0 is of the type complex128"),
        (np.full((2, 40, 50, 3), "a"), {}, "Video 0 is of the type <U1"),
        (np.full((2, 40, 50, 3), 40000.0), {}, r"must be in \[0, 255\], got values from 40000 to 40000"),
        (np.full((2, 40, 50, 3), -5.0), {}, r"must be in \[0, 255\], got values from -5 to -5"),
        (np.full((2, 40, 50, 3), np.nan), {}, "Video 0 has values that are not finite"),
        (np.full((2, 40, 50, 3), -1), {}, "Video 0 has values from -1 to -1, of the type torch.int64"),
        (np.full((2, 40, 50, 3), 4095, np.int16), {}, "values from 4095 to 4095.*or 0 to 65535 as uint16"),
        ([], {}, "is empty: pass at least one video"),
        (np.zeros((0, 40, 50, 3), np.uint8), {}, r"Video 0 is empty: its shape is \(0, 40, 50, 3\)"),
        (np.zeros((2, 0, 50, 3), np.uint8), {}, r"Video 0 is empty: its shape is \(2, 0, 50, 3\)"),
        (np.zeros((2, 40, 50, 7), np.uint8), {}, r"Video 0 has no channel dimension of 1 or 3.*\(2, 40, 50, 7\)"),
        (np.zeros((2, 40), np.uint8), {}, r"Invalid video: frames are .* got shape \(2, 40\)"),
        (3, {}, "Invalid video: 3 is no path"),
        ([None], {}, "Invalid video: None is no path"),
        ([Image.new("RGB", (9, 9)), Image.new("RGB", (8, 9))], {}, r"one size, got \[\(9, 8, 3\), \(9, 9, 3\)\]"),
        (
            [np.zeros((2, 40, 50, 3), np.uint8), np.zeros((3, 40, 50, 3), np.uint8)],
            {"return_tensors": "pt"},
            r"Videos of \[2, 3\] frames make no batch",
        ),
        (np.zeros((4, 40, 50, 3), np.uint8), {"num_frames": 2, "fps": 3}, "exclude each other, got 2 and 3"),
    ],
)
def test_bad_input(processor, video, arguments, message):
    with pytest.raises(ValueError, match=message):
        processor(video, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampling_strategy": "random"}, "strategy.*random"),
        ({"num_frames": 0}, "`num_frames` must be at least 1, got 0"),
        ({"num_frames": "8"}, "num_frames.*'8'|8"),
        ({"frame_sampling_rate": -1}, "`frame_sampling_rate` must be at least 1, got -1"),
    ],
)
def test_bad_arguments_name_the_value(processor, frames, arguments, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        processor(frames, do_sample_frames=True, **arguments)


def test_a_file_that_is_not_a_video_is_named(processor, tmp_path):
    path = tmp_path / "text.mp4"
    path.write_text("hello")
    with pytest.raises(VideoReadError, match=r"text\.mp4"):
        processor(path)


def test_frames_that_are_scaled_already_are_told(monkeypatch):
    told = []
    monkeypatch.setattr(video_processing_ila.logger, "warning_once", told.append)
    frames = torch.rand(4, 3, 32, 32)
    processor = ILAVideoProcessor()
    processor(255 * frames, return_tensors="pt")
    processor(frames, do_rescale=False, return_tensors="pt")
    processor((255 * frames).to(torch.uint8), return_tensors="pt")
    assert told == []
    processor(frames, return_tensors="pt")
    assert len(told) == 1
    assert "do_rescale=False" in told[0]


def test_fps_needs_a_frame_rate():
    with pytest.raises(ValueError, match="`fps` of 2 needs the frame rate"):
        ILAVideoProcessor()(torch.zeros(8, 3, 32, 32, dtype=torch.uint8), fps=2, do_sample_frames=True)
