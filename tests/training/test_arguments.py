"""Arguments of the scripts: flags, files, recipes with flags that win, and errors that say what would be right."""

import json
from dataclasses import dataclass, field

import pytest

from ila_hf.training.arguments import (
    DataArguments,
    ILATrainingArguments,
    ModelArguments,
    given_arguments,
    parse_arguments,
    training_defaults,
)


@dataclass
class RunArguments:
    output_dir: str = field(metadata={"help": "Required."})
    learning_rate: float = 0.1
    do_train: bool = False


ALL = (ModelArguments, DataArguments, RunArguments)


@pytest.fixture
def recipes(tmp_path):
    """A folder with the recipes "short" and "long"."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "short.json").write_text(json.dumps({"freeze": ["text"], "num_frames": 4, "learning_rate": 0.5}))
    (folder / "long.json").write_text("{}")
    return folder


def write(tmp_path, values, name="run.json"):
    (tmp_path / name).write_text(json.dumps(values))
    return str(tmp_path / name)


def test_flags():
    flags = "--output_dir out --freeze text vision --num_frames 16 --interaction_token True --flip 0.25 --zero_shot"
    model, data, run = parse_arguments(ALL, flags.split())
    assert (model.freeze, model.num_frames, model.interaction_token, model.head) == (
        ["text", "vision"],
        16,
        True,
        None,
    )
    assert (data.flip, data.zero_shot, data.streaming, data.on_eval_error) == (0.25, True, False, "wrong")
    assert (run.output_dir, run.learning_rate, run.do_train) == ("out", 0.1, False)
    assert parse_arguments(ALL, ["--output-dir=out", "--num-frames=2"])[0].num_frames == 2  # with hyphens too


def test_flags_of_the_command_line_are_the_default(monkeypatch):
    monkeypatch.setattr("sys.argv", ["run.py", "--num_frames", "3"])
    assert parse_arguments([ModelArguments])[0].num_frames == 3


def test_one_json_file(tmp_path):
    values = {"output_dir": "out", "freeze": ["clip"], "do_train": True, "learning_rate": 1e-3, "num_clips": None}
    model, data, run = parse_arguments(ALL, [write(tmp_path, values)])
    assert (model.freeze, data.num_clips) == (["clip"], None)
    assert (run.output_dir, run.do_train, run.learning_rate) == ("out", True, 0.001)


@pytest.mark.parametrize("suffix", ["yaml", "yml"])
def test_one_yaml_file(tmp_path, suffix):
    """1e-3 is a text in yaml: it becomes the number that it means."""
    file = tmp_path / f"run.{suffix}"
    file.write_text("output_dir: out\nfreeze:\n- text\n- vision\nlearning_rate: 1e-3\nzero_shot: true\nflip: 0\n")
    model, data, run = parse_arguments(ALL, [str(file)])
    assert (model.freeze, data.zero_shot, data.flip) == (["text", "vision"], True, 0)
    assert (run.output_dir, run.learning_rate) == ("out", 0.001)


def test_a_recipe_by_name_and_flags_that_win(recipes, tmp_path):
    flags = "--config short --output_dir out --num_frames 32"
    model, _, run = parse_arguments(ALL, flags.split(), recipes)
    assert (model.freeze, model.num_frames) == (["text"], 32)
    assert (run.output_dir, run.learning_rate) == ("out", 0.5)
    flags = "--freeze vision clip --config=short --learning_rate 2 --output_dir out"
    model, _, run = parse_arguments(ALL, flags.split(), recipes)
    assert (model.freeze, model.num_frames, run.learning_rate) == (["vision", "clip"], 4, 2)
    file = write(tmp_path, {"num_frames": 7, "output_dir": "out"}, "long.json")  # a file, not the recipe of that name
    assert parse_arguments(ALL, ["--config", file], recipes)[0].num_frames == 7


def test_a_file_gives_what_is_required(tmp_path):
    assert parse_arguments([RunArguments], [write(tmp_path, {"output_dir": "there"})])[0].output_dir == "there"
    with pytest.raises(SystemExit):
        parse_arguments([RunArguments], [write(tmp_path, {"learning_rate": 1})])


def test_one_text_for_a_list(tmp_path):
    values = {"output_dir": "out", "freeze": "text", "data_files": "train=x.tar"}
    model, data, _ = parse_arguments(ALL, [write(tmp_path, values)])
    assert (model.freeze, data.data_files) == (["text"], ["train=x.tar"])


def test_unknown_flags_name_the_nearest():
    with pytest.raises(ValueError, match=r"There is no argument 'num_frame'\. Did you mean num_frames"):
        parse_arguments(ALL, ["--output_dir", "out", "--num_frame", "8"])
    with pytest.raises(ValueError, match=r"There is no argument 'learningrate'\. Did you mean learning_rate"):
        parse_arguments(ALL, ["--output_dir", "out", "--learningrate=8"])
    with pytest.raises(ValueError, match=r"There is no argument 'qqqq'\.$"):
        parse_arguments(ALL, ["--output_dir", "out", "--qqqq"])


def test_unknown_names_in_a_file_name_the_nearest(tmp_path):
    with pytest.raises(ValueError, match=r"run\.json' has .*'train_dri'\. Did you mean train_dir"):
        parse_arguments(ALL, [write(tmp_path, {"output_dir": "out", "train_dri": "x"})])
    with pytest.raises(ValueError, match="'config'"):  # no file names another one
        parse_arguments(ALL, [write(tmp_path, {"output_dir": "out", "config": "other.json"})])


def test_wrong_choices(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"run\.json': `head` is one of text, linear; got 'nonlinear'"):
        parse_arguments(ALL, [write(tmp_path, {"output_dir": "out", "head": "nonlinear"})])
    assert parse_arguments(ALL, [write(tmp_path, {"output_dir": "out", "head": None})])[0].head is None
    with pytest.raises(SystemExit):
        parse_arguments(ALL, ["--output_dir", "out", "--head", "nonlinear"])
    assert "choose from" in capsys.readouterr().err


def test_files_that_are_not_there(recipes, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file 'middle', and the recipes are long, short\."):
        parse_arguments(ALL, ["--config", "middle"], recipes)
    with pytest.raises(FileNotFoundError, match=r"no file '.*gone\.json', and the recipes are long, short\."):
        parse_arguments(ALL, [str(tmp_path / "gone.json")], recipes)
    with pytest.raises(FileNotFoundError, match=r"no file 'middle'\.$"):  # where there are no recipes, none are named
        parse_arguments(ALL, ["--config", "middle"], tmp_path / "empty")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", r"a\.json' cannot be read: Expecting"),
        ("a.yaml", "x: [", r"a\.yaml' cannot be read: while parsing"),
        ("a.json", "[1]", r"a\.json' must hold names and values of arguments, got a list"),
        ("a.yaml", "some words", r"a\.yaml' must hold names and values of arguments, got a str"),
    ],
)
def test_files_that_hold_no_arguments(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        parse_arguments(ALL, [str(tmp_path / name)])


def test_stray_words():
    with pytest.raises(ValueError, match=r"These arguments follow no flag: \['9', 'more'\]"):
        parse_arguments(ALL, ["--output_dir", "out", "--num_frames", "8", "9", "more"])
    with pytest.raises(ValueError, match=r"follow no flag: \['run\.json'\]"):  # with flags it takes --config
        parse_arguments(ALL, ["run.json", "--output_dir", "out"])


def test_values_that_are_out_of_range():
    with pytest.raises(ValueError, match=r"--class_text_template needs a \{\} for the class, got 'a video'"):
        DataArguments(class_text_template="a video")
    for share in (0.0, 1.0, -0.5):
        with pytest.raises(ValueError, match=f"--train_val_split must be between 0 and 1, got {share}"):
            DataArguments(train_val_split=share)


def test_help(capsys):
    with pytest.raises(SystemExit) as end:
        parse_arguments(ALL, ["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(f"--{name}" in text for name in ("config", "freeze", "train_val_split", "output_dir"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": True}, "`learning_rate` is a number; got True"),
        ({"max_steps": 2.5}, "`max_steps` is a whole number; got 2.5"),
        ({"learning_rate": [1e-3]}, r"`learning_rate` is a number; got \[0.001\]"),
    ],
)
def test_numbers_in_files_are_numbers(tmp_path, values, message):
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"output_dir": str(tmp_path), **values}))
    with pytest.raises(ValueError, match=message):
        parse_arguments((ILATrainingArguments,), ["--config", str(file)])


@pytest.mark.parametrize("text", ["no", "False", "0"])
def test_values_of_files_are_what_they_mean_when_they_are_given(tmp_path, text):
    file = write(tmp_path, {"do_train": True, "do_eval": text, "num_train_epochs": None, "decode_seconds": None})
    kinds = (ModelArguments, DataArguments, ILATrainingArguments)
    given = given_arguments(kinds, ["--config", file])
    assert given == {"do_train": True, "do_eval": False}
    assert training_defaults(given) == {"logging_strategy": "epoch"}
    _, data, training = parse_arguments(kinds, ["--config", file, "--output_dir", str(tmp_path)])
    assert (training.do_eval, training.num_train_epochs) == (False, 3)  # null is not given
    assert data.decode_seconds is None  # but where it is a value


def test_values_of_files_that_mean_nothing_are_left_to_the_parser(tmp_path, capsys):
    file = write(tmp_path, {"do_eval": "perhaps", "learning_rate": "fast"})
    kinds = (ILATrainingArguments,)
    assert given_arguments(kinds, ["--config", file]) == {"do_eval": "perhaps", "learning_rate": "fast"}
    with pytest.raises(SystemExit):
        parse_arguments(kinds, ["--config", file])
    assert "'fast'" in capsys.readouterr().err


def test_what_is_given(recipes):
    kinds = (ModelArguments, DataArguments, ILATrainingArguments)
    flags = "--config short --num-frames 3 --do_train --output_dir=out --no_such 3"
    given = given_arguments(kinds, flags.split(), recipes)
    assert given == {"freeze": ["text"], "num_frames": 3, "learning_rate": 0.5, "do_train": True, "output_dir": "out"}
    assert given_arguments(kinds, ["--help"]) == {}


EVERY_EPOCH = {
    "logging_strategy": "epoch",
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "load_best_model_at_end": True,
    "metric_for_best_model": "top1",
    "save_total_limit": 2,
    "hub_strategy": "end",
}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"do_train": True, "do_eval": True}, EVERY_EPOCH.keys()),
        ({"do_train": True, "do_eval": True, "logging_steps": 5}, EVERY_EPOCH.keys() - {"logging_strategy"}),
        ({"do_train": True, "do_eval": True, "save_steps": 5}, {"logging_strategy"}),
        ({"do_train": True, "do_eval": True, "eval_strategy": "no"}, {"logging_strategy"}),
        ({"do_train": True}, {"logging_strategy"}),
        ({"do_eval": True}, ()),
    ],
    ids=["nothing", "logging", "saving", "evaluation", "no evaluation", "no training"],
)
def test_a_training_evaluates_every_epoch_and_keeps_the_best(given, kept, tmp_path):
    defaults = training_defaults(given)
    assert defaults == {name: EVERY_EPOCH[name] for name in kept}
    (arguments,) = parse_arguments(
        (ILATrainingArguments,), ["--output_dir", str(tmp_path), "--save_total_limit", "4"], defaults=defaults
    )
    assert arguments.save_total_limit == 4
    for name in kept - {"save_total_limit"} if kept else ():
        assert getattr(arguments, name) == EVERY_EPOCH[name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patience": 0, "load_best_model_at_end": True}, "--patience must be at least 1, got 0"),
        ({"patience": 2}, "--patience needs --load_best_model_at_end True"),
    ],
)
def test_patience_that_cannot_be(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        ILATrainingArguments(output_dir=tmp_path, eval_strategy="epoch", save_strategy="epoch", **arguments)


def test_numbers_of_videos_are_positive():
    for name in ("max_train_samples", "max_eval_samples"):
        with pytest.raises(ValueError, match=f"--{name} must be at least 1, got 0"):
            DataArguments(**{name: 0})
