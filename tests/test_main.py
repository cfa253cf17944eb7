"""The command `ila-hf`: what a user can mend is one line and exit status 2, what we must mend a traceback."""

import subprocess
import sys

import pytest

from ila_hf import ILAForVideoTextClassification, VideoReadError
from ila_hf.__main__ import main
from ila_hf.demo import motion_videos
from ila_hf.demo.tiny import tiny_config, tiny_processor


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model without class texts, and its processor."""
    folder = tmp_path_factory.mktemp("model")
    config = tiny_config()
    ILAForVideoTextClassification(config).save_pretrained(folder)
    tiny_processor(config).save_pretrained(folder)
    return folder


@pytest.fixture
def refusal(tmp_path, capsys, monkeypatch):
    """What a command says last; it runs in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        with pytest.raises(SystemExit) as exit_info:
            main([str(argument) for argument in arguments])
        assert exit_info.value.code == 2
        captured = capsys.readouterr()
        *_, last = captured.err.split("\n")[:-1]
        return last

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("check --data nope --output_file list.jsonl", "There is no folder or list 'nope'."),
        ("train --train_dir nope --model_name_or_path MODEL --output_dir out", "There is no folder or list 'nope'."),
        ("train --output_dir out", "Give --model_name_or_path to fine-tune a model, or --config_name to train"),
        ("train --model_name_or_path MODEL --output_dir out", "--do_train needs --data_dir, --train_dir,"),
        ("train --config nope", "There is no file 'nope', and the recipes are demo, ila-base-patch16,"),
        ("train --learning_rat 1", "There is no argument 'learning_rat'. Did you mean learning_rate?"),
        ("evaluate --do_predict True --model_name_or_path MODEL --output_dir out", "--do_predict needs --test_dir"),
        ("evaluate --model_name_or_path MODEL --output_dir out", "--do_eval needs --validation_dir,"),
        ("convert --checkpoint_path nope.pth --output_dir out", "There is no checkpoint 'nope.pth'."),
        ("motion-videos --output_dir out --train 3", "The split 'train' must have 8 (one per class) to 1000000"),
        (
            "temporal-score --confusion_matrix m.csv --temporal_classes nope --static_classes s.txt",
            "no label file 'nope'",
        ),
        ("temporal-score --confusion_matrix nope.csv --temporal_classes t --static_classes s", "'nope.csv'"),
        ("visualize --model MODEL --video nope.mp4 --output points.png", "'nope.mp4'"),
        (
            "visualize --model MODEL --video clip.mp4 --output points.foo",
            "such as .png, .gif or .mp4, got 'points.foo'.",
        ),
        ("visualize --model MODEL --video clip.mp4 --output points", "such as .png, .gif or .mp4, got 'points'."),
        ("visualize --model ./nope --video clip.mp4 --output points.png", "There is no folder './nope'."),
        ("export --model MODEL --output_dir out --opset 11", "`opset` must be 18 to "),
        ("export --model MODEL --output_dir out", "The model has no class texts"),
        ("export --model outputs/demo/model --output_dir out", "There is no folder 'outputs/demo/model'."),
        ("export --model /nope --output_dir out", "There is no folder '/nope'."),
        ("export --model nope --output_dir out", "huggingface"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, refusal, folder, tmp_path):
    (tmp_path / "m.csv").write_text("true \\ predicted,a,b\na,1,0\nb,0,1\n")
    command, *rest = [str(folder) if argument == "MODEL" else argument for argument in arguments.split()]
    said = refusal(command, *rest)
    assert said.startswith(f"ila-hf {command}: ")
    assert message in said


def test_no_traceback_and_nothing_else(tmp_path):
    arguments = [sys.executable, "-m", "ila_hf", "motion-videos", "--output_dir", str(tmp_path), "--train", "3"]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("ila-hf motion-videos: The split 'train' must have")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("error", [ValueError, OSError, ImportError])
def test_a_message_of_many_lines(error, refusal, monkeypatch):
    def fail(arguments):
        raise error("It is\n  not  there:\nlook.")

    monkeypatch.setattr(motion_videos, "run", fail)
    assert refusal("motion-videos", "--output_dir", "out") == "ila-hf motion-videos: It is not  there: look."


@pytest.mark.parametrize(
    "error", [TypeError("x"), KeyError("x"), RuntimeError("x"), ImportError("x", name="ila_hf.x")]
)
def test_our_own_errors_keep_their_traceback(error, monkeypatch):
    def fail(arguments):
        raise error

    monkeypatch.setattr(motion_videos, "run", fail)
    with pytest.raises(type(error), match="x"):
        main(["motion-videos", "--output_dir", "out"])


def test_an_error_of_a_step_keeps_its_traceback(monkeypatch, refusal):
    """Unless it is of ours, such as that of a video."""

    def evaluation_loop(error):
        exec("raise error", {"__name__": "torch.nn", "error": error})

    monkeypatch.setattr(motion_videos, "run", lambda arguments: evaluation_loop(ValueError("of torch")))
    with pytest.raises(ValueError, match="of torch"):
        main(["motion-videos", "--output_dir", "out"])
    monkeypatch.setattr(motion_videos, "run", lambda arguments: evaluation_loop(VideoReadError("of ours")))
    assert refusal("motion-videos", "--output_dir", "out") == "ila-hf motion-videos: of ours"


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_help_of_a_script_names_the_command(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: ila-hf {command} [-h]")
