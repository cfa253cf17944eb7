"""Masks, features and Grad-CAM, against computations that are written out."""

import itertools

import pytest
import torch

from ila_hf import ILAForVideoClassification, ILAForVideoTextClassification, ILAModel, ILAVisionModel
from ila_hf.analysis import attribution_maps, grad_cam, layer_alignments, layer_features, principal_colours
from ila_hf.inference import compile_layers


HEADS = (ILAForVideoTextClassification, ILAForVideoClassification)


def mask_of(point, grid):
    """Eq. 6 with η = 1, δ = 0.25, β = 1.5."""
    mask = torch.empty(grid)
    for row, column in itertools.product(*map(range, grid)):
        value = 1.0
        for index, count, centre in ((column, grid[1], point[0]), (row, grid[0], point[1])):
            distance = abs(-1 + 2 * index / (count - 1) - float(centre))
            value *= 1.0 if distance <= 0.25 else max(0.0, 1.0 - 1.5 * (distance - 0.25))
        mask[row, column] = value
    return mask


@pytest.mark.parametrize(
    ("vision", "frames"),
    [
        ({}, [(t, t + 1) for t in range(7)]),
        ({"first_frame": "self"}, [(0, 0), *((t, t + 1) for t in range(7))]),
        ({"reference_frame": "middle"}, [(4, t) for t in range(8)]),
    ],
)
@torch.no_grad()
def test_points_and_masks_are_those_of_the_layer(tiny_model, clips, vision, frames):
    """A frame has the mask that its token is pooled with: that of its own pair."""
    model = tiny_model(vision=vision)
    found = layer_alignments(model, clips)
    assert list(found) == [0, 1, 2]
    diagnostics = model(clips, output_alignments=True)
    for layer, aligned in found.items():
        assert aligned.frames == frames
        distinct = [i for i, pair in enumerate(frames) if pair[0] != pair[1]]
        torch.testing.assert_close(aligned.points[:, distinct], diagnostics.interactive_points[layer])
        assert aligned.masks.shape == (2, 8, 4, 4)
        for clip, t in itertools.product(range(2), range(8)):
            pairs = [i for i, pair in enumerate(frames) if pair[1] == t]
            point = aligned.points[clip, pairs[0], 1] if pairs else aligned.points[clip, 0, 0]
            torch.testing.assert_close(aligned.masks[clip, t], mask_of(point, (4, 4)))


@torch.no_grad()
def test_masks_of_the_released_architecture(tiny_model, clips):
    """A frame is multiplied with the mean of its masks as current and as previous frame."""
    aligned = layer_alignments(tiny_model(vision={"architecture": "released"}), clips)[1]
    for t in range(8):
        places = [(pair, i) for pair in range(7) for i in range(2) if pair + i == t]
        expected = sum(mask_of(aligned.points[0, pair, i], (4, 4)) for pair, i in places) / len(places)
        torch.testing.assert_close(aligned.masks[0, t], expected)


def test_layers_that_align_are_named(tiny_model, clips):
    model = tiny_model(vision={"alignment_layers": [0, 2]})
    assert list(attribution_maps(model, clips, "masks")) == [0, 2]
    assert list(attribution_maps(model, clips, "masks", [-1, 0])) == [2, 0]
    with pytest.raises(ValueError, match=r"Layer 1 does not align frames; those that do are \[0, 2\]\."):
        attribution_maps(model, clips, "masks", [1])
    with pytest.raises(ValueError, match=r"`layer` must be in \[-3, 2\] for 3 layers, got 3\."):
        attribution_maps(model, clips, "cam", [3])
    with pytest.raises(ValueError, match='`kind` must be "masks", "attention" or "cam", got \'points\''):
        attribution_maps(model, clips, "points")
    with pytest.raises(ValueError, match="it aligns no frames"):
        layer_alignments(tiny_model(vision={"temporal_module": "joint"}), clips)


@pytest.mark.parametrize("kind", ["masks", "attention", "cam"])
@pytest.mark.parametrize("model_class", HEADS)
@pytest.mark.parametrize("vision", [{}, {"architecture": "released"}])
def test_any_length_and_grid(tiny_model, kind, model_class, vision):
    model = tiny_model(model_class, vision=vision)
    for num_frames, size in itertools.product((1, 3), ((32, 32), (32, 48), (39, 64))):
        maps = attribution_maps(model, torch.randn(1, num_frames, 3, *size), kind)
        assert all(each.shape == (1, num_frames, size[0] // 8, size[1] // 8) for each in maps.values())
        assert all(each.isfinite().all() and each.dtype == torch.float for each in maps.values())


@torch.no_grad()
def test_features_are_what_leaves_each_layer(tiny_model, clips):
    model = tiny_model(ILAVisionModel)
    states = []
    for layer in model.encoder.layers:
        layer.register_forward_hook(lambda module, inputs, output: states.append(output))
    found = layer_features(model, clips)
    assert len(found) == len(states) == 3
    for features, state in zip(found, states, strict=True):
        assert features.shape == (2, 8, 4, 4, 64)
        assert torch.equal(features[:, :, 1, 2], state[:, :, 1 + 4 + 2])


def test_principal_colours_follow_the_largest_variance():
    """Three independent directions of known variance, in a rotated space of ten."""
    parts = torch.randn(5, 6, 7, 3, dtype=torch.double).flatten(0, 2)
    parts = parts - parts.mean(0)
    parts = torch.linalg.qr(parts)[0] * torch.tensor([5.0, 3.0, 1.0])
    rotation = torch.linalg.qr(torch.randn(10, 10, dtype=torch.double))[0][:3]
    colours = principal_colours((parts @ rotation + 7).view(5, 6, 7, 10)).flatten(0, 2).double()
    assert colours.min() == 0
    assert colours.max() == 1
    for i in range(3):
        inside = (colours[:, i] > 0) & (colours[:, i] < 1)
        pair = torch.stack([colours[inside, i], parts[inside, i]])
        assert inside.double().mean() > 0.97  # all but one in a hundred at either end
        assert torch.corrcoef(pair)[0, 1].abs() == pytest.approx(1, abs=1e-6)


def test_colours_of_features_that_do_not_vary():
    assert not principal_colours(torch.full((2, 4, 4, 8), 3.7)).any()
    assert principal_colours(torch.randn(1, 4, 4, 2))[..., 2].unique().tolist() == [0]


@pytest.mark.parametrize("model_class", HEADS)
@pytest.mark.parametrize("vision", [{}, {"architecture": "released"}, {"temporal_module": "joint"}])
def test_grad_cam_is_the_formula(tiny_model, clips, model_class, vision):
    """Gradients by central differences; the step is large for logits that are computed in float32."""
    model, clip = tiny_model(model_class, vision=vision).double(), clips[:1].double()
    found = grad_cam(model, clip, class_id=1, layer=1)
    kept = []
    layer = model.vision_model.encoder.layers[1]
    with layer.register_forward_hook(lambda module, inputs, output: kept.append(output)), torch.no_grad():
        model(clip)
    tokens, step = kept[0], 2e-2

    def score(states):
        with layer.register_forward_hook(lambda module, inputs, output: states), torch.no_grad():
            return float(model(clip).logits[0, 1])

    t = int(found.flatten(2).amax(2).argmax())
    # α_d, the mean of the gradient over the patches, is the slope of the score when all patches change in d, by N
    expected = torch.zeros(16)
    for d in range(64):
        moved = [tokens.clone(), tokens.clone()]
        moved[0][0, t, 1:, d] += step
        moved[1][0, t, 1:, d] -= step
        slope = (score(moved[0]) - score(moved[1])) / (2 * step)
        expected += slope / 16 * tokens[0, t, 1:, d].float()
    assert expected.max() > 0
    torch.testing.assert_close(found[0, t].flatten(), expected.clamp(min=0), atol=0.02 * float(expected.max()), rtol=0)


def test_grad_cam_takes_the_class_of_each_clip(tiny_model, clips):
    model = tiny_model()
    with torch.no_grad():
        predicted = model(clips).logits.argmax(1).tolist()
    found = grad_cam(model, clips)
    for i, class_id in enumerate(predicted):
        torch.testing.assert_close(found[i], grad_cam(model, clips[i : i + 1], class_id, layer=1)[0])
    assert not torch.allclose(found[0], grad_cam(model, clips, (predicted[0] + 1) % 8)[0])


def test_grad_cam_refuses(tiny_model, clips):
    with pytest.raises(ValueError, match=r"`class_id` must be in \[0, 7\], got 8"):
        grad_cam(tiny_model(), clips, class_id=8)
    with pytest.raises(ValueError, match="does not depend on the patches that leave layer 2: take an earlier layer"):
        grad_cam(tiny_model(ILAForVideoClassification), clips, layer=-1)
    assert grad_cam(tiny_model(), clips, layer=-1).any()  # by the text prompt
    for model_class in (ILAModel, ILAVisionModel):
        with pytest.raises(ValueError, match=f"need a classification model, got {model_class.__name__}"):
            grad_cam(tiny_model(model_class), clips)


@pytest.mark.parametrize("kind", ["masks", "attention", "cam"])
def test_the_model_is_left_as_it_was(tiny_model, clips, kind):
    """In training with a frozen part and one in evaluation, without gradients of weights, fused or not."""
    model = tiny_model(training=True)
    model.vision_model.encoder.layers[0].eval()
    model.freeze("text")
    before = [(module.training, name) for name, module in model.named_modules()]
    trained = [parameter.requires_grad for parameter in model.parameters()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    maps = attribution_maps(model, clips, kind)
    assert [(module.training, name) for name, module in model.named_modules()] == before
    assert [parameter.requires_grad for parameter in model.parameters()] == trained
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for name, module in model.named_modules() if ".temporal" in name)
    fused = attribution_maps(model.eval().fuse(), clips, kind)
    for layer, values in maps.items():
        torch.testing.assert_close(fused[layer], values, atol=1e-5, rtol=1e-3)
    compiled = attribution_maps(compile_layers(model, backend="eager"), clips, kind)
    assert all(torch.equal(compiled[layer], values) for layer, values in fused.items())


def test_grad_cam_before_the_decoder_of_evl(tiny_model, clips):
    """Layers that also give their queries and keys away."""
    model = tiny_model(
        vision={"temporal_module": "none"}, integration_module="evl", integration_options={"num_hidden_layers": 1}
    )
    maps = grad_cam(model, clips, layer=-1)
    assert maps.shape == (2, 8, 4, 4)
    assert maps.max() > 0
