"""From arguments to data, model, processor and clips: what each argument does, and errors before the work."""

import math
import warnings

import pytest
import torch
from datasets import IterableDataset
from huggingface_hub.errors import StrictDataclassError
from torchvision.transforms import v2
from video_files import write_shards

from ila_hf import (
    ILAConfig,
    ILAForVideoClassification,
    ILAForVideoTextClassification,
    ILAProcessor,
    ILAVideoProcessor,
    VideoReadError,
)
from ila_hf.data.video_clips import VideoClips, collate_clips
from ila_hf.demo.tiny import tiny_clip, tiny_config, tiny_processor, tiny_tokenizer
from ila_hf.training.arguments import DataArguments, ILATrainingArguments, ModelArguments
from ila_hf.training.finetuning import (
    choose_epochs,
    describe_dataset,
    evaluated_on,
    is_trained,
    load_config,
    load_model_and_processor,
    make_clips,
    remove_old_list,
    steps_per_epoch,
)
from ila_hf.training.splits import VideoSplits, load_splits


# --- Configuration ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip_model():
    torch.manual_seed(5)
    return tiny_clip()


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
    """A video of the first of two classes for all three."""
    (tmp_path / "videos" / "run").mkdir(parents=True)
    (tmp_path / "videos" / "run" / "1.mp4").symlink_to(numbered_video)
    folder = str(tmp_path / "videos")
    (tmp_path / "labels.txt").write_text("run\njump\n")
    folders = {"train_dir": folder, "validation_dir": folder, "test_dir": folder}
    return load_splits(DataArguments(**folders, labels_file=str(tmp_path / "labels.txt")), 0)


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
        assert clips.validation[0]["labels"] == -100
        sample = clips.test[0]
        assert (sample["labels"], sample["pixel_values"].shape) == (-100, (4, 3, 32, 32))
        clips = make_clips(splits, processor, DataArguments(on_eval_error="error"), tmp_path / "out", 0)
        with pytest.raises(VideoReadError, match=r"1\.mp4"):
            clips.validation[0]
    assert clips.unreadable.file == tmp_path / "out" / "unreadable_videos.jsonl"
    assert list(clips.unreadable.read()) == [str(link)]


def test_the_list_of_an_earlier_run(tmp_path):
    file = tmp_path / "unreadable_videos.jsonl"
    file.write_text("")
    remove_old_list(tmp_path, DataArguments(unreadable_file=f"{tmp_path}/x/../{file.name}"))  # this run reads it
    assert file.exists()
    remove_old_list(tmp_path, DataArguments(unreadable_file=str(tmp_path / "other.jsonl")))
    assert not file.exists()
    remove_old_list(tmp_path, DataArguments())


def test_time_for_a_video(splits, processor, tmp_path):
    with pytest.raises(ValueError, match=r"`decode_seconds` must be positive, .* got 0\.0"):
        make_clips(splits, processor, DataArguments(decode_seconds=0.0), tmp_path, 0)
    arguments = DataArguments(decode_seconds=1e-9, on_eval_error="error")
    clips = make_clips(splits, processor, arguments, tmp_path, 0)
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


def test_clips_of_a_stream(processor, numbered_video, tmp_path, monkeypatch):
    for split in ("train", "validation"):
        (tmp_path / split).mkdir()
        write_shards(tmp_path / split, numbered_video.read_bytes(), 2, 2)
    (tmp_path / "abc.txt").write_text("a\nb\nc\n")
    arguments = DataArguments(
        dataset_name="webdataset",
        data_files=[f"{split}={tmp_path}/{split}/*.tar" for split in ("train", "validation")],
        streaming=True,
        labels_file=str(tmp_path / "abc.txt"),
        augment=True,
    )
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


# --- Epochs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_clips", "accumulation", "epochs"),
    [(96, 1, 50), (95, 1, 50), (96, 2, 100), (5, 1, 100), (1600, 1, 3), (1593, 1, 3), (240_000, 1, 3)],
)
def test_epochs_follow_from_the_number_of_videos(tmp_path, caplog, num_clips, accumulation, epochs):
    """600 steps, from 3 epochs to 100."""
    caplog.set_level("INFO", "ila_hf")
    arguments = ILATrainingArguments(output_dir=tmp_path, use_cpu=True, gradient_accumulation_steps=accumulation)
    choose_epochs(arguments, num_clips)
    assert arguments.num_train_epochs == epochs
    assert steps_per_epoch(arguments, num_clips) == math.ceil(math.ceil(num_clips / 8) / accumulation)
    assert f"{num_clips} videos, {8 * accumulation} a step: {epochs} epochs of" in caplog.text


def test_steps_of_several_processes_are_full(tmp_path, monkeypatch):
    """24 clips, two processes, 8 at a time each: one step, in which 8 clips have no place."""
    monkeypatch.setattr(ILATrainingArguments, "world_size", 2)
    arguments = ILATrainingArguments(output_dir=tmp_path, use_cpu=True)
    assert [steps_per_epoch(arguments, count) for count in (24, 32, 8)] == [1, 2, 1]


# --- The name of the data set ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"dataset_name": "me/motions"}, "me/motions"),
        ({"dataset_name": "me/motions", "validation_dir": "other"}, "me/motions"),
        ({"dataset_name": "here"}, "/desk/here"),
        ({"dataset_name": "webdataset", "data_files": "train=shards/train-*.tar"}, "/desk/shards"),
        ({"dataset_name": "webdataset", "data_files": "train=https://host/train.tar"}, None),
        ({"data_dir": "videos"}, "/desk/videos"),
        ({"data_dir": "videos/"}, "/desk/videos"),
        ({"data_dir": "."}, "/desk"),
        ({"train_dir": "videos/train", "validation_dir": "others"}, "/desk/videos"),
        ({"train_file": "/k400/train.csv"}, "/k400"),
        ({"train_file": "train.csv"}, "/desk"),
        ({}, None),
    ],
    ids=str,
)
def test_a_data_set_without_a_name_is_called_by_its_folder(tmp_path, monkeypatch, arguments, name):
    """By its path, so that no card takes it for an id of the Hub."""
    (tmp_path / "desk" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "desk")
    name = name and name.replace("/desk", f"{tmp_path}/desk")
    assert describe_dataset(DataArguments(**arguments)) == name


@pytest.mark.parametrize(
    "other",
    [
        {"validation_dir": "my/own/videos"},
        {"train_val_split": 0.1},
        {"max_eval_samples": 10},
        {"dataset_config_name": "k700"},
        {"data_files": "validation=x.tar"},
    ],
    ids=str,
)
def test_results_are_those_of_a_data_set_only_if_all_of_its_split_was_evaluated(other):
    assert evaluated_on(DataArguments(dataset_name="me/motions")) == "me/motions"
    assert evaluated_on(DataArguments(dataset_name="me/motions", **other)) is None
    assert evaluated_on(DataArguments(data_dir="videos")) is None
