"""Training and evaluation in two processes on the CPU, against one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from train_in_processes import RandomClips, train

from ila_hf import ILAForVideoTextClassification
from ila_hf.evaluation.views import view_probabilities


TESTS = Path(__file__).parent


def torchrun(script, *arguments, processes=2):
    """Run a script in several processes; what they print is shown if they fail."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [*command, str(TESTS / script), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-5000:]


def in_two_processes(folder, **options):
    """The result of train_in_processes.py in two processes of half the batch."""
    options = {**options, "args": {**options["args"], "output_dir": str(folder / "two")}}
    (folder / "options.json").write_text(json.dumps(options))
    torchrun("train_in_processes.py", folder / "options.json")
    return torch.load(folder / "two/result.pt")


def in_one_process(folder, **options):
    """The same in this process, with the whole batch."""
    size = 2 * options["args"]["per_device_train_batch_size"]
    args = {**options["args"], "output_dir": str(folder / "one"), "per_device_train_batch_size": size}
    train({**options, "args": args})
    return torch.load(folder / "one/result.pt")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(
            {"vision": {"interaction_token": True}, "freeze": ["text"], "sync_batch_norm": True}, id="synchronised"
        ),
        pytest.param(
            {"vision": {"architecture": "released"}, "freeze": [], "freeze_batch_norm": True},
            id="without BatchNorm",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"vision": {}, "freeze": [], "freeze_batch_norm": True, "torch_compile_backend": "eager"},
            id="compiled",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_two_processes_are_one_of_twice_the_batch(tmp_path, options):
    names = {"sync_batch_norm", "torch_compile_backend"} & options.keys()
    given = {name: options[name] for name in names}
    options = {name: value for name, value in options.items() if name not in names}
    args = {"per_device_train_batch_size": 4, "max_steps": 3, "learning_rate": 1e-3, **given}
    options = {**options, "train_clips": 19, "args": args}  # 16 are seen in an epoch of two processes
    two, one = in_two_processes(tmp_path, **options), in_one_process(tmp_path, **options)
    assert two["gradients"].keys() == one["gradients"].keys()
    for name, gradient in one["gradients"].items():
        assert torch.allclose(two["gradients"][name], gradient, rtol=1e-5, atol=1e-5), name
    assert max(float(gradient.abs().max()) for gradient in one["gradients"].values()) > 0.01
    for a, b in list(zip(two["losses"], one["losses"], strict=True))[:2]:  # the same clips in an epoch's two steps
        for name in ("loss", "classification_loss", "alignment_loss"):
            assert a[name] == pytest.approx(b[name], rel=1e-5, abs=1e-5)
    # Seven clips in batches of three: the last round is filled up, and nothing counts twice
    for name in ("eval_top1", "eval_top5", "eval_mean_class_accuracy", "eval_num_clips"):
        assert two["before"][name] == one["before"][name]
    assert two["before"]["eval_num_clips"] == 7
    assert two["before"]["eval_loss"] == pytest.approx(one["before"]["eval_loss"], abs=1e-6)


def test_all_processes_evaluate_the_statistics_that_are_saved(tmp_path):
    args = {"per_device_train_batch_size": 4, "num_train_epochs": 2, "learning_rate": 1e-3}
    result = in_two_processes(tmp_path, vision={}, freeze=["text"], train_clips=24, args=args)
    model = ILAForVideoTextClassification.from_pretrained(tmp_path / "two").eval()
    clips = [RandomClips(7)[i] for i in range(7)]
    with torch.no_grad():
        probabilities = view_probabilities(model, torch.stack([clip["pixel_values"] for clip in clips]))
    labels = torch.tensor([clip["labels"] for clip in clips])
    loss = torch.nn.functional.nll_loss(probabilities.log(), labels)
    assert result["after"]["eval_loss"] == pytest.approx(float(loss), abs=1e-6)
    assert result["after"]["eval_loss"] != pytest.approx(result["before"]["eval_loss"], abs=1e-3)


def test_fsdp_trains_saves_reloads_and_resumes(tmp_path):
    torchrun("train_with_fsdp.py", tmp_path / "full", "FULL_STATE_DICT", 4)
    model = ILAForVideoTextClassification.from_pretrained(tmp_path / "full").eval()
    assert model.logit_scale.shape == ()
    # The sharded model's class is torch's
    saved = json.loads((tmp_path / "full/config.json").read_text())
    assert saved["architectures"] == ["ILAForVideoTextClassification"]
    assert saved["auto_map"] == {
        "AutoConfig": "configuration_ila.ILAConfig",
        "AutoModel": "modeling_ila.ILAModel",
        "AutoModelForVideoClassification": "modeling_ila.ILAForVideoTextClassification",
    }
    files = {path.name for path in (tmp_path / "full").glob("*.py")}
    assert {"modeling_ila.py", "configuration_ila.py", "pipeline_ila.py"} <= files
    assert not any("fsdp" in name for name in files)
    clips = torch.stack([torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(i)) for i in range(4)])
    with torch.no_grad():
        logits = model(pixel_values=clips).logits
    trained = torch.load(tmp_path / "full/logits.pt")
    assert torch.allclose(logits, trained, atol=1e-6)
    # From the checkpoint in the middle the run comes to the same end
    torchrun("train_with_fsdp.py", tmp_path / "again", "FULL_STATE_DICT", 4, tmp_path / "full/checkpoint-2")
    assert torch.equal(torch.load(tmp_path / "again/logits.pt"), trained)
    assert torch.load(tmp_path / "again/loss.pt") == torch.load(tmp_path / "full/loss.pt")
