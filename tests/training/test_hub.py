"""Pushing and loading through the real client of the Hub, against a server of ours; see hub_server.py."""

import json
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import huggingface_hub
import pytest
import torch
from hub_server import HubServer, check_card
from safetensors.torch import load_file

from ila_hf import ILAForVideoClassification, ILAForVideoTextClassification
from ila_hf.demo.motion_clips import MOTIONS
from ila_hf.demo.motion_videos import make_motion_videos
from ila_hf.demo.tiny import tiny_processor


ROOT = Path(__file__).parents[2]
TRAINER, NO_TRAINER = "run_video_classification.py", "run_video_classification_no_trainer.py"
WRITTEN_FOR_RESUMES = (
    "checkpoint-",
    "optimizer",
    "scheduler",
    "rng_state",
    "random_states",
    "complete.json",
    "custom_",
)
MODEL_FILES = {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json"}
START = """
import json, os, sys, time
from pathlib import Path
import torch
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard
from ila_hf import *
from ila_hf.training.hub import PushError, open_repo, push_folder, pushing

folder, report = Path(sys.argv[1]), {}
clips = torch.randn(2, 8, 3, 32, 32, generator=torch.Generator().manual_seed(2))

def logits(model):
    with torch.no_grad():
        return model.eval()(clips).logits

def refusal(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except PushError as error:
        return str(error)
"""


@pytest.fixture
def hub():
    with HubServer(multipart_size=3 * 2**20) as server:  # the tiny model has 7 MB
        yield server


def run(hub, words, home, token=None):
    """Run Python with arguments, as a user of the Hub."""
    environment = hub.environment(home, token)
    words = [sys.executable, *map(str, words)]
    return subprocess.run(
        words, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
    )


def report(hub, code, folder, home, token=None):
    """What a piece of code puts into `report`."""
    file = folder / "program.py"
    file.write_text(START + code + "\n(folder / 'report.json').write_text(json.dumps(report))\n")
    done = run(hub, [file, folder], home, token)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "report.json").read_text())


def train(hub, script, data, output, home, token=None, **extra):
    flags = {"train_dir": data / "train", "validation_dir": data / "validation", "model_name_or_path": data / "tiny"}
    flags |= {"output_dir": output, "use_cpu": True, "push_to_hub": True, "per_device_train_batch_size": 4, **extra}
    if script == TRAINER:
        flags |= {"do_train": True, "do_eval": True, "max_steps": 2, "report_to": "none", "disable_tqdm": True}
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    return run(hub, [ROOT / "examples" / script, *words], home, token)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Videos, one of them broken, and a tiny model to train."""
    from ila_hf.__main__ import main as ila_hf

    folder = tmp_path_factory.mktemp("data")
    make_motion_videos(folder, {"train": 8, "validation": 8})
    (folder / "train" / "moving_left" / "broken.mp4").write_text("not a video")
    ila_hf(["tiny-model", "--output_dir", str(folder / "tiny")])
    return folder


def save(folder, model, change=0.0):
    with torch.no_grad():
        model.visual_projection.weight.add_(change)
    model.save_pretrained(folder)
    tiny_processor(model.config).save_pretrained(folder)
    return folder


def without_code(paths):
    return {path for path in paths if not path.endswith(".py")}


PUSH = """
from ila_hf.evaluation.model_card import card_from_run
first, second = (ILAForVideoTextClassification.from_pretrained(folder / name) for name in ("first", "second"))
processor = ILAProcessor.from_pretrained(folder / "first")
repo = "tester/text"
metrics = {"top1": 0.5, "num_clips": 4}
card = card_from_run(first, processor.video_processor, model_name=repo, recipe={}, metrics=metrics)
report["pushed"] = first.push_to_hub(repo).oid
processor.push_to_hub(repo)
card.push_to_hub(repo)
report["first"] = HfApi().model_info(repo).sha
second.push_to_hub(repo, commit_message="A better one")
linear = ILAForVideoClassification.from_pretrained(folder / "linear")
linear.push_to_hub("tester/linear", private=True)
processor.video_processor.push_to_hub("tester/linear")
torch.save([logits(first), logits(second), logits(linear)], folder / "logits.pt")
"""
LOAD = """
from transformers import AutoModelForVideoClassification, AutoProcessor, AutoVideoProcessor, pipeline
pushed = json.loads((folder / "pushed.json").read_text())
first, second, linear = torch.load(folder / "logits.pt")
repo, cls = "tester/text", ILAForVideoTextClassification
model, auto = cls.from_pretrained(repo), AutoModelForVideoClassification.from_pretrained(repo)
old = [cls.from_pretrained(repo, revision=pushed[name]) for name in ("first", "pushed")]
report["same"] = [torch.equal(logits(one), second) for one in (model, auto)]
report["same"] += [torch.equal(logits(one), first) for one in old]
other = AutoModelForVideoClassification.from_pretrained("tester/linear")
report["same"].append(torch.equal(logits(other), linear))
report["types"] = [type(one).__name__ for one in (model, auto, other)]
processors = [ILAProcessor.from_pretrained(repo), AutoProcessor.from_pretrained(repo)]
report["types"] += [type(one).__name__ for one in (*processors, AutoVideoProcessor.from_pretrained("tester/linear"))]
report["labels"] = [one.config.id2label[5] for one in (model, other)]
report["text"] = processors[1].tokenizer.decode(model.class_texts.input_ids[5], skip_special_tokens=True)
video = str(folder / "clip.mp4")
answers = pipeline("video-classification", model=repo)(video, top_k=8)
with torch.no_grad():
    scores = model(processors[0](videos=video, return_tensors="pt")["pixel_values"]).logits.softmax(-1)[0]
report["pipeline"] = [[answer["label"], answer["score"]] for answer in answers]
report["scores"] = {model.config.id2label[i]: float(score) for i, score in enumerate(scores)}
try:
    ILAForVideoClassification.from_pretrained("tester/linear", token=False, cache_dir=folder / "empty")
except OSError as error:
    report["private"] = str(error)
"""


# The clients before it ask huggingface.co whether a card is valid, whatever HF_ENDPOINT is
@pytest.mark.skipif(huggingface_hub.__version__ < "2", reason="this client checks cards at huggingface.co only")
def test_what_was_pushed_is_what_is_loaded(hub, tiny_model, video_file, tmp_path):
    save(tmp_path / "first", tiny_model())
    save(tmp_path / "second", tiny_model(), change=0.01)
    save(tmp_path / "linear", tiny_model(ILAForVideoClassification, id2label=dict(enumerate(MOTIONS[:6]))))
    token = hub.add_token()
    pushed = report(hub, PUSH, tmp_path, tmp_path / "home", token)

    titles = [commit.title for commit in hub.commits("tester/text")]
    assert titles == [
        "A better one",
        "Upload README.md with huggingface_hub",
        "Upload processor",
        "Upload ILAForVideoTextClassification",
        "initial commit",
    ]
    files = hub.files("tester/text")
    assert without_code(files) == {".gitattributes", "README.md", *MODEL_FILES}
    assert hub.lfs_files("tester/text") == {"model.safetensors"}
    assert "part" in hub.operations()  # uploaded in parts
    assert json.loads(files["config.json"])["id2label"]["5"] == MOTIONS[5]
    assert any("pipeline_tag: video-classification" in card for card in hub.cards)
    assert "pipeline_tag: video-classification" in files["README.md"].decode()  # not replaced by later pushes
    assert "## " in files["README.md"].decode()
    assert hub.repos["tester/linear"].private

    (tmp_path / "pushed.json").write_text(json.dumps(pushed))
    (tmp_path / "clip.mp4").write_bytes(video_file.read_bytes())
    hub.requests.clear()
    loaded = report(hub, LOAD, tmp_path, tmp_path / "another home", token)
    assert loaded["same"] == [True] * 5
    heads = ["ILAForVideoTextClassification"] * 2 + ["ILAForVideoClassification"]
    assert loaded["types"] == [*heads, "ILAProcessor", "ILAProcessor", "ILAVideoProcessor"]
    assert loaded["labels"] == [MOTIONS[5], MOTIONS[5]]
    assert loaded["text"].startswith(MOTIONS[5].replace("_", " "))
    assert dict(loaded["pipeline"]) == pytest.approx(loaded["scores"], abs=1e-6)
    assert "tester/linear" in loaded["private"]
    assert "download" in hub.operations()  # nothing was left in a cache


def pushed_by_a_run(hub, name, output, token):
    """What holds for every push of a run: that of a model that can be loaded, and of nothing that is private."""
    commits = hub.commits(name)
    for commit in commits:
        assert not [path for path in commit.files if path.startswith(WRITTEN_FOR_RESUMES) or path.endswith(".lock")]
        assert "unreadable_videos.jsonl" not in commit.files
        assert not any(token.encode() in blob.data for blob in commit.files.values())
    assert (output / "unreadable_videos.jsonl").is_file()
    last = hub.files(name)
    assert {"README.md", "curves.png", "all_results.json", *MODEL_FILES} <= last.keys()
    for path in MODEL_FILES | {"README.md"}:
        assert last[path] == (output / path).read_bytes()
    assert f"`{name}`" in last["README.md"].decode() or f'"{name}"' in last["README.md"].decode()
    return commits


def test_trainer_pushes_checkpoints_and_the_end(hub, data, tmp_path):
    token = hub.add_token()
    names = {"hub_model_id": "tester/mine", "hub_token": token, "hub_private_repo": True}
    strategy = {"hub_strategy": "every_save", "hub_always_push": True, "save_strategy": "steps", "save_steps": 1}
    output = tmp_path / "output"
    done = train(hub, TRAINER, data, output, tmp_path / "home", **names, **strategy)
    assert done.returncode == 0, done.stderr[-3000:]
    assert hub.repos["tester/mine"].private
    commits = pushed_by_a_run(hub, "tester/mine", output, token)
    titles = [commit.title for commit in commits]
    # A push in the background may be so late that it finds, and pushes, what the next step has written
    steps = [f"Training in progress, step {step}" for step in (2, 1)]
    assert titles in [
        ["End of training", "Model save", *some, "initial commit"] for some in (steps, steps[:1], steps[1:])
    ]
    # With the code of the model, if it is saved
    pushed = commits[2].files
    checkpoint = {path.name: path.read_bytes() for path in (output / "checkpoint-2").iterdir()}
    assert [pushed[name].data for name in MODEL_FILES] == [checkpoint[name] for name in MODEL_FILES]
    assert {name for name in checkpoint if name.endswith(".py")} <= pushed.keys()


def test_the_loop_without_trainer_pushes_the_same(hub, data, tmp_path):
    token = hub.add_token()
    output = tmp_path / "my-videos"
    done = train(hub, NO_TRAINER, data, output, tmp_path / "home", token, num_train_epochs=1)
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(output.glob("checkpoint-*"))
    commits = pushed_by_a_run(hub, "tester/my-videos", output, token)  # called as the folder
    assert [commit.title for commit in commits] == ["End of training", "initial commit"]
    (tmp_path / "loaded").mkdir()
    for path, content in hub.files("tester/my-videos").items():
        (tmp_path / "loaded" / path).write_bytes(content)
    model = ILAForVideoTextClassification.from_pretrained(tmp_path / "loaded")
    assert torch.equal(model.logit_scale, load_file(output / "model.safetensors")["logit_scale"])


REFUSED = """
import runpy, traceback
tokens = json.loads((folder / "tokens.json").read_text())
report["no token"] = refusal(open_repo, "mine", folder / "x")
os.environ["HF_TOKEN"] = "hf_wrong"
report["wrong"] = refusal(open_repo, "tester/mine", folder / "x")
os.environ["HF_TOKEN"] = tokens["read"]
report["read only"] = refusal(open_repo, "tester/theirs", folder / "x")
report["read only, new"] = refusal(open_repo, "tester/mine", folder / "x")
os.environ["HF_TOKEN"] = tokens["write"]
report["someone else's"] = refusal(open_repo, "tester/theirs", folder / "x")
report["no right to create"] = refusal(open_repo, "tester/mine", folder / "x")
report["no branch"] = refusal(open_repo, "public", folder / "x", revision="nowhere")
report["public"] = refusal(open_repo, "public", folder / "x", private=True)
report["left behind"] = [path.name for path in (folder / "x").glob("*")]
report["opened"] = open_repo("public", folder / "x")
report["ignored"] = (folder / "x" / ".gitignore").read_text()

# Two push onto the same state
api, repo = HfApi(), report["opened"]
state = api.model_info(repo).sha
api.upload_file(path_or_fileobj=b"theirs", path_in_repo="a.txt", repo_id=repo)
def push():
    with pushing(repo, folder / "x", "main"):
        api.create_commit(repo, [CommitOperationAdd("a.txt", b"mine")], commit_message="mine", parent_commit=state)
report["stale"] = refusal(push)

# Both scripts ask before they train
flags = json.loads((folder / "flags.json").read_text())
os.environ["HF_TOKEN"] = tokens["read"]
for script, more in flags.items():
    sys.argv = [script, *more, "--hub_model_id", "tester/theirs"]
    report[Path(script).name] = refusal(runpy.run_path(script)["main"])
"""


def test_refusals_come_before_the_training_and_say_what_to_do(hub, data, tmp_path):
    tokens = {"read": hub.add_token("read"), "write": hub.add_token(user="another")}
    hub.create_repo("tester/theirs")
    (tmp_path / "tokens.json").write_text(json.dumps(tokens))
    common = ["--model_name_or_path", data / "tiny", "--train_dir", data / "train", "--use_cpu", True]
    common += ["--validation_dir", data / "validation", "--push_to_hub", True, "--output_dir"]
    trainer = ["--do_train", True, "--report_to", "none"]
    flags = {TRAINER: [*common, tmp_path / "trainer", *trainer], NO_TRAINER: [*common, tmp_path / "loop"]}
    flags = {str(ROOT / "examples" / script): list(map(str, words)) for script, words in flags.items()}
    (tmp_path / "flags.json").write_text(json.dumps(flags))
    answers = report(hub, REFUSED, tmp_path, tmp_path / "home")
    log_in, rights = "`hf auth login`, or set HF_TOKEN", "Take a token with write permission"
    for name, repo, parts in (
        ("no token", "mine", ("401", log_in)),
        ("wrong", "tester/mine", ("401", log_in)),
        ("read only", "tester/theirs", ("403", rights)),
        ("read only, new", "tester/mine", ("403", rights)),
        ("someone else's", "tester/theirs", ("403", rights, "a repository of yours (--hub_model_id)")),
        ("no right to create", "tester/mine", ('under the namespace "tester"', rights)),
        ("no branch", "public", ("404", "--hub_revision")),
        ("public", "another/public", ("is public", "--hub_private_repo")),
        ("stale", "another/public", ("412", "A commit has happened since", "Another push came first")),
        (TRAINER, "tester/theirs", ("403", rights)),
        (NO_TRAINER, "tester/theirs", ("403", rights)),
    ):
        assert answers[name] is not None, name
        for part in (repr(repo), *parts):
            assert part in answers[name], name
    assert answers["left behind"] == []
    assert answers["opened"] == "another/public"
    assert "/unreadable_videos.jsonl*" in answers["ignored"].splitlines()
    assert hub.files("another/public")["a.txt"] == b"theirs"
    assert len(hub.commits("tester/theirs")) == 1
    for folder in ("trainer", "loop"):
        assert not list((tmp_path / folder).glob("*"))  # nothing was trained


def test_a_token_that_ends_with_the_training_costs_nothing(hub, data, tmp_path):
    token, output = hub.add_token(), tmp_path / "output"
    hub.after("info", lambda: hub.revoke(token))  # the last question before the work
    arguments = {"hub_model_id": "tester/mine", "save_strategy": "steps", "save_steps": 1, "do_predict": True}
    arguments |= {"test_dir": data / "validation"}
    done = train(hub, TRAINER, data, output, tmp_path / "home", token, **arguments)
    assert done.returncode == 2
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith("run_video_classification.py: Cannot push to 'tester/mine': 401")
    assert f"All of the run is in {str(output)!r}" in error
    assert "A checkpoint was not pushed to 'tester/mine': 401" in done.stderr
    for name in ("README.md", "all_results.json", "eval_results.json", "confusion_matrix.csv", *MODEL_FILES):
        assert (output / name).is_file()
    assert len(hub.commits("tester/mine")) == 1

    # The command that it names
    words = shlex.split(error.partition("push it later: ")[2])
    assert words[:4] == ["hf", "upload", "tester/mine", str(output)]
    words[0] = str(Path(sys.executable).with_name("hf"))
    environment = hub.environment(tmp_path / "home", hub.add_token())
    subprocess.run(words, env=environment, stdin=subprocess.DEVNULL, check=True, capture_output=True)
    files = hub.files("tester/mine")
    assert files["model.safetensors"] == (output / "model.safetensors").read_bytes()
    unwanted = {"unreadable_videos.jsonl", "predictions.csv"}
    assert unwanted <= {path.name for path in output.iterdir()}
    assert not [path for path in files if path in unwanted or path.startswith("checkpoint-")]


INTERRUPTED = """
time.sleep = lambda seconds: None  # between the attempts of the client
model = ILAForVideoTextClassification.from_pretrained
repo = open_repo("mine", folder / "first")
first, second = logits(model(folder / "first")), logits(model(folder / "second"))
push_folder(repo, folder / "first", "first")
report["errors"], report["states"], report["old"] = [], [], []
for cache in "abc":
    report["errors"].append(refusal(push_folder, repo, folder / "second", "second"))
    report["states"].append(HfApi().model_info(repo).sha)
    report["old"].append(torch.equal(logits(model(repo, cache_dir=folder / cache)), first))
push_folder(repo, folder / "second", "second")
report["new"] = torch.equal(logits(model(repo)), second)
"""


def test_an_interrupted_push_leaves_the_state_before_it(hub, tiny_model, tmp_path):
    save(tmp_path / "first", tiny_model())
    save(tmp_path / "second", tiny_model(), change=0.01)
    (tmp_path / "second" / "notes.txt").write_text("more")
    attempts = 6  # of the client for each part of a file

    # After the first push: connections are dropped, the storage is out of order, then the commits are
    def break_uploads():
        hub.fail("part", None, attempts)
        hub.after("batch", lambda: hub.after("info", break_storage))

    def break_storage():
        hub.fail("verify", 503, attempts)
        hub.after("info", lambda: hub.fail("commit", 500))

    hub.after("commit", break_uploads)
    answers = report(hub, INTERRUPTED, tmp_path, tmp_path / "home", hub.add_token())
    commits = hub.commits("tester/mine")
    assert [commit.title for commit in commits] == ["second", "first", "initial commit"]
    assert answers["states"] == [commits[1].sha] * 3
    assert answers["old"] == [True] * 3
    assert answers["new"]
    assert hub.operations().count("part") == 3 + attempts + 3
    dropped, storage, commit = answers["errors"]
    for error, part in ((dropped, "disconnected"), (storage, "503"), (commit, "500")):
        assert error.startswith("Cannot push to 'tester/mine': ")
        assert part in error
        assert "try again later" in error
        assert f"hf upload tester/mine {tmp_path / 'second'} . --exclude 'checkpoint-*'" in error


def test_the_server_keeps_old_states_and_serves_parts_of_files(hub):
    """Without the client: what it asks for only if a download was cut off."""
    token = hub.add_token()

    def ask(path, data=None, token=token, **headers):
        headers |= {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(hub.url + path, data, headers)
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.headers, answer.read()

    def commit(text, **header):
        lines = [{"key": "header", "value": {"summary": text, "description": "", **header}}]
        lines.append({"key": "file", "value": {"path": "a", "content": "aGVsbG8=", "encoding": "base64"}})
        if text == "second":
            lines[1] = {"key": "deletedFile", "value": {"path": "a"}}
        return ask("/api/models/tester/x/commit/main", "\n".join(map(json.dumps, lines)).encode())

    ask("/api/repos/create", json.dumps({"name": "x", "visibility": "private"}).encode())
    first = json.loads(commit("first")[2])["commitOid"]
    commit("second", parentCommit=first)
    assert hub.files("tester/x", first)["a"] == b"hello"
    assert "a" not in hub.files("tester/x")
    status, headers, content = ask(f"/tester/x/resolve/{first}/a", Range="bytes=1-3")
    assert (status, content, headers["Content-Range"], headers["X-Repo-Commit"]) == (206, b"ell", "bytes 1-3/5", first)
    refused = [("/tester/x/resolve/main/a", token, 404, "EntryNotFound")]
    refused += [("/tester/x/resolve/nowhere/a", token, 404, "RevisionNotFound")]
    refused += [("/tester/x/resolve/main/a", None, 401, None), ("/api/whoami-v2", "hf_wrong", 401, None)]
    for path, shown, expected, code in refused:
        with pytest.raises(urllib.error.HTTPError) as error:
            ask(path, token=shown)
        assert (error.value.code, error.value.headers["X-Error-Code"]) == (expected, code)
    with pytest.raises(urllib.error.HTTPError, match="412"):
        commit("third", parentCommit=first)
    for lines in (
        "tags: [1]",
        "license: No Such",
        "base_model: /a/folder",
        "model-index: [{results: [{}]}]",
        "a: [",
        "a",
    ):
        assert check_card(f"---\n{lines}\n---\n# Title"), lines
    assert not check_card("---\ntags: [video]\nlicense: apache-2.0\nbase_model: openai/clip\n---\n# Title")
