"""torch.compile: whole graphs, the same results, and few compilations for clips of any number and length."""

import copy

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from ila_hf import ILACache, ILAForVideoClassification, ILAForVideoTextClassification, ILAVisionModel


VARIANTS = {
    "paper": {},
    "causal-token": {"first_frame": "self", "interaction_token": True},
    "released": {"architecture": "released"},
}
HEADS = (ILAForVideoTextClassification, ILAForVideoClassification)
LABELS = torch.tensor([0, 1])


@pytest.fixture(autouse=True)
def _reset():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def models(tiny_model):
    """Twice the same model: `models(model_class, variant, training=False)`."""

    def get(model_class, variant, **arguments):
        vision = {**VARIANTS[variant], "num_hidden_layers": 1}
        model = tiny_model(model_class, vision=vision, classifier_dropout=0.0, **arguments)
        return model, copy.deepcopy(model)

    return get


def make_clips(batch, frames):
    return torch.randn(batch, frames, 3, 32, 32)


@pytest.mark.parametrize("variant", ["causal-token", "released"])
@torch.no_grad()
def test_the_trunk_is_one_graph(models, clips, variant):
    model, expected = models(ILAVisionModel, variant)
    model(clips, output_hidden_states=True)  # transformers installs hooks at the first call, under a lock
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    arguments = {"output_alignments": True, "output_hidden_states": True}
    found, wanted = compiled(clips, **arguments), expected(clips, **arguments)
    assert len(found) == 8
    assert list(found) == list(wanted)
    torch.testing.assert_close(found.to_tuple(), wanted.to_tuple(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("model_class", HEADS)
@torch.no_grad()
def test_the_next_frames_of_streams_are_one_graph(models, clips, model_class, dynamic):
    model, expected = models(model_class, "causal-token")
    model(clips), expected(clips)
    compiled = torch.compile(model, fullgraph=True, backend="eager", dynamic=dynamic)
    cache, other = ILACache(), ILACache()
    for frames in clips.split(2, dim=1):
        found = compiled(frames, cache=cache)
        torch.testing.assert_close(found.logits, expected(frames, cache=other).logits, atol=1e-5, rtol=1e-5)
        assert found.cache is cache
        assert type(cache.num_frames) is int
        assert cache.lengths.tolist() == other.lengths.tolist()
        assert cache.states.keys() == other.states.keys()
        for name, state in cache.states.items():
            torch.testing.assert_close(state, other.states[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("model_class", HEADS)
@pytest.mark.parametrize("variant", ["causal-token", "released"])
def test_a_training_step_is_one_graph(models, clips, model_class, variant):
    """Forward with the stored class texts, loss and backward: the same losses, gradients and running statistics."""
    model, expected = models(model_class, variant, training=True)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found, wanted = compiled(clips, labels=LABELS), expected(clips, labels=LABELS)
    for outputs in (found, wanted):
        outputs.loss.backward()
    for name in ("loss", "logits", "classification_loss", "alignment_loss"):
        torch.testing.assert_close(found[name], wanted[name], atol=1e-5, rtol=1e-5)
    gradients = {name: parameter.grad for name, parameter in expected.named_parameters()}
    largest = max(gradient.abs().max() for gradient in gradients.values() if gradient is not None)
    assert any(".temporal." in name and gradient is not None for name, gradient in gradients.items())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-5 * float(largest), rtol=1e-4, msg=name)
    buffers = dict(expected.named_buffers())
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, buffers[name], msg=name)


@pytest.mark.parametrize(("model_class", "variant"), zip(HEADS, ["paper", "released"], strict=True))
@torch.no_grad()
def test_one_dynamic_graph_serves_all_clips(models, model_class, variant):
    """Any batch and any T, `num_frames` (8) included.

    On the CPU torch chooses a convolution by its batch, up to 16 or more: below, there is one graph more.
    """
    model, expected = models(model_class, variant)
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter, dynamic=True)
    for batch, frames in [(4, 8), (5, 8), (3, 16), (9, 3), (4, 5), (2, 12)]:
        clips = make_clips(batch, frames)
        torch.testing.assert_close(compiled(clips).logits, expected(clips).logits, atol=1e-5, rtol=1e-5)
    assert counter.frame_count == 1
    for batch, frames in [(2, 8), (3, 4), (2, 3)]:
        clips = make_clips(batch, frames)
        torch.testing.assert_close(compiled(clips).logits, expected(clips).logits, atol=1e-5, rtol=1e-5)
    assert counter.frame_count <= 2


def test_a_training_loop_compiles_twice_at_most(models):
    """Without `dynamic`: once for the first shapes, once more when they change."""
    model, _ = models(ILAForVideoClassification, "causal-token", training=True, num_labels=6)
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for batch in (4, 4, 3, 5, 6):
        compiled(make_clips(batch, 8), labels=torch.arange(batch)).loss.backward()
    assert counter.frame_count == 2


def test_a_compiled_trunk_leaves_the_class_texts_stored(models, clips):
    """A graph of the whole model encodes them for every batch."""
    model, expected = models(ILAForVideoTextClassification, "paper")
    calls = []
    model.text_model.register_forward_hook(lambda *_: calls.append(1))
    model.vision_model.compile(fullgraph=True, backend="eager")
    with torch.no_grad():
        for batch in (clips, clips + 0.1):
            torch.testing.assert_close(model(batch).logits, expected(batch).logits, atol=1e-5, rtol=1e-5)
    assert len(calls) == 1


@pytest.mark.parametrize("variant", ["causal-token", pytest.param("released", marks=pytest.mark.slow)])
def test_activation_checkpointing_inside_a_graph(models, clips, variant):
    model, expected = models(ILAForVideoClassification, variant, training=True)
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": False})
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for called in (compiled, expected):
        called(clips, labels=LABELS).loss.backward()
    gradients = {name: parameter.grad for name, parameter in expected.named_parameters()}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-6, rtol=1e-4, msg=name)
    for (name, buffer), other in zip(model.named_buffers(), expected.buffers(), strict=True):
        torch.testing.assert_close(buffer, other, msg=name)  # BatchNorm has seen the batch once


@pytest.mark.parametrize("model_class", HEADS)
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # torch reads every attribute
@torch.no_grad()
def test_a_trace(models, model_class):
    """Of TorchScript, for other clips of the same shape; T may be `num_frames` or not."""
    model, expected = models(model_class, "paper")
    for frames in (8, 4):
        traced = torch.jit.trace(model, make_clips(2, frames), strict=False)
        clips = make_clips(2, frames)
        torch.testing.assert_close(traced(clips)["logits"], expected(clips).logits, atol=1e-5, rtol=1e-5)
