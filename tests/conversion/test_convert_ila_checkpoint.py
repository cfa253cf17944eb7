"""Conversion of released checkpoints, in the container that the original training loop writes."""

import sys
import types
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_golden import FIXTURES, KINDS, original_weights
from transformers import AutoModelForVideoClassification, AutoProcessor, AutoVideoProcessor

from ila_hf import ILAForVideoClassification, ILAForVideoTextClassification, ILAVideoProcessor
from ila_hf.__main__ import main
from ila_hf.conversion.convert_ila_checkpoint import convert_ila_checkpoint, load_original_state_dict
from ila_hf.demo.tiny import tiny_tokenizer


def save_checkpoint(path, weights, monkeypatch):
    """`weights` beside a pickled yacs configuration, whose class is gone when the file is read."""
    module = types.ModuleType("yacs.config")

    class CfgNode(dict):
        pass

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    module.CfgNode = CfgNode
    config = CfgNode(MODEL=CfgNode(ARCH="ViT-B/16"))
    config.__dict__["__immutable__"] = True
    with monkeypatch.context() as context:
        context.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
        context.setitem(sys.modules, "yacs.config", module)
        content = {"model": weights, "optimizer": {"state": {}}, "epoch": 29, "max_accuracy": 81.3, "config": config}
        torch.save(content, path)


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    def make(kind, change=lambda weights: weights):
        weights, _ = original_weights(kind)
        path = tmp_path / f"{kind}.pth"
        save_checkpoint(path, change(weights), monkeypatch)
        return path

    return make


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text('id,name\n1,"b, c"\n0,a\n2,d\n3,e\n4,f\n')
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_golden_logits_after_conversion(kind, checkpoint, tmp_path, capsys):
    output = tmp_path / "converted"
    lacks_texts = pytest.raises(SystemExit, match=r"^1$") if kind == "k400" else nullcontext()
    with lacks_texts:
        main(["convert", "--checkpoint_path", str(checkpoint(kind)), "--output_dir", str(output)])
    printed = capsys.readouterr().out
    assert "2 layers of width 128, patches of 16, 4 frames of 96 pixels" in printed
    assert "gives logits of shape (1, 1)" in printed if kind == "k400" else "(1, 400)" in printed
    if kind == "k400":
        assert "No tokenizer: 'openai/clip-vit-base-patch32'" in printed
        assert "cannot classify yet: it has no class texts. Convert again with the names of the classes" in printed
    _, clips = original_weights(kind)
    expected = load_file(FIXTURES / f"{kind}_expected.safetensors")
    model = AutoModelForVideoClassification.from_pretrained(output).eval()
    inputs = {"input_ids": expected["input_ids"]} if kind == "k400" else {}
    with torch.no_grad():
        logits = model(clips, **inputs).logits
    torch.testing.assert_close(logits, expected["eval.logits"], atol=2e-5, rtol=0)
    processor = AutoVideoProcessor.from_pretrained(output)
    assert type(processor) is ILAVideoProcessor
    assert (processor.num_frames, processor.crop_size["height"], processor.size["shortest_edge"]) == (4, 96, 110)
    assert processor.sampling_strategy == ("sparse" if kind == "k400" else "uniform")


def test_labels_and_tokenizer_make_a_classifier(checkpoint, labels, tmp_path, video_file):
    def use_tiny_vocabulary(weights):
        weights["token_embedding.weight"] = torch.randn(514, 64)
        return weights

    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    output = tmp_path / "converted"
    model = convert_ila_checkpoint(
        checkpoint("k400", use_tiny_vocabulary), output, labels, tokenizer=str(tmp_path / "tokenizer")
    )
    assert type(model) is ILAForVideoTextClassification
    assert model.config.id2label == {0: "a", 1: "b, c", 2: "d", 3: "e", 4: "f"}
    inputs = AutoProcessor.from_pretrained(output)(videos=video_file, text="x", return_tensors="pt")
    assert model(inputs["pixel_values"]).logits.shape == (1, 5)


def test_a_tokenizer_of_another_vocabulary_is_not_taken(checkpoint, labels, tmp_path, capsys):
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    model = convert_ila_checkpoint(
        checkpoint("k400"), tmp_path / "converted", labels, tokenizer=str(tmp_path / "tokenizer")
    )
    assert "has 514 tokens, the text tower has 512" in capsys.readouterr().out
    assert model.config.id2label[1] == "b, c"


def test_rows_of_the_linear_head(checkpoint, labels, tmp_path):
    weights, clips = original_weights("ssv2")
    model = convert_ila_checkpoint(checkpoint("ssv2"), tmp_path / "five", labels)
    assert type(model) is ILAForVideoClassification
    assert torch.equal(model.classifier.weight, weights["mit.classify_head.2.weight"][:5])
    assert model.config.id2label[4] == "f"
    model = convert_ila_checkpoint(checkpoint("ssv2"), tmp_path / "ssv2", num_labels=174)
    assert model(clips).logits.shape == (3, 174)


@pytest.mark.parametrize("kind", KINDS)
def test_other_containers(kind, tmp_path):
    weights, _ = original_weights(kind)
    torch.save({"state_dict": {f"module.{name}": x for name, x in weights.items()}}, tmp_path / "a.pth")
    torch.save(weights, tmp_path / "b.pth")
    for name in ("a", "b"):
        loaded = load_original_state_dict(tmp_path / f"{name}.pth")
        assert loaded.keys() == weights.keys()
        assert all(torch.equal(loaded[key], weights[key]) for key in weights)


def test_no_code_of_the_file_runs(tmp_path, capfd):
    class Evil:
        def __reduce__(self):
            return print, ("code of the file ran",)

    weights, _ = original_weights("ssv2")
    path = tmp_path / "evil.pth"
    torch.save({"model": weights, "config": Evil()}, path)
    load_original_state_dict(path)
    assert "code of the file ran" not in capfd.readouterr().out


def without(name):
    return lambda weights: {key: x for key, x in weights.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda weights: {**weights, "visual.extra": torch.zeros(1), "head.bias": torch.zeros(1)},
            r"Unknown keys in the checkpoint: head\.bias, visual\.extra\.",
        ),
        (without("ln_final.bias"), r"missing: text_model\.final_layer_norm\.bias"),
        (
            lambda weights: {**weights, "ln_final.weight": torch.zeros(65)},
            r"wrong shape: text_model\.final_layer_norm\.weight is \(65,\), should be \(64,\)",
        ),
        (
            lambda weights: {**weights, "mit.classify_head.0.weight": torch.zeros(64)},
            r"unexpected: norm\.weight",
        ),
        (without("visual.conv1.weight"), r"is not an ILA checkpoint: no visual\.conv1\.weight; it has"),
        (without("visual.proj"), r"is not an ILA checkpoint: no visual\.proj; it has"),
        (without("positional_embedding"), r"is not an ILA checkpoint: no positional_embedding; it has"),
        (without("logit_scale"), r"missing: logit_scale$"),
        (
            lambda weights: {**weights, "visual.conv1.weight": torch.zeros(4), "visual.proj": torch.zeros(())},
            r"conv1\.weight of shape \(4,\), not of 4 dimensions, visual\.proj of shape \(\), not of 2 dimensions",
        ),
        (lambda weights: {"a": torch.zeros(1)}, r"is not an ILA checkpoint: no .*; it has \['a'\]"),
        (lambda weights: {"a": 1}, r"no weights under 'model' or 'state_dict', got \['a'\]"),
    ],
)
def test_checkpoints_that_do_not_fit(checkpoint, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        convert_ila_checkpoint(checkpoint("k400", change), tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


def test_sizes_known_to_openai_are_ignored(checkpoint, tmp_path):
    path = checkpoint("k400", lambda weights: {**weights, "context_length": torch.tensor(77)})
    convert_ila_checkpoint(path, tmp_path / "converted")


def test_files_that_are_not_checkpoints(tmp_path):
    path = tmp_path / "text.pth"
    path.write_text("hello")
    with pytest.raises(ValueError, match=r"text\.pth' cannot be read as a torch checkpoint"):
        load_original_state_dict(path)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint '.*missing\.pth'"):
        load_original_state_dict(tmp_path / "missing.pth")


def test_numpy_values_beside_the_weights(tmp_path):
    weights, _ = original_weights("ssv2")
    path = tmp_path / "numpy.pth"
    torch.save({"model": weights, "max_accuracy": np.float64(81.3), "history": np.arange(3)}, path)
    assert load_original_state_dict(path).keys() == weights.keys()


def test_too_many_or_contradicting_labels(checkpoint, labels, tmp_path):
    with pytest.raises(ValueError, match="between 1 and the 400 rows of the head, got 401"):
        convert_ila_checkpoint(checkpoint("ssv2"), tmp_path / "converted", num_labels=401)
    with pytest.raises(ValueError, match="between 1 and the 400 rows of the head, got 0"):
        convert_ila_checkpoint(checkpoint("ssv2"), tmp_path / "converted", num_labels=0)
    with pytest.raises(ValueError, match="must be at least 1, got -3"):
        convert_ila_checkpoint(checkpoint("k400"), tmp_path / "converted", num_labels=-3)
    with pytest.raises(ValueError, match="5 labels and num_labels=4"):
        convert_ila_checkpoint(checkpoint("ssv2"), tmp_path / "converted", labels, num_labels=4)
