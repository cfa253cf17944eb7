"""Collections of videos: rows against the pipeline, bad files, resuming, kills, several processes."""

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import make_model, save_model
from datasets import load_dataset
from transformers import TorchAoConfig, pipeline

from ila_hf import ILAForVideoClassification, ILAForVideoTextClassification
from ila_hf.__main__ import main
from ila_hf.data.run_folders import in_use
from ila_hf.data.video_data import load_unlabelled
from ila_hf.data.whole_files import remove_parts, replace_file
from ila_hf.demo.drawing import write_video
from ila_hf.demo.motion_clips import draw_clip
from ila_hf.demo.tiny import tiny_processor
from ila_hf.inference import ResultFolder, VideoLabeler, find_videos, label_videos, labeling


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Seven clips and two files that are none, in two folders."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(7):
        path = folder / "ab"[number % 2] / f"{number}.mp4"
        path.parent.mkdir(exist_ok=True)
        write_video(path, draw_clip(number)[0][: 10 + number], 10)
    (folder / "a" / "text.mp4").write_text("no video")
    cut = (folder / "b" / "1.mp4").read_bytes()
    (folder / "b" / "cut.mp4").write_bytes(cut[: len(cut) // 3])
    return folder


@pytest.fixture(scope="module")
def labeler(model):
    return VideoLabeler(model, top_k=3, batch_size=2)


def rows_of(folder, file_format="parquet"):
    rows = []
    for file in sorted(folder.glob(f"*.{file_format}")):
        if file.name != "_plan.jsonl":
            lines = file.read_text().splitlines() if file_format == "jsonl" else ()
            rows += map(json.loads, lines) if lines else pq.read_table(file).to_pylist()
    return rows


@pytest.mark.parametrize("file_format", ["parquet", "jsonl"])
def test_rows_are_those_of_the_pipeline(labeler, model, videos, tmp_path, file_format):
    label_videos(find_videos(str(videos)), tmp_path, labeler, shard_size=4, file_format=file_format)
    rows = rows_of(tmp_path, file_format)
    assert [row["path"] for row in rows] == sorted(map(str, videos.glob("*/*.mp4")))
    classify = pipeline("video-classification", model=model)
    for row in rows:
        if row["error"] is not None:
            assert row["path"].endswith(("text.mp4", "cut.mp4"))
            assert row["path"] in row["error"]
            assert (row["labels"], row["scores"], row["num_frames"]) == (None, None, None)
            continue
        expected = classify(row["path"], top_k=3)
        assert row["labels"] == [answer["label"] for answer in expected]
        assert row["scores"] == pytest.approx([answer["score"] for answer in expected], abs=1e-5)
        assert row["num_frames"] == 10 + int(row["path"].rpartition("/")[2][0])
    assert len(list(tmp_path.glob(f"0*.{file_format}"))) == 3
    assert not list(tmp_path.glob("*.part"))


def test_several_views_and_several_labels(videos, tmp_path):
    model = make_model(ILAForVideoClassification, num_labels=4, problem_type="multi_label_classification")
    model.save_pretrained(tmp_path / "model")
    processor = tiny_processor(model.config).video_processor
    processor.num_clips, processor.num_crops = 2, 3
    processor.save_pretrained(tmp_path / "model")
    file = str(videos / "a" / "0.mp4")
    found = VideoLabeler(str(tmp_path / "model"), top_k=9)({"path": np.array([file]), "id": np.array([7])})
    (expected,) = [pipeline("video-classification", model=str(tmp_path / "model"))(file)]
    assert found["labels"] == [[answer["label"] for answer in expected]]
    assert found["scores"][0] == pytest.approx([answer["score"] for answer in expected], abs=1e-5)
    assert found["id"].tolist() == [7]


@pytest.mark.parametrize("linear", [False, True])
def test_features(videos, tmp_path, linear):
    """Unit vectors, the mean over views of what the heads compare."""
    model = make_model(ILAForVideoClassification) if linear else make_model()
    model.save_pretrained(tmp_path / "model")
    processor = tiny_processor(model.config)
    processor.video_processor.num_clips = 2
    processor.save_pretrained(tmp_path / "model")
    main(["embed", "--model", str(tmp_path / "model"), "--videos", str(videos), "--output_dir", str(tmp_path / "out")])
    table = pq.read_table(next((tmp_path / "out").glob("*.parquet")))
    assert str(table.schema.field("features").type) == "fixed_size_list<element: float>[64]"
    for row in table.to_pylist():
        if row["error"] is not None:
            assert row["features"] == [None] * 64
            continue
        views = processor(videos=row["path"], return_tensors="pt").pixel_values[0]
        with torch.no_grad():
            trunk = model.vision_model(views).pooler_output
            features = model.integration(model.visual_projection(trunk))
        mean = (features / features.norm(dim=1, keepdim=True)).mean(0)
        torch.testing.assert_close(torch.tensor(row["features"]), mean / mean.norm(), atol=1e-5, rtol=1e-4)


def test_a_grown_list_and_failed_files(labeler, videos, tmp_path, monkeypatch):
    files = find_videos(str(videos))
    made, read = [], []
    results, of_processes = labeler.results, labeling.map_in_processes
    monkeypatch.setattr(
        labeling, "map_in_processes", lambda f, paths, *a: read.extend(paths) or of_processes(f, paths, *a)
    )
    monkeypatch.setattr(labeler, "results", lambda clips: made.append(len(clips)) or results(clips))
    label_videos(files[:5], tmp_path, labeler, shard_size=3)
    assert sum(made) == 5
    before = {file.name: file.read_bytes() for file in tmp_path.glob("0*")}
    label_videos(files, tmp_path, labeler, shard_size=3)
    assert sum(made) == 9
    assert all((tmp_path / name).read_bytes() == content for name, content in before.items())
    label_videos(files, tmp_path, labeler, shard_size=3)
    assert sum(made) == 9
    rows = rows_of(tmp_path)
    assert [row["path"] for row in rows] == files
    # One of the bad files is mended, and a good one is gone
    bad = [row["path"] for row in rows if row["error"]]
    spoilt = Path(bad[0]).read_bytes()
    write_video(bad[0], draw_clip(9)[0][:9], 10)
    neighbour = Path(next(shard for shard in (files[i : i + 3] for i in (0, 3, 6)) if bad[0] in shard)[0])
    kept = neighbour.read_bytes()
    neighbour.unlink()
    read.clear()
    try:
        label_videos(files, tmp_path, labeler, shard_size=3, retry_failed=True)
    finally:
        Path(bad[0]).write_bytes(spoilt)
        neighbour.write_bytes(kept)
    assert read == bad
    again = {row["path"]: row for row in rows_of(tmp_path)}
    assert again[bad[0]]["num_frames"] == 9
    assert again[bad[1]]["error"]
    for row in rows:
        if row["path"] != bad[0]:
            assert again[row["path"]]["labels"] == row["labels"]


def test_a_file_has_one_row_whatever_it_is_called(labeler, videos, tmp_path, monkeypatch):
    monkeypatch.chdir(videos / "a")
    label_videos(find_videos("."), tmp_path, labeler)
    monkeypatch.chdir(videos / "b")
    label_videos([*find_videos("*.mp4"), str(videos / "b" / "1.mp4")], tmp_path, labeler)
    assert sorted(row["path"] for row in rows_of(tmp_path)) == sorted(map(str, videos.glob("*/*.mp4")))


def test_a_list_that_has_shrunk_leaves_the_others(labeler, videos, tmp_path):
    files = find_videos(str(videos))
    ResultFolder(tmp_path, labeler.fingerprint(), labeler.schema).plan(files, 3)
    label_videos(files[:1], tmp_path, labeler, shard_size=3)
    assert [row["path"] for row in rows_of(tmp_path)] == files[:3]


def test_a_folder_of_results_is_a_data_set(labeler, videos, tmp_path):
    label_videos(find_videos(f"{videos}/a/*.mp4"), tmp_path, labeler)
    assert pq.read_table(tmp_path).num_rows == 5
    assert len(pd.read_parquet(tmp_path)) == 5
    (split,) = load_dataset(str(tmp_path), cache_dir=str(tmp_path.with_name("cache"))).values()
    assert len(split) == 5


def test_any_error_of_a_file_is_its_row(labeler, videos, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr("ila_hf.inference.clip_of_file.read_video", fail)
    found = labeler.read("a.mp4")
    assert found == (None, None, "Cannot read the video 'a.mp4': RuntimeError: can't allocate memory")


def test_quantised_models(videos, tmp_path):
    torchao = pytest.importorskip("torchao.quantization", reason="it needs a newer torch than the lowest supported")
    folder = save_model(tmp_path / "plain")
    scheme = TorchAoConfig(torchao.Int8WeightOnlyConfig(set_inductor_config=False))
    model = ILAForVideoTextClassification.from_pretrained(folder, quantization_config=scheme)
    digest = labeling._digest(model)
    assert digest == labeling._digest(model)
    with torch.no_grad():
        model.vision_model.encoder.layers[0].mlp.fc1.weight.scale.mul_(2)
    assert digest != labeling._digest(model)


def test_two_writers_leave_a_whole_file(tmp_path):
    """One begins while the other is at it, and ends first."""
    file = tmp_path / "rows"

    def slow(opened):
        opened.write(b"slow")
        replace_file(file, lambda other: other.write(b"fast"))
        assert file.read_bytes() == b"fast"

    replace_file(file, slow)
    assert file.read_bytes() == b"slow"
    assert list(tmp_path.iterdir()) == [file]
    (tmp_path / "rows.1-2.part").write_bytes(b"killed")
    remove_parts(tmp_path)
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_of_something_else_is_refused(labeler, model, videos, tmp_path):
    files = find_videos(str(videos))[:2]
    label_videos(files, tmp_path / "out", labeler)
    with pytest.raises(ValueError, match=r"results of something else: top_k was 3, is 2\. Take another folder"):
        label_videos(files, tmp_path / "out", VideoLabeler(model, top_k=2))
    with pytest.raises(ValueError, match=r"processor.num_frames was 8, is 4"):
        label_videos(files, tmp_path / "out", VideoLabeler(model, top_k=3, num_frames=4))
    with pytest.raises(ValueError, match="file_format was 'parquet', is 'jsonl'"):
        label_videos(files, tmp_path / "out", labeler, file_format="jsonl")
    other = make_model()
    with torch.no_grad():
        other.logit_scale.add_(1)
    other.save_pretrained(tmp_path / "model")
    tiny_processor(other.config).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="weights was"):
        label_videos(files, tmp_path / "out", VideoLabeler(str(tmp_path / "model"), top_k=3))
    same = VideoLabeler(model, top_k=3, batch_size=1)
    assert len(list(label_videos(files, tmp_path / "out", same).rows())) == 2


def test_what_is_found(videos, tmp_path):
    everything = sorted(map(str, videos.glob("*/*.mp4")))
    assert find_videos(str(videos)) == everything
    assert find_videos(f"{videos}/a/*.mp4") == [path for path in everything if "/a/" in path]
    assert find_videos(f"{videos}/**/*.mp4") == everything
    (tmp_path / "list.csv").write_text(
        "video,label\n" + "".join(f"{path},x\n" for path in [*everything, everything[0]])
    )
    with pytest.warns(UserWarning, match="classes"):
        assert find_videos(str(tmp_path / "list.csv")) == everything
    (tmp_path / "list.jsonl").write_text("".join(json.dumps({"video": path}) + "\n" for path in everything))
    assert find_videos(str(tmp_path / "list.jsonl")) == everything
    with pytest.raises(FileNotFoundError, match=r"no file that matches '.*\*.avi'"):
        find_videos(f"{videos}/*.avi")


def test_what_is_refused(labeler, model, videos, tmp_path):
    for name in ("top_k", "batch_size", "num_frames", "num_workers"):
        with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
            VideoLabeler(model, **{name: 0})
    files = find_videos(str(videos))
    folder = ResultFolder(tmp_path / "used", labeler.fingerprint(), labeler.schema)
    with in_use(folder.folder), pytest.raises(ValueError, match="used' is in use by another run"):
        label_videos(files, tmp_path / "used", labeler)
    with pytest.raises(ValueError, match="`shard_size` must be at least 1, got 0"):
        label_videos(files, tmp_path, labeler, shard_size=0)


def _dies(path):
    if path.endswith("0.mp4"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return None, None, "read"


def test_a_reader_that_dies_costs_its_file(labeler, videos, tmp_path, monkeypatch):
    read = labeler.read
    _dies.limits = read.limits
    monkeypatch.setattr(labeler, "read", _dies)
    monkeypatch.setattr(labeler, "num_workers", 2)
    files = find_videos(str(videos))
    label_videos(files, tmp_path, labeler)
    errors = {row["path"].rpartition("/")[2]: row["error"] for row in rows_of(tmp_path)}
    assert len(errors) == 9
    assert errors.pop("0.mp4").endswith("0.mp4': its decoder crashes")
    assert set(errors.values()) == {"read"}
    assert labeler({"path": files})["error"] == [row["error"] for row in rows_of(tmp_path)]


@pytest.mark.parametrize("file_format", ["parquet", "jsonl"])
def test_names_that_are_no_text(labeler, videos, tmp_path, file_format):
    r"""Systems allow any bytes: such a name is written with its bytes as \udcff, and its video is like others."""
    (tmp_path / "in").mkdir()
    try:
        shutil.copy(videos / "a" / "0.mp4", os.fsencode(tmp_path / "in") + b"/\xff.mp4")
    except OSError:
        pytest.skip("the file system has no such names")
    Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/bad\xfe.mp4")).write_text("none")
    for _ in range(2):
        label_videos(find_videos(str(tmp_path / "in")), tmp_path / "out", labeler, file_format=file_format)
        bad, good = rows_of(tmp_path / "out", file_format)
        assert bad["path"] == f"{tmp_path}/in/bad\\udcfe.mp4"
        assert "bad\\udcfe.mp4" in bad["error"]
        assert good["path"] == f"{tmp_path}/in/\\udcff.mp4"
        assert good["num_frames"] == 10
    assert find_videos(f"{tmp_path}/in/*.mp4") == find_videos(str(tmp_path / "in"))
    with pytest.raises(ValueError, match=r"bad\\udcfe.mp4' is no UTF-8, as the columns of a data set are: rename it"):
        load_unlabelled(tmp_path / "in")
    shutil.copy(videos / "a" / "0.mp4", os.fsencode(tmp_path / "in") + b"/bad\xfe.mp4")
    files = find_videos(str(tmp_path / "in"))
    label_videos(files, tmp_path / "out", labeler, file_format=file_format, retry_failed=True)
    mended, good = rows_of(tmp_path / "out", file_format)
    assert mended == {**good, "path": bad["path"]}
    Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/bad\xfe.mp4")).write_text("none")
    with pytest.raises(SystemExit):  # there is a bad file
        main(["check", "--data", str(tmp_path / "in"), "--output_file", str(tmp_path / "list.jsonl")])
    (line,) = (tmp_path / "list.jsonl").read_text().splitlines()
    assert json.loads(line)["video"].endswith("bad\udcfe.mp4")


def test_arrow_tables(labeler, videos):
    """As Ray Data gives them, and as dicts of columns."""
    files = find_videos(str(videos))
    columns = labeler({"path": files, "id": list(range(9))})
    table = labeler(pa.table({"id": range(9), "path": files}))
    assert table.column_names == ["id", "path", "labels", "scores", "num_frames", "error"]
    assert table.schema.field("scores").type == pa.list_(pa.float32())
    assert table["labels"].to_pylist() == columns["labels"]
    assert table["error"].to_pylist() == columns["error"]


def test_a_full_disk(labeler, videos, tmp_path, monkeypatch):
    """What is complete stays; what is not is not there; the next call goes on."""
    files = find_videos(str(videos))
    write, count = pq.write_table, []

    def full(table, file):
        count.append(1)
        if len(count) == 2:
            file.write(b"PAR1 and a part of it")
            raise OSError(28, "No space left on device")
        write(table, file)

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        label_videos(files, tmp_path, labeler, shard_size=3)
    assert [file.name for file in sorted(tmp_path.glob("0*"))] == ["00000.parquet"]
    label_videos(files, tmp_path, labeler, shard_size=3)
    assert [row["path"] for row in rows_of(tmp_path)] == files


def command(model, videos, output, *arguments):
    words = ["label", "--model", model, "--videos", str(videos), "--output_dir", str(output)]
    return [*words, "--shard_size", "3", "--batch_size", "2", "--top_k", "3", *arguments]


@pytest.mark.slow
def test_killed_at_any_moment(labeler, model, videos, tmp_path):
    """Killed until it is done; every file once, rows as those of a run that was left alone."""
    label_videos(find_videos(str(videos)), tmp_path / "whole", labeler, shard_size=3)
    draw, program = random.Random(1), [sys.executable, "-m", "ila_hf"]
    for _ in range(3):
        with subprocess.Popen(
            [*program, *command(model, videos, tmp_path / "killed")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            limit = time.monotonic() + 60
            started = draw.choice([0, 1, 2])
            while process.poll() is None and time.monotonic() < limit:
                if len(list((tmp_path / "killed").glob("0*.parquet"))) >= started:
                    time.sleep(draw.random() / 4)
                    os.killpg(process.pid, signal.SIGKILL)
                    break
                time.sleep(0.01)
    subprocess.run([*program, *command(model, videos, tmp_path / "killed")], check=True, capture_output=True)
    assert_same_rows(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
def test_a_disk_that_is_full(model, videos, tmp_path):
    """A file system of its own, in a mount namespace: too small, and then grown."""
    (tmp_path / "disk").mkdir()
    label = shlex.join([sys.executable, "-m", "ila_hf", *command(model, videos, tmp_path / "disk" / "out")])
    mount = f"mount -t tmpfs -o size=16k tmpfs {tmp_path}/disk"
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    try:
        subprocess.run([*unshare, mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mount namespaces are not allowed here")
    script = (
        f"{mount} && ! {label} && ls {tmp_path}/disk/out && mount -o remount,size=8m {tmp_path}/disk && {label} "
        f"&& cp -r {tmp_path}/disk/out {tmp_path}/after"
    )
    done = subprocess.run([*unshare, script], check=True, capture_output=True, text=True)
    assert "No space left on device" in done.stderr
    assert "00000.parquet" in done.stdout.split()
    assert "00002.parquet" not in done.stdout.split()
    assert not list((tmp_path / "after").glob("*.part"))
    subprocess.run([sys.executable, "-m", "ila_hf", *command(model, videos, tmp_path / "whole")], check=True)
    assert_same_rows(tmp_path / "after", tmp_path / "whole")


def assert_same_rows(folder, other):
    assert rows_of(folder) == rows_of(other)


@pytest.mark.slow
def test_two_processes(labeler, model, videos, tmp_path):
    label_videos(find_videos(str(videos)), tmp_path / "whole", labeler, shard_size=3)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "-m", "ila_hf"]
    done = subprocess.run(
        [*launch, *command(model, videos, tmp_path / "two")], check=True, capture_output=True, text=True
    )
    assert "9 videos, 2 of them could not be read" in done.stdout
    assert_same_rows(tmp_path / "two", tmp_path / "whole")


FILLING = """
import sys
from accelerate import PartialState
from ila_hf.inference import VideoLabeler, find_videos, label_videos

if __name__ == "__main__":
    model, videos, output_dir = sys.argv[1:]
    files = find_videos(videos)
    # The second process has looked before the folder was full
    files = files if PartialState().is_main_process else files[:1]
    label_videos(files, output_dir, VideoLabeler(model, top_k=3, batch_size=2), shard_size=3)
"""


@pytest.mark.slow
def test_processes_agree_on_a_list_that_grows(labeler, model, videos, tmp_path):
    label_videos(find_videos(str(videos)), tmp_path / "whole", labeler, shard_size=3)
    (tmp_path / "script.py").write_text(FILLING)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    words = [str(tmp_path / "script.py"), model, str(videos), str(tmp_path / "two")]
    done = subprocess.run([*launch, *words], check=True, capture_output=True, text=True)
    assert_same_rows(tmp_path / "two", tmp_path / "whole")
    assert "9/9 " in done.stderr  # the bar is that of all processes
    assert "errors=2" in done.stderr


def test_each_process_has_a_shard(labeler, videos, tmp_path, monkeypatch):
    """Of a list that would fit into one, also when it has grown."""
    state = SimpleNamespace(num_processes=4, process_index=1, is_main_process=True, wait_for_everyone=lambda: None)
    monkeypatch.setattr(labeling, "PartialState", lambda **options: state)
    monkeypatch.setattr(labeling, "broadcast_object_list", lambda lists: lists)
    files = find_videos(str(videos))
    label_videos(files[:1], tmp_path, labeler)
    folder = label_videos(files, tmp_path, labeler)
    assert [len(shard.paths) for shard in folder.shards()] == [1, 2, 2, 2, 2]  # batches of two
    assert [row["path"] for row in rows_of(tmp_path)] == files[1:3]
    for state.process_index in (0, 2, 3):
        label_videos(files, tmp_path, labeler)
    assert [row["path"] for row in rows_of(tmp_path)] == files


def test_what_others_have_done_is_told(tmp_path, labeler):
    folder = ResultFolder(tmp_path, {"a": 1}, labeler.schema)
    folder.plan(["u", "v", "x", "y"], 2)
    first, second = folder.shards()
    row = {"labels": ["a"], "scores": [0.5], "num_frames": 3}
    folder.write(first, [{**row, "path": "u", "error": "bad"}, {**row, "path": "v", "error": None}])
    others = labeling._ShardsOfOthers(folder, [first, second])
    others.add({shard.file: folder.missing(shard, failed=True) for shard in (first, second)})
    assert sum(map(len, others.missing.values())) == 3
    assert others.news() == (0, 0)
    folder.write(second, [{**row, "path": "x", "error": "bad"}, {**row, "path": "y", "error": None}])
    assert others.news() == (2, 1)
    folder.write(first, [{**row, "path": "u", "error": None}])
    told = []
    with closing(labeling._Watch(lambda: told.append(others.news()), seconds=600)):
        pass
    assert told == [(1, 0)]  # the last news are told when all are done
    assert others.news() == (0, 0)


def test_a_folder_reads_what_it_wrote(tmp_path, labeler):
    folder = ResultFolder(tmp_path, {"a": 1}, labeler.schema)
    folder.plan(["x", "y", "x"], 1)
    first, second = folder.shards()
    assert (first.paths, second.paths) == (["x"], ["y"])
    assert folder.missing(first) == ["x"]
    row = {"path": "x", "labels": ["é"], "scores": [0.5], "num_frames": 3, "error": None}
    folder.write(first, [row])
    assert [folder.missing(shard) for shard in (first, second)] == [[], ["y"]]
    assert list(folder.rows()) == [row]
    assert list(folder.rows(["error"])) == [{"error": None}]
    folder.write(second, [{**row, "path": "y", "error": "bad"}])
    assert [folder.missing(shard, failed=True) for shard in (first, second)] == [[], ["y"]]
