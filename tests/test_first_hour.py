"""docs/first_hour.md, from its first command to its last, as a new user goes through it."""

import re
import shlex
import subprocess

import numpy as np
import pytest
import torch
from hub_server import HubServer
from pages import ROOT
from wheels import PIP, build_wheel, make_environment

from ila_hf import ILAConfig, ILAForVideoTextClassification
from ila_hf.demo.drawing import write_video
from ila_hf.demo.motion_clips import MOTIONS, draw_clip
from ila_hf.demo.tiny import save_tiny_clip


PAGE = ROOT / "docs" / "first_hour.md"
CLASSES = ("serve", "lob", "smash", "drop")


def steps(page):
    """(what is typed, what is shown below it) in the order of the page; what is typed is a command or Python."""
    block = r"```python\n(?P<code>.*?)```\n|(?P<lines>(?:^    [^\n]+\n|^\n(?=    ))+)"
    found = []
    for match in re.finditer(block, page.read_text(), re.DOTALL | re.MULTILINE):
        if match["code"]:
            found.append((["python", "-c", match["code"]], []))
            continue
        lines = [line.strip() for line in match["lines"].replace("\\\n", "").splitlines() if line.strip()]
        commands = [re.split(r"\s+", line, maxsplit=1)[0] in ("pip", "ila-hf", "hf") for line in lines]
        if all(commands):
            found += [(shlex.split(line), []) for line in lines]
        elif not lines[0].startswith("videos/"):
            found[-1][1].extend(lines)
    return found


@pytest.fixture
def videos(tmp_path):
    """Sixty clips of 2 to 3 seconds, and two without a class."""
    folder = tmp_path / "desk" / "videos"

    def write(place, number, motion):
        frames, _, _ = draw_clip(len(MOTIONS) * number + 2 * motion)
        length = 30 + 15 * (number % 2)
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        write_video(folder / place, frames[np.linspace(0, len(frames) - 1, length).round().astype(int)], 15)

    for motion, name in enumerate(CLASSES):
        for i in range(12):
            write(f"train/{name}/IMG_{12 * motion + i + 1:04}.{('mp4', 'mov')[i % 2]}", i, motion)
        for i in range(3):
            write(f"validation/{name}/IMG_{102 + 3 * motion + i:04}.mp4", 12 + i, motion)
    for i in range(2):
        write(f"new/IMG_{200 + i:04}.mp4", 20, i)
    return folder


def put_on(hub, repo, folder, home, token):
    code = "import sys; from huggingface_hub import HfApi; api = HfApi(); api.create_repo(sys.argv[1])\n"
    code += "api.upload_folder(repo_id=sys.argv[1], folder_path=sys.argv[2])"
    subprocess.run(
        [PIP[0], "-c", code, repo, str(folder)], env=hub.environment(home, token), check=True, capture_output=True
    )


def test_size_of_a_checkpoint():
    """Of ViT-B/16 with a frozen text tower: four bytes of each weight, and two moments of those that train."""
    with torch.device("meta"):
        model = ILAForVideoTextClassification(ILAConfig.from_preset("ila-base-patch16"))
        model.freeze("text")
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    size = 4 * (model.num_parameters() + 2 * trained) / 1e9
    assert f"a checkpoint of this model has {size:.1f} GB" in " ".join(PAGE.read_text().split())


@pytest.mark.slow
def test_every_command(videos, tmp_path):
    desk = videos.parent
    programs = make_environment(tmp_path / "env")
    wheel = build_wheel(tmp_path)
    wheel.rename(desk / wheel.name)
    save_tiny_clip(tmp_path / "clip")
    with HubServer() as hub:
        put_on(hub, "openai/clip-vit-base-patch16", tmp_path / "clip", tmp_path, hub.add_token(user="openai"))
        environment = hub.environment(tmp_path / "home", hub.add_token(user="me"))
        environment["PATH"] = f"{programs}:{environment['PATH']}"
        environment.pop("PYTHONPATH", None)
        said = []
        for words, shown in steps(PAGE):
            if words[:2] == ["hf", "auth"]:
                continue  # it asks for a token, which is in the environment
            if words[0] == "hf":  # as if a video had not been read
                (desk / "outputs/mine/unreadable_videos.jsonl").write_text('{"video": "/home/me/clip.mp4"}')
            if words[0] == "pip":
                words = [*PIP, "--python", str(programs / "python"), *words[1:], "--no-deps", "--no-index"]
            done = subprocess.run(
                words, cwd=desk, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
            )
            assert done.returncode == 0, (words, done.stderr[-3000:])
            said.append(" ".join(words[:2]))
            output = done.stdout + done.stderr
            for line in shown:
                assert line in output, (words, output)
        shared = set(hub.files("me/badminton"))
    assert [*dict.fromkeys(said)] == [
        f"{PIP[0]} -m",
        *("ila-hf check", "ila-hf train", "ila-hf visualize", "ila-hf evaluate", "python -c", "hf upload"),
    ]
    assert {"config.json", "model.safetensors", "README.md", "modeling_ila.py", "tokenizer.json"} <= shared
    assert not any("checkpoint" in file or "unreadable" in file for file in shared)
    card = (desk / "outputs" / "mine" / "README.md").read_text()
    assert "It was trained from openai/clip-vit-base-patch16 on videos." in card.replace("\\", "")
    assert (desk / "points.png").is_file()
    assert len((desk / "outputs" / "new" / "predictions.csv").read_text().splitlines()) == 3
    # The environment is that of a user: nothing of the developers helped
    for name in ("pytest", "peft", "optuna", "torchcodec", "skvideo"):
        assert subprocess.run([programs / "python", "-c", f"import {name}"], capture_output=True).returncode != 0
