"""Labelled video files as data sets."""

import warnings

import numpy as np
import pytest
import torch

from ila_hf import ILAVideoProcessor, VideoReadError
from ila_hf.motion_videos import write_video
from ila_hf.video_data import ClipTransform, collate_clips, load_video_csv, load_video_folder


@pytest.fixture
def folder(tmp_path):
    for i, name in enumerate(("b/2.mp4", "a/1.MP4", "a/deeper/3.avi", "c d/4.mkv")):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, np.full((9, 48, 64, 3), 40 * i, np.uint8), 10)
    (tmp_path / "videos" / "a" / "notes.txt").write_text("not a video")
    return tmp_path / "videos"


@pytest.fixture
def processor():
    return ILAVideoProcessor(num_frames=4, size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def test_folder(folder):
    dataset = load_video_folder(folder)
    assert dataset.features["label"].names == ["a", "b", "c d"]
    names = [path.removeprefix(f"{folder}/") for path in dataset["video"]]
    assert dict(zip(names, dataset["label"], strict=True)) == {
        "a/1.MP4": 0,
        "a/deeper/3.avi": 0,
        "b/2.mp4": 1,
        "c d/4.mkv": 2,
    }
    assert load_video_folder(folder, ["c d", "x", "b", "a"])["label"] == [3, 3, 2, 0]


def test_csv(folder):
    file = folder / "list.csv"
    file.write_text('video,label\n"b/2.mp4",second\na/1.MP4,first\n')
    dataset = load_video_csv(file)
    assert dataset.features["label"].names == ["first", "second"]
    assert dataset["label"] == [1, 0]
    assert dataset["video"][0] == str(folder / "b/2.mp4")


def test_clips(folder, processor):
    dataset = load_video_folder(folder).with_transform(ClipTransform(processor, train=False))
    batch = collate_clips([dataset[i] for i in range(4)])
    assert batch["pixel_values"].shape == (4, 4, 3, 32, 32)
    assert batch["labels"].tolist() == [0, 0, 1, 2]
    expected = processor(str(folder / "b/2.mp4"), return_tensors="pt")["pixel_values"][0]
    assert torch.equal(batch["pixel_values"][2], expected)


def test_training_frames_are_drawn_from_the_generator_of_torch(numbered_video, processor):
    transform = ClipTransform(processor, train=True)
    rows = {"video": [str(numbered_video)] * 20, "label": [0] * 20}
    torch.manual_seed(3)
    first = torch.stack(transform(rows)["pixel_values"])
    torch.manual_seed(3)
    assert torch.equal(torch.stack(transform(rows)["pixel_values"]), first)
    brightness = first.mean((2, 3, 4))  # tells the frame
    assert len(torch.unique(brightness[:, 0])) > 4
    assert (brightness.diff(dim=1) > 0).all()  # in order


def test_a_broken_video_is_left_out_in_training_and_an_error_in_evaluation(folder, processor):
    (folder / "a" / "broken.mp4").write_text("not a video")
    dataset = load_video_folder(folder)
    index = [path.endswith("broken.mp4") for path in dataset["video"]].index(True)
    train = dataset.with_transform(ClipTransform(processor, train=True))
    with pytest.warns(UserWarning, match=r"Cannot read the video '.*broken\.mp4'"):
        samples = [train[i] for i in range(len(train))]
    assert len(samples) == 5
    assert collate_clips(samples)["labels"].tolist() == [0, 0, 1, 2]
    with pytest.raises(VideoReadError, match="None of the 1 videos of a batch"):
        collate_clips([samples[index]])
    with pytest.raises(VideoReadError, match=r"broken\.mp4"):
        dataset.with_transform(ClipTransform(processor, train=False))[index]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert train[index - 1]["pixel_values"] is not None


def test_what_is_not_a_data_set(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder '.*missing'"):
        load_video_folder(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"'.*empty' holds no video files in class folders"):
        load_video_folder(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"classes that are not among the 1 known: \['b', 'c d'\]"):
        load_video_folder(folder, ["a"])
    with pytest.raises(FileNotFoundError, match=r"no file '.*missing.csv'"):
        load_video_csv(tmp_path / "missing.csv")
    file = folder / "list.csv"
    for text, message in (
        ("path,class\n", r"columns video and label, got \['path', 'class'\]"),
        ("video,label\n", "lists no videos"),
        ("video,label\na/1.MP4\n", "line 2: a video and a label are needed"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            load_video_csv(file)
    file.write_text("video,label\ngone.mp4,a\n")
    with pytest.raises(FileNotFoundError, match=r"lists 1 videos that do not exist, such as '.*gone\.mp4'"):
        load_video_csv(file)
