"""From arguments to splits: sources, classes, limits, and errors before the work."""

import json
from argparse import Namespace

import pytest
from datasets import IterableDataset
from video_files import write_shards

from ila_hf.data.video_data import load_unlabelled
from ila_hf.training.arguments import DataArguments
from ila_hf.training.splits import VideoSplits, check_splits, load_splits


def make_videos(root, counts):
    """Empty files root/<class>/<number>.mp4: nothing is decoded where splits are made."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i}.mp4").write_bytes(b"")
    return str(root)


def shown(data):
    """The classes of videos by their last two names."""
    names = data.features["label"].names
    pairs = zip(data["video"], data["label"], strict=True)
    return {"/".join(video.split("/")[-2:]): names[label] for video, label in pairs}


@pytest.fixture
def train_dir(tmp_path):
    return make_videos(tmp_path / "train", {"a": 8, "b c": 4})


@pytest.fixture
def validation_dir(tmp_path):
    return make_videos(tmp_path / "validation", {"a": 2, "b c": 1})


@pytest.fixture
def labels_file(tmp_path):
    file = tmp_path / "labels.txt"
    file.write_text("b c\na\nnever seen\n")
    return str(file)


def test_folders(train_dir, validation_dir):
    splits = load_splits(DataArguments(train_dir=train_dir, validation_dir=validation_dir), 0)
    assert splits.label_names == ["a", "b c"]
    assert shown(splits.train) == {
        **{f"a/{i}.mp4": "a" for i in range(8)},
        **{f"b c/{i}.mp4": "b c" for i in range(4)},
    }
    assert shown(splits.validation) == {"a/0.mp4": "a", "a/1.mp4": "a", "b c/0.mp4": "b c"}
    assert splits.test is None
    assert load_splits(DataArguments(), 0) == VideoSplits(None, None, None, None)


def test_lists(tmp_path, train_dir):
    (tmp_path / "train.csv").write_text("video,label\na/0.mp4,second\nb c/1.mp4,first\n")
    (tmp_path / "validation.txt").write_text(f"{train_dir}/a/2.mp4 first\n{train_dir}/a/3.mp4 second\n")
    files = {"train_file": str(tmp_path / "train.csv"), "validation_file": str(tmp_path / "validation.txt")}
    splits = load_splits(DataArguments(**files, video_root=train_dir), 0)
    assert splits.label_names == ["first", "second"]
    assert shown(splits.train) == {"a/0.mp4": "second", "b c/1.mp4": "first"}
    assert shown(splits.validation) == {"a/2.mp4": "first", "a/3.mp4": "second"}
    arguments = DataArguments(validation_file=files["validation_file"], video_root=f"{train_dir}/b c")
    with pytest.raises(ValueError, match="is outside of"):
        load_splits(arguments, 0)
    arguments.allow_outside_root = True
    assert len(load_splits(arguments, 0).validation) == 2


def test_a_share_of_every_class_is_held_out(train_dir):
    def split(seed, share=0.25):
        splits = load_splits(DataArguments(train_dir=train_dir, train_val_split=share), seed)
        assert splits.label_names == ["a", "b c"]
        return shown(splits.train), shown(splits.validation)

    def counts(videos):
        return [list(videos.values()).count(name) for name in ("a", "b c")]

    train, validation = split(0)
    assert counts(validation) == [2, 1]
    assert counts(train) == [6, 3]
    assert not train.keys() & validation.keys()
    assert split(0) == (train, validation)
    assert len({frozenset(split(seed)[1]) for seed in range(5)}) > 1
    for share, expected in ((0.01, [1, 1]), (0.5, [4, 2]), (0.99, [7, 3])):  # both have some of every class
        assert counts(split(0, share)[1]) == expected


def test_what_cannot_be_held_out(tmp_path, train_dir, validation_dir):
    one = make_videos(tmp_path / "one", {"a": 3, "b": 1, "c": 1})
    with pytest.raises(ValueError, match=r"needs two videos of every class; there is one of \['b', 'c'\]"):
        load_splits(DataArguments(train_dir=one, train_val_split=0.5), 0)
    with pytest.raises(ValueError, match="--train_val_split needs --train_dir, --train_file or a --dataset_name"):
        load_splits(DataArguments(train_val_split=0.5), 0)
    with pytest.raises(ValueError, match="takes validation videos from the training videos; others are given, too"):
        load_splits(DataArguments(train_dir=train_dir, validation_dir=validation_dir, train_val_split=0.5), 0)


def test_classes_in_one_split_only(tmp_path, train_dir, validation_dir, labels_file):
    more = make_videos(tmp_path / "more", {"a": 1, "b c": 1, "never seen": 1})
    with pytest.raises(ValueError, match=r"more' has classes that are not among the 2 known: \['never seen'\]"):
        load_splits(DataArguments(train_dir=train_dir, validation_dir=more), 0)
    with pytest.raises(ValueError, match=r"show none of the classes \['never seen'\].*all classes in a --labels_file"):
        load_splits(DataArguments(train_dir=more, validation_dir=validation_dir), 0)
    for train, validation in ((train_dir, more), (more, validation_dir), (train_dir, validation_dir)):
        arguments = DataArguments(train_dir=train, validation_dir=validation, labels_file=labels_file)
        splits = load_splits(arguments, 0)
        assert splits.label_names == ["b c", "a", "never seen"]
        assert {*splits.train.features["label"].names} == {*splits.validation.features["label"].names}
        assert shown(splits.validation)["b c/0.mp4"] == "b c"
        assert splits.validation[0]["label"] == 1  # of class a
    (tmp_path / "labels.txt").write_text("a\n")
    with pytest.raises(ValueError, match=r"not among the 1 known: \['b c'\]"):
        load_splits(arguments, 0)
    with pytest.raises(FileNotFoundError, match="no label file"):
        load_splits(DataArguments(train_dir=train_dir, labels_file=str(tmp_path / "gone.txt")), 0)


def test_classes_of_the_model(tmp_path, train_dir, validation_dir, labels_file):
    known = ["x", "b c", "a"]
    splits = load_splits(DataArguments(validation_dir=validation_dir), 0, known)
    assert splits.label_names == known
    assert splits.validation["label"] == [2, 2, 1]
    assert load_splits(DataArguments(), 0, known).label_names == known
    with pytest.raises(ValueError, match=r"not among the 2 known: \['b c'\]"):
        load_splits(DataArguments(validation_dir=validation_dir), 0, ["a", "x"])
    # Others come first: those of zero-shot, of the training videos, of the file
    splits = load_splits(DataArguments(validation_dir=validation_dir, zero_shot=True), 0, known)
    assert (splits.label_names, splits.validation["label"][:]) == (["a", "b c"], [0, 0, 1])
    splits = load_splits(DataArguments(train_dir=train_dir), 0, known)
    assert splits.label_names == ["a", "b c"]
    splits = load_splits(DataArguments(validation_dir=validation_dir, labels_file=labels_file), 0, known)
    assert (splits.label_names, splits.validation["label"][:]) == (["b c", "a", "never seen"], [1, 1, 0])
    # Without any, those of the validation videos
    assert load_splits(DataArguments(validation_dir=validation_dir), 0).label_names == ["a", "b c"]


def test_videos_without_classes(tmp_path):
    folder = tmp_path / "test"
    make_videos(folder / "x", {"y": 2})
    for name in ("one.webm", "notes.txt"):
        (folder / name).write_bytes(b"")
    (folder / "folder.mp4").mkdir()
    splits = load_splits(DataArguments(test_dir=str(folder)), 0, ["a"])
    assert splits.test["video"][:] == [str(folder / name) for name in ("one.webm", "x/y/0.mp4", "x/y/1.mp4")]
    assert splits.test["label"][:] == [-1, -1, -1]
    assert splits.label_names == ["a"]
    with pytest.raises(ValueError, match=r"'.*folder\.mp4' holds no video files"):
        load_unlabelled(folder / "folder.mp4")


def test_listed_videos_without_classes(tmp_path, train_dir):
    (tmp_path / "test.csv").write_text("video\na/0.mp4\nb c/1.mp4\n")
    splits = load_splits(DataArguments(test_file=str(tmp_path / "test.csv"), video_root=train_dir), 0, ["a"])
    assert splits.test["video"][:] == [f"{train_dir}/a/0.mp4", f"{train_dir}/b c/1.mp4"]
    assert splits.test["label"][:] == [-1, -1]
    (tmp_path / "test.jsonl").write_text('{"video": "train/a/0.mp4", "label": "unknown"}\n')
    with pytest.warns(UserWarning, match=r"The classes of '.*test\.jsonl' are not used"):
        assert load_unlabelled(tmp_path / "test.jsonl")["label"][:] == [-1]
    make_videos(tmp_path / "named", {"my clip": 1})
    (tmp_path / "named" / "my clip.mp4").write_bytes(b"")
    (tmp_path / "test.txt").write_text("named/my clip.mp4\nnamed/my clip/0.mp4\n")
    names = [f"{tmp_path}/named/my clip.mp4", f"{tmp_path}/named/my clip/0.mp4"]
    assert load_unlabelled(tmp_path / "test.txt")["video"][:] == names
    with pytest.raises(ValueError, match="Give one source for the test videos, a folder or a list"):
        load_splits(DataArguments(test_file="list.csv", test_dir=train_dir), 0, ["a"])


def test_hidden_videos_without_classes(tmp_path):
    """They do not count, as in folders of classes; `._<name>` is what macOS leaves beside a file."""
    make_videos(tmp_path, {"x": 1, ".trash": 1})
    (tmp_path / "x" / "._0.mp4").write_bytes(b"")
    assert load_unlabelled(tmp_path)["video"][:] == [str(tmp_path / "x" / "0.mp4")]


def test_a_folder_without_classes_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder '.*missing'"):
        load_splits(DataArguments(test_dir=str(tmp_path / "missing")), 0)


@pytest.mark.parametrize("flag", ["data_dir", "train_dir"])
def test_folders_of_splits(tmp_path, flag, caplog):
    root = tmp_path / "videos"
    for split, counts in (("train", {"a": 3, "b": 2}), ("val", {"a": 1, "b": 1}), ("Test", {"a": 2})):
        make_videos(root / split, counts)
    caplog.set_level("INFO", "ila_hf")
    splits = load_splits(DataArguments(**{flag: str(root)}), 0)
    assert shown(splits.train).keys() == {"a/0.mp4", "a/1.mp4", "a/2.mp4", "b/0.mp4", "b/1.mp4"}
    assert splits.label_names == ["a", "b"]
    assert [len(splits.validation), len(splits.test)] == [2, 2]
    assert caplog.messages == [
        f"'{root}' holds the splits Test, train, val.",
        "Training: 5 videos, 2 classes (3/2), 5 cannot be opened.",
        "Validation: 2 videos, 2 classes (1/1), 2 cannot be opened.",
        "Test: 2 videos, 2 cannot be opened.",
    ]
    # What is named comes first
    splits = load_splits(DataArguments(**{flag: str(root)}, train_val_split=0.4), 0)
    assert [len(splits.train), len(splits.validation)] == [3, 2]
    other = make_videos(tmp_path / "other", {"a": 3, "b": 1})
    splits = load_splits(DataArguments(**{flag: str(root)}, validation_dir=other, test_dir=other), 0)
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [5, 4, 4]
    splits = load_splits(DataArguments(validation_dir=str(root)), 0)
    assert (splits.train, len(splits.validation)) == (None, 2)


def test_what_is_not_needed_is_not_looked_at(tmp_path):
    """An evaluation takes the classes of the model, not those of training videos; test videos may be missing."""
    root = tmp_path / "videos"
    for split, counts in (("train", {"a": 3, "b": 2}), ("val", {"a": 1, "b": 1}), ("test", {})):
        make_videos(root / split, counts)
        (root / split).mkdir(exist_ok=True)
    splits = load_splits(DataArguments(data_dir=str(root)), 0, ["b", "a"], trains=False, predicts=False)
    assert (splits.train, splits.test, splits.label_names) == (None, None, ["b", "a"])
    assert splits.validation["label"][:] == [1, 0]
    splits = load_splits(DataArguments(data_dir=str(root), train_val_split=0.4), 0, ["b", "a"], False, predicts=False)
    assert splits.label_names == ["b", "a"]
    assert sorted(splits.validation["label"]) == [0, 1]


def test_folders_of_other_splits(tmp_path, train_dir):
    make_videos(tmp_path / "videos/val", {"a": 3, "b": 2})
    with pytest.raises(ValueError, match=r"videos' holds the splits validation, but no train"):
        load_splits(DataArguments(data_dir=str(tmp_path / "videos")), 0)
    splits = load_splits(DataArguments(data_dir=train_dir), 0)
    assert (len(splits.train), splits.validation, splits.test) == (12, None, None)
    for source in ({"train_dir": train_dir}, {"train_file": "list.csv"}, {"dataset_name": "name"}):
        with pytest.raises(ValueError, match=f"--{next(iter(source))} is one source too many"):
            load_splits(DataArguments(data_dir=train_dir, **source), 0)


def test_a_single_class_is_nothing_to_train(tmp_path):
    folder = make_videos(tmp_path / "one", {"lob": 3})
    with pytest.raises(ValueError, match="show the single class 'lob': there is nothing to tell apart"):
        load_splits(DataArguments(train_dir=folder), 0)
    assert len(load_splits(DataArguments(validation_dir=folder), 0, ["lob", "serve"]).validation) == 3


def test_videos_of_many_classes_are_counted(tmp_path, caplog):
    caplog.set_level("INFO", "ila_hf")
    load_splits(DataArguments(train_dir=make_videos(tmp_path / "x", {f"c{i}": 1 + i % 3 for i in range(13)})), 0)
    assert caplog.messages == ["Training: 25 videos, 13 classes (1 to 3 of each), 25 cannot be opened."]


def test_two_sources(train_dir):
    for split in ("train", "validation"):
        arguments = DataArguments(**{f"{split}_dir": train_dir, f"{split}_file": "list.csv"})
        with pytest.raises(ValueError, match=rf"Give one source for the {split} videos, .*{train_dir}.*list\.csv"):
            load_splits(arguments, 0)
    for source in ({"train_dir": train_dir}, {"train_file": "list.csv"}):
        with pytest.raises(ValueError, match=r"Give one source for the training videos: .* and the data set 'name'"):
            load_splits(DataArguments(**source, dataset_name="name"), 0)


def test_limits(train_dir, validation_dir):
    def load(seed=0, train=5, validation=1):
        limits = {"max_train_samples": train, "max_eval_samples": validation}
        splits = load_splits(DataArguments(train_dir=train_dir, validation_dir=validation_dir, **limits), seed)
        assert splits.label_names == ["a", "b c"]
        return shown(splits.train), shown(splits.validation)

    train, validation = load()
    assert (len(train), len(validation)) == (5, 1)
    assert load() == (train, validation)
    assert len({frozenset(load(seed)[0]) for seed in range(5)}) > 1
    assert [len(part) for part in load(train=12, validation=100)] == [12, 3]  # all there are


def test_unreadable_videos_are_left_out_of_the_training(tmp_path, train_dir, validation_dir):
    file = tmp_path / "unreadable.jsonl"
    lines = [{"video": f"{folder}/a/1.mp4", "error": "?"} for folder in (train_dir, validation_dir)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = {"train_dir": train_dir, "validation_dir": validation_dir}
    splits = load_splits(DataArguments(**arguments, unreadable_file=str(file)), 0)
    assert shown(splits.train).keys() == {f"{n}/{i}.mp4" for n, k in (("a", 8), ("b c", 4)) for i in range(k)} - {
        "a/1.mp4"
    }
    assert len(splits.validation) == 3
    with pytest.raises(FileNotFoundError, match=r"no file '.*gone\.jsonl' \(--unreadable_file\)"):
        load_splits(DataArguments(**arguments, unreadable_file=str(tmp_path / "gone.jsonl")), 0)


def test_what_is_needed():
    jobs = Namespace(do_train=True, do_eval=False, do_predict=False)
    with pytest.raises(ValueError, match="--do_train needs --data_dir, --train_dir, --train_file or --dataset_name"):
        check_splits(VideoSplits(None, None, None, None), jobs)
    jobs.do_eval, jobs.do_predict = True, True
    with pytest.raises(ValueError, match=r"--do_eval needs --validation_dir, .* or --train_val_split\."):
        check_splits(VideoSplits(1, None, 1, None), jobs)
    with pytest.raises(ValueError, match="--do_predict needs --test_dir or --test_file"):
        check_splits(VideoSplits(1, 1, None, None), jobs)
    check_splits(VideoSplits(1, 1, 1, None), jobs)
    with pytest.raises(ValueError, match="nothing to do: give --do_train, --do_eval or --do_predict"):
        check_splits(VideoSplits(1, 1, 1, None), Namespace(do_train=False, do_eval=False, do_predict=False))


# --- Data sets ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Three shards of four samples for training, whose classes are 0 1 2 0 …, and one of three for validation."""
    folder = tmp_path_factory.mktemp("shards")
    for split, count, samples in (("train", 3, 4), ("validation", 1, 3)):
        (folder / split).mkdir()
        write_shards(folder / split, b"some", count, samples)
    return folder


@pytest.fixture
def abc_file(tmp_path):
    (tmp_path / "abc.txt").write_text("a\nb\nc\n")
    return str(tmp_path / "abc.txt")


def dataset_arguments(shards, *splits, **more):
    files = [f"{split}={shards}/{split}/*.tar" for split in splits]
    return DataArguments(dataset_name="webdataset", data_files=files, **more)


def test_a_data_set(shards, abc_file, tmp_path):
    splits = load_splits(dataset_arguments(shards, "train", "validation", labels_file=abc_file), 0)
    assert splits.label_names == ["a", "b", "c"]
    assert splits.train["label"][:] == [i % 3 for i in range(12)]
    assert splits.validation["label"][:] == [0, 1, 2]
    video = splits.train[0]["video"]
    assert (video if isinstance(video, bytes) else video["bytes"]) == b"some"  # datasets 4.0 gives the bytes alone
    splits = load_splits(dataset_arguments(shards, "train", label_column="json.name"), 0)
    assert (splits.label_names, splits.validation) == (["a", "b", "c"], None)
    splits = load_splits(dataset_arguments(shards, "train", labels_file=abc_file, train_val_split=0.25), 0)
    assert (sorted(splits.validation["label"]), len(splits.train)) == ([0, 1, 2], 9)
    folder = make_videos(tmp_path / "folder", {"b": 2})  # a data set for the training, a folder for the evaluation
    arguments = dataset_arguments(shards, "train", "validation", labels_file=abc_file, validation_dir=folder)
    assert load_splits(arguments, 0).validation["label"][:] == [1, 1]


def test_splits_of_other_names(shards, abc_file):
    files = [f"{name}={shards}/{split}/*.tar" for name, split in (("learn", "train"), ("try", "validation"))]
    names = {"train_split": "learn", "validation_split": "try"}
    arguments = DataArguments(dataset_name="webdataset", data_files=files, labels_file=abc_file, **names)
    splits = load_splits(arguments, 0)
    assert (len(splits.train), len(splits.validation)) == (12, 3)


def test_a_split_in_several_files(shards, abc_file):
    files = [f"train={shards}/train/train-{i}.tar" for i in range(3)]
    arguments = DataArguments(dataset_name="webdataset", data_files=files, labels_file=abc_file)
    assert len(load_splits(arguments, 0).train) == 12


def test_files_without_the_name_of_a_split(shards):
    with pytest.raises(ValueError, match=r"data_files.*'x\.tar'"):
        load_splits(DataArguments(dataset_name="webdataset", data_files=["x.tar"]), 0)


def test_a_stream(shards, abc_file):
    def labels(seed=0, **more):
        arguments = dataset_arguments(shards, "train", "validation", streaming=True, labels_file=abc_file, **more)
        splits = load_splits(arguments, seed)
        assert isinstance(splits.train, IterableDataset)
        assert splits.validation["label"][:] == [0, 1, 2]  # the evaluation does not stream
        return [(row["video"]["path"], row["label"]) for row in splits.train]

    in_order = labels(shuffle_buffer=0)
    assert [label for _, label in in_order] == [i % 3 for i in range(12)]
    shuffled = labels()
    assert shuffled != in_order
    assert sorted(shuffled) == sorted(in_order)
    assert labels() == shuffled
    assert labels(seed=1) != shuffled


def test_what_a_stream_cannot(shards, abc_file):
    arguments = dataset_arguments(shards, "train", streaming=True, labels_file=abc_file, train_val_split=0.5)
    with pytest.raises(ValueError, match=r"--train_val_split needs .* without streaming"):
        load_splits(arguments, 0)
    with pytest.raises(ValueError, match="not known while it streams"):
        load_splits(dataset_arguments(shards, "train", streaming=True), 0)


def test_limits_of_a_stream(shards, abc_file):
    arguments = dataset_arguments(shards, "train", streaming=True, labels_file=abc_file, max_train_samples=5)
    assert len(list(load_splits(arguments, 0).train)) == 5


def test_unreadable_videos_of_a_data_set(shards, abc_file, tmp_path):
    """They have no paths to be left out by."""
    (tmp_path / "list.jsonl").write_text('{"video": "x", "error": "?"}\n')
    with pytest.raises(ValueError, match="unreadable_file"):
        load_splits(
            dataset_arguments(shards, "train", labels_file=abc_file, unreadable_file=str(tmp_path / "list.jsonl")), 0
        )
