# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The command `ila-hf`, also `python -m ila_hf`."""

import argparse
import importlib


# sub-command -> (module with `add_arguments` and `run`, help); a module is imported only when it is asked for
COMMANDS = {
    "check": ("unreadable_videos", "find the videos of a data set that cannot be read"),
    "convert": ("convert_ila_checkpoint", "convert a released checkpoint"),
    "export": ("export_ila", "export a model to ONNX or torch.export"),
    "model-cards": ("model_card", "write the cards of the published variants"),
    "motion-videos": ("motion_videos", "make a small labelled video set"),
    "temporal-score": ("metrics", "compare the accuracy on temporal classes with that on static ones"),
    "tiny-model": ("tiny", "make a tiny model to train from scratch"),
    "visualize": ("visualization", "draw the interactive points on the frames of a clip"),
}


def main(arguments: list[str] | None = None) -> None:
    """Run a sub-command; `ila-hf --help` lists them."""
    parser = argparse.ArgumentParser(prog="ila-hf", description="Video recognition with ILA.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (_, text) in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    command, rest = parser.parse_known_args(arguments)
    module = importlib.import_module(f".{COMMANDS[command.command][0]}", __package__)
    subparser = argparse.ArgumentParser(prog=f"ila-hf {command.command}", description=COMMANDS[command.command][1])
    module.add_arguments(subparser)
    module.run(subparser.parse_args(rest))


if __name__ == "__main__":
    main()
