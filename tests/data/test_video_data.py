"""Where labelled videos are and what they show, from folders, lists, data sets and shards."""

import json
import shutil

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value, Video
from video_files import write_shards

from ila_hf.data.class_labels import read_labels
from ila_hf.data.video_data import leave_out, load_unlabelled, load_video_dataset, load_videos
from ila_hf.data.video_folders import split_folders
from ila_hf.demo.drawing import write_video


@pytest.fixture
def folder(tmp_path):
    for i, name in enumerate(("b/2.mp4", "a/1.MP4", "a/deeper/3.avi", "c d/4.mkv")):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, np.full((9, 48, 64, 3), 40 * i, np.uint8), 10)
    return tmp_path / "videos"


def rows(dataset, folder):
    names = dataset.features["label"].names
    pairs = zip(dataset["video"], dataset["label"], strict=True)
    return {video.removeprefix(f"{folder}/"): names[label] for video, label in pairs}


def test_folder(folder):
    dataset = load_videos(folder)
    assert dataset.features["label"].names == ["a", "b", "c d"]
    assert rows(dataset, folder) == {"a/1.MP4": "a", "a/deeper/3.avi": "a", "b/2.mp4": "b", "c d/4.mkv": "c d"}
    assert load_videos(folder, ["c d", "x", "b", "a"])["label"] == [3, 3, 2, 0]


LISTS = {
    "list.csv": 'video,label\n"b/2.mp4",second\na/1.MP4,first one\n',
    "list.jsonl": '{"video": "b/2.mp4", "label": "second"}\n\n{"video": "a/1.MP4", "label": "first one"}\n',
    "list.json": '[{"video": "b/2.mp4", "label": "second"}, {"video": "a/1.MP4", "label": "first one"}]',
}


@pytest.mark.parametrize("name", LISTS)
def test_lists(folder, name):
    (folder / name).write_text(LISTS[name])
    dataset = load_videos(folder / name)
    assert dataset.features["label"].names == ["first one", "second"]
    assert rows(dataset, folder) == {"b/2.mp4": "second", "a/1.MP4": "first one"}
    assert load_videos(folder / name, ["second", "third", "first one"])["label"] == [0, 2]


def test_the_original_text_list(folder):
    """A path, with spaces too, and the id of the class."""
    (folder / "list.txt").write_text("b/2.mp4 2\nc d/4.mkv 0\na/1.MP4\t2\n\n")
    dataset = load_videos(folder / "list.txt")
    assert dataset.features["label"].names == ["0", "1", "2"]
    assert rows(dataset, folder) == {"b/2.mp4": "2", "c d/4.mkv": "0", "a/1.MP4": "2"}
    assert rows(load_videos(folder / "list.txt", ["x", "y", "z"]), folder)["c d/4.mkv"] == "x"
    with pytest.raises(ValueError, match=r"not among the 2 known: \['2'\]"):
        load_videos(folder / "list.txt", ["x", "y"])
    (folder / "list.txt").write_text("c d/4.mkv juggling\n")
    assert rows(load_videos(folder / "list.txt"), folder) == {"c d/4.mkv": "juggling"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", "video,label\nb/2.mp4,10\na/1.MP4,2\n"),
        ("list.txt", "b/2.mp4 10\na/1.MP4 2\n"),
        ("list.jsonl", '{"video": "b/2.mp4", "label": 10}\n{"video": "a/1.MP4", "label": "2"}\n'),
    ],
)
def test_numbers_are_ids(folder, name, text):
    (folder / name).write_text(text)
    assert load_videos(folder / name)["label"] == [10, 2]
    assert load_videos(folder / name).features["label"].num_classes == 11
    assert load_videos(folder / name, list("abcdefghijk"))["label"] == [10, 2]
    (folder / name).write_text(text.replace("10", "99999999"))
    with pytest.raises(ValueError, match="has the class id 99999999; without names, ids are 0 to 100000"):
        load_videos(folder / name)


def test_a_number_is_the_class_of_that_name_where_there_is_one(folder):
    """Class folders 0 to 11 are sorted as texts: "10" is the third of them."""
    names = sorted(str(i) for i in range(12))
    (folder / "list.jsonl").write_text('{"video": "b/2.mp4", "label": 2}\n{"video": "a/1.MP4", "label": "10"}\n')
    assert rows(load_videos(folder / "list.jsonl", names), folder) == {"b/2.mp4": "2", "a/1.MP4": "10"}
    for names in (["a", "b", "2", *"cdefghij"], ["1", "2", "3"], ["01", "02", "03"]):  # neither class nor id
        with pytest.raises(ValueError, match=r"classes that are not among the \d+ known: \["):
            load_videos(folder / "list.jsonl", names)
    assert load_videos(folder / "list.jsonl", list(map(str, range(11))))["label"] == [2, 10]


def test_ids_without_videos_are_told(folder):
    (folder / "list.csv").write_text("video,label\nb/2.mp4,2019\na/1.MP4,2021\n")
    with pytest.warns(UserWarning, match=r"videos of 2 of 2022 class ids, from 0 to 2021\. If its numbers are names"):
        load_videos(folder / "list.csv")
    (folder / "list.csv").write_text("video,label\nb/2.mp4,01\na/1.MP4,02\n")
    assert rows(load_videos(folder / "list.csv"), folder) == {"b/2.mp4": "01", "a/1.MP4": "02"}


def test_what_a_csv_has_too_much(folder):
    (folder / "list.csv").write_text("video,start,label\nb/2.mp4,1.5,x\n")
    with pytest.warns(UserWarning, match=r"Columns of '.*list\.csv' that are not used: \['start'\]"):
        assert rows(load_videos(folder / "list.csv"), folder) == {"b/2.mp4": "x"}
    (folder / "list.csv").write_text("video,label\nb,2.mp4,x\n")
    with pytest.raises(ValueError, match="line 2 has more fields than columns: put a field with a comma in quotes"):
        load_videos(folder / "list.csv")
    (folder / "list.csv").write_text("video,label\nb/2.mp4,x,\n")
    assert rows(load_videos(folder / "list.csv"), folder) == {"b/2.mp4": "x"}


def test_numbers_as_names_of_folders_are_names(folder):
    (folder / "a").rename(folder / "2021")
    (folder / "b").rename(folder / "1")
    assert load_videos(folder).features["label"].names == ["1", "2021", "c d"]


@pytest.mark.parametrize(
    "name",
    ["a.3gp", "a.3g2", "a.MTS", "a.m2ts", "a.flv", "a.vob", "a.mxf", "a.asf", "a.webm", "a.dv", "a.mj2"],
)
def test_every_usual_name_of_a_video(folder, name):
    """A class of files with a name that is not known would vanish."""
    (folder / "other").mkdir()
    (folder / "other" / name).write_bytes(b"")
    assert rows(load_videos(folder), folder)[f"other/{name}"] == "other"
    assert str(folder / "other" / name) in load_unlabelled(folder)["video"]


def test_what_is_no_video_is_told(folder):
    for name in ("a/notes.txt", "a/more.TXT", "b/README", "list.csv", "lost.mp4"):
        (folder / name).write_text("no video")
    with pytest.warns(UserWarning, match=f"Not videos, in '{folder}': ") as told:
        assert len(load_videos(folder)) == 4
    others = str(told[0].message).partition(": ")[2].removesuffix(".").split(", ")
    assert sorted(others) == ["1 .csv", "1 videos in no class folder", "1 without suffix", "2 .txt"]
    with pytest.warns(UserWarning, match=r"Not videos, in '.*videos': 2 \.txt"):
        assert len(load_unlabelled(folder)) == 5


def test_a_class_without_a_video_is_an_error(folder):
    (folder / "serve").mkdir()
    with pytest.raises(
        ValueError, match=r"The folders \['serve'\] in '.*videos' hold no video: they would be no classes"
    ):
        load_videos(folder)
    (folder / "serve" / "1.xyz").write_text("")
    with pytest.raises(ValueError, match=r"\['serve'\] in '.*videos' hold no video, but 1 \.xyz: they"):
        load_videos(folder)


def test_folders_of_images_are_videos(folder):
    for name in ("a/clip/img_1.jpg", "a/clip/img_2.jpg", "c d/deep/er/x7.PNG"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    found = rows(load_videos(folder), folder)
    assert {name: label for name, label in found.items() if not (folder / name).is_file()} == {
        "a/clip": "a",
        "c d/deep/er": "c d",
    }
    (folder / "list.csv").write_text("video,label\na/clip,x\n")
    assert load_videos(folder / "list.csv")["video"] == [str(folder / "a/clip")]
    (folder / "list.csv").unlink()
    for name in ("b/1.jpg", "b/thumbs/cover.jpg", "b/flow/x_1.jpg", "b/flow/y_1.jpg", "b/2.webp"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    with pytest.warns(UserWarning, match=r"Not videos, in '.*': 4 \.jpg, 1 \.webp\."):  # no frames of one video
        assert rows(load_videos(folder), folder) == found
    for name in ("a/thumbnail.jpg", "e/1.jpg"):  # beside videos, and in the folder of a class
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"The folders \['e'\] in '.*' hold no video, but 6 \.jpg, 1 \.webp"):
        load_videos(folder)


def test_splits_are_no_classes(folder, tmp_path):
    for name in ("train", "Val", "annotations"):
        shutil.copytree(folder, tmp_path / "all" / name)
    with pytest.raises(ValueError, match=r"'.*all' holds the splits validation, train, not classes: name one"):
        load_videos(tmp_path / "all")
    assert len(load_unlabelled(tmp_path / "all")) == 12
    (folder / "train").mkdir()  # a railway
    (folder / "train" / "1.mp4").write_bytes(b"")
    assert load_videos(folder).features["label"].names == ["a", "b", "c d", "train"]
    assert split_folders(tmp_path / "all").keys() == {"train", "validation"}
    (tmp_path / "all" / "validation").mkdir()
    with pytest.raises(ValueError, match="has two folders of one split: Val and validation"):
        load_videos(tmp_path / "all")


def test_links_to_folders_are_followed(folder, tmp_path):
    expected = rows(load_videos(folder), folder)
    (folder / "a").rename(tmp_path / "elsewhere")
    (folder / "a").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert rows(load_videos(folder), folder) == expected
    (folder / "b" / "more").symlink_to(tmp_path / "more", target_is_directory=True)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "5.mp4").write_bytes(b"")
    assert rows(load_videos(folder), folder) == {**expected, "b/more/5.mp4": "b"}


def test_folders_that_are_reached_twice_count_once(folder):
    expected = rows(load_videos(folder), folder)
    (folder / "a" / "all").symlink_to(folder, target_is_directory=True)
    (folder / "a" / "b").symlink_to(folder / "b", target_is_directory=True)
    with pytest.warns(UserWarning, match="2 links to folders that are read already"):
        assert rows(load_videos(folder), folder) == expected
    (folder / "latest").symlink_to(folder / "b", target_is_directory=True)
    with pytest.raises(ValueError, match=r"\['latest'\] in '.*' hold no video, but 3 links to folders that are read"):
        load_videos(folder)


def test_hidden_files_are_passed_over(folder):
    for name in (".cache/1.mp4", "a/._1.mp4", "a/.trash/2.mp4"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    (folder / "a" / "folder.mp4").mkdir()
    assert load_videos(folder).features["label"].names == ["a", "b", "c d"]
    assert len(load_videos(folder)) == 4


def test_something_something(tmp_path):
    """train.json and labels.json as SSv2 ships them; the videos are <id>.webm."""
    for number in (78687, 42326):
        (tmp_path / f"{number}.webm").write_bytes(b"")
    entries = [
        {
            "id": "78687",
            "label": "holding potato next to vicks vaporub bottle",
            "template": "Holding [something] next to [something]",
            "placeholders": ["potato", "vicks vaporub bottle"],
        },
        {"id": "42326", "label": "spinning cube", "template": "Spinning [something]", "placeholders": ["cube"]},
    ]
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "train.json").write_text(json.dumps(entries))
    labels = {"Spinning something": "0", "Holding something next to something": "1"}
    (tmp_path / "lists" / "labels.json").write_text(json.dumps(labels))
    names = read_labels(tmp_path / "lists" / "labels.json")
    assert names == list(labels)
    dataset = load_videos(tmp_path / "lists" / "train.json", names, video_root=tmp_path)
    assert dataset["label"] == [1, 0]
    assert dataset["video"] == [str(tmp_path / "78687.webm"), str(tmp_path / "42326.webm")]
    (tmp_path / "lists" / "test.json").write_text('[{"id": "78687"}]')  # of the test set, without classes
    with pytest.raises(ValueError, match=r"entry 0: a video and a label are needed, got '78687.webm' and None"):
        load_videos(tmp_path / "lists" / "test.json", names, video_root=tmp_path)


def test_lists_stay_in_the_folder_of_the_videos(folder, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    for text in ("../videos/b/2.mp4 0", f"{folder}/b/2.mp4 0"):
        (lists / "list.txt").write_text(text)
        with pytest.raises(ValueError, match=r"list.txt', line 1: '.*2\.mp4' is outside of '.*lists'"):
            load_videos(lists / "list.txt")
        assert len(load_videos(lists / "list.txt", allow_outside_root=True)) == 1
    assert len(load_videos(lists / "list.txt", video_root=folder)) == 1
    (lists / "link.mp4").symlink_to(folder / "b" / "2.mp4")
    (lists / "list.txt").write_text("link.mp4 0")
    with pytest.raises(ValueError, match="is outside of"):
        load_videos(lists / "list.txt")


def test_urls_in_lists(folder):
    (folder / "list.csv").write_text("video,label\nhttps://example.org/a.mp4,x\n")
    assert load_videos(folder / "list.csv")["video"] == ["https://example.org/a.mp4"]
    (folder / "list.csv").write_text("video,label\nhf://datasets/user/set/a.mp4,x\n")
    assert load_videos(folder / "list.csv")["video"] == ["hf://datasets/user/set/a.mp4"]
    (folder / "list.csv").write_text("video,label\nfile:///etc/passwd,x\n")
    with pytest.raises(ValueError, match="line 2: URLs must be http, https or hf, got 'file:///etc/passwd'"):
        load_videos(folder / "list.csv")


def test_missing_videos(folder):
    (folder / "list.csv").write_text("video,label\ngone.mp4,a\nb/2.mp4,b\n")
    with pytest.warns(UserWarning, match=r"1 of the 2 videos of .* do not exist, such as '.*gone\.mp4'"):
        assert len(load_videos(folder / "list.csv")) == 2
    (folder / "list.csv").write_text("video,label\ngone.mp4,a\n")
    with pytest.raises(FileNotFoundError, match=r"None of the 1 videos of .* exists, such as '.*gone\.mp4'"):
        load_videos(folder / "list.csv")


def test_what_is_not_a_data_set(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder or list '.*missing'"):
        load_videos(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"'.*empty' holds no video files in class folders"):
        load_videos(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"classes that are not among the 1 known: \['b', 'c d'\]"):
        load_videos(folder, ["a"])
    with pytest.raises(ValueError, match=r"`video_root` is for lists"):
        load_videos(folder, video_root=folder)
    with pytest.raises(FileNotFoundError, match=r"no folder or list '.*missing.csv'"):
        load_videos(tmp_path / "missing.csv")
    (folder / "list.xml").write_text("")
    with pytest.raises(ValueError, match=r"one of \.csv, \.json, \.jsonl, \.txt, got '.*list\.xml'"):
        load_videos(folder / "list.xml")
    for name, text, message in (
        ("list.csv", "path,class\n", r"columns video and label, got \['path', 'class'\]"),
        ("list.csv", "video,label\n", "lists no videos"),
        ("list.csv", "video,label\na/1.MP4\n", "line 2: a video and a label are needed"),
        ("list.txt", "a/1.MP4\n", "line 1: a video and a label are needed"),
        ("list.json", "[{", "neither a json list nor json lines"),
        (
            "list.jsonl",
            '{"video": "a/1.MP4", "label": ["x"]}',
            r"line 1: a video and a label are needed, got .* \['x'\]",
        ),
        ("list.jsonl", '{"video": 5, "label": "x"}', "line 1: a video and a label are needed, got 5"),
        ("list.jsonl", '{"id": 5, "template": null}', "line 1: a video and a label are needed, got '5.webm' and None"),
        ("list.jsonl", '{"video": "a/1.MP4", "label": -1}', "has the class id -1; without names, ids are 0 to"),
        ("list.csv", "video,label\na/1.MP4,-1\n", "has the class id -1; without names, ids are 0 to"),
        ("list.jsonl", '{"video": "a/1.MP4", "label": true}', "line 1: a video and a label are needed, got .* True"),
        (
            "list.csv",
            "video,label\na\0.mp4,x\n",
            "line 2: a video and a label|is no csv: line contains NUL",
        ),
        ("list.jsonl", "[1]", "entry 0: an object of video and label is needed, got 1"),
        ("list.jsonl", '{"path": "a"}', "line 1: `video` and `label`, or SSv2's"),
    ):
        (folder / name).write_text(text)
        with pytest.raises(ValueError, match=message):
            load_videos(folder / name)
    (folder / "list.csv").write_bytes("video,label\né.mp4,x\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"list\.csv' is not text in UTF-8"):
        load_videos(folder / "list.csv")


def test_leaving_out(folder):
    dataset = load_videos(folder)
    kept = leave_out(dataset, [f"{folder}/a/../b/2.mp4", "other"])
    assert rows(kept, folder) == {"a/1.MP4": "a", "a/deeper/3.avi": "a", "c d/4.mkv": "c d"}


def parquet(folder, video, label, feature):
    """As the Hub stores videos: their paths and bytes in files of columns."""
    values = {video: [{"path": "x.mp4", "bytes": b"some"}] * 2, "label": label, "other": [1, 2]}
    features = Features({video: Video(decode=False), "label": feature, "other": Value("int64")})
    Dataset.from_dict(values, features=features).to_parquet(folder / "data" / "train.parquet")
    return str(folder / "data")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("video", ["clip", "video"])
@pytest.mark.parametrize(
    ("label", "feature", "names"),
    [
        (["red", "blue"], Value("string"), ["red", "blue"]),
        ([0, 1], Value("int64"), ["red", "blue"]),
        ([1, 0], ClassLabel(names=["blue", "red"]), ["red", "blue"]),
        ([1, 0], ClassLabel(names=["blue", "red"]), None),
    ],
)
def test_a_data_set_with_a_video_column(tmp_path, streaming, video, label, feature, names):
    data = load_video_dataset(
        parquet(tmp_path, video, label, feature), streaming=streaming, label_names=names, video_column=None
    )
    assert sorted(data.features) == ["label", "video"]
    rows = list(data)
    assert [data.features["label"].names[row["label"]] for row in rows] == ["red", "blue"]
    assert rows[0]["label"] == (1 if names is None else 0)
    assert rows[0]["video"] == {"path": "x.mp4", "bytes": b"some"}


def test_columns_and_classes_that_are_not_there(tmp_path):
    path = parquet(tmp_path, "clip", ["red", "blue"], Value("string"))
    assert load_video_dataset(path).features["label"].names == ["blue", "red"]
    with pytest.raises(ValueError, match="not known while it streams: give `label_names`"):
        load_video_dataset(path, streaming=True)
    for arguments, column in (({"video_column": "video"}, "video"), ({"label_column": "class"}, "class")):
        with pytest.raises(ValueError, match=rf"no column '{column}'; its columns are \['clip', 'label', 'other'\]"):
            load_video_dataset(path, **arguments)
    for label, feature in (([-1, 0], ClassLabel(names=["a", "b"])), ([None, "a"], Value("string"))):
        path = parquet(tmp_path / feature.dtype, "clip", label, feature)
        with pytest.raises(ValueError, match=r"a video whose class is (-1|None); every video needs one"):
            load_video_dataset(path)
        with pytest.raises(ValueError, match=r"a video whose class is (-1|None); every video needs one"):
            list(load_video_dataset(path, streaming=True, label_names=["a", "b"]))


def test_webdataset_shards(folder, tmp_path):
    content = (folder / "b/2.mp4").read_bytes()
    write_shards(tmp_path, content, shards=3, samples=4)
    pattern = str(tmp_path / "train-*.tar")
    stream = load_video_dataset("webdataset", data_files=pattern, streaming=True, label_names=["a", "b", "c"])
    assert stream.num_shards == 3
    assert [row["label"] for row in stream] == [i % 3 for i in range(12)]
    row = next(iter(stream))
    assert row["video"]["bytes"] == content
    assert row["video"]["path"] == f"{tmp_path}/train-0.tar/0000.mp4"  # keys are those of a shard
    dataset = load_video_dataset("webdataset", data_files=pattern, label_column="json.name")
    assert dataset.features["label"].names == ["a", "b", "c"]
    assert dataset["label"] == [i % 3 for i in range(12)]
    stream = load_video_dataset(
        "webdataset", data_files=pattern, streaming=True, label_column="json.name", label_names=["c", "b", "a"]
    )
    assert [row["label"] for row in stream] == [2 - i % 3 for i in range(12)]


@pytest.mark.parametrize("suffix", ["webm", "mkv", "avi"])
def test_shards_of_other_kinds_of_files(tmp_path, suffix):
    write_shards(tmp_path, b"some", shards=1, samples=2, suffix=suffix)
    for streaming in (False, True):
        data = load_video_dataset(
            "webdataset", data_files=str(tmp_path / "*.tar"), streaming=streaming, label_names=["a", "b", "c"]
        )
        video = next(iter(data))["video"]
        assert (video["bytes"] if isinstance(video, dict) else video) == b"some"
