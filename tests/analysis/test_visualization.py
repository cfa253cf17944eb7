"""Pictures of a clip for any model and any video, and the command."""

import numpy as np
import pytest
import torch
from PIL import Image

from ila_hf import ILAForVideoClassification, ILAForVideoTextClassification, read_video
from ila_hf.__main__ import main
from ila_hf.analysis import attribution_maps, deletion_check, draw_clip, visualize_video
from ila_hf.analysis.deletion import DeletionCheck
from ila_hf.analysis.visualization import describe_check, find_class, read_clip
from ila_hf.demo.tiny import tiny_config, tiny_processor


KINDS = ("points", "masks", "features", "attention", "cam")


def processor_of(model):
    return tiny_processor(model.config).video_processor


@pytest.mark.parametrize("model_class", [ILAForVideoTextClassification, ILAForVideoClassification])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vision", [{}, {"architecture": "released"}, {"reference_frame": "first"}], ids=str)
def test_rows_are_layers_and_columns_are_frames(tiny_model, video_file, model_class, kind, vision):
    model = tiny_model(model_class, vision=vision)
    pictures = draw_clip(model, processor_of(model), video_file, kind)
    layers = ["layer 1"] if kind == "cam" else ["layer 0", "layer 1", "layer 2"]
    assert list(pictures.rows) == (layers if kind == "points" else ["frames", *layers])
    assert all(len(cells) == 8 and cells[0].size == (160, 160) for cells in pictures.rows.values())
    assert len(pictures.columns) == 8
    assert list(pictures.maps) == ([] if kind in ("points", "features") else [int(name[-1]) for name in layers])
    grid = pictures.grid()
    assert grid.width > 8 * 160
    assert grid.height > len(pictures.rows) * 160
    picture = visualize_video(model, processor_of(model), video_file, kind, layers=[-2], size=40)
    assert picture.height < grid.height


@pytest.mark.parametrize("kind", KINDS)
def test_modules_of_other_systems(tiny_model, video_file, kind):
    for name in ("none", "joint", "shift", "aim"):
        model = tiny_model(vision={"temporal_module": name})
        if kind in ("points", "masks"):
            with pytest.raises(
                ValueError, match=r"No layer of the model has interactive points: it aligns no frames\."
            ):
                visualize_video(model, processor_of(model), video_file, kind)
        else:
            assert "layer 1" in draw_clip(model, processor_of(model), video_file, kind).rows


@pytest.mark.parametrize("kind", KINDS)
def test_one_frame_that_is_not_square(tiny_model, kind):
    """Of 40×56 pixels, in patches of 8 and a rest."""
    model, processor = tiny_model(), tiny_processor(tiny_config())
    video = np.random.default_rng(0).integers(0, 255, (1, 44, 60, 3), np.uint8)
    processor.video_processor.do_resize = False
    processor.video_processor.crop_size = {"height": 42, "width": 60}
    pictures = draw_clip(model, processor, video, kind)
    assert pictures.pixel_values.shape == (1, 1, 3, 42, 60)
    assert pictures.columns == ["frame 0"]
    assert all(cells[0].size == (224, 160) for cells in pictures.rows.values())  # 5 rows and 7 columns of patches


def test_frames_are_what_the_model_sees(tiny_model, numbered_video):
    """Grey values of the numbered frames, one clip and one crop, with the times of the file."""
    model = tiny_model()
    processor = processor_of(model)
    processor.num_clips, processor.num_crops = 2, 3
    clip = read_clip(model, processor, numbered_video)
    assert clip.pixel_values.shape == (1, 8, 3, 32, 32)
    numbers = [round(float(label.removesuffix(" s")) * 10) for label in clip.labels]
    assert numbers == [2, 7, 12, 17, 22, 27, 32, 37]
    torch.testing.assert_close(clip.frames[:, 0, 16, 16] * 255 / 6, torch.tensor(numbers).float(), atol=0.5, rtol=0)
    with pytest.raises(ValueError, match="`video` must be one video, got 2"):
        read_clip(model, processor, [numbered_video, numbered_video])


def test_colours_are_those_of_the_maps(tiny_model, video_file):
    """Where a row has its highest value, its colour is the brightest of the map."""
    model = tiny_model()
    pictures = draw_clip(model, processor_of(model), video_file, "attention", [1])
    (maps,) = pictures.maps.values()
    assert torch.equal(maps, attribution_maps(model, pictures.pixel_values, "attention", [1])[1])
    frame, row, column = np.unravel_index(int(maps[0].argmax()), maps[0].shape)
    cell = np.asarray(pictures.rows["layer 1"][frame]).astype(int)
    grey = np.asarray(pictures.rows["frames"][frame].convert("L")).astype(int)
    heat = (cell - 0.4 * grey[..., None]).sum(2)
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    assert abs(y - (row + 0.5) * 40) <= 20
    assert abs(x - (column + 0.5) * 40) <= 20


def test_what_is_refused(tiny_model, video_file):
    model = tiny_model(vision={"alignment_layers": [1]})
    processor = processor_of(model)
    with pytest.raises(ValueError, match=r"`kind` must be one of 'points', 'masks', .*, got 'heat'"):
        draw_clip(model, processor, video_file, "heat")
    with pytest.raises(ValueError, match=r"Layer 0 does not align frames; those that do are \[1\]"):
        draw_clip(model, processor, video_file, "points", [0])
    with pytest.raises(ValueError, match=r"`layer` must be in \[-3, 2\] for 3 layers, got 7"):
        draw_clip(model, processor, video_file, "features", [7])


def test_classes_have_names_and_ids(tiny_model):
    model = tiny_model()
    assert find_class(model, "moving up") == find_class(model, "3") == 3
    with pytest.raises(
        ValueError, match="no class 'moving_up': give an id from 0 to 7 or a name; the nearest is 'mov"
    ):
        find_class(model, "moving_up")
    with pytest.raises(ValueError, match="no class '8'"):
        find_class(model, "8")
    model.config.id2label = {0: "1", 1: "0"}
    assert find_class(model, "0") == 1  # a name comes first


def test_a_check_in_one_line():
    numbers = (torch.tensor([value]) for value in (9.25, 3.5, 1.0, 0.125))
    check = DeletionCheck(torch.tensor([1]), *numbers, hidden=3, draws=10)
    assert describe_check(check, 2, 16, {0: "lob", 1: "serve"}) == (
        "Deletion check of layer 2: without the highlighted 19 % of the patches the score of 'serve', 9.25, falls by "
        "3.50; without as many at random by 1.00 ± 0.12 (10 draws)."
    )


@pytest.fixture
def folder(tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_processor(tiny_config()).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("kind", KINDS)
def test_command(folder, tmp_path, video_file, kind, capsys):
    arguments = ["visualize", "--model", str(folder), "--video", str(video_file), "--kind", kind]
    model = ILAForVideoTextClassification.from_pretrained(folder)
    output = tmp_path / "pictures" / "picture.png"
    main([*arguments, "--output", str(output)])
    expected = draw_clip(model, processor_of(model), video_file, kind)
    assert np.array_equal(np.asarray(Image.open(output)), np.asarray(expected.grid()))
    wrote, *rest = capsys.readouterr().out.splitlines()
    assert wrote == f"Wrote {output}: {', '.join(expected.rows)}."
    if not expected.maps:
        assert rest == []
        return
    main([*arguments, "--output", str(output), "--class", "moving left", "--layer", "0", "-2"])
    maps = draw_clip(model, processor_of(model), video_file, kind, [0, 1], class_id=1).maps
    checks = [deletion_check(model, expected.pixel_values, maps[layer], class_id=1) for layer in (0, 1)]
    lines = [describe_check(check, layer, 16, model.config.id2label) for layer, check in enumerate(checks)]
    assert capsys.readouterr().out.splitlines()[1:] == lines


def test_command_writes_animations(folder, tmp_path, video_file):
    """Of the last layer, larger; of the chosen ones, under each other."""
    arguments = ["visualize", "--model", str(folder), "--video", str(video_file)]
    main([*arguments, "--output", str(tmp_path / "points.gif")])
    with Image.open(tmp_path / "points.gif") as animation:
        assert animation.n_frames == 8
        assert 320 < animation.height < 480
    main([*arguments, "--output", str(tmp_path / "masks.mp4"), "--kind", "masks", "--layer", "0", "2"])
    frames, _ = read_video(tmp_path / "masks.mp4")
    assert len(frames) == 8
    assert 3 * 160 < frames.shape[2] < 4 * 160


def test_the_command_refuses_a_class_without_meaning(folder, video_file, capsys):
    arguments = ["visualize", "--model", str(folder), "--video", str(video_file), "--output", "x.png"]
    for kind in ("points", "features"):
        with pytest.raises(SystemExit):
            main([*arguments, "--kind", kind, "--class", "moving up"])
        assert f"`class` is for masks, attention and cam; {kind} have none." in capsys.readouterr().err
