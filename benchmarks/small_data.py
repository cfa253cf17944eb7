"""Find a recipe for small data: fine-tune a random CLIP on 48 or 96 clips of the motion set, many times over.

    python benchmarks/small_data.py             # an hour and a half on one core; makes the runs that are missing
    python benchmarks/small_data.py --report    # only the table, of the runs made so far

Every run is `ila-hf train` with the flags of a row of `ROWS`, evaluated once, when it ends: held-out clips choose
nothing. With `--seeds 0` each row is run once. The CLIP is tiny, and its weights are random, so that it knows nothing
before: what is found of learning rates holds for weights that have to be learnt. Those of a trained CLIP should move
less.

- "4 motions": one motion of each pair, 12 training clips and 24 held-out clips of each; the paper's trunk.
- "8 motions": all of them, as many clips of each; a bag of frames reaches 50 %; with the interaction token.

Every finished run is written to small_data.json at once.
"""

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import transformers

from ila_hf.demo.motion_clips import MOTIONS
from ila_hf.demo.motion_videos import make_motion_videos
from ila_hf.demo.tiny import save_tiny_clip
from ila_hf.examples.run_video_classification import main as train


STEPS = 300
# The flags that all rows begin with; a row replaces some of them
BASE = {
    "freeze": "text",
    "learning_rate": 1e-4,
    "new_lr_factor": 10,
    "weight_decay": 0.01,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "label_smoothing_factor": 0.1,
    "per_device_train_batch_size": 8,
    "max_steps": STEPS,
}
ROWS: dict[str, dict[str, Any]] = {
    "8e-6": {"learning_rate": 8e-6, "new_lr_factor": 1},
    "1e-4": {"learning_rate": 1e-4, "new_lr_factor": 1},
    "1e-3": {"learning_rate": 1e-3, "new_lr_factor": 1},
    "1e-5, new ones 1e-3": {"learning_rate": 1e-5, "new_lr_factor": 100},
    "1e-4, new ones 1e-3": {},
    "3e-4, new ones 3e-3": {"learning_rate": 3e-4},
    "CLIP frozen, new ones 1e-3": {"freeze": "clip", "learning_rate": 1e-3},
    "100 steps": {"max_steps": 100},
    "200 steps": {"max_steps": 200},
    "600 steps": {"max_steps": 600},
    "600 steps, 1e-5, new ones 1e-3": {"max_steps": 600, "learning_rate": 1e-5, "new_lr_factor": 100},
    "600 steps, 3e-5, new ones 1e-3": {"max_steps": 600, "learning_rate": 3e-5, "new_lr_factor": 33.3},
    "batches of 16": {"per_device_train_batch_size": 16},
    "no label smoothing": {"label_smoothing_factor": 0},
    "augmented": {"augment": True},
}
TASKS = {"4 motions": (MOTIONS[::2], False), "8 motions": (MOTIONS, True)}
CLIPS = {"train": 12, "validation": 24}  # of each motion


def run(row: str, task: str, seed: int, folder: Path) -> dict[str, float]:
    """Train once; top-1 and loss of the held-out clips."""
    flags = {"model_name_or_path": folder / "clip", "data_dir": folder / task, "output_dir": folder / "run"}
    flags |= {
        "do_train": True,
        "do_eval": True,
        "interaction_token": TASKS[task][1],
        "seed": seed,
        **BASE,
        **ROWS[row],
    }
    flags |= {"report_to": "none", "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True}
    start = time.process_time()
    train([word for name, value in flags.items() for word in (f"--{name}", str(value))])
    results = json.loads((folder / "run" / "all_results.json").read_text())
    return {
        "top1": round(results["eval_top1"], 4),
        "loss": round(results["eval_loss"], 4),
        "cpu_seconds": round(time.process_time() - start, 1),
    }


def run_missing(file: Path, seeds: list[int], rows: list[str]) -> None:
    """Make the runs that the file does not hold."""
    torch.set_num_threads(1)
    machine = {"torch": torch.__version__, "transformers": transformers.__version__, "machine": platform.machine()}
    found = json.loads(file.read_text()) if file.exists() else {"base": BASE, "versions": machine, "runs": {}}
    if found["base"] != BASE:
        raise ValueError(f"{file} holds runs with other flags: {found['base']}.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_tiny_clip(folder / "clip")
        make_motion_videos(folder / "8 motions", {split: count * len(MOTIONS) for split, count in CLIPS.items()})
        for split in CLIPS:
            (folder / "4 motions" / split).mkdir(parents=True)
            for motion in TASKS["4 motions"][0]:
                place = Path(split) / motion.replace(" ", "_")
                (folder / "4 motions" / place).symlink_to(folder / "8 motions" / place)
        for seed in seeds:
            for task in TASKS:
                for row in rows:
                    runs = found["runs"].setdefault(task, {}).setdefault(row, {})
                    if str(seed) not in runs:
                        runs[str(seed)] = run(row, task, seed, folder)
                        file.write_text(json.dumps(found, indent=1) + "\n")


def table(found: dict[str, Any]) -> str:
    """Markdown: held-out top-1 in %, mean ± sample standard deviation over the seeds."""
    lines = [f"| | {' | '.join(found['runs'])} |", "|---|" + "---|" * len(found["runs"])]
    for row in ROWS:
        cells = []
        for runs in found["runs"].values():
            values = [100 * result["top1"] for result in runs.get(row, {}).values()]
            deviation = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{mean(values):.1f}{deviation}" if values else "")
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Make the missing runs, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--output_file", type=Path, default=Path(__file__).parent / "results" / "small_data.json")
    parser.add_argument("--report", action="store_true", help="only print the table")
    arguments = parser.parse_args()
    if not arguments.report:
        run_missing(arguments.output_file, arguments.seeds, arguments.rows)
    print(table(json.loads(arguments.output_file.read_text())))


if __name__ == "__main__":
    main()
