"""Tables 4, 5, 6, 8 and 9 of the paper on motion videos: a tiny model for every row, over several seeds.

    python benchmarks/ablations.py --set noise --steps 200    # an hour on one core; another set may run beside it
    python benchmarks/ablations.py --report                   # only the tables, of the runs made so far

Clips, sizes, optimizer, schedule, batches and loss are those of compare_architectures.py, and with the steps the same
for all rows; nothing was tuned for one of them. Of the held-out clips, and of their partners in minimal pairs (the
same played backwards, where the set is not one of pairs), four things are measured when a model is trained:

- top-1;
- pairs: both clips of a pair are right;
- shuffled, shuffled pairs: both with the frames of every clip in random order;
- the earth mover's distance between neighbouring frames, and that at the same place, of 48 clips; see
  `ila_hf.analysis.frame_distances`.

Every finished run is written to ablations_<set>_<steps>.json at once; started again with the same arguments, the
script makes only the runs that are missing.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from compare_architectures import parse_run_arguments, run_missing, train
from torch import nn

from ila_hf import ILAForVideoTextClassification
from ila_hf.analysis import frame_distances, frame_order_scores, patches_of_frames
from ila_hf.analysis.ablation import ablation_table
from ila_hf.analysis.paper_tables import TABLES, PaperRow
from ila_hf.demo.motion_videos import MOTION_SETS
from ila_hf.demo.tiny import tiny_config, tiny_tokenizer


ROWS = ("4", "6", "8", "9")  # Table 5 has the models of Table 4
DISTANCE_CLIPS = 48


def rows_of_tables(tables: list[str]) -> dict[str, PaperRow]:
    """The rows by what they change, each once: ILA itself is in all tables, under its name in the first."""
    rows: dict[str, PaperRow] = {}
    for table in tables:
        for row in TABLES[table]:
            rows.setdefault(run_name(row), row)
    return rows


def run_name(row: PaperRow) -> str:
    """How the results call what a row changes."""
    return json.dumps({**(row.vision or {}), **(row.fields or {})}, sort_keys=True)


def build_model(row: PaperRow, classes: tuple[str, ...]) -> nn.Module:
    """An untrained tiny model with what the row changes, its text tower frozen."""
    model = ILAForVideoTextClassification(tiny_config(row.vision, **(row.fields or {})))
    model.set_class_texts(classes, tiny_tokenizer())
    model.freeze("text")
    return model.train()


def with_partners(set_name: str, clips: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Clips, labels, and the numbers of their pairs, each of two clips."""
    if MOTION_SETS[set_name].in_pairs:
        return clips, labels, torch.arange(len(labels)) // 2
    both = torch.cat([clips, clips.flip(1)]), torch.cat([labels, labels ^ 1])  # opposites are beside each other
    return *both, torch.arange(len(labels)).repeat(2)


@torch.no_grad()
def score(model: nn.Module, set_name: str, clips: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """What is measured of a trained model."""
    distances = frame_distances(patches_of_frames(model.eval(), clips[:DISTANCE_CLIPS].float()))
    clips, labels, pairs = with_partners(set_name, clips, labels)
    parts = zip(clips.split(96), labels.split(96), strict=True)
    batches = [{"pixel_values": part.float(), "labels": of_part} for part, of_part in parts]
    found = {**frame_order_scores(model, batches, pairs.tolist())._asdict(), **distances._asdict()}
    return {name: round(value, 6) for name, value in found.items()}


def ablate(arguments: argparse.Namespace) -> None:
    """Make the runs of a set that are missing."""
    rows = rows_of_tables(arguments.tables)
    classes = MOTION_SETS[arguments.set].classes

    def run(name: str, seed: int, data: dict[str, tuple], found: dict[str, Any]) -> dict[str, Any]:
        model = build_model(rows[name], classes)
        curve = train(model, rows[name].name, seed, data, arguments)
        return {**score(model, arguments.set, *data["test"]), "curve": curve}

    run_missing(arguments, arguments.output_dir / f"ablations_{arguments.set}_{arguments.steps}.json", rows, run)


def tables(found: dict[str, Any]) -> dict[str, str]:
    """Every table that has runs, as markdown."""
    printed = {}
    for table in ROWS:
        results = {row.name: found["results"].get(run_name(row), {}) for row in TABLES[table]}
        if any(results.values()):
            printed[table] = ablation_table(TABLES[table], results)
    return printed


def report(output_dir: Path) -> None:
    """Print the tables of every set that has runs."""
    files = sorted(output_dir.glob("ablations_*.json"))
    if not files:
        raise ValueError(f"{output_dir} holds no ablations_<set>_<steps>.json: make runs first, with --set.")
    for file in files:
        found = json.loads(file.read_text())
        for table, text in tables(found).items():
            print(f"{found['arguments']['set']}, {found['arguments']['steps']} steps, Table {table}\n\n{text}\n")
    print(
        "The paper does not define its earth mover's distance; ours is that of `ila_hf.analysis.frame_distances`, and "
        "of features that do not depend on the frame 0."
    )


def main() -> None:
    """Make the missing runs, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=ROWS, default=list(ROWS))
    arguments = parse_run_arguments(parser, dict.fromkeys(MOTION_SETS, 400))
    if not arguments.report:
        ablate(arguments)
    report(arguments.output_dir)


if __name__ == "__main__":
    main()
