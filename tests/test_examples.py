"""The example scripts and benchmarks, run as a user runs them, on few clips."""

import csv
import importlib.util
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from transformers import AutoModelForVideoClassification, AutoVideoProcessor, CLIPModel

from ila_hf import ILAForVideoClassification, ILAForVideoTextClassification, VideoReadError
from ila_hf.__main__ import main as ila_hf
from ila_hf.demo.motion_clips import MOTIONS
from ila_hf.demo.motion_videos import make_motion_videos
from ila_hf.demo.tiny import save_tiny_clip, tiny_config, tiny_tokenizer
from ila_hf.training import finetuning


ROOT = Path(__file__).parent.parent


def load_script(path):
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    make_motion_videos(folder, {"train": 24, "validation": 16})
    return folder


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run the training script with flags; returns its output folder."""
    script = load_script("examples/run_video_classification.py")

    def call(**arguments):
        output = tmp_path / "output"
        flags = ["--output_dir", str(output), "--report_to", "none", "--save_strategy", "no", "--use_cpu", "True"]
        flags += ["--per_device_train_batch_size", "8", "--num_train_epochs", "1", "--disable_tqdm", "True"]
        for name, value in arguments.items():
            flags += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
        monkeypatch.setattr(sys, "argv", ["run_video_classification.py", *flags])
        script.main()
        return output

    return call


def test_train_and_evaluate(run, videos, tmp_path):
    ila_hf(["tiny-model", "--output_dir", str(tmp_path / "tiny"), "--architecture", "released"])
    output = run(
        model_name_or_path=tmp_path / "tiny",
        train_dir=videos / "train",
        validation_dir=videos / "validation",
        do_train=True,
        do_eval=True,
        freeze=["text"],
        class_text_template="a thing {}",
    )
    metrics = json.loads((output / "eval_results.json").read_text())
    assert 0 <= metrics["eval_top1"] <= metrics["eval_top5"] <= 1
    lines = (output / "confusion_matrix.csv").read_text().splitlines()
    assert len(lines) == 9
    assert sum(int(count) for line in lines[1:] for count in line.split(",")[1:]) == 16
    model = AutoModelForVideoClassification.from_pretrained(output)
    assert type(model) is ILAForVideoTextClassification
    assert model.config.id2label[0] == "circling_clockwise"
    text = tiny_tokenizer().decode(model.class_texts.input_ids[4], skip_special_tokens=True)
    assert text.startswith("a thing moving down")
    before = AutoModelForVideoClassification.from_pretrained(tmp_path / "tiny").state_dict()
    changed = {name for name, x in model.state_dict().items() if name in before and not torch.equal(x, before[name])}
    assert not any(name.startswith("text_model.") for name in changed)
    assert any(".temporal." in name for name in changed)

    # Evaluating what was saved gives the same numbers
    again = run(model_name_or_path=output, validation_dir=videos / "validation", do_eval=True)
    assert json.loads((again / "eval_results.json").read_text())["eval_top1"] == metrics["eval_top1"]


def log_of(output):
    return json.loads((output / "trainer_state.json").read_text())["log_history"]


def test_a_training_that_is_told_nothing(videos, tmp_path, monkeypatch, caplog):
    """It chooses its epochs, evaluates and logs each, keeps the best, and tells; the card does, too."""
    caplog.set_level("INFO", "ila_hf")
    monkeypatch.setattr(finetuning, "MIN_STEPS", 4)
    ila_hf(["tiny-model", "--output_dir", str(tmp_path / "tiny")])
    output = tmp_path / "output"
    flags = f"--model_name_or_path {tmp_path}/tiny --data_dir {videos} --output_dir {output} --report_to none"
    ila_hf(["train", *flags.split(), "--use_cpu", "True", "--learning_rate", "1e-2", "--disable_tqdm", "True"])
    assert "24 videos, 8 a step: 3 epochs of 3 steps. --num_train_epochs sets others." in caplog.messages
    log = log_of(output)
    assert [entry["epoch"] for entry in log if "loss" in entry] == [1, 2, 3]
    every = {entry["epoch"]: entry["eval_top1"] for entry in log if "eval_top1" in entry}
    assert list(every) == [1, 2, 3]
    assert json.loads((output / "eval_results.json").read_text())["eval_top1"] == max(every.values())
    assert (output / "checkpoint-9").is_dir()  # the last, so that a resume has nothing to do, and the best
    assert len(list(output.glob("checkpoint-*"))) == (1 if max(every, key=every.get) == 3 else 2)
    assert "| Weights | those of the evaluation with the best top1 |" in (output / "README.md").read_text()


def test_patience_needs_validation_videos(videos, tmp_path, capsys):
    ila_hf(["tiny-model", "--output_dir", str(tmp_path / "tiny")])
    flags = f"--model_name_or_path {tmp_path}/tiny --train_dir {videos}/train --output_dir {tmp_path}/o --patience 2"
    with pytest.raises(SystemExit):
        ila_hf(["train", *flags.split()])
    assert capsys.readouterr().err.endswith("ila-hf train: --patience needs validation videos.\n")


def test_a_training_without_validation_videos(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(finetuning, "MIN_STEPS", 4)
    ila_hf(["tiny-model", "--output_dir", str(tmp_path / "tiny")])
    output = tmp_path / "output"
    flags = f"--model_name_or_path {tmp_path}/tiny --train_dir {videos}/train --output_dir {output} --report_to none"
    ila_hf(["train", *flags.split(), "--use_cpu", "True", "--disable_tqdm", "True"])
    assert [entry["epoch"] for entry in log_of(output) if "loss" in entry] == [1, 2, 3]
    assert not (output / "eval_results.json").exists()
    assert (output / "model.safetensors").is_file()


def test_plain_clip_and_csv(run, videos, tmp_path):
    save_tiny_clip(tmp_path / "clip")
    files = sorted((videos / "train").glob("*/*.mp4"))
    lines = ["video,label", *(f"{path},{path.parent.name[:4]}" for path in files)]
    (tmp_path / "train.csv").write_text("\n".join(lines))
    output = run(
        model_name_or_path=tmp_path / "clip",
        train_file=tmp_path / "train.csv",
        video_root=videos,
        do_train=True,
        num_frames=4,
        interaction_token=True,
        freeze=["clip"],
        max_train_samples=16,
    )
    model = AutoModelForVideoClassification.from_pretrained(output)
    assert set(model.config.id2label.values()) == {"circ", "comi", "goin", "movi"}
    assert (model.config.num_frames, model.config.vision_config.interaction_token) == (4, True)
    weight = model.vision_model.encoder.layers[1].mlp.fc1.weight
    clip = CLIPModel.from_pretrained(tmp_path / "clip")
    assert torch.equal(weight, clip.vision_model.encoder.layers[1].mlp.fc1.weight)


def test_from_scratch_with_a_linear_head(run, videos, tmp_path):
    tiny_config().save_pretrained(tmp_path / "config")
    output = run(
        config_name=tmp_path / "config",
        head="linear",
        train_dir=videos / "train",
        validation_dir=videos / "validation",
        do_train=True,
        do_eval=True,
        max_eval_samples=8,
    )
    assert type(AutoModelForVideoClassification.from_pretrained(output)) is ILAForVideoClassification


def test_accumulation_averages_the_loss(run, videos, tmp_path):
    ila_hf(["tiny-model", "--output_dir", str(tmp_path / "tiny")])
    losses = []
    for accumulation in (1, 2):
        output = run(
            model_name_or_path=tmp_path / "tiny",
            train_dir=videos / "train",
            do_train=True,
            max_steps=1,
            learning_rate=0,
            logging_steps=1,
            per_device_train_batch_size=8 // accumulation,
            gradient_accumulation_steps=accumulation,
            seed=1,
        )
        losses.append(json.loads((output / "trainer_state.json").read_text())["log_history"][0]["loss"])
    # BatchNorm sees other batches and the frames are drawn anew; twice the loss would be far off
    assert losses[1] == pytest.approx(losses[0], rel=0.3)


def test_mask_jitter_decays_with_the_epochs(run, videos, tmp_path):
    config = tiny_config({"mask_jitter_decay_epoch": 1})
    config.save_pretrained(tmp_path / "config")
    output = run(
        config_name=tmp_path / "config", head="linear", train_dir=videos / "train", do_train=True, num_train_epochs=3
    )
    state = AutoModelForVideoClassification.from_pretrained(output).state_dict()
    assert [float(x) for name, x in state.items() if name.endswith("jitter_scale")] == [0.25] * 3


def test_another_tokenizer_for_an_ila_model(run, videos, tmp_path):
    ila_hf(["tiny-model", "--output_dir", str(tmp_path / "tiny")])
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "tiny" / name).unlink()
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    output = run(
        model_name_or_path=tmp_path / "tiny",
        tokenizer_name=tmp_path / "tokenizer",
        train_dir=videos / "train",
        do_train=True,
        max_steps=1,
    )
    assert (output / "tokenizer.json").is_file()


def test_unreadable_videos_are_left_out_listed_and_scored_as_wrong(run, videos, tmp_path, caplog):
    ila_hf(["tiny-model", "--output_dir", str(tmp_path / "tiny")])
    for split in ("train", "validation"):
        shutil.copytree(videos / split, tmp_path / split)
    broken = tmp_path / "train" / "moving_left" / "broken.mp4", tmp_path / "train" / "moving_up" / "broken.mp4"
    for path in (*broken, tmp_path / "validation" / "moving_up" / "broken.mp4"):
        path.write_text("not a video")
    (tmp_path / "known.jsonl").write_text(json.dumps({"video": str(broken[0]), "error": "known"}) + "\n")
    arguments = {
        "model_name_or_path": tmp_path / "tiny",
        "train_dir": tmp_path / "train",
        "validation_dir": tmp_path / "validation",
        "do_train": True,
        "do_eval": True,
        "unreadable_file": tmp_path / "known.jsonl",
        "augment": True,
    }
    with pytest.warns(UserWarning, match=r"broken\.mp4"), pytest.raises(VideoReadError, match=r"broken\.mp4"):
        run(**arguments, on_eval_error="error")
    with next(tmp_path.rglob("unreadable_videos.jsonl")).open("a") as lines:
        lines.write('{"video": "of the run before", "error": "?"}\n')
    output = run(**arguments)
    metrics = json.loads((output / "eval_results.json").read_text())
    hits = metrics["eval_top1"] * 17  # of all 17 videos, not of the 16 that can be read
    assert hits == pytest.approx(round(hits), abs=1e-6)
    assert metrics["eval_top5"] <= 16 / 17
    assert metrics["eval_num_unreadable"] == 1
    assert "| of them unreadable, counted as wrong | 1 |" in (output / "README.md").read_text()
    assert math.isfinite(metrics["eval_loss"])
    lines = (output / "confusion_matrix.csv").read_text().splitlines()
    assert sum(int(count) for line in lines[1:] for count in line.split(",")[1:]) == 17
    assert lines[0].endswith(",unreadable")
    listed = [json.loads(line)["video"] for line in (output / "unreadable_videos.jsonl").read_text().splitlines()]
    assert sorted(listed) == sorted(map(str, (broken[1], tmp_path / "validation/moving_up/broken.mp4")))
    assert "2 videos could not be read" in caplog.text


def test_a_new_linear_head_is_not_evaluated(run, videos, tmp_path):
    ila_hf(["tiny-model", "--output_dir", str(tmp_path / "tiny")])
    arguments = {"model_name_or_path": tmp_path / "tiny", "head": "linear", "validation_dir": videos / "validation"}
    with pytest.raises(ValueError, match="has no linear classifier for these classes: it must be trained before"):
        run(**arguments, do_eval=True, zero_shot=True)


def test_names_of_classes_from_a_file(run, videos, tmp_path):
    ila_hf(["tiny-model", "--output_dir", str(tmp_path / "tiny")])
    files = sorted((videos / "train").glob("*/*.mp4"))
    names = sorted({path.parent.name for path in files})
    lines = [f"{path.relative_to(videos)} {names.index(path.parent.name)}\n" for path in files]
    (tmp_path / "train.txt").write_text("".join(lines))
    (tmp_path / "labels.txt").write_text("\n".join(name.upper() for name in names))
    output = run(
        model_name_or_path=tmp_path / "tiny",
        train_file=tmp_path / "train.txt",
        labels_file=tmp_path / "labels.txt",
        video_root=videos,
        do_train=True,
        max_steps=1,
    )
    model = AutoModelForVideoClassification.from_pretrained(output)
    assert [model.config.id2label[i] for i in range(8)] == [name.upper() for name in names]


def test_share_of_the_videos_for_validation_views_and_predictions(run, videos, tmp_path):
    ila_hf(["tiny-model", "--output_dir", str(tmp_path / "tiny")])
    (tmp_path / "unknown").mkdir()
    clip = sorted((videos / "validation").glob("*/*.mp4"))[0]
    shutil.copy(clip, tmp_path / "unknown" / "clip.mp4")
    (tmp_path / "unknown" / "broken.mp4").write_text("not a video")
    with pytest.warns(UserWarning, match=r"broken\.mp4"):
        output = run(
            model_name_or_path=tmp_path / "tiny",
            train_dir=videos / "train",
            train_val_split=1 / 3,
            test_dir=tmp_path / "unknown",
            num_clips=2,
            num_crops=3,
            do_train=True,
            do_eval=True,
            do_predict=True,
            mixup_alpha=0.8,
            cutmix_alpha=1.0,
            label_smoothing_factor=0.1,
        )
    metrics = json.loads((output / "eval_results.json").read_text())
    assert metrics["eval_num_clips"] == 8
    # The videos to predict: one is as the model itself says, six views averaged, the other is listed as unreadable
    with (output / "predictions.csv").open(newline="") as file:
        broken, row = csv.DictReader(file)
    assert broken["video"].endswith("broken.mp4")
    assert (broken["class_1"] or "") == row["label"] == ""
    model = AutoModelForVideoClassification.from_pretrained(output).eval()
    processor = AutoVideoProcessor.from_pretrained(output)
    views = processor(str(clip), num_clips=2, num_crops=3, return_tensors="pt")["pixel_values"][0]
    with torch.no_grad():
        scores = sum(model(view[None]).logits.softmax(-1)[0] for view in views) / 6
    assert row["class_1"] == model.config.id2label[int(scores.argmax())]
    assert float(row["probability_1"]) == pytest.approx(float(scores.max()), abs=1e-5)
    # The card tells the views; the saved processor keeps its own
    assert processor.num_clips == 1
    card = ModelCard.load(output / "README.md")
    assert card.data.eval_results[0].metric_value == pytest.approx(100 * metrics["eval_top1"], abs=0.1)
    assert "2 × 3 views" in card.text
    for name in ("confusion_matrix.png", "curves.png"):
        assert Image.open(output / name).size > (300, 200)
    with (output / "classes.csv").open(newline="") as file:
        assert sum(int(entry["clips"]) for entry in csv.DictReader(file)) == 8


def test_zero_shot_classes_are_those_of_the_videos(run, videos, tmp_path):
    ila_hf(["tiny-model", "--output_dir", str(tmp_path / "tiny")])
    trained = run(model_name_or_path=tmp_path / "tiny", train_dir=videos / "train", do_train=True, max_steps=1)
    shutil.copytree(trained, tmp_path / "trained")
    for name in ("moving_left", "moving_up"):
        shutil.copytree(videos / "validation" / name, tmp_path / "new" / f"something_{name}")
    arguments = {"model_name_or_path": tmp_path / "trained", "validation_dir": tmp_path / "new", "do_eval": True}
    with pytest.raises(ValueError, match="classes that are not among"):
        run(**arguments)
    output = run(**arguments, zero_shot=True, class_text_template="a video of {}", save_strategy="no")
    metrics = json.loads((output / "eval_results.json").read_text())
    model = AutoModelForVideoClassification.from_pretrained(tmp_path / "trained").eval()
    names = ["something moving left", "something moving up"]
    model.set_class_texts([f"a video of {name}" for name in names], tiny_tokenizer())
    processor = AutoVideoProcessor.from_pretrained(tmp_path / "trained")
    files = sorted((tmp_path / "new").glob("*/*.mp4"))
    with torch.no_grad():
        answers = [int(model(**processor(str(file), return_tensors="pt")).logits.argmax()) for file in files]
    hits = [answer == ("up" in file.parent.name) for answer, file in zip(answers, files, strict=True)]
    assert metrics["eval_top1"] == pytest.approx(sum(hits) / len(hits))


def test_a_stream_from_shards(run, videos, tmp_path):
    ila_hf(["tiny-model", "--output_dir", str(tmp_path / "tiny")])
    files = sorted((videos / "train").glob("*/*.mp4"))
    names = sorted({path.parent.name for path in files})
    (tmp_path / "labels.txt").write_text("\n".join(names))
    for shard in range(2):
        with tarfile.open(tmp_path / f"train-{shard}.tar", "w") as tar:
            for path in files[shard::2]:
                tar.add(path, f"{path.stem}.mp4")
                (tmp_path / "class.cls").write_text(str(names.index(path.parent.name)))
                tar.add(tmp_path / "class.cls", f"{path.stem}.cls")
    output = run(
        model_name_or_path=tmp_path / "tiny",
        dataset_name="webdataset",
        data_files=f"train={tmp_path}/train-*.tar",
        labels_file=tmp_path / "labels.txt",
        validation_dir=videos / "validation",
        streaming=True,
        max_steps=4,
        do_train=True,
        do_eval=True,
    )
    state = json.loads((output / "trainer_state.json").read_text())
    assert state["global_step"] == 4  # 24 clips in batches of 8: into the second epoch
    assert json.loads((output / "eval_results.json").read_text())["eval_num_clips"] == 16


def test_a_run_is_not_begun_over_its_checkpoints(run, videos, tmp_path):
    ila_hf(["tiny-model", "--output_dir", str(tmp_path / "tiny")])
    arguments = {"model_name_or_path": tmp_path / "tiny", "train_dir": videos / "train", "do_train": True}
    output = run(**arguments, max_steps=2, save_strategy="steps", save_steps=1, save_total_limit=1)
    assert [path.name for path in output.glob("checkpoint-*")] == ["checkpoint-2"]
    with pytest.raises(OSError, match="holds checkpoints, the last checkpoint-2: continue it with"):
        run(**arguments)


@pytest.mark.parametrize(("device", "fused"), [("cuda:1", True), ("cpu", None)])
def test_the_optimizer_of_the_loop_is_fused_on_a_gpu(device, fused, tmp_path, tiny_model):
    script = load_script("examples/run_video_classification_no_trainer.py")
    arguments = script.LoopArguments(output_dir=str(tmp_path))
    optimizer = script.make_optimizer(tiny_model(), arguments, torch.device(device))
    assert [group["fused"] for group in optimizer.param_groups] == [fused] * len(optimizer.param_groups)


def test_the_loop_without_trainer(videos, tmp_path, monkeypatch):
    """Checkpoints by epoch, an accumulation that does not divide the batches, and no clipping of gradients."""
    ila_hf(["tiny-model", "--output_dir", str(tmp_path / "tiny")])
    output = tmp_path / "output"
    flags = {
        "model_name_or_path": tmp_path / "tiny",
        "freeze": "text",
        "train_dir": videos / "train",
        "validation_dir": videos / "validation",
        "output_dir": output,
        "num_train_epochs": 2,
        "gradient_accumulation_steps": 2,
        "max_grad_norm": 0,
        "save_total_limit": 1,
        "use_cpu": True,
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    script = load_script("examples/run_video_classification_no_trainer.py")
    monkeypatch.setattr(sys, "argv", ["run_video_classification_no_trainer.py", *words])
    script.main()
    # 24 clips in batches of 8 are three batches, two steps, an epoch
    assert [path.name for path in output.glob("checkpoint-*")] == ["checkpoint-4"]
    before = AutoModelForVideoClassification.from_pretrained(tmp_path / "tiny").state_dict()
    state = AutoModelForVideoClassification.from_pretrained(output).state_dict()
    assert not torch.equal(state["visual_projection.weight"], before["visual_projection.weight"])
    results = json.loads((output / "all_results.json").read_text())
    assert results["eval_num_clips"] == 16
    card = ModelCard.load(output / "README.md")
    assert card.data.eval_results[0].metric_value == pytest.approx(100 * results["eval_top1"], abs=0.1)
    for extra in (["--test_dir", "x"], ["--streaming", "True"], ["--zero_shot", "True"]):
        monkeypatch.setattr(sys, "argv", ["run_video_classification_no_trainer.py", *words, *extra])
        with pytest.raises(ValueError, match=r"are for run_video_classification\.py"):
            script.main()


@pytest.mark.parametrize("script", ["run_video_classification", "run_video_classification_no_trainer"])
def test_both_scripts_say_what_they_take(script, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit):
        load_script(f"examples/{script}.py").main()
    text = capsys.readouterr().out
    assert "--train_dir" in text
    assert "--config" in text


def test_errors_come_before_any_work(run, videos, tmp_path):
    ila_hf(["tiny-model", "--output_dir", str(tmp_path / "tiny")])
    model, train, validation = tmp_path / "tiny", videos / "train", videos / "validation"
    for arguments, message in (
        ({"do_train": True, "train_dir": train}, "Give --model_name_or_path"),
        ({"do_train": True, "model_name_or_path": model}, "--do_train needs --data_dir, --train_dir, --train_file"),
        ({"do_eval": True, "model_name_or_path": model, "train_dir": train}, "--do_eval needs --validation_dir"),
        ({"model_name_or_path": model, "train_dir": train, "train_file": "x.csv"}, "Give one source for the train"),
        ({"model_name_or_path": model, "train_dir": train, "num_frames": 4}, "--num_frames 4 does not fit"),
        ({"model_name_or_path": model, "train_dir": train}, "nothing to do: give --do_train, --do_eval or"),
        ({"do_train": True, "model_name_or_path": model, "train_dir": train, "freeze": ["all"]}, "Cannot freeze"),
        ({"do_train": True, "config_name": model, "train_dir": train, "head": "text"}, "texts need a tokenizer"),
        ({"do_eval": True, "model_name_or_path": model, "validation_dir": validation}, "classes that are not among"),
    ):
        with pytest.raises(ValueError, match=message):
            run(**arguments)
    with pytest.raises(StrictDataclassError, match="`num_frames` must be at least 1, got 0"):
        run(config_name=model, train_dir=train, num_frames=0)


@pytest.mark.slow
def test_demo_reaches_its_accuracy(tmp_path):
    """What `make demo` runs, in another folder."""
    (tmp_path / "outputs").mkdir()
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    recipe = ["make", "-C", str(ROOT), "--dry-run", "--assume-old=.venv/installed", "--no-print-directory", "demo"]
    programs = f"BIN={Path(sys.executable).parent}"
    lines = subprocess.run([*recipe, programs], check=True, capture_output=True, text=True).stdout.splitlines()
    assert len(lines) == 4
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    for line in lines:
        done = subprocess.run(
            line, shell=True, cwd=tmp_path, env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
    report = done.stdout
    metrics = json.loads((tmp_path / "outputs/demo/model/eval_results.json").read_text())
    assert metrics["eval_top1"] >= 0.9
    assert f"Held-out top-1: {100 * metrics['eval_top1']:.1f} %" in report
    # without the order of the frames the motions cannot be told from their opposites
    assert float(re.search(r"random order: ([0-9.]+) %", report)[1]) < 55
    assert all(motion in report for motion in MOTIONS)
    assert (tmp_path / "outputs/demo/model/interactive_points.png").is_file()
