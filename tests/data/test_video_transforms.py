"""Augmentation: one draw for all frames, on uint8, with the geometry of the recipe."""

import itertools

import pytest
import torch

from ila_hf import ILAVideoProcessor
from ila_hf.data.video_transforms import MultiScaleCrop, names_a_side, training_transform


@pytest.fixture
def processor():
    return ILAVideoProcessor(size={"shortest_edge": 64}, crop_size={"height": 56, "width": 56})


def coordinates(height=96, width=128):
    """Frames whose red is y and whose green is x, (4, 3, H, W)."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([y, x, torch.zeros_like(x)])[None].repeat(4, 1, 1, 1).to(torch.uint8)


def test_multi_scale_crop():
    """Sides are scales of the short side, neighbours at most; places are the four corners and the centre."""
    crop, frames = MultiScaleCrop(56), coordinates()
    allowed = [round(96 * scale) for scale in (1, 0.875, 0.75, 0.66)]
    sizes, places = set(), set()
    for _ in range(400):
        parameters = crop.make_params([frames])
        top, left, height, width = (parameters[name] for name in ("top", "left", "height", "width"))
        assert abs(allowed.index(height) - allowed.index(width)) <= 1
        sizes.add((height, width))
        corners = [(0, 0), (0, 128 - width), (96 - height, 0), (96 - height, 128 - width)]
        places.add(corners.index((top, left)) if (top, left) in corners else "centre")
        if (top, left) not in corners:
            assert (top, left) == (round((96 - height) / 2), round((128 - width) / 2))
        clip = crop.transform(frames, parameters)
        assert (clip.shape, clip.dtype) == ((4, 3, 56, 56), torch.uint8)
        # the edges of what is cut out, in pixels of the frame
        red, green = clip[0, 0].float(), clip[0, 1].float()
        assert abs(red.min() - top) <= 1.5
        assert abs(red.max() - (top + height - 1)) <= 1.5
        assert abs(green.min() - left) <= 1.5
        assert abs(green.max() - (left + width - 1)) <= 1.5
    assert len(sizes) == 10  # 4 squares and 2 · 3 rectangles
    assert places >= {0, 1, 2, 3, "centre"}
    for scales in ((), (1.5,), (0.0, 1.0)):
        with pytest.raises(ValueError, match=r"`scales` must be in \(0, 1\]"):
            MultiScaleCrop(56, scales)


def test_all_frames_get_the_same_draw(processor):
    transform = training_transform(processor, jitter=1.0, erasing=1.0)
    seen = []
    for _ in range(20):
        clip = transform(coordinates())
        assert (clip.shape, clip.dtype) == ((4, 3, 56, 56), torch.uint8)
        assert all(torch.equal(frame, clip[0]) for frame in clip)
        seen.append(clip[0])
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(seen))
    torch.manual_seed(3)
    first = transform(coordinates())
    torch.manual_seed(3)
    assert torch.equal(transform(coordinates()), first)


def test_each_step_by_itself(processor):
    off = {"scales": (1.0,), "flip": 0, "jitter": 0, "grey": 0}
    frames = coordinates(56, 56)
    assert torch.equal(training_transform(processor, **off)(frames), frames)
    assert torch.equal(training_transform(processor, **off | {"flip": 1})(frames), frames.flip(-1))
    grey = training_transform(processor, **off | {"grey": 1})(frames)
    assert torch.equal(grey[:, 0], grey[:, 1])
    assert torch.equal(grey[:, 1], grey[:, 2])
    jittered = training_transform(processor, **off | {"jitter": 1})(frames)
    assert not torch.equal(jittered, frames)
    erased = training_transform(processor, **off | {"erasing": 1})(frames)
    changed = (erased != frames).any(1)
    values = erased.permute(0, 2, 3, 1)[changed]
    assert (values == torch.tensor([124, 116, 104], dtype=torch.uint8)).all()  # ImageNet's mean colour
    assert 0.01 < changed.float().mean() < 0.4
    for name in ("flip", "jitter", "grey", "erasing"):
        with pytest.raises(ValueError, match=rf"`{name}` is a probability, in \[0, 1\], got 1.5"):
            training_transform(processor, **{name: 1.5})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Pushing something from left to right", True),
        ("moving_left", True),
        ("circling counter-clockwise", True),
        ("Left,right", True),
        ("turn (left)", True),
        ("moveLeft", True),
        ("leaning leftwards.", True),
        ("juggling balls", False),
        ("leftover food", False),
    ],
)
def test_names_of_sides(name, expected):
    assert names_a_side(["playing cello", name]) is expected


def test_clips_are_squares():
    processor = ILAVideoProcessor(crop_size={"height": 32, "width": 48})
    with pytest.raises(ValueError, match="Clips are squares, got a processor with `crop_size`"):
        training_transform(processor)
