"""From arguments to data, model, processor and clips: what each argument does, and errors before the work."""

import json
import warnings
from argparse import Namespace

import pytest
import torch
from datasets import IterableDataset
from huggingface_hub.errors import StrictDataclassError
from test_video_data import write_shards
from torchvision.transforms import v2
from transformers import CLIPConfig, CLIPModel

from ila_hf import (
    ILAConfig,
    ILAForVideoClassification,
    ILAForVideoTextClassification,
    ILAProcessor,
    ILAVideoProcessor,
    VideoReadError,
)
from ila_hf.data.video_clips import VideoClips, collate_clips
from ila_hf.demo.tiny import tiny_config, tiny_processor, tiny_tokenizer
from ila_hf.training.arguments import DataArguments, ModelArguments
from ila_hf.training.finetuning import (
    VideoSplits,
    check_splits,
    is_trained,
    load_config,
    load_model_and_processor,
    load_splits,
    load_unlabelled,
    make_clips,
)


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


# --- Splits -------------------------------------------------------------------------------------------------------


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


def test_hidden_videos_without_classes(tmp_path):
    """They do not count, as in folders of classes; `._<name>` is what macOS leaves beside a file."""
    make_videos(tmp_path, {"x": 1, ".trash": 1})
    (tmp_path / "x" / "._0.mp4").write_bytes(b"")
    assert load_unlabelled(tmp_path)["video"][:] == [str(tmp_path / "x" / "0.mp4")]


def test_a_folder_without_classes_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder '.*missing'"):
        load_splits(DataArguments(test_dir=str(tmp_path / "missing")), 0)


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
    with pytest.raises(ValueError, match="--do_train needs --train_dir, --train_file or --dataset_name"):
        check_splits(VideoSplits(None, None, None, None), jobs)
    jobs.do_eval, jobs.do_predict = True, True
    with pytest.raises(ValueError, match=r"--do_eval needs --validation_dir, .* or --train_val_split\."):
        check_splits(VideoSplits(1, None, 1, None), jobs)
    with pytest.raises(ValueError, match="--do_predict needs --test_dir"):
        check_splits(VideoSplits(1, 1, None, None), jobs)
    check_splits(VideoSplits(1, 1, 1, None), jobs)
    check_splits(VideoSplits(None, None, None, None), Namespace(do_train=False, do_eval=False, do_predict=False))


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


# --- Configuration ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip_model():
    config = tiny_config()
    sizes = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "projection_dim")
    text = {name: getattr(config.text_config, name) for name in (*sizes, "vocab_size", "eos_token_id")}
    vision = {name: getattr(config.vision_config, name) for name in (*sizes, "image_size", "patch_size")}
    torch.manual_seed(5)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))


@pytest.fixture(scope="module")
def clip_folder(clip_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "clip"
    clip_model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory):
    """A trained model of the classes run and jump, with its processor."""
    folder = tmp_path_factory.mktemp("models") / "text"
    config = tiny_config()
    model, processor = ILAForVideoTextClassification(config), tiny_processor(config)
    model.set_class_texts(["someone runs", "someone jumps"], processor, labels=["run", "jump"])
    model.save_pretrained(folder)
    processor.video_processor.num_clips = 3
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def linear_folder(tmp_path_factory):
    """A trained model with a linear head for three classes, with its video processor."""
    folder = tmp_path_factory.mktemp("models") / "linear"
    config = tiny_config({"alignment_conv": "dense"}, id2label={0: "a", 1: "b", 2: "c"})
    ILAForVideoClassification(config).save_pretrained(folder)
    ILAVideoProcessor.from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def released(tmp_path):
    """A configuration of our own: the released architecture on four frames, without the prompt."""
    tiny_config({"architecture": "released"}, num_frames=4, prompt_num_hidden_layers=0).save_pretrained(
        tmp_path / "released"
    )
    return str(tmp_path / "released")


def test_config_of_a_preset():
    config = load_config(ModelArguments(config_name="ila-large-patch14-336-16-frames-ssv2"))
    vision = config.vision_config
    assert (config.num_frames, config.num_labels, config.prompt_num_hidden_layers) == (16, 174, 0)
    assert (vision.image_size, vision.patch_size, vision.hidden_size) == (336, 14, 1024)
    assert (vision.alignment_conv, vision.interaction_token) == ("dense", False)
    changed = ModelArguments(config_name="ila-base-patch32", num_frames=4, interaction_token=True)
    config = load_config(changed)
    assert (config.num_frames, config.vision_config.interaction_token) == (4, True)
    assert not is_trained(changed, config)


def test_config_of_a_plain_clip(clip_folder, released):
    arguments = ModelArguments(model_name_or_path=clip_folder, num_frames=5, interaction_token=True)
    config = load_config(arguments)
    assert (config.num_frames, config.vision_config.interaction_token) == (5, True)
    assert (config.vision_config.hidden_size, config.vision_config.patch_size) == (64, 8)
    assert not is_trained(arguments, config)
    arguments = ModelArguments(model_name_or_path=clip_folder, config_name=released)
    config = load_config(arguments)
    assert (config.num_frames, config.vision_config.architecture) == (4, "released")
    assert not is_trained(arguments, config)


def test_config_of_a_trained_model(text_folder):
    arguments = ModelArguments(model_name_or_path=text_folder, num_frames=8, interaction_token=False)
    config = load_config(arguments)  # what it has been made with may be said
    assert config.id2label == {0: "run", 1: "jump"}
    assert is_trained(arguments, config)
    for name, value, own in (("num_frames", 4, 8), ("interaction_token", True, False)):
        with pytest.raises(
            ValueError, match=f"--{name} {value} does not fit '{text_folder}', which was made with {own}"
        ):
            load_config(ModelArguments(model_name_or_path=text_folder, **{name: value}))
    from_scratch = ModelArguments(config_name=text_folder, num_frames=4)  # its configuration alone
    config = load_config(from_scratch)
    assert config.num_frames == 4
    assert not is_trained(from_scratch, config)


def test_configs_that_cannot_be(clip_folder, released):
    with pytest.raises(ValueError, match=r"Give --model_name_or_path .* or --config_name to train from scratch"):
        load_config(ModelArguments())
    with pytest.raises(StrictDataclassError, match="`num_frames` must be at least 1, got 0"):
        load_config(ModelArguments(model_name_or_path=clip_folder, num_frames=0))
    with pytest.raises(StrictDataclassError, match='`interaction_token` must be False with architecture="released"'):
        load_config(ModelArguments(model_name_or_path=clip_folder, config_name=released, interaction_token=True))


# --- Model and processor ------------------------------------------------------------------------------------------


def load(names=None, template="{}", **arguments):
    arguments = ModelArguments(**arguments)
    data_arguments = DataArguments(class_text_template=template)
    return load_model_and_processor(arguments, data_arguments, load_config(arguments), names)


def check_texts(model, texts):
    """The stored class texts are these, up to their ends."""
    expected = tiny_tokenizer()(texts)["input_ids"]
    for row, ids in zip(model.class_texts.input_ids.tolist(), expected, strict=True):
        assert row[: len(ids)] == ids


def test_a_plain_clip_becomes_another_configuration(clip_model, clip_folder, released):
    """CLIP's weights, the rest of the model as the configuration has it, and new class texts."""
    model, processor = load(
        ["jumping_high", "run"],
        "a video of {}!",
        model_name_or_path=clip_folder,
        config_name=released,
        freeze="text",
    )
    assert type(model) is ILAForVideoTextClassification
    assert (model.config.num_frames, model.config.vision_config.architecture, model.prompt) == (4, "released", None)
    loaded = model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in clip_model.state_dict().items())
    assert model.config.id2label == {0: "jumping_high", 1: "run"}
    assert model.config.label2id == {"jumping_high": 0, "run": 1}
    check_texts(model, ["a video of jumping high!", "a video of run!"])
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in clip_model.named_parameters() if name.startswith("text_")}
    assert type(processor) is ILAProcessor
    video_processor = processor.video_processor
    assert (video_processor.num_frames, video_processor.crop_size["height"]) == (4, 32)


def test_the_configuration_of_a_trained_model_for_a_plain_clip(clip_model, clip_folder, text_folder):
    """The weights are CLIP's, whatever the configuration had been used for."""
    arguments = ModelArguments(model_name_or_path=clip_folder, config_name=text_folder, num_frames=4)
    config = load_config(arguments)
    assert not is_trained(arguments, config)
    model, processor = load_model_and_processor(arguments, DataArguments(), config, ["walk", "sit"])
    assert torch.equal(model.state_dict()["text_projection.weight"], clip_model.text_projection.weight)
    check_texts(model, ["walk", "sit"])
    assert processor.video_processor.num_frames == 4


def test_a_trained_model_keeps_its_classes(text_folder):
    saved = ILAForVideoTextClassification.from_pretrained(text_folder)
    for names in (None, ["run", "jump"]):
        model, processor = load(names, model_name_or_path=text_folder)
        assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in saved.state_dict().items())
        assert model.config.id2label == {0: "run", 1: "jump"}
        check_texts(model, ["someone runs", "someone jumps"])
        assert processor.video_processor.num_clips == 3


def test_a_trained_model_gets_other_classes(text_folder, linear_folder):
    for names in (["jump", "run"], ["sit", "lie", "stand"]):
        model, _ = load(names, model_name_or_path=text_folder)
        assert model.config.id2label == dict(enumerate(names))
        check_texts(model, names)
    model, processor = load(["x", "y"], model_name_or_path=linear_folder)
    assert type(model) is ILAForVideoClassification
    assert type(processor) is ILAVideoProcessor
    assert model.classifier.weight.shape == (2, 64)
    saved = ILAForVideoClassification.from_pretrained(linear_folder).state_dict()
    assert all(torch.equal(model.state_dict()[n], x) for n, x in saved.items() if not n.startswith("classifier."))
    model, _ = load(["a", "b", "c"], model_name_or_path=linear_folder, freeze=["trunk"])
    assert torch.equal(model.classifier.weight, saved["classifier.weight"])
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {"classifier.weight", "classifier.bias"}


def test_heads(clip_folder, linear_folder, released, monkeypatch):
    """The one that is asked for, else that of the model, else that of the recipe, else text."""
    assert type(load(["a"], model_name_or_path=clip_folder)[0]) is ILAForVideoTextClassification
    assert type(load(["a"], model_name_or_path=clip_folder, head="linear")[0]) is ILAForVideoClassification
    assert type(load(None, model_name_or_path=linear_folder)[0]) is ILAForVideoClassification
    assert type(load(["a"], config_name=released, head="linear")[0]) is ILAForVideoClassification
    monkeypatch.setattr(ILAConfig, "from_preset", lambda name: tiny_config(num_labels=9))  # the real one is large
    model, _ = load(None, model_name_or_path=clip_folder, config_name="ila-base-patch16-ssv2")
    assert type(model) is ILAForVideoClassification
    assert model.config.num_labels == 9
    model, _ = load(["a"], model_name_or_path=clip_folder, config_name="ila-base-patch16")
    assert type(model) is ILAForVideoTextClassification


def test_tokenizers(clip_folder, released, tmp_path):
    with pytest.raises(ValueError, match="need a tokenizer: give --tokenizer_name, or --head linear"):
        load(["a"], config_name=released)
    model, processor = load(["a b"], config_name=released, tokenizer_name=clip_folder)
    check_texts(model, ["a b"])
    processor.video_processor.num_crops = 3
    processor.save_pretrained(tmp_path / "processor")
    _, again = load(["a"], config_name=released, processor_name=str(tmp_path / "processor"))
    assert again.video_processor.num_crops == 3
    _, video_processor = load(["a"], config_name=released, processor_name=str(tmp_path / "processor"), head="linear")
    assert type(video_processor) is ILAVideoProcessor
    assert video_processor.num_crops == 3


def test_weights_that_do_not_fit(clip_folder, text_folder, tmp_path):
    tiny_config(num_frames=16).save_pretrained(tmp_path / "16")
    with pytest.raises(ValueError, match=r"weights of '.*text' do not fit .*: integration\.position_embedding"):
        load(["a"], model_name_or_path=text_folder, config_name=str(tmp_path / "16"))
    tiny_config({"patch_size": 4}).save_pretrained(tmp_path / "4")
    with pytest.raises(ValueError, match=r"weights of '.*clip' do not fit .*patch_embedding\.weight"):
        load(["a"], model_name_or_path=clip_folder, config_name=str(tmp_path / "4"))


def test_weights_that_are_not_there(clip_folder, tmp_path):
    """A layer of CLIP that the checkpoint does not have would train from scratch without a word."""
    tiny_config({"num_hidden_layers": 4}).save_pretrained(tmp_path / "deeper")
    with pytest.raises(ValueError, match=r"do not fit .*vision_model\.encoder\.layers\.3\."):
        load(["a"], model_name_or_path=clip_folder, config_name=str(tmp_path / "deeper"))


# --- Clips --------------------------------------------------------------------------------------------------------


@pytest.fixture
def processor():
    """For clips of four frames."""
    return tiny_processor(tiny_config(num_frames=4))


@pytest.fixture
def splits(numbered_video, tmp_path):
    """A video of one class for all three."""
    (tmp_path / "videos" / "run").mkdir(parents=True)
    (tmp_path / "videos" / "run" / "1.mp4").symlink_to(numbered_video)
    folder = str(tmp_path / "videos")
    return load_splits(DataArguments(train_dir=folder, validation_dir=folder, test_dir=folder), 0)


def test_views_of_evaluation_are_its_own(splits, processor, numbered_video, tmp_path):
    own = processor.video_processor
    clips = make_clips(splits, processor, DataArguments(num_clips=2, num_crops=3), tmp_path, 7)
    assert (own.num_clips, own.num_crops) == (1, 1)  # what is saved with the model
    assert clips.train.reader.processor is own
    assert clips.train.seed == 7
    assert clips.train[0]["pixel_values"].shape == (4, 3, 32, 32)
    expected = own(numbered_video, num_clips=2, num_crops=3, return_tensors="pt")["pixel_values"][0]
    for data, label in ((clips.validation, 0), (clips.test, -1)):
        assert torch.equal(data[0]["pixel_values"], expected)
        assert data[0]["labels"] == label
    own.num_crops = 3
    clips = make_clips(splits, own, DataArguments(), tmp_path, 0)  # by default those of the processor, of either kind
    assert clips.validation[0]["pixel_values"].shape == (3, 4, 3, 32, 32)
    clips = make_clips(splits, own, DataArguments(num_crops=1), tmp_path, 0)
    assert clips.validation[0]["pixel_values"].shape == (4, 3, 32, 32)
    assert make_clips(VideoSplits(None, None, None, None), own, DataArguments(), tmp_path, 0).test is None


@pytest.mark.parametrize(("name", "value"), [("num_crops", 2), ("num_clips", 0)])
def test_views_that_cannot_be(splits, processor, tmp_path, name, value):
    """An error now, not when the first epoch is over."""
    with pytest.raises(ValueError, match=f"{name}.*{value}"):
        make_clips(splits, processor, DataArguments(**{name: value}), tmp_path, 0)


def test_unreadable_videos(splits, processor, tmp_path):
    link = tmp_path / "videos" / "run" / "1.mp4"
    link.unlink()
    link.write_text("not a video")
    clips = make_clips(splits, processor, DataArguments(), tmp_path / "out", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(VideoReadError, match=r"1\.mp4"):
            clips.validation[0]
        sample = clips.test[0]
        assert (sample["labels"], sample["pixel_values"].shape) == (-100, (4, 3, 32, 32))
        clips = make_clips(splits, processor, DataArguments(on_eval_error="wrong"), tmp_path / "out", 0)
        assert clips.validation[0]["labels"] == -100
    assert clips.unreadable.file == tmp_path / "out" / "unreadable_videos.jsonl"
    assert list(clips.unreadable.read()) == [str(link)]


def test_time_for_a_video(splits, processor, tmp_path):
    with pytest.raises(ValueError, match=r"`decode_seconds` must be positive, .* got 0\.0"):
        make_clips(splits, processor, DataArguments(decode_seconds=0.0), tmp_path, 0)
    clips = make_clips(splits, processor, DataArguments(decode_seconds=1e-9), tmp_path, 0)
    with pytest.warns(UserWarning, match="decode_seconds"), pytest.raises(VideoReadError, match="decode_seconds"):
        clips.validation[0]


def flip_of(clips):
    """The probability of mirroring; None without it."""
    steps = clips.train.reader.transform.transforms
    return next((step.p for step in steps if isinstance(step, v2.RandomHorizontalFlip)), None)


@pytest.mark.parametrize(
    ("label", "flip", "expected"),
    [
        ("run", None, 0.5),
        ("run", 0.25, 0.25),
        ("run", 0.0, None),
        ("Pushing something from left to right", None, None),
        ("Pushing something from left to right", 0.0, None),
    ],
)
def test_mirroring(splits, processor, tmp_path, label, flip, expected):
    splits.label_names = ["walk", label]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clips = make_clips(splits, processor, DataArguments(augment=True, flip=flip), tmp_path, 0)
    assert flip_of(clips) == expected


def test_mirroring_that_is_forced(splits, processor, tmp_path):
    splits.label_names = ["turning left"]
    with pytest.warns(UserWarning, match=r"--flip 0\.5 mirrors clips although a class names a side"):
        clips = make_clips(splits, processor, DataArguments(augment=True, flip=0.5), tmp_path, 0)
    assert flip_of(clips) == 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # without augmentation nothing is mirrored
        clips = make_clips(splits, processor, DataArguments(flip=0.5), tmp_path, 0)
    assert clips.train.reader.transform is None
    assert clips.validation.reader.transform is None


def test_clips_of_a_stream(processor, numbered_video, tmp_path, abc_file, monkeypatch):
    for split in ("train", "validation"):
        (tmp_path / split).mkdir()
        write_shards(tmp_path / split, numbered_video.read_bytes(), 2, 2)
    arguments = dataset_arguments(tmp_path, "train", "validation", streaming=True, labels_file=abc_file, augment=True)
    splits = load_splits(arguments, 0)
    clips = make_clips(splits, processor, arguments, tmp_path, 0)
    assert isinstance(clips.train, IterableDataset)
    (batch,) = torch.utils.data.DataLoader(clips.train, batch_size=4, collate_fn=collate_clips)
    assert batch["pixel_values"].shape == (4, 4, 3, 32, 32)
    assert sorted(batch["labels"].tolist()) == [0, 0, 1, 2]
    assert isinstance(clips.validation, VideoClips)
    expected = processor(videos=numbered_video, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(clips.validation[3]["pixel_values"], expected)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="2 shards cannot be shared by 3 processes"):
        make_clips(splits, processor, arguments, tmp_path, 0)
