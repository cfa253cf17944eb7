"""Golden values of the original implementation, for both kinds of released checkpoints.

`fixtures/official/*.json` tell how to make every weight again; `*_expected.safetensors` hold what the original code
computed from them in float32 on a CPU. To renew them, run the original implementation on the same weights.
"""

import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ila_hf import ILAForVideoClassification, ILAForVideoTextClassification
from ila_hf.convert_ila_checkpoint import convert_state_dict, infer_config


FIXTURES = Path(__file__).parent / "fixtures" / "official"
KINDS = ("k400", "ssv2")
BEFORE_BATCH_NORM = re.compile(r"alignment\.(interaction\.(0|3|6)|prediction\.conv[12])\.bias")


def make_tensor(spec, seed):
    if "value" in spec:
        return torch.full(spec["shape"], spec["value"], dtype=torch.long)
    random = np.random.RandomState(zlib.crc32(spec["name"].encode()) ^ seed).standard_normal(spec["shape"])
    random = np.asarray(random)
    # In this order: the last bits of the weights show in the golden values
    return torch.from_numpy(
        np.asarray(random.astype(np.float32) * np.float32(spec["scale"]) + np.float32(spec["shift"]))
    )


def original_weights(kind):
    """Weights of the original model, and the clips."""
    recipe = json.loads((FIXTURES / f"{kind}.json").read_text())
    tensors = {spec["name"]: make_tensor(spec, recipe["seed"]) for spec in recipe["tensors"]}
    return tensors, tensors.pop("pixel_values")


def converted_model(kind):
    weights, clips = original_weights(kind)
    expected = load_file(FIXTURES / f"{kind}_expected.safetensors")
    config = infer_config(weights)
    config.num_labels = 5 if kind == "k400" else 400
    model = (ILAForVideoTextClassification if kind == "k400" else ILAForVideoClassification)(config)
    problems = model.load_state_dict(convert_state_dict(weights), strict=False)
    assert not problems.unexpected_keys
    assert all("jitter_scale" in key or key == "class_texts.input_ids" for key in problems.missing_keys)
    if kind == "k400":
        model.set_class_texts(expected["input_ids"])
    else:
        model.dropout.p = 0.0  # the golden values were computed without
    return model, clips, expected


@pytest.fixture(scope="module", params=[(kind, mode) for kind in KINDS for mode in ("eval", "train")], ids="-".join)
def case(request):
    """Model, its outputs, and the golden values of that mode."""
    kind, mode = request.param
    model, clips, expected = converted_model(kind)
    model.train(mode == "train")
    features = {}
    model.vision_model.register_forward_hook(lambda module, args, output: features.update(vision=output))
    model.integration.register_forward_hook(lambda module, args, output: features.update(video=output))
    outputs = model(clips, labels=expected["labels"], output_alignments=True, output_hidden_states=True)
    golden = {name.removeprefix(f"{mode}."): x for name, x in expected.items() if name.startswith(f"{mode}.")}
    return kind, model, outputs, features, golden


def check_close(actual, golden, atol=2e-5, rtol=0.0):
    torch.testing.assert_close(actual.detach().reshape(golden.shape), golden, atol=atol, rtol=rtol)


def test_points(case):
    _, _, outputs, _, golden = case
    for layer, points in enumerate(outputs.interactive_points):
        check_close(points, golden[f"points.{layer}"])


def test_pooled_tokens(case):
    # Sums over 36 patches: relative to the largest of the layer
    _, _, outputs, _, golden = case
    for layer, tokens in enumerate(outputs.mutual_information_tokens):
        expected = golden[f"alignment_tokens.{layer}"]
        check_close(tokens, expected, atol=5e-4 * float(expected.abs().max()))
        relative = (tokens.reshape(expected.shape) - expected).norm() / expected.norm()
        assert relative < 5e-4


def test_hidden_states(case):
    _, _, outputs, _, golden = case
    assert len(outputs.hidden_states) == 3  # the embeddings come first
    for layer, hidden_states in enumerate(outputs.hidden_states[1:]):
        check_close(hidden_states, golden[f"hidden_states.{layer}"])


def test_features(case):
    kind, model, _, features, golden = case
    patches = features["vision"].last_hidden_state[:, :, 1:]
    if kind == "ssv2":
        check_close(patches, golden["img_features"])
        return  # its `video_features` are the logits
    check_close(model.prompt.patch_features(patches), golden["img_features"])
    check_close(features["video"], golden["video_features"])
    check_close(model.class_features(), golden["text_features"])


def test_logits(case):
    _, _, outputs, _, golden = case
    check_close(outputs.logits, golden["logits"])


def test_losses(case):
    _, _, outputs, _, golden = case
    check_close(torch.stack(outputs.alignment_losses), golden["alignment_loss_per_layer"], atol=1e-6)
    if "total_loss" in golden:
        check_close(outputs.classification_loss, golden["classification_loss"])
        check_close(outputs.loss, golden["total_loss"])


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_norms(kind):
    model, clips, expected = converted_model(kind)
    model.train()
    model(clips, labels=expected["labels"]).loss.backward()
    parameters = dict(model.named_parameters())
    weights, _ = original_weights(kind)
    checked = set()
    for name in weights:
        golden = expected.get(f"train.grad_norm.{name}")
        if golden is None:
            continue
        ours = list(convert_state_dict({name: weights[name], **interaction_marker(weights)}))
        ours = [parameter for parameter in ours if "running" not in parameter][: 3 if "in_proj" in name else 1]
        norm = torch.stack([parameters[parameter].grad.norm() for parameter in ours]).norm()
        if BEFORE_BATCH_NORM.search(ours[0]):
            assert max(norm, golden) < 1e-6, name  # BatchNorm takes it away: both are rounding of zero
        else:
            assert abs(norm - golden) <= 1e-3 * golden, (name, float(norm), float(golden))
        checked.update(ours)
    assert checked == {name for name, parameter in parameters.items() if parameter.grad is not None}


def interaction_marker(weights):
    """A key that tells the mapping which of the two interaction convolutions a checkpoint holds."""
    return {name: weights[name] for name in weights if name.endswith("0.depthwise_conv.1.running_mean")}
