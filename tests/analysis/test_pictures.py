"""Drawing on frames, and their arrangement."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from ila_hf import read_video
from ila_hf.analysis.pictures import (
    CURRENT_COLOUR,
    HEAT,
    PREVIOUS_COLOUR,
    ClipPictures,
    PairLine,
    draw_features,
    draw_heat,
    draw_points,
    frame_images,
    legend_of_heat,
    pixel_position,
)


COLOURS = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]


def pictures_of(num_rows=2, size=(61, 45), lines=None):
    """Rows of three cells, each of one colour."""
    rows = {f"layer {i}": [Image.new("RGB", size, colour) for colour in COLOURS] for i in range(num_rows)}
    legend = legend_of_heat("low to high")
    return ClipPictures("Cells", ["0.00 s", "0.50 s", "1.00 s"], torch.zeros(1), rows, legend, lines or {})


def test_points_lie_on_the_patches_they_name():
    # 4×4 patches of 8 pixels: the centre of patch (row 3, column 0) is at x = 4, y = 28
    assert pixel_position(torch.tensor([-1.0, 1.0]), (4, 4), (32, 32)) == (4, 28)
    assert pixel_position(torch.tensor([0.0, 0.0]), (5, 7), (50, 70)) == (35, 25)


def box_of(image, colour):
    """Left, top, right and bottom of what has a colour."""
    rows, columns = np.nonzero(np.abs(np.asarray(image).astype(int) - colour).sum(2) < 10)
    return columns.min(), rows.min(), columns.max(), rows.max()


def test_boxes_are_where_the_mask_is_at_its_peak():
    """On 4×8 patches of 40 pixels: ±0.25 is 0.375 of a patch up and down, 0.875 to the sides."""
    points = torch.tensor([[[-0.5, 1 / 3], [0.25, -1 / 3]]])  # one pair of two frames
    images = frame_images(torch.zeros(2, 3, 32, 64), 160)
    assert images[0].size == (320, 160)
    cells, lines = draw_points(images, [(0, 1)], points, (4, 8), 0.25)
    for cell, colour, point in zip(cells, (PREVIOUS_COLOUR, CURRENT_COLOUR), points[0].tolist(), strict=True):
        x, y = ((point[0] + 1) / 2 * 7 + 0.5) * 40, ((point[1] + 1) / 2 * 3 + 0.5) * 40
        assert box_of(cell, colour) == pytest.approx((x - 35, y - 15, x + 35, y + 15), abs=1)
    ends = [pixel_position(point, (4, 8), (160, 320)) for point in points[0]]
    assert lines == [PairLine((0, 1), (ends[0], ends[1]))]
    assert not np.asarray(images[0]).any()  # drawn on copies
    (cell, _), _ = draw_points(images, [(0, 1)], points, (4, 8), 0)
    assert box_of(cell, PREVIOUS_COLOUR) == pytest.approx((*ends[0], *ends[0]), abs=2)


def test_heat_lies_over_grey():
    """At the centre of a patch is its own value; the frame is left in grey."""
    image = Image.new("RGB", (40, 40), (255, 255, 255))
    values = torch.zeros(4, 4)
    values[1, 2] = 1
    pixels = np.asarray(draw_heat(image, values.repeat_interleave(5, 0).repeat_interleave(5, 1))) / 255
    expected = {(15, 25): 0.6 * np.array(HEAT(1.0)[:3]) + 0.4, (35, 5): 0.6 * np.array(HEAT(0.0)[:3]) + 0.4}
    for (y, x), colour in expected.items():
        np.testing.assert_allclose(pixels[y, x], colour, atol=0.01)


def test_features_are_flat_patches():
    cells = draw_features(torch.randn(2, 4, 6, 16), (60, 40))
    for cell in cells:
        pixels = np.asarray(cell)
        assert pixels.shape == (40, 60, 3)
        assert (pixels.reshape(4, 10, 6, 10, 3) == pixels[::10, None, ::10, None]).all()


def test_the_grid_has_a_row_for_each_layer_and_a_column_for_each_frame():
    grid = np.asarray(pictures_of().grid()).astype(int)
    boxes = [box_of(grid, colour) for colour in COLOURS]
    for before, after in itertools.pairwise(boxes):
        assert before[2] < after[0]
        assert (before[1], before[3]) == (after[1], after[3])
    for colour, (left, top, right, bottom) in zip(COLOURS, boxes, strict=True):
        assert right - left == 60
        assert (np.abs(grid - colour).sum(2) == 0).sum() == 2 * 61 * 45
        assert bottom - top > 2 * 45  # with a gap between the rows
        assert (grid[top - 12 : top, left:right].min() < 100).any()  # its label
        assert (grid[top : top + 45, 5 : boxes[0][0] - 3].min() < 100).any()  # that of the row


@pytest.mark.parametrize("size", [(61, 45), (60, 44), (8, 8)])
def test_frames_are_even_and_of_one_size(size):
    frames = pictures_of(size=size).frames()
    assert len(frames) == 3
    assert len({frame.size for frame in frames}) == 1
    assert not any(side % 2 for side in frames[0].size)
    for frame, colour in zip(frames, COLOURS, strict=True):
        found = np.asarray(frame).astype(int)
        assert (np.abs(found - colour).sum(2) == 0).sum() == 2 * size[0] * size[1]
        for other in COLOURS:
            assert other == colour or (np.abs(found - other).sum(2) == 0).sum() == 0


def test_lines_go_from_frame_to_frame():
    """In the grid from cell to cell, in an animation within the cell of the current frame; none to itself."""
    line = PairLine((0, 2), ((10, 20), (50, 20)))
    pictures = pictures_of(1, lines={"layer 0": [line, PairLine((1, 1), ((10, 40), (50, 40)))]})
    grid = np.asarray(pictures.grid()).astype(int)
    left, top, *_ = box_of(grid, COLOURS[0])
    last = box_of(grid, COLOURS[2])[0]
    assert (grid[top + 20, left + 12 : last + 48] == 255).all()
    assert not (grid[top + 40, left : left + 61] == 255).all(1).any()
    frames = [np.asarray(frame).astype(int) for frame in pictures.frames()]
    left, top, *_ = box_of(frames[2], COLOURS[2])
    assert (frames[2][top + 20, left + 12 : left + 48] == 255).all()
    assert (frames[0][top : top + 45, left : left + 61] == COLOURS[0]).all()


def test_animations(tmp_path):
    pictures = pictures_of()
    frames = pictures.frames()
    pictures.save(tmp_path / "cells.gif")
    with Image.open(tmp_path / "cells.gif") as animation:
        assert (animation.n_frames, animation.size, animation.info["duration"]) == (3, frames[0].size, 500)
        for i, frame in enumerate(frames):
            animation.seek(i)
            difference = np.abs(np.asarray(animation.convert("RGB")).astype(int) - np.asarray(frame))
            assert difference.mean() < 3
    pictures.save(tmp_path / "cells.mp4")
    decoded, metadata = read_video(tmp_path / "cells.mp4")
    assert metadata.fps == 2
    assert decoded.shape == (3, 3, *frames[0].size[::-1])
    for found, frame in zip(decoded.permute(0, 2, 3, 1).numpy(), frames, strict=True):
        assert np.abs(found.astype(int) - np.asarray(frame)).mean() < 5


def test_the_last_row_alone():
    pictures = pictures_of(3)
    pictures.maps = {0: torch.zeros(1), 2: torch.ones(1)}
    pictures.keep_last_row("layer 0")
    assert list(pictures.rows) == ["layer 0", "layer 2"]
    assert list(pictures.maps) == [2]
