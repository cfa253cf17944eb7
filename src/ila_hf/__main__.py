# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The command `ila-hf`, also `python -m ila_hf`."""

import argparse
import importlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import __version__


# sub-command -> (module, help); a module is imported only when it is asked for. It has `add_arguments` and `run`;
# those that take the arguments of a training have a `main`, whose defaults of arguments are below
COMMANDS = {
    "ablate": ("analysis.ablation", "train the rows of a table of the paper on videos of your own"),
    "benchmark": ("analysis.benchmark", "time a model beside CLIP on this machine"),
    "check": ("data.unreadable_videos", "find the videos of a data set that cannot be read"),
    "convert": ("conversion.convert_ila_checkpoint", "convert a released checkpoint"),
    "embed": ("inference.embedding", "write the features of many videos"),
    "evaluate": ("examples.run_video_classification", "evaluate a model on labelled videos"),
    "export": ("conversion.export_ila", "export a model to ONNX or torch.export"),
    "flops": ("analysis.flops", "count FLOPs and parameters, of a model or of the tables of the paper"),
    "label": ("inference.label_command", "classify many videos"),
    "model-cards": ("evaluation.published_cards", "write the cards of the published variants"),
    "motion-videos": ("demo.motion_videos", "make a small labelled video set"),
    "stream": ("inference.stream", "classify a live video, or a long one, after each of its frames"),
    "temporal-score": ("analysis.temporal_score", "compare the accuracy on temporal classes with that on static ones"),
    "tiny-model": ("demo.tiny", "make a tiny model to train from scratch"),
    "train": ("examples.run_video_classification", "fine-tune and evaluate a model on labelled videos"),
    "visualize": ("analysis.visualization", "draw points, masks, features, attention or Grad-CAM of a clip"),
}


DEFAULTS = {"ablate": {}, "train": {"do_train": True, "do_eval": True}, "evaluate": {"do_eval": True}}


# Functions in which the work goes on that the arguments have begun
_STEPS = {"_inner_training_loop", "train_epoch", "evaluation_loop", "evaluate"}


@contextmanager
def errors_in_one_line(program: str) -> Iterator[None]:
    """Tell what a user can mend in one line, with exit status 2.

    These are errors of values, files, videos and the Hub, and missing packages. Others keep their traceback, and so do
    errors of values that other packages find in a step of a training or an evaluation.
    """
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        if isinstance(error, ImportError) and error.name is not None:  # it is of Python's own, no message of ours
            raise
        if isinstance(error, ValueError) and _is_of_a_step(error):
            raise
        message = str(error) or type(error).__name__
        if "Original Traceback" in message:  # of a worker of a data loader: the error is what its traceback ends with
            message = message.rstrip().rpartition("\n")[2]
        lines = (line.strip() for line in message.splitlines())
        print(f"{program}: {' '.join(lines)}", file=sys.stderr)
        raise SystemExit(2) from error


def _is_of_a_step(error: ValueError) -> bool:
    """Whether a step of training or evaluation has failed, in code that is not ours: it is no mistake of the user."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    modules = (type(error).__module__, str(frames[-1].f_globals.get("__name__")))
    is_ours = any(module.startswith(f"{__package__}.") for module in modules)
    return not is_ours and not _STEPS.isdisjoint(frame.f_code.co_name for frame in frames)


def main(arguments: list[str] | None = None) -> None:
    """Run a sub-command; `ila-hf --help` lists them. For errors see [`errors_in_one_line`]."""
    parser = argparse.ArgumentParser(prog="ila-hf", description="Video recognition with ILA.")
    parser.add_argument("--version", action="version", version=f"ila-hf {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (_, text) in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    command, rest = parser.parse_known_args(arguments)
    program = f"ila-hf {command.command}"
    module = importlib.import_module(f".{COMMANDS[command.command][0]}", __package__)
    if command.command in DEFAULTS:
        with errors_in_one_line(program):
            predicts_only = command.command == "evaluate" and "--do_predict" in rest
            module.main(rest, program, **({} if predicts_only else DEFAULTS[command.command]))
        return
    subparser = argparse.ArgumentParser(prog=program, description=COMMANDS[command.command][1])
    module.add_arguments(subparser)
    given = subparser.parse_args(rest)
    with errors_in_one_line(program):
        _check_model(getattr(given, "model", None))
        module.run(given)


def _check_model(name: str | None) -> None:
    """Refuse what can be no Hub id, and is no folder, before the Hub is asked for it."""
    if name is None or Path(name).is_dir():
        return
    if name.startswith((".", "/")) or name.count("/") > 1:
        raise FileNotFoundError(f"There is no folder {name!r}.")


if __name__ == "__main__":
    main()
