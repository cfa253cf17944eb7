"""Attention back-ends: every attention of a model follows the switch, and all give the same result."""

import contextlib
import importlib.util
import logging

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask

from ila_hf import ILAForVideoClassification, ILAForVideoTextClassification, ILAModel, ILATextModel, ILAVisionModel


VARIANTS = {"token": {"interaction_token": True}, "released": {"architecture": "released"}}
HEADS = (ILAForVideoTextClassification, ILAForVideoClassification)
LABELS = torch.tensor([0, 1])
KERNELS = {
    "any": contextlib.nullcontext,
    "flash": lambda: sdpa_kernel(SDPBackend.FLASH_ATTENTION),
    "math": lambda: sdpa_kernel(SDPBackend.MATH),
}
HAS_FLASH_ATTENTION = torch.cuda.is_available() and importlib.util.find_spec("flash_attn") is not None


def loss_and_gradients(model, clips):
    outputs = model(clips, labels=LABELS.to(clips.device))
    outputs.loss.backward()
    return outputs, {name: x.grad for name, x in model.named_parameters() if x.grad is not None}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("model_class", HEADS)
def test_sdpa_is_eager(tiny_model, clips, model_class, variant, kernel):
    results = {}
    for implementation in ("eager", "sdpa"):
        model = tiny_model(model_class, vision=VARIANTS[variant])
        model.set_attn_implementation(implementation)
        with KERNELS[kernel]():
            results[implementation] = loss_and_gradients(model, clips)
    (eager, expected), (sdpa, gradients) = results["eager"], results["sdpa"]
    torch.testing.assert_close(sdpa.logits, eager.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sdpa.loss, eager.loss, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == expected.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5 * largest, rtol=1e-3, msg=name)


@pytest.mark.parametrize(
    "compiled",
    [False, pytest.param(True, marks=pytest.mark.slow)],  # inductor takes half a minute
)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.filterwarnings("ignore:_compile flag on create_block_mask:DeprecationWarning")  # transformers sets it
@torch.no_grad()
def test_flex_attention_is_eager(tiny_model, clips, variant, compiled):
    """Forward alone: torch's flex attention has no backward on the CPU."""
    model = tiny_model(vision=VARIANTS[variant]).requires_grad_(False)
    model.set_attn_implementation("eager")
    expected = model(clips).logits
    model.set_attn_implementation("flex_attention")
    # transformers compiles the kernel, which in the default tests runs as it is written
    with torch.compiler.set_stance("default" if compiled else "force_eager"):
        torch.testing.assert_close(model(clips).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.fixture
def calls(monkeypatch):
    """A back-end "naive" with the interface of flash attention; its calls, in order."""
    calls = []

    def naive(module, query, key, value, attention_mask, scaling=None, dropout=0.0, is_causal=None, **kwargs):
        is_causal = module.is_causal if is_causal is None else is_causal
        calls.append((module, tuple(query.shape), tuple(key.shape), query.dtype, is_causal, dropout))
        assert value.shape == key.shape
        assert scaling == query.shape[3] ** -0.5
        assert attention_mask is None or attention_mask.shape == key.shape[::2]  # of the padding, (B, S)
        output = torch.zeros_like(query)
        for i in range(query.shape[2]):
            scores = scaling * (key * query[:, :, i : i + 1]).sum(-1)  # (B, heads, S)
            if attention_mask is not None:
                scores = scores.masked_fill(attention_mask[:, None] == 0, -torch.inf)
            if is_causal:
                scores[:, :, i + 1 :] = -torch.inf
            output[:, :, i] = (scores.softmax(-1)[..., None] * value).sum(2)
        return output.transpose(1, 2), None

    for interface, function in ((AttentionInterface, naive), (AttentionMaskInterface, flash_attention_mask)):
        monkeypatch.setattr(interface, "_global_mapping", dict(interface._global_mapping))
        interface.register("naive", function)
    return calls


@pytest.mark.parametrize("at_load", [False, True])
@torch.no_grad()
def test_every_attention_follows_the_switch(tiny_model, clips, calls, tmp_path, at_load):
    model = tiny_model(vision={"interaction_token": True})
    expected = model(clips).logits
    assert not calls
    if at_load:
        model.save_pretrained(tmp_path)
        model = ILAForVideoTextClassification.from_pretrained(tmp_path, attn_implementation="naive").eval()
    else:
        model.set_attn_implementation("naive")
    torch.testing.assert_close(model(clips).logits, expected, atol=1e-5, rtol=1e-5)

    names = {module: name for name, module in model.named_modules()}
    found = {names[call[0]]: call[1:] for call in calls}
    assert len(found) == len(calls)
    # 16 frames of 17 tokens, beside which they see two more; 8 class texts
    trunk, appended, text = (16, 2, 17, 32), (16, 2, 19, 32), (8, 2, 77, 32)
    shapes = {f"vision_model.encoder.layers.{i}.self_attn": (trunk, appended, False) for i in range(3)}
    shapes |= {f"text_model.encoder.layers.{i}.self_attn": (text, text, True) for i in range(2)}
    shapes |= {"integration.layers.0.self_attn": ((2, 1, 8, 64), (2, 1, 8, 64), False)}
    shapes |= {f"prompt.layers.{i}.cross_attn": ((2, 1, 8, 64), (2, 1, 16, 64), False) for i in range(2)}
    assert found == {
        name: (query, key, torch.float32, is_causal, 0.0) for name, (query, key, is_causal) in shapes.items()
    }


@torch.no_grad()
def test_half_precision_arrives_at_the_back_end(tiny_model, clips, calls):
    """Flash attention takes nothing else."""
    model = tiny_model().bfloat16()
    model.set_attn_implementation("naive")
    model(clips.bfloat16())
    assert {call[3] for call in calls} == {torch.bfloat16}
    assert len(calls) == 8


@torch.no_grad()
def test_padded_texts(tiny_model, clips, calls):
    model = tiny_model(ILAModel)
    inputs = {"pixel_values": clips, "input_ids": torch.tensor([[512, 5, 6, 513], [512, 7, 513, 513]])}
    inputs["attention_mask"] = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    expected = model(**inputs).logits_per_video
    model.set_attn_implementation("naive")
    torch.testing.assert_close(model(**inputs).logits_per_video, expected, atol=1e-5, rtol=1e-5)
    assert len(calls) == 8


@torch.no_grad()
def test_towers_may_differ(tiny_model, clips, calls):
    """A name per configuration; integration and prompt take that of the whole model."""
    model = tiny_model()
    model.set_attn_implementation({"": "naive", "vision_config": "eager", "text_config": "sdpa"})
    model(clips)
    names = {module: name.split(".")[0] for name, module in model.named_modules()}
    assert [names[call[0]] for call in calls] == ["integration", "prompt", "prompt"]


@pytest.mark.parametrize("model_class", [ILAVisionModel, ILATextModel, ILAModel, *HEADS])
def test_supported_back_ends(model_class):
    assert model_class._supports_sdpa
    assert model_class._supports_flash_attn
    assert model_class._supports_flex_attn
    assert model_class._supports_attention_backend


def test_a_model_without_texts_switches_without_a_warning(tiny_model, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    model = tiny_model(ILAForVideoClassification)
    model.set_attn_implementation("eager")
    assert model.vision_model.config._attn_implementation == "eager"
    assert model.integration.layers[0].self_attn.config._attn_implementation == "eager"
    assert not caplog.records


def test_an_unknown_back_end(tiny_model):
    with pytest.raises(ValueError, match="flesh"):
        tiny_model().set_attn_implementation("flesh")


@torch.no_grad()
def test_only_eager_returns_attentions(tiny_model, clips):
    """The others do not compute them; as in CLIP the tuple is then empty, and transformers warns."""
    model = tiny_model(ILAVisionModel)
    model.set_attn_implementation("sdpa")
    assert model(clips, output_attentions=True).attentions == ()
    model.set_attn_implementation("eager")
    attentions = model(clips, output_attentions=True).attentions
    assert len(attentions) == 3
    torch.testing.assert_close(attentions[0].sum(-1), torch.ones(16, 2, 17))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.skipif(not HAS_FLASH_ATTENTION, reason="flash_attention_2 needs a CUDA device and the package flash-attn")
def test_flash_attention_is_eager(tiny_model, clips, variant):
    logits = []
    for implementation in ("eager", "flash_attention_2"):
        model = tiny_model(vision=VARIANTS[variant]).to("cuda", torch.bfloat16)
        model.set_attn_implementation(implementation)
        outputs, gradients = loss_and_gradients(model, clips.to("cuda", torch.bfloat16))
        assert all(gradient.isfinite().all() for gradient in gradients.values())
        logits.append(outputs.logits)
    torch.testing.assert_close(logits[1], logits[0], atol=0.1, rtol=0.02)
