"""Models: plain CLIP inside, initialisation, class texts, precisions, causality, bad input."""

import copy

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CLIPVisionModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.testing_utils import CaptureLogger
from transformers.utils import logging

from ila_hf import (
    ILAForVideoClassification,
    ILAForVideoTextClassification,
    ILAModel,
    ILATextModel,
    ILAVisionModel,
)
from ila_hf.demo.motion_clips import MOTIONS
from ila_hf.demo.tiny import tiny_clip, tiny_config, tiny_tokenizer
from ila_hf.modeling_ila import ILAQuickGELU


HEADS = (ILAForVideoTextClassification, ILAForVideoClassification)
NEW_WEIGHTS = logging.get_logger("ila_hf.new_weights_ila")
VARIANTS = {
    "paper": {},
    "causal": {"first_frame": "self"},
    "token": {"interaction_token": True},
    "dense": {"alignment_conv": "dense"},
    "released": {"architecture": "released"},
    "none": {"alignment_layers": []},
}


@pytest.fixture(scope="module")
def clip_model():
    """A plain CLIP whose weights are all different from their initial values."""
    torch.manual_seed(7)
    model = tiny_clip().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def clip_folder(clip_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    clip_model.save_pretrained(folder)
    return folder


def load_from_clip(model_class, folder, architecture="paper"):
    config = model_class.config_class.from_pretrained(folder)
    getattr(config, "vision_config", config).architecture = architecture
    return model_class.from_pretrained(folder, config=config).eval()


# --- What is loaded -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_class", [ILAVisionModel, ILAModel, *HEADS])
def test_what_a_clip_does_not_hold_is_one_line(clip_folder, model_class):
    config = model_class.config_class.from_pretrained(clip_folder)
    with CaptureLogger(logging.get_logger("transformers.modeling_utils")) as logs, CaptureLogger(NEW_WEIGHTS) as line:
        model, info = model_class.from_pretrained(clip_folder, config=config, output_loading_info=True)
    new = [name for name in model.state_dict() if model.parameter_origin(name) is None]
    assert line.out.count("\n") == 1
    assert "temporal" in line.out
    assert f"({len(new)} tensors)" in line.out
    assert "MISSING" not in logs.out
    assert set(info["missing_keys"]) == set(new)  # those who ask are told


@pytest.mark.parametrize("kept", [0, 1])
def test_what_a_damaged_checkpoint_lacks_is_listed(tiny_model, tmp_path, kept):
    """Of ILA's own weights some, or of CLIP's one."""
    model = tiny_model()
    state = model.state_dict()
    lost = [name for name in state if model.parameter_origin(name) is None][1:] if kept else ["logit_scale"]
    model.save_pretrained(tmp_path, state_dict={name: tensor for name, tensor in state.items() if name not in lost})
    with CaptureLogger(logging.get_logger("transformers.modeling_utils")) as logs, CaptureLogger(NEW_WEIGHTS) as line:
        _, info = ILAForVideoTextClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not line.out
    assert set(info["missing_keys"]) == set(lost)
    assert "MISSING" in logs.out


# --- CLIP's weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["paper", "released"])
@pytest.mark.parametrize("model_class", [ILAVisionModel, ILAModel, *HEADS])
def test_every_clip_weight_is_loaded(clip_model, clip_folder, model_class, architecture):
    model = load_from_clip(model_class, clip_folder, architecture)
    expected = (clip_model.vision_model if model_class is ILAVisionModel else clip_model).state_dict()
    loaded = model.state_dict()
    if model_class is ILAForVideoClassification:
        expected = {name: x for name, x in expected.items() if name.startswith("vis")}
    assert len(expected) > 30
    for name, tensor in expected.items():
        assert torch.equal(loaded[name], tensor), name
    new = loaded.keys() - expected.keys()
    known = {name.split(".")[0] for name in expected}
    assert all(".temporal." in name or name.split(".")[0] not in known for name in new)


def test_text_tower_alone_loads_from_clip(clip_model, clip_folder):
    loaded = ILATextModel.from_pretrained(clip_folder).state_dict()
    for name, tensor in clip_model.text_model.state_dict().items():
        assert torch.equal(loaded[name], tensor), name


def test_vision_tower_loads_from_a_saved_vision_tower(clip_model, tmp_path):
    tower = CLIPVisionModel(clip_model.config.vision_config)
    tower.load_state_dict(clip_model.vision_model.state_dict())
    tower.save_pretrained(tmp_path)
    loaded = ILAVisionModel.from_pretrained(tmp_path).state_dict()
    for name, tensor in tower.state_dict().items():
        assert torch.equal(loaded[name], tensor), name


def check_new_weights(model):
    """The initial values that the classes state, whichever way the model was built."""
    vision_config = getattr(model.config, "vision_config", model.config)
    for name, tensor in model.state_dict().items():
        assert tensor.isfinite().all(), name
        parts = name.split(".")
        is_new = ".temporal." in name or parts[0] in ("integration", "prompt", "norm")
        if ".prediction.fc2." in name or "aligned_out" in parts or "interaction_out" in parts:
            assert not tensor.any(), name
        elif parts[-1] == "jitter_scale" or parts[-1] == "running_var":
            assert (tensor == 1).all(), name
        elif parts[-1] in ("running_mean", "num_batches_tracked"):
            assert not tensor.any(), name
        elif parts[-1] == "alpha":
            assert (tensor == torch.tensor(0.1)).all()
        elif ".temporal." in name and tensor.ndim >= 4:
            fan_in = tensor[0].numel()  # uniform on ±1/sqrt(fan_in)
            assert tensor.std() == pytest.approx((3 * fan_in) ** -0.5, rel=0.15), name
        elif ".temporal." in name and tensor.ndim == 2:
            assert tensor.std() == pytest.approx(vision_config.initializer_range, rel=0.1), name
        elif is_new and ("norm" in parts[-2] or parts[-2] in ("1", "4", "7")):  # LayerNorm and BatchNorm
            assert (tensor == float(parts[-1] == "weight")).all(), name
        elif parts[-1] == "weight" and parts[0] == "prompt" and tensor.ndim == 2:
            assert tensor.std() == pytest.approx(0.02, rel=0.1), name
        elif name in ("classifier.weight", "integration.position_embedding"):
            assert tensor.std() == pytest.approx(0.02, rel=0.2)
        elif name.startswith("integration") and name.endswith("q_proj.weight"):
            assert tensor.std() == pytest.approx(64**-0.5 * 2**-0.5, rel=0.1)
        elif name == "class_texts.input_ids":
            assert (tensor == -1).all()


@pytest.mark.parametrize("architecture", ["paper", "released"])
@pytest.mark.parametrize("model_class", [ILAVisionModel, ILAModel, *HEADS])
def test_new_weights_are_initialised(clip_folder, model_class, architecture):
    check_new_weights(load_from_clip(model_class, clip_folder, architecture))
    config = tiny_config({"architecture": architecture})
    check_new_weights(model_class(config.vision_config if model_class is ILAVisionModel else config))


def test_clip_weights_are_initialised_as_by_clip():
    model = ILAModel(tiny_config({"initializer_range": 0.02}))
    layer = model.vision_model.encoder.layers[0]
    expected = {
        layer.self_attn.q_proj.weight: 64**-0.5 * 6**-0.5,
        layer.self_attn.out_proj.weight: 64**-0.5,
        layer.mlp.fc1.weight: 128**-0.5,
        layer.mlp.fc2.weight: 64**-0.5 * 6**-0.5,
        model.vision_model.embeddings.patch_embedding.weight: 0.02,
        model.visual_projection.weight: 64**-0.5,
        ILAForVideoClassification(model.config).visual_projection.weight: 64**-0.5,
    }
    for weight, std in expected.items():
        assert float(weight.detach().std()) == pytest.approx(std, rel=0.05)
    assert float(model.logit_scale.detach()) == pytest.approx(2.6592)


def clip_frame_features(clip_model, clips):
    outputs = clip_model.vision_model(clips.flatten(0, 1))
    return outputs.last_hidden_state.unflatten(0, clips.shape[:2]), outputs.pooler_output.unflatten(0, clips.shape[:2])


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_released_architecture_starts_as_clip(clip_model, clip_folder, clips, mode):
    model = load_from_clip(ILAVisionModel, clip_folder, "released").train(mode == "train")
    tokens, pooled = clip_frame_features(clip_model, clips)
    outputs = model(clips)
    torch.testing.assert_close(outputs.last_hidden_state, tokens, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(outputs.pooler_output, pooled, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("interaction_token", [False, True])
def test_paper_architecture_without_its_tokens_is_clip(clip_model, clip_folder, clips, interaction_token):
    config = ILAVisionModel.config_class.from_pretrained(clip_folder)
    config.interaction_token = interaction_token
    model = ILAVisionModel.from_pretrained(clip_folder, config=config).eval()
    length = (config.image_size // config.patch_size) ** 2 + 1

    def mask_appended_tokens(module, args, kwargs):
        assert kwargs["hidden_states"].shape[1] == length
        appended = kwargs["tokens"].shape[1]
        assert appended == 1 + interaction_token
        mask = torch.zeros(1, 1, length, length + appended)
        mask[..., length:] = -torch.inf
        return args, {**kwargs, "attention_mask": mask}

    assert not torch.allclose(model(clips).pooler_output, clip_frame_features(clip_model, clips)[1], atol=1e-3)
    for layer in model.encoder.layers:
        layer.self_attn.register_forward_pre_hook(mask_appended_tokens, with_kwargs=True)
    tokens, pooled = clip_frame_features(clip_model, clips)
    outputs = model(clips)
    torch.testing.assert_close(outputs.last_hidden_state, tokens, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(outputs.pooler_output, pooled, atol=1e-6, rtol=1e-6)


def test_layers_that_do_not_align_are_clips(clip_model, clip_folder, clips):
    config = ILAVisionModel.config_class.from_pretrained(clip_folder)
    config.alignment_layers = []
    model = ILAVisionModel.from_pretrained(clip_folder, config=config).eval()
    outputs = model(clips, output_alignments=True)
    torch.testing.assert_close(outputs.pooler_output, clip_frame_features(clip_model, clips)[1], atol=1e-6, rtol=1e-6)
    assert outputs.interactive_points == ()
    assert outputs.alignment_loss == 0


# --- The trunk ----------------------------------------------------------------------------------------------------


def embeddings(model, clips):
    """CLIP's tokens of the frames of the first clip before the first layer."""
    return model.vision_model.pre_layrnorm(model.vision_model.embeddings(clips[0]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_shapes_of_all_outputs(tiny_model, clips, variant):
    model = tiny_model(vision={**VARIANTS[variant], "alignment_layers": [0, 2] if variant != "none" else []})
    model.set_attn_implementation("eager")
    outputs = model(
        clips,
        labels=torch.tensor([0, 1]),
        output_hidden_states=True,
        output_attentions=True,
        output_alignments=True,
    )
    appended = {"token": 2, "released": 0, "none": 0}.get(variant, 1)
    aligned = 0 if variant == "none" else 2
    assert outputs.logits.shape == (2, 8)
    assert [x.shape for x in outputs.hidden_states] == [(2, 8, 17, 64)] * 4
    sizes = [17 + appended, 17, 17 + appended]
    assert [x.shape for x in outputs.attentions] == [(16, 2, 17, size) for size in sizes]
    assert [x.shape for x in outputs.interactive_points] == [(2, 7, 2, 2)] * aligned
    assert [x.shape for x in outputs.alignment_masks] == [(2, 7, 2, 4, 4)] * aligned
    assert [x.shape for x in outputs.mutual_information_tokens] == [(2, 7, 2, 64)] * aligned
    assert outputs.to_tuple()[0] is outputs.loss
    assert list(outputs)[:4] == ["loss", "logits", "classification_loss", "alignment_loss"]
    assert torch.equal(outputs.hidden_states[0][0, 1], embeddings(model, clips)[1])
    expected = outputs.classification_loss + 0.1 * outputs.alignment_loss
    torch.testing.assert_close(outputs.loss, expected)


def test_alignments_only_on_request(tiny_model, clips):
    outputs = tiny_model()(clips)
    assert outputs.interactive_points is None
    assert outputs.hidden_states is None
    assert outputs.loss is None
    assert outputs.alignment_loss is None
    as_tuple = tiny_model()(clips, labels=torch.tensor([0, 1]), return_dict=False)
    assert as_tuple[1].shape == (2, 8)
    model = tiny_model()
    model.config.return_dict = False
    assert torch.equal(model(clips)[0], outputs.logits)


def test_model_outputs(tiny_model, clips):
    model = tiny_model(ILAModel)
    input_ids = tiny_tokenizer()(list(MOTIONS[:2]), padding=True, return_tensors="pt")
    outputs = model(pixel_values=clips, return_loss=True, **input_ids)
    assert outputs.logits_per_video.shape == (2, 2)
    assert torch.equal(outputs.logits_per_text, outputs.logits_per_video.t())
    assert outputs.video_embeds.shape == (2, 64)
    assert outputs.text_embeds.shape == (2, 2, 64)
    assert isinstance(outputs.vision_model_output, BaseModelOutputWithPooling)
    norms = outputs.text_embeds.norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    cosines = (outputs.text_embeds * outputs.video_embeds[:, None]).sum(-1)
    torch.testing.assert_close(outputs.logits_per_video, model.logit_scale.exp() * cosines)
    with pytest.raises(ValueError, match=r"one text per clip, got \(2, 8\)"):
        model(
            pixel_values=clips, return_loss=True, **tiny_tokenizer()(list(MOTIONS), padding=True, return_tensors="pt")
        )


@pytest.mark.parametrize("interaction_token", [False, True])
def test_pairing_the_first_frame_with_itself_makes_the_trunk_causal(tiny_model, clips, interaction_token):
    model = tiny_model(ILAVisionModel, vision={"first_frame": "self", "interaction_token": interaction_token})
    before = model(clips, output_hidden_states=True)
    for t in range(1, clips.shape[1]):
        changed = clips.clone()
        changed[:, t] = torch.randn_like(changed[:, t])
        after = model(changed, output_hidden_states=True)
        for one, other in zip(before.hidden_states, after.hidden_states, strict=True):
            assert torch.equal(one[:, :t], other[:, :t])
        assert torch.equal(before.pooler_output[:, :t], after.pooler_output[:, :t])
        assert not torch.equal(before.pooler_output[:, t], after.pooler_output[:, t])


def test_the_default_trunk_is_not_causal(tiny_model, clips):
    model = tiny_model(ILAVisionModel)
    changed = clips.clone()
    changed[:, 1] = 0
    assert not torch.equal(model(clips).pooler_output[:, 0], model(changed).pooler_output[:, 0])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("training", [False, True])
def test_other_frame_counts(tiny_model, variant, training):
    model = tiny_model(vision=VARIANTS[variant], training=training)
    for num_frames in (1, 2, 5, 16):
        outputs = model(torch.randn(2, num_frames, 3, 32, 32), labels=torch.tensor([0, 1]), output_alignments=True)
        assert outputs.loss.isfinite()
        assert all(points.shape == (2, num_frames - 1, 2, 2) for points in outputs.interactive_points)
        if num_frames == 1:
            assert outputs.alignment_loss == 0
        if training:
            outputs.loss.backward()
            assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_fields_set_after_construction_are_checked():
    config = tiny_config({"interaction_token": True})
    config.vision_config.architecture = "released"
    with pytest.raises(StrictDataclassError, match="`interaction_token` must be False"):
        ILAModel(config)


def test_large_features_do_not_overflow_in_half_precision(tiny_model):
    temporal = tiny_model().vision_model.encoder.layers[0].temporal.half()
    temporal.alignment.mask.peak, temporal.alignment.mask.slope = 1.0, 0.0  # masks of ones
    tokens = torch.full((1, 2, 577, 64), 150.0, dtype=torch.half)
    outputs = temporal(tokens[:, :, 1:], tokens[:, :, :1], (24, 24))
    torch.testing.assert_close(outputs.tokens, torch.full_like(outputs.tokens, 150.0), atol=1.0, rtol=0)


def test_temporal_positions_are_interpolated_linearly(tiny_model):
    model = tiny_model()
    with torch.no_grad():
        model.integration.position_embedding.copy_(torch.arange(8.0)[None, :, None].expand(1, 8, 64))
    seen = []
    model.integration.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.integration(torch.zeros(1, 4, 64))
    torch.testing.assert_close(seen[0][0, :, 0], torch.tensor([0.5, 2.5, 4.5, 6.5]))


def test_other_frame_sizes_need_interpolation(tiny_model):
    model = tiny_model()
    clips = torch.randn(1, 2, 3, 48, 40)
    with pytest.raises(ValueError, match=r"48\*40.*32\*32"):
        model(clips)
    assert model(clips, interpolate_pos_encoding=True).logits.shape == (1, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_precisions_and_constant_frames(tiny_model, clips, variant, dtype):
    reference = tiny_model(vision=VARIANTS[variant])(clips)
    model = tiny_model(vision=VARIANTS[variant]).to(dtype)
    outputs = model(clips.to(dtype), output_alignments=True)
    assert outputs.logits.dtype == torch.float32
    assert outputs.alignment_loss.dtype == torch.float32
    assert all(masks.dtype == torch.float32 for masks in outputs.alignment_masks)
    torch.testing.assert_close(outputs.logits, reference.logits, atol=0.3, rtol=0.05)
    model.train()
    for value in (0.0, 1.0, -2.0):
        outputs = model(torch.full((2, 8, 3, 32, 32), value, dtype=dtype), labels=torch.tensor([0, 1]))
        assert outputs.loss.isfinite()
        outputs.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_autocast(tiny_model, clips):
    model = tiny_model()
    expected = model(clips).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(clips, labels=torch.tensor([0, 1]), output_alignments=True)
    assert outputs.logits.dtype == outputs.loss.dtype == outputs.alignment_masks[0].dtype == torch.float32
    torch.testing.assert_close(outputs.logits, expected, atol=0.3, rtol=0.05)


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("variant", ["token", "released"])
def test_activation_checkpointing_changes_nothing(tiny_model, clips, variant, use_reentrant):
    plain = tiny_model(vision=VARIANTS[variant], training=True)
    checkpointed = copy.deepcopy(plain)
    # its name since transformers 5.23, and before
    enable = getattr(checkpointed, "activation_checkpointing_enable", checkpointed.gradient_checkpointing_enable)
    enable({"use_reentrant": use_reentrant})
    for model in (plain, checkpointed):
        model(clips, labels=torch.tensor([3, 4])).loss.backward()
    expected = dict(plain.named_parameters())
    for name, parameter in checkpointed.named_parameters():
        assert (parameter.grad is None) == (expected[name].grad is None), name
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, expected[name].grad, msg=name)
    # BatchNorm saw the batch once
    buffers = dict(plain.named_buffers())
    assert any(name.endswith("running_mean") for name in buffers)
    for name, buffer in checkpointed.named_buffers():
        assert torch.equal(buffer, buffers[name]), name


def test_mask_jitter_decays_and_is_saved(tiny_model, tmp_path, clips):
    model = tiny_model()
    masks = [layer.temporal.alignment.mask for layer in model.vision_model.encoder.layers]
    for epoch, scale in ((0, 1.0), (29, 1.0), (30, 0.5), (31, 0.25), (33, 0.0625)):
        model.set_mask_jitter_epoch(epoch)
        assert all(float(mask.jitter_scale) == scale for mask in masks)
    model.save_pretrained(tmp_path)
    loaded = ILAForVideoTextClassification.from_pretrained(tmp_path).train()
    for layer in loaded.vision_model.encoder.layers:
        assert float(layer.temporal.alignment.mask.jitter_scale) == 0.0625
    model.train()
    before = model(clips, output_alignments=True).alignment_masks[0]
    model.set_mask_jitter_epoch(0)
    assert not torch.equal(model(clips, output_alignments=True).alignment_masks[0], before)


def test_freeze(tiny_model, clips):
    def trained(model):
        return {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    model = tiny_model(training=True)
    every = trained(model)
    model.freeze("text")
    assert every - trained(model) == {n for n in every if n.startswith(("text_model.", "text_projection."))}
    model.freeze("clip")
    new = ("integration.", "prompt.")
    assert trained(model) == {n for n in every if ".temporal." in n or n.startswith(new)}
    model(clips, labels=torch.tensor([0, 1])).loss.backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == trained(model)

    vision = tiny_model(ILAVisionModel)
    vision.freeze("vision")
    assert all(".temporal." in name for name in trained(vision))
    assert trained(vision)
    text = tiny_model(ILATextModel)
    text.freeze("text")
    assert not trained(text)
    with pytest.raises(ValueError, match=r"'head'.*'text', 'vision', 'clip'"):
        model.freeze("head")


# --- Labels and class texts ---------------------------------------------------------------------------------------


def test_soft_labels(tiny_model, clips):
    model = tiny_model()
    ids = torch.tensor([2, 5])
    hard = model(clips, labels=ids).classification_loss
    one_hot = torch.nn.functional.one_hot(ids, 8).float()
    torch.testing.assert_close(model(clips, labels=one_hot).classification_loss, hard)
    mixed = 0.3 * one_hot + 0.7 * one_hot.flip(0)
    log_probabilities = model(clips).logits.log_softmax(1)
    expected = -(mixed * log_probabilities).sum(1).mean()
    torch.testing.assert_close(model(clips, labels=mixed).classification_loss, expected)


def test_several_labels_per_clip(tiny_model, clips):
    model = tiny_model(ILAForVideoClassification, num_labels=5, problem_type="multi_label_classification")
    labels = torch.tensor([[1, 0, 1, 0, 0], [0, 0, 0, 0, 1]])
    outputs = model(clips, labels=labels)
    p = outputs.logits.sigmoid()
    expected = -(labels * p.log() + (1 - labels) * (1 - p).log()).mean()
    torch.testing.assert_close(outputs.classification_loss, expected)


@pytest.mark.parametrize("model_class", HEADS)
def test_clips_that_could_not_be_read_do_not_count(tiny_model, clips, model_class):
    """Their label is -100; the classification loss is that of the other clips, or 0."""
    model = tiny_model(model_class, num_labels=8)
    with torch.no_grad():
        loss = model(clips, labels=torch.tensor([3, -100])).classification_loss
        expected = -model(clips).logits[0].log_softmax(0)[3]
        none = model(clips, labels=torch.tensor([-100, -100])).classification_loss
    torch.testing.assert_close(loss, expected)
    assert none == 0


@pytest.mark.parametrize("model_class", [ILAVisionModel, ILATextModel, ILAModel, *HEADS])
def test_saving_and_loading_keeps_every_tensor(tiny_model, tmp_path, model_class):
    model = tiny_model(model_class, vision={"interaction_token": True})
    model.save_pretrained(tmp_path)
    loaded = model_class.from_pretrained(tmp_path)
    expected = model.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


# --- Training beside the recipes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["token", "released"])
def test_a_linear_probe(tiny_model, clips, variant):
    """Only the classifier learns; the frozen alignment neither jitters nor counts what it sees."""
    model = tiny_model(ILAForVideoClassification, vision=VARIANTS[variant])
    with torch.no_grad():
        expected = model(clips, output_alignments=True)
    model.freeze("trunk")
    before = copy.deepcopy(model.state_dict())
    model.train()
    assert model.dropout.training
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    outputs = model(clips, labels=torch.tensor([0, 1]), output_alignments=True)
    for found, mask in zip(outputs.alignment_masks, expected.alignment_masks, strict=True):
        torch.testing.assert_close(found, mask)  # not bit by bit: without gradients torch may compute otherwise
    outputs.loss.backward()
    optimizer.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    assert {name for name, p in model.named_parameters() if p.grad is not None} == changed
    model.requires_grad_(True)
    model.train()
    model(clips)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert any(name.endswith("running_mean") for name in changed)  # as every alignment that trains


def test_only_a_whole_frozen_alignment_stays_in_evaluation(tiny_model):
    model = tiny_model(ILAVisionModel)
    first, second, third = (layer.temporal for layer in model.encoder.layers)
    first.requires_grad_(False)
    second.alignment.requires_grad_(False)
    third.alignment.interaction.requires_grad_(False)
    model.train()
    assert [module.training for module in (model, first, first.alignment.mask, third.alignment.mask)] == [
        True,
        False,
        False,
        True,
    ]
    assert not second.training  # of the paper's architecture there is nothing else
    model.eval()
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("model_class", [ILAModel, ILAForVideoTextClassification, ILAVisionModel])
def test_a_linear_probe_needs_a_classifier(tiny_model, model_class):
    model = tiny_model(model_class)
    with pytest.raises(ValueError, match=f"{model_class.__name__} has no linear classifier"):
        model.freeze("trunk")
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_input_embeddings(tiny_model):
    """Of a model with texts those of the tokens, as in CLIP; of the others those of the patches."""
    for model_class in (ILAModel, ILAForVideoTextClassification):
        model = tiny_model(model_class)
        assert model.get_input_embeddings() is model.text_model.embeddings.token_embedding
        new = torch.nn.Embedding(7, 64)
        model.set_input_embeddings(new)
        assert model.text_model.embeddings.token_embedding is new
    linear = tiny_model(ILAForVideoClassification)
    assert linear.get_input_embeddings() is linear.vision_model.embeddings.patch_embedding


@pytest.mark.parametrize("training", [False, True])
def test_activation_is_quick_gelu(training):
    inputs = torch.randn(5, 7, requires_grad=True)
    expected = inputs * torch.sigmoid(1.702 * inputs)
    with torch.set_grad_enabled(training):
        found = ILAQuickGELU()(inputs)
    torch.testing.assert_close(found, expected)
    if training:
        gradients = [torch.autograd.grad(x.square().sum(), inputs)[0] for x in (found, expected)]
        torch.testing.assert_close(*gradients)


def test_the_alignment_loss_is_there_in_training_and_on_request(tiny_model, clips):
    model = tiny_model(ILAVisionModel)
    assert model(clips).alignment_loss is None
    expected = model(clips, output_alignments=True).alignment_loss
    found = model(clips, output_alignment_loss=True)
    assert torch.equal(found.alignment_loss, expected)
    assert found.alignment_losses is None
    assert model.train()(clips).alignment_loss > 0
    classifier = tiny_model()
    expected = classifier(clips, labels=torch.tensor([0, 1])).alignment_loss
    assert expected > 0
    assert torch.equal(classifier(clips, output_alignment_loss=True).alignment_loss, expected)
