# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Tables of the paper on data of one's own: the command `ila-hf ablate`.

ila-hf ablate 4 --output_dir outputs/table4 --seeds 3 \
    --model_name_or_path openai/clip-vit-base-patch32 --train_dir videos/train --validation_dir videos/validation

Every row is a training run with each of the seeds. Whatever `ila-hf train` takes may follow, and is the same for all
rows. A run that is done is not made again, and one that was killed goes on where it was.
"""

import argparse
import dataclasses
import json
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub.errors import StrictDataclassError

from ..configuration_ila import ILAConfig
from ..data.run_folders import check_bound, in_use
from ..data.video_data import load_videos
from ..data.whole_files import remove_parts, replace_text
from ..evl_decoder_ila import make_integration
from ..temporal_ila import ILA_ONLY_FIELDS, ILA_TEMPORAL_MODULES, make_temporal_module
from ..training import ILATrainingArguments
from ..training.arguments import DataArguments, ModelArguments, given_arguments, parse_arguments
from ..training.finetuning import chosen_head, is_trained, load_config
from .frame_order import numbers_of_pairs, score_videos
from .movement import require_scipy, video_distances
from .paper_tables import TABLES, PaperRow


#: Tables whose rows are trained beside each other
ABLATIONS = ("1", "2", "3", "4", "5", "6", "7", "8", "9", "11", "15")
# Those of whole systems, of several sizes and lengths
_SYSTEMS = ("1", "2", "3")
# What the table decides; our token, because the flag would reach every row
_OWN = ("seed", "resume_from_checkpoint", "push_to_hub", "do_train", "do_eval", "interaction_token")
_KINDS = (ModelArguments, DataArguments, ILATrainingArguments)


def rows_to_train(table: str) -> list[PaperRow]:
    """The rows of a table as models of one size, that of the user.

    Of Tables 1 to 3 each system is a row, whatever its sizes and lengths in the paper, whose figures are left out:
    what its layers learn of other frames, and EVL's decoder. Of ActionCLIP, which has neither, CLIP is left;
    TimeSformer with ILA in the place of its attention over time is ILA. Table 5 has the models of Table 4
    whose distances are published.
    """
    if table == "5":
        return [row for row in TABLES["4"] if row.earth_movers is not None]
    if table not in _SYSTEMS:
        return TABLES[table]
    rows: dict[str, PaperRow] = {}
    for row in TABLES[table]:
        name = row.name.split(", ")[0].removeprefix("Action").removeprefix("TimeSformer + ")
        fields = {key: value for key, value in (row.fields or {}).items() if key != "num_frames"}
        rows.setdefault(name, PaperRow(name, vision=row.vision, fields=fields))
    return list(rows.values())


class Column(NamedTuple):
    """What a table shows of a run: its heading, and by what the value is multiplied, with so many digits."""

    heading: str
    scale: float = 100.0
    digits: int = 1


#: By what the results call it
COLUMNS = {
    "top1": Column("top-1"),
    "pair_accuracy": Column("pairs"),
    "shuffled_top1": Column("shuffled"),
    "shuffled_pair_accuracy": Column("shuffled pairs"),
    "earth_movers": Column("earth mover's", 1.0, 3),
    "in_place": Column("in place", 1.0, 3),
}


def show_mean(values: Sequence[float], digits: int) -> str:
    """Mean ± sample standard deviation; of one value, that."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def ablation_table(rows: Sequence[PaperRow], results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """A table as markdown: mean ± sample standard deviation of every row beside what the paper publishes.

    Args:
        rows: Of a table of the paper.
        results: By name of the row and seed, what was measured: `top1` and others of `COLUMNS`, as shares or, for
            distances, as they are. A row that is not in it, or has no seed, is shown without.
    """
    measured = {name for runs in results.values() for run in runs.values() for name in run}
    shown = {name: column for name, column in COLUMNS.items() if name in measured}
    has_distances = "earth_movers" in shown and any(row.earth_movers is not None for row in rows)
    published = ["top1"] if any(row.top1 is not None for row in rows) else []
    published += ["earth_movers"] if has_distances else []
    heads = [*(column.heading for column in shown.values()), "seeds"]
    heads += [f"paper: {COLUMNS[name].heading}" for name in published]
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    for row in rows:
        runs = results.get(row.name, {}).values()
        cells = []
        for name, column in shown.items():
            values = [column.scale * run[name] for run in runs if name in run]
            # Nothing where some of the runs are of a version that did not measure it
            cells.append(show_mean(values, column.digits) if values and len(values) == len(runs) else "")
        cells.append(str(len(runs)))
        for value in (getattr(row, name) for name in published):
            cells.append("" if value is None else f"{value}")
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(
    rows: Sequence[PaperRow], results: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> list[dict[str, Any]]:
    """The same as numbers: shares, and distances as they are, those of the paper, too; None where there is none."""
    found = []
    for row in rows:
        runs = list(results.get(row.name, {}).values())
        values = {name: [run[name] for run in runs if name in run] for name in COLUMNS}
        values = {name: each for name, each in values.items() if each and len(each) == len(runs)}
        found.append(
            {
                "name": row.name,
                "seeds": len(runs),
                "mean": {name: statistics.fmean(each) for name, each in values.items()},
                "sd": {name: statistics.stdev(each) if len(each) > 1 else None for name, each in values.items()},
                "paper": {
                    "top1": None if row.top1 is None else round(row.top1 / 100, 4),
                    "earth_movers": row.earth_movers,
                },
            }
        )
    return found


def row_config(config: ILAConfig, row: PaperRow) -> ILAConfig:
    """The configuration of a row for a model of one's own size; what the tables compare is as in the paper."""
    changes = dict(row.vision or {})
    compared = {**ILA_ONLY_FIELDS, "temporal_module": "ila", "temporal_options": None, "alignment_layers": None}
    if "temporal_module" not in changes:  # no table compares these, and to other modules they mean nothing
        del compared["architecture"], compared["first_frame"]
    integration = {"integration_module": "transformer", "integration_options": None}
    options = getattr(ILA_TEMPORAL_MODULES.get(changes.get("temporal_module", "")), "options_class", None)
    if options is not None and "num_frames" in {each.name for each in dataclasses.fields(options)}:
        changes["temporal_options"] = {**changes.get("temporal_options", {}), "num_frames": config.num_frames}
    vision = {**config.vision_config.to_dict(), **compared, **changes}
    return ILAConfig.from_dict({**config.to_dict(), **integration, **(row.fields or {}), "vision_config": vision})


def build_parts(config: ILAConfig) -> None:
    """Make what tables compare, without memory: options and packages that are missing show in it.

    Raises:
        ImportError: For a package.
        ValueError: For options.
    """
    with torch.device("meta"):
        for layer in range(config.vision_config.num_hidden_layers):
            make_temporal_module(config.vision_config, layer)
        make_integration(config)


class Ablation:
    """The runs of a table in a folder: `<row>/seed-<seed>`, `ablation.json` with what was measured, `ablation.md`.

    Args:
        table: One of `ABLATIONS`.
        output_dir: The folder.
        arguments: Of `ila-hf train`, as words; the same for all rows.
        order: Also score the order of the frames, see [`score_videos`]; needs `--validation_dir`. All scores are then
            those of one view of each video.
        in_pairs: The validation videos are in minimal pairs, which are scored, too.
        distances: Also measure how far neighbouring frames are apart, see [`video_distances`]; needs
            `--validation_dir`. Of Table 5 they always are.

    Raises:
        ValueError: For arguments of which every run has its own, for videos or a model with which the table makes no
            sense, and for a folder that holds other runs.
        ImportError: Without a package that a row needs.
    """

    def __init__(
        self,
        table: str,
        output_dir: str | Path,
        arguments: Sequence[str],
        order: bool = False,
        in_pairs: bool = False,
        distances: bool = False,
    ):
        self.table, self.folder, self.arguments = table, Path(output_dir), list(arguments)
        self.rows = rows_to_train(table)
        self.order, self.in_pairs, self.distances = order or in_pairs, in_pairs, distances or table == "5"
        recipes = str(files("ila_hf.examples") / "configs")
        given = given_arguments(_KINDS, self.arguments, recipes)
        for name in _OWN:
            if name in given:
                raise ValueError(f"--{name} cannot be given: every run of the table has its own.")
        defaults = {"do_train": True, "do_eval": True, "output_dir": str(output_dir)}
        model_args, self.data, _ = parse_arguments(_KINDS, self.arguments, recipes, defaults)
        self._check_videos()
        self.config = load_config(model_args)
        if self.distances and self.config.num_frames < 2:
            raise ValueError("Distances between frames need clips of two or more: `num_frames` is 1.")
        if is_trained(model_args, self.config):
            raise ValueError(
                f"--model_name_or_path {model_args.model_name_or_path!r} is a trained ILA model: rows that are like "
                "it would start with its weights, the others without. Give a plain CLIP."
            )
        for row in self.rows:
            try:
                build_parts(row_config(self.config, row))  # before anything is trained
            except (StrictDataclassError, ValueError) as error:
                why = error.__cause__ if isinstance(error, StrictDataclassError) else error
                raise ValueError(f"The row {row.name!r} does not fit the model: {why}") from error
        head = chosen_head(model_args, self.config)
        if table == "11" and head == "linear":
            raise ValueError("Table 11 compares models with and without the text prompt: a linear head has none.")
        added = {"head": head}  # the name of a preset, which may decide it, is not that of the configuration of a row
        if not given.keys() & {"eval_strategy", "eval_steps", "save_strategy", "save_steps", "load_best_model_at_end"}:
            # The last epoch is evaluated, not the best: the validation videos choose nothing
            schedule = {"eval_strategy": "no", "save_strategy": "epoch", "save_total_limit": "2"}
            added |= {name: value for name, value in schedule.items() if name not in given}
        self.arguments += [word for name, value in added.items() for word in (f"--{name}", value)]
        config = {name: value for name, value in self.config.to_dict().items() if name != "transformers_version"}
        made_with = {
            "table": table,
            "arguments": {**given, **added},
            "config": config,
            "order": self.order,
            "pairs": self.in_pairs,
            "distances": self.distances,
            "versions": {name: version(name) for name in ("torch", "transformers")},
        }
        self.file, self.failed = self.folder / "ablation.json", dict[str, str]()
        self.found: dict[str, Any] = {**json.loads(json.dumps(made_with, default=str)), "results": {}}
        if self.file.exists():
            known = {"distances": False, **json.loads(self.file.read_text(encoding="utf-8"))}
            known.pop("rows", None)
            check_bound(self.folder, {**known, "results": {}}, self.found)
            self.found = known

    def _check_videos(self) -> None:
        data = self.data
        sources = (data.validation_dir, data.validation_file, data.data_dir, data.dataset_name, data.train_val_split)
        if all(source is None for source in sources):
            raise ValueError("The rows are compared on validation videos: give --validation_dir, or another source.")
        if data.validation_dir is None and (self.order or self.distances):
            measured = "Scores of the order of" if self.order else "Distances between"
            raise ValueError(f"{measured} frames need --validation_dir.")
        if self.distances:
            require_scipy()
        if self.in_pairs:
            numbers_of_pairs(load_videos(data.validation_dir))

    def run(self, seeds: int) -> None:
        """Make the runs that are missing, all rows of a seed before the next seed.

        Raises:
            ValueError: If another run has the folder.
        """
        with in_use(self.folder):
            remove_parts(self.folder)
            self._write()  # what they are made with, before the first is killed
            for seed in range(seeds):
                for row in self.rows:
                    if str(seed) not in self.found["results"].get(row.name, {}):
                        print(f"\nTable {self.table}, {row.name}, seed {seed}", flush=True)
                        failure = self._run(row, seed)
                        if failure is not None:
                            self.failed[f"{row.name}, seed {seed}"] = failure
                        self._write()

    def _run(self, row: PaperRow, seed: int) -> str | None:
        """Make a run and keep what it measured, or return why it failed."""
        folder = self.folder / re.sub(r"[^a-z0-9]+", "-", row.name.lower()) / f"seed-{seed}"
        row_config(self.config, row).save_pretrained(folder / "config")
        words = [*self.arguments, "--config_name", str(folder / "config"), "--seed", str(seed)]
        words += ["--output_dir", str(folder), "--resume_from_checkpoint", "True"]
        status = train(words)
        if status != 0:
            return f"exit status {status}"
        evaluation = folder / "eval_results.json"
        if not evaluation.exists():
            return "it was not evaluated: are there validation videos?"
        metrics = json.loads(evaluation.read_text())
        kept = ("eval_top1", "eval_top5", "eval_loss")  # of five classes or fewer there is no top-5
        result = {name.removeprefix("eval_"): metrics[name] for name in kept if name in metrics}
        videos = str(self.data.validation_dir)
        try:
            if self.order:
                scores = score_videos(str(folder), videos, self.in_pairs)._asdict()
                result |= {name: value for name, value in scores.items() if value is not None}
            if self.distances:
                result |= video_distances(str(folder), videos)._asdict()
        except ValueError as error:  # such as features that are not finite
            return str(error)
        finally:
            torch.cuda.empty_cache()  # the next row trains in another process
        self.found["results"].setdefault(row.name, {})[str(seed)] = result
        return None

    def _write(self) -> None:
        content = {**self.found, "rows": summary(self.rows, self.found["results"])}
        replace_text(self.file, json.dumps(content, indent=2) + "\n")
        replace_text(self.folder / "ablation.md", self.report())

    def report(self) -> str:
        """The table as markdown, and how it was made."""
        versions = ", ".join(f"{name} {value}" for name, value in self.found["versions"].items())
        views = ", on one view of each video" if self.order else ""
        lines = [
            f"# Table {self.table}",
            ablation_table(self.rows, self.found["results"]),
            f"Mean ± sample standard deviation over the seeds, accuracies in %{views}. Every run, with the "
            f"configuration of its row and its seed: `ila-hf train {shlex.join(self.arguments)}`, {versions}.",
        ]
        if self.table in _SYSTEMS:
            lines.append(
                "Of a system, what its layers learn of other frames is its own, and EVL's decoder; integration, "
                "prompt and head are ILA's. All are of one size and length, so that the paper's figures are not "
                "beside them."
            )
        else:
            lines.append("The paper's accuracies are top-1 on Kinetics-400 with ViT-B/32 and 8 frames.")
        if self.distances:
            lines.append(
                "Distances between neighbouring frames are cosine distances of the last layer's patches, between 0 "
                "and 2: earth mover's, of the best match, and of patches at the same place. The paper does not define "
                "its own. A low value is partly what the alignment loss asks for, and that of features that do not "
                "depend on the frame is 0."
            )
        if self.failed:
            lines.append("Failed: " + "; ".join(f"{run} ({why})" for run, why in self.failed.items()) + ".")
        return "\n\n".join(lines) + "\n"


def train(words: Sequence[str]) -> int:
    """`ila-hf train` in a process of its own; its exit status."""
    return subprocess.run([sys.executable, "-m", "ila_hf", "train", *words], check=False).returncode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ila-hf ablate`, beside those of `ila-hf train`."""
    parser.add_argument("table", choices=ABLATIONS, help="number of the table")
    parser.add_argument("--output_dir", required=True, help="folder of the runs, the table and the results")
    parser.add_argument("--seeds", type=int, default=3, help="runs of every row")
    parser.add_argument("--order", action="store_true", help="also score clips with their frames in random order")
    parser.add_argument("--pairs", action="store_true", help="and minimal pairs; see `ila-hf temporal-score --help`")
    parser.add_argument("--distances", action="store_true", help="how far frames are apart, as in Table 5")


def main(arguments: Sequence[str] | None = None, program: str | None = None) -> None:
    """Run `ila-hf ablate`. A row that fails does not end the others; the exit status is then 1.

    Raises:
        ValueError: As [`Ablation`] does, for fewer than one seed, and for arguments that `ila-hf train` has not.
    """
    parser = argparse.ArgumentParser(
        prog=program,
        description="Train and evaluate the rows of a table of the paper on videos of your own.",
        epilog="Whatever `ila-hf train` takes may follow, and is the same for all rows.",
        allow_abbrev=False,
    )
    add_arguments(parser)
    given, rest = parser.parse_known_args(arguments)
    if given.seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {given.seeds}.")
    ablation = Ablation(given.table, given.output_dir, rest, given.order, given.pairs, given.distances)
    ablation.run(given.seeds)
    print(f"\n{ablation.report()}")
    if ablation.failed:
        raise SystemExit(1)
