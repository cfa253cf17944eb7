"""How fast `ila-hf label` is, and what kills do to it.

    python benchmarks/label.py                    # all cases, half an hour on two cores
    python benchmarks/label.py --cases kills
    python benchmarks/label.py --report           # only the table, of the file that is there

- "pipeline": 2 000 small files, of which 100 are damaged, by a tiny model, with one process that reads; beside a loop
  over the pipeline, which passes over bad files, with one, and the same batches.
- "processes": a model that takes as long as reading a clip of 1280 pixels; one process on one core, which is all that
  it and the process that reads for it get, and two processes on two.
- "kills": the first again, killed with SIGKILL at 20 random moments, most of them while files are read, then run to
  the end: whether every file is there once, and its row as in a run that was left alone.
- "full_disk": the same on a file system of half the size that is needed, which then grows (Linux, where users may have
  mount namespaces).
- "ray_kills": the same on a Ray of this machine with two actors, of which five are killed while they work.
"""

import contextlib
import functools
import json
import math
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pyarrow.parquet as pq
import torch
from cases import run_cases
from read_ahead import balanced_model, write_clips

from ila_hf import ILAForVideoTextClassification, ILAVideoProcessor
from ila_hf.analysis.benchmark import Measurement, markdown_table, measure
from ila_hf.demo.drawing import write_video
from ila_hf.demo.motion_clips import MOTIONS, draw_clip
from ila_hf.demo.tiny import tiny_config, tiny_processor
from ila_hf.inference import find_videos, label_with_ray


RESULTS = Path(__file__).parent / "results" / "label.json"
FILES, DAMAGED, KILLS, RAY_KILLS, SHARD_SIZE = 2000, 100, 20, 5, 32
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
    command = label(folder, "videos", "--shard_size", str(SHARD_SIZE))
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
    compared = compare_rows(rows_of(folder / "labels"), expected)
    return {"kills": len(moments), "shards_complete_at_the_kills": moments, **compared}


def fill_disk(folder: Path, rounds: int) -> dict[str, Any]:
    """The folder of the labels as a file system of its own, in a mount namespace: too small, and then grown."""
    command = label(folder, "videos", "--shard_size", str(SHARD_SIZE))
    run_command(folder, command)
    expected, labels = rows_of(folder / "labels"), shlex.quote(str(folder / "labels"))
    page = os.sysconf("SC_PAGESIZE")
    needed = sum(-(-file.stat().st_size // page) * page for file in (folder / "labels").iterdir())
    shutil.rmtree(folder / "labels")
    (folder / "labels").mkdir()
    again, after = shlex.join(command), shlex.quote(str(folder / "after"))
    script = (
        f"mount -t tmpfs -o size={needed // 2} tmpfs {labels} && ! {again} && ls {labels} && "
        f"mount -o remount,size={4 * needed} {labels} && {again} >&2 && cp -r {labels} {after}"
    )
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    done = subprocess.run(unshare, check=True, capture_output=True, text=True)
    complete = sum(name.startswith("0") and name.endswith(".parquet") for name in done.stdout.split())
    return {
        "disk_was_full": "No space left on device" in done.stderr,
        "shards_complete_when_it_was": complete,
        "shards": len(list((folder / "after").glob("0*.parquet"))),
        **compare_rows(rows_of(folder / "after"), expected),
    }


def kill_workers_of_ray(folder: Path, rounds: int) -> dict[str, Any]:
    """Whether Ray, of whose actors some are killed, has the rows of the local engine."""
    import ray

    run_command(folder, label(folder, "videos"))
    expected = rows_of(folder / "labels")
    ray.init("local", num_cpus=6, include_dashboard=False, log_to_driver=False)
    rows, draw, ended = folder / "ray" / "rows", random.Random(0), threading.Event()
    killed: dict[int, int] = {}  # process -> files of rows that there were

    def kill() -> None:
        while len(killed) < RAY_KILLS and not ended.wait(draw.uniform(0, 0.4)):
            alive = [actor for actor in actors_of_ray() if actor.pid not in killed]
            written = len(list(rows.glob("*.parquet")))
            if alive and written > max(killed.values(), default=0):
                actor = draw.choice(alive)
                with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
                    actor.kill()
                    killed[actor.pid] = written

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        files = find_videos(str(folder / "videos"))
        found = label_with_ray(files, folder / "ray", str(folder / "model"), num_actors=2, shard_size=SHARD_SIZE)
    finally:
        ended.set()
        killer.join()
        ray.shutdown()
    in_order = sorted(found.to_table().to_pylist(), key=lambda row: row["path"])
    compared = compare_rows(in_order, expected, 1e-6)  # sums of one thread, that of an actor, are not those of two
    return {"kills": len(killed), "files_of_rows_at_the_kills": list(killed.values()), **compared}


def actors_of_ray() -> list[psutil.Process]:
    """The processes that have the model."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "ray::MapWorker(MapBatches" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:  # it has ended
            continue
    return found


def compare_rows(
    found: list[dict[str, Any]], expected: list[dict[str, Any]], tolerance: float = 0.0
) -> dict[str, Any]:
    """What there is, and whether it is what a run that was left alone has, scores within the tolerance."""

    def agree(row: dict[str, Any], other: dict[str, Any]) -> bool:
        scores, others = row.pop("scores") or [], other.pop("scores") or []
        close = (math.isclose(*pair, rel_tol=0, abs_tol=tolerance) for pair in zip(scores, others, strict=True))
        return row == other and all(close)

    return {
        "files": len(found),
        "different_files": len({row["path"] for row in found}),
        "errors": sum(row["error"] is not None for row in found),
        "equal_to_an_uninterrupted_run": len(found) == len(expected) and all(map(agree, found, expected)),
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
    broken = {case: found[case] for case in ("kills", "full_disk", "ray_kills") if case in found}
    return "\n\n".join([*parts, json.dumps(broken, indent=1)])


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
    "full_disk": functools.partial(on_small_files, fill_disk),
    "ray_kills": functools.partial(on_small_files, kill_workers_of_ray),
}


def main() -> None:
    """Measure, write, print."""
    run_cases(__doc__, CASES, RESULTS, tables, rounds=4)


if __name__ == "__main__":
    main()
