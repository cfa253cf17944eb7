"""How fast `ila-hf label` is, and what kills do to it.

    python benchmarks/label.py                    # all cases, a quarter of an hour on two cores
    python benchmarks/label.py --cases kills
    python benchmarks/label.py --report           # only the table, of the file that is there

- "pipeline": 2 000 small files, of which 100 are damaged, by a tiny model, with one process that reads; beside a loop
  over the pipeline, which passes over bad files, with one, and the same batches.
- "processes": a model that takes as long as reading a clip of 1280 pixels; one process on one core, which is all that
  it and the process that reads for it get, and two processes on two.
- "kills": the first again, killed with SIGKILL at 20 random moments, most of them while files are read, then run to
  the end: whether every file is there once, and its row as in a run that was left alone.
"""

import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq
import torch
from cases import run_cases
from read_ahead import balanced_model, write_clips

from ila_hf import ILAForVideoTextClassification, ILAVideoProcessor
from ila_hf.analysis.benchmark import Measurement, markdown_table, measure
from ila_hf.demo.drawing import write_video
from ila_hf.demo.motion_clips import MOTIONS, draw_clip
from ila_hf.demo.tiny import tiny_config, tiny_processor


RESULTS = Path(__file__).parent / "results" / "label.json"
FILES, DAMAGED, KILLS = 2000, 100, 20
LARGE_FILES, COPIES = 60, 4


def write_small_files(folder: Path) -> None:
    """Drawn clips of 64 pixels; of some the second half is missing."""
    folder.mkdir()
    for number in range(FILES):
        path = folder / f"{number:05}.mp4"
        frames, _, fps = draw_clip(number % 200)
        write_video(path, frames, fps)
        if number % (FILES // DAMAGED) == 0:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def save_tiny_model(folder: Path) -> None:
    """Of random weights."""
    torch.manual_seed(0)
    config = tiny_config()
    model = ILAForVideoTextClassification(config)
    model.set_class_texts(MOTIONS, tiny_processor(config))
    model.save_pretrained(folder)
    tiny_processor(config).save_pretrained(folder)


def label(folder: Path, videos: str, *arguments: str, processes: int = 1) -> list[str]:
    """The command."""
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", str(processes)] if processes > 1 else []
    words = [sys.executable, *launch, "-m", "ila_hf", "label", "--model", str(folder / "model")]
    return [*words, "--videos", str(folder / videos), "--output_dir", str(folder / "labels"), *arguments]


def run_command(folder: Path, command: list[str], cores: int | None = None) -> None:
    """In a folder that is empty before; on so many cores, with a thread each."""
    shutil.rmtree(folder / "labels", ignore_errors=True)
    environment, own = os.environ.copy(), os.sched_getaffinity(0)
    if cores is not None:
        environment["OMP_NUM_THREADS"] = "1"
        os.sched_setaffinity(0, sorted(own)[:cores])  # children inherit it
    try:
        subprocess.run(command, check=True, capture_output=True, env=environment)
    finally:
        os.sched_setaffinity(0, own)


def loop_over_pipeline(folder: Path) -> None:
    """A script of its own, as the command is one."""
    code = (
        "import sys, glob, ila_hf\n"
        "from transformers import pipeline\n"
        "classify = pipeline('video-classification', model=sys.argv[1])\n"
        "files = sorted(glob.glob(sys.argv[2] + '/*.mp4'))\n"
        "for answer in classify(files, batch_size=8, num_workers=1, on_error='return', top_k=5): pass\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(folder / "model"), str(folder / "videos")], check=True, capture_output=True
    )


def compare_with_pipeline(folder: Path, rounds: int) -> dict[str, Any]:
    """The same files, from the start of the program to its end."""
    steps: dict[str, Callable[[], Any]] = {
        "loop over the pipeline": functools.partial(loop_over_pipeline, folder),
        "label": functools.partial(run_command, folder, label(folder, "videos")),
    }
    return {"measurements": [asdict(each) for each in measure(f"{FILES} files", steps, rounds, warm_up=0)]}


def compare_processes(folder: Path, rounds: int) -> dict[str, Any]:
    """One process and two, each with a core for the model and a worker that reads."""
    (folder / "large").mkdir()
    torch.set_num_threads(1)
    files = write_clips(folder / "large", LARGE_FILES)
    for file in map(Path, files):
        for copy in range(1, COPIES):
            file.with_stem(f"{file.stem}_{copy}").hardlink_to(file)
    processor = ILAVideoProcessor(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224})
    model = balanced_model(processor, files[0])
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    shard = ("--shard_size", str(LARGE_FILES // 6), "--batch_size", "2")
    steps = {
        name: functools.partial(run_command, folder, label(folder, "large", *shard, processes=count), count)
        for name, count in {"one process": 1, "two processes": 2}.items()
    }
    count = LARGE_FILES * COPIES
    return {"measurements": [asdict(each) for each in measure(f"{count} files", steps, rounds, warm_up=0)]}


def kill_at_random(folder: Path, rounds: int) -> dict[str, Any]:
    """Whether nothing is lost, nothing doubled and nothing changed; once, whatever `rounds` is."""
    command = label(folder, "videos", "--shard_size", "32")
    run_command(folder, command)
    expected = rows_of(folder / "labels")
    shutil.rmtree(folder / "labels")
    draw, moments = random.Random(0), []
    for number in range(KILLS):
        started = time.time()
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        if number % 4 == 0:  # at any moment; the others while files are read
            time.sleep(draw.uniform(1, 12))
        else:
            while process.poll() is None and not is_newer(folder / "labels" / "_run.json", started):
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.8))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            moments.append(len(list((folder / "labels").glob("0*.parquet"))))
        process.wait()
    subprocess.run(command, check=True, capture_output=True)
    found = rows_of(folder / "labels")
    return {
        "kills": len(moments),
        "shards_complete_at_the_kills": moments,
        "files": len(found),
        "different_files": len({row["path"] for row in found}),
        "errors": sum(row["error"] is not None for row in found),
        "equal_to_an_uninterrupted_run": found == expected,
    }


def is_newer(file: Path, moment: float) -> bool:
    """Whether a run has written it since."""
    return file.exists() and file.stat().st_mtime > moment


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """All rows, in the order of the shards."""
    return [row for file in sorted(folder.glob("0*.parquet")) for row in pq.read_table(file).to_pylist()]


def tables(found: dict[str, Any]) -> str:
    """Those of docs/use.md."""
    cases = (case for case in ("pipeline", "processes") if case in found)
    parts = [markdown_table(Measurement(**row) for row in found[case]["measurements"]) for case in cases]
    return "\n\n".join([*parts, json.dumps(found.get("kills", {}), indent=1)])


def on_small_files(case: Callable[[Path, int], dict[str, Any]], rounds: int) -> dict[str, Any]:
    """Run a case in a folder with the tiny model and the small files."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        save_tiny_model(folder / "model")
        write_small_files(folder / "videos")
        return case(folder, rounds)


def on_large_files(rounds: int) -> dict[str, Any]:
    """Run the case of two processes."""
    with TemporaryDirectory() as name:
        return compare_processes(Path(name), rounds)


CASES = {
    "pipeline": functools.partial(on_small_files, compare_with_pipeline),
    "kills": functools.partial(on_small_files, kill_at_random),
    "processes": on_large_files,
}


def main() -> None:
    """Measure, write, print."""
    run_cases(__doc__, CASES, RESULTS, tables, rounds=4)


if __name__ == "__main__":
    main()
