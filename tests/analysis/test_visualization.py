"""Pictures of the interactive points."""

import numpy as np
import pytest
import torch
from PIL import Image

from ila_hf.__main__ import main
from ila_hf.analysis.visualization import (
    CURRENT_COLOUR,
    PREVIOUS_COLOUR,
    draw_interactive_points,
    pixel_position,
    visualize_video,
)
from ila_hf.demo.tiny import tiny_config, tiny_processor


def test_points_lie_on_the_patches_they_name():
    # 4×4 patches of 8 pixels: the centre of patch (row 3, column 0) is at x = 4, y = 28
    assert pixel_position(torch.tensor([-1.0, 1.0]), (4, 4), (32, 32)) == (4, 28)
    assert pixel_position(torch.tensor([0.0, 0.0]), (5, 7), (50, 70)) == (35, 25)


def test_marks_are_where_the_points_are():
    points = torch.tensor([[[-0.7, -0.7], [0.7, 0.7]]])  # one pair of two frames
    picture = np.asarray(draw_interactive_points(torch.zeros(2, 3, 32, 32), points, (4, 4), size=160)).astype(int)
    assert picture.shape == (160, 320, 3)

    def centre(colour):
        rows, columns = np.nonzero(np.abs(picture - colour).sum(2) < 10)
        return columns.mean(), rows.mean()

    assert centre(PREVIOUS_COLOUR) == pytest.approx(pixel_position(points[0, 0], (4, 4), (160, 160)), abs=1)
    x, y = pixel_position(points[0, 1], (4, 4), (160, 160))
    assert centre(CURRENT_COLOUR) == pytest.approx((160 + x, y), abs=1)


def test_command(tiny_model, tmp_path, video_file, capsys):
    tiny_model().save_pretrained(tmp_path)
    tiny_processor(tiny_config()).save_pretrained(tmp_path)
    output = tmp_path / "pictures" / "points.png"
    main(["visualize", "--model", str(tmp_path), "--video", str(video_file), "--output", str(output)])
    assert Image.open(output).size == (8 * 160, 3 * 160)  # a row per layer
    assert str(output) in capsys.readouterr().out


def test_a_model_that_does_not_align(tiny_model, video_file):
    model = tiny_model(vision={"alignment_layers": []})
    with pytest.raises(ValueError, match="it aligns no frames"):
        visualize_video(model, tiny_processor(model.config).video_processor, video_file)
