"""Collections of videos on a cluster: a real Ray on this machine, against the local engine; kills of its workers."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from conftest import save_model

from ila_hf.__main__ import main
from ila_hf.demo.drawing import write_video
from ila_hf.demo.motion_clips import draw_clip
from ila_hf.inference import VideoLabeler, find_videos, label_videos, label_with_ray


FILES, KILLS = 60, 5


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Short clips; some are damaged."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(FILES):
        path = folder / f"{number:03}.mp4"
        write_video(path, draw_clip(number)[0][:9], 10)
        if number % 10 == 0:
            path.write_bytes(path.read_bytes()[:300])
    return folder


@pytest.fixture(scope="module")
def expected(model, videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    return list(label_videos(find_videos(str(videos)), folder, VideoLabeler(model, batch_size=2)).rows())


@pytest.fixture(scope="module")
def cluster():
    """As many CPUs as two actors and Ray's own ask for."""
    ray = pytest.importorskip("ray", reason="Ray has no wheel for this Python")
    ray.init("local", num_cpus=6, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def rows_of(dataset):
    return sorted(dataset.to_table().to_pylist(), key=lambda row: row["path"])


def assert_same(rows, expected):
    """The sums of one thread and of two differ in their last bits."""
    assert len(rows) == len(expected)
    for row, other in zip(rows, expected, strict=True):
        assert row.keys() == other.keys()
        for name, value in other.items():
            if name in ("scores", "features") and value is not None:
                value = pytest.approx(value, abs=1e-6)
            assert row[name] == value, row["path"]


def workers():
    """The processes of the actors."""
    return [process for process in psutil.process_iter() if "ray::MapWorker(MapBatches" in name_of(process)]


def name_of(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended
        return ""


@pytest.mark.slow
def test_rows_are_those_of_the_local_engine(cluster, model, videos, expected, tmp_path):
    """A list that grows, and the same rows, each once."""
    files = find_videos(str(videos))
    options = {"num_actors": 2, "shard_size": 6, "batch_size": 2}
    label_with_ray(files[:24], tmp_path, model, **options)
    first = {file.name: file.read_bytes() for file in (tmp_path / "rows").iterdir()}
    assert sum(pq.read_metadata(tmp_path / "rows" / name).num_rows for name in first) == 24
    rows = rows_of(label_with_ray([*files, files[0]], tmp_path, model, **options))
    assert all((tmp_path / "rows" / name).read_bytes() == content for name, content in first.items())
    assert_same(rows, expected)
    assert sum(row["error"] is not None for row in rows) == FILES // 10
    with pytest.raises(ValueError, match="top_k was 5, is 2"):
        label_with_ray(files, tmp_path, model, top_k=2)


@pytest.mark.slow
def test_features(cluster, model, videos, tmp_path):
    files = find_videos(str(videos))[:4]
    labeler = VideoLabeler(model, embed=True)
    (tmp_path / "local").mkdir()
    found = label_with_ray(files, tmp_path / "ray", model, embed=True)
    assert found.schema == labeler.schema
    assert_same(rows_of(found), list(label_videos(files, tmp_path / "local", labeler).rows()))


@pytest.mark.slow
def test_kills_of_workers(cluster, model, videos, expected, tmp_path):
    """Five in one run: Ray starts others, and every file is there once."""
    killed, done = [], threading.Event()

    def kill():
        while len(killed) < KILLS and not done.wait(0.2):
            alive = [process for process in workers() if process.pid not in killed]
            # One that works, a moment after there is something new
            if alive and len(list((tmp_path / "rows").glob("*.parquet"))) > len(killed):
                alive[-1].kill()
                killed.append(alive[-1].pid)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        found = label_with_ray(find_videos(str(videos)), tmp_path, model, num_actors=2, shard_size=2, batch_size=2)
    finally:
        done.set()
        thread.join()
    assert len(killed) == KILLS
    assert_same(rows_of(found), expected)


@pytest.mark.slow
def test_a_killed_run_goes_on(model, videos, expected, tmp_path):
    """The whole command, killed after its first rows."""
    pytest.importorskip("ray", reason="Ray has no wheel for this Python")
    words = ["label", "--engine", "ray", "--model", model, "--videos", str(videos), "--output_dir", str(tmp_path)]
    command = [sys.executable, "-m", "ila_hf", *words, "--shard_size", "2", "--batch_size", "2"]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        limit = time.monotonic() + 900  # where other work runs, too, Ray alone may take minutes to start
        while process.poll() is None and len(list((tmp_path / "rows").glob("*.parquet"))) < 3:
            assert time.monotonic() < limit
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert f"{FILES} videos, {FILES // 10} of them could not be read" in done.stdout
    rows = [row for file in Path(tmp_path / "rows").iterdir() for row in pq.read_table(file).to_pylist()]
    assert_same(sorted(rows, key=lambda row: row["path"]), expected)


def test_what_is_refused(model, videos, tmp_path, capsys):
    pytest.importorskip("ray", reason="Ray has no wheel for this Python")
    files = find_videos(str(videos))
    for name in ("num_actors", "shard_size"):
        with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
            label_with_ray(files, tmp_path, model, **{name: 0})
    with pytest.raises(ValueError, match=r"The name '/a/\\udcff.mp4' is no UTF-8, as Ray's tables are: rename it"):
        label_with_ray([*files, "/a/\udcff.mp4"], tmp_path, model)
    words = ["label", "--model", model, "--videos", str(videos), "--output_dir", str(tmp_path)]
    for more, message in [
        (["--engine", "ray", "--retry_failed"], "what failed cannot be tried again"),
        (["--engine", "ray", "--file_format", "jsonl"], "the rows are Parquet"),
        (["--num_actors", "2"], "`num_actors` is for --engine ray"),
    ]:
        with pytest.raises(SystemExit):
            main([*words, *more])
        assert message in capsys.readouterr().err


def test_without_ray(model, videos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"Clusters need Ray: pip install 'ila-hf\[ray\]'"):
        label_with_ray(find_videos(str(videos)), tmp_path, model)
