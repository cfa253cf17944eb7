"""Temporal modules of other systems: against their equations, written out, forward and gradients; where they start."""

import dataclasses
import itertools
import math

import pytest
import torch
from conftest import make_model
from hub_server import HubServer
from huggingface_hub.errors import StrictDataclassError
from test_remote_code import run
from torch import nn
from transformers import CLIPVisionModel

from ila_hf import ILACache, ILAForVideoClassification, ILAForVideoTextClassification, ILAVisionModel
from ila_hf.analysis.flops import clip_config
from ila_hf.conversion.export_ila import export_onnx, largest_difference, onnx_runner
from ila_hf.demo.tiny import tiny_config, tiny_processor
from ila_hf.evaluation.model_card import card_from_run
from ila_hf.evl_decoder_ila import ILAEVLOptions
from ila_hf.temporal_baselines_ila import SYSTEMS, ILAAIMOptions
from ila_hf.temporal_ila import ILA_TEMPORAL_MODULES


B, T, D, HEADS, GRID = 2, 4, 64, 2, (4, 4)  # of the tiny model, on 32 pixels

# Options, and whether a new model of a CLIP checkpoint is that CLIP
MODULES = {
    "none": ({}, True),
    "average_pooling": ({}, False),
    "message_token": ({}, False),
    "divided": ({"num_frames": T}, True),
    "joint": ({"num_frames": T}, False),
    "shift": ({}, False),
    "shift of keys and values": ({"shift_position": "key_value"}, False),
    "ata": ({"num_frames": T}, True),
    "st_adapter": ({"adapter_hidden_size": 24}, True),
    "st_adapter twice": ({"adapter_hidden_size": 24, "before_attention": True}, True),
    "aim": ({"num_frames": T}, True),
    "aim twice": ({"num_frames": T, "before_temporal_attention": True, "joint_scale": 1.0}, True),
}
EXPORTED = ("shift of keys and values", "ata", "aim twice")  # in the default suite: exports take long
# Of the alignment itself
VARIANTS = {
    "first frame": {"reference_frame": "first"},
    "middle frame": {"reference_frame": "middle"},
    "window attention": {"alignment_operator": "window_attention"},
    "addition": {"alignment_join": "add"},
    "concatenation": {"alignment_join": "concatenate"},
    "euclidean mask": {"mask_distance": "euclidean"},
    "window attention, added": {"alignment_operator": "window_attention", "alignment_join": "add"},
}
every = pytest.mark.parametrize("name", MODULES)
also_variants = pytest.mark.parametrize("name", [*MODULES, *VARIANTS])


def vision(name, **more):
    if name in VARIANTS:
        return {**VARIANTS[name], **more}
    return {"temporal_module": name.split()[0], "temporal_options": MODULES[name][0], **more}


def shaken(model):
    """All weights away from where they start, so that every term counts."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * 0.1)
    return model


@pytest.fixture
def clips():
    return torch.randn(B, T, 3, 32, 32, generator=torch.Generator().manual_seed(2))


# The equations


def attention(layer, queries, context, change=lambda states: states):
    """One head after the other, one frame, or tube, or clip: (S, D), (R, D) -> (S, D)."""
    q, k, v = layer.q_proj(queries), change(layer.k_proj(context)), change(layer.v_proj(context))
    size = D // HEADS
    heads = []
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        weights = (q[:, part] @ k[:, part].T / math.sqrt(size)).softmax(-1)
        heads.append(weights @ v[:, part])
    return layer.out_proj(torch.cat(heads, dim=1))


def clip_layer(layer, frames, tokens=None):
    """CLIP's layer of every frame, with tokens that are only attended to."""
    found = []
    for i, frame in enumerate(frames):
        context = frame if tokens is None else torch.cat([frame, tokens[i]])
        frame = frame + attention(layer.self_attn, layer.layer_norm1(frame), layer.layer_norm1(context))
        found.append(frame + layer.mlp(layer.layer_norm2(frame)))
    return torch.stack(found)


def average_pooling(layer, z):
    return clip_layer(layer, z, [frame[1:].mean(0, keepdim=True) for frame in z])


def message_token(layer, z):
    own = layer.temporal
    messages = torch.stack([own.fc(frame[0]) for frame in z])  # (T, D)
    normed = own.norm(messages)
    messages = messages + attention(own.attention, normed, normed)
    return clip_layer(layer, z, messages[:, None])


def along(layer, z, paths):
    """Divided attention along paths, each a patch of every frame."""
    own, residual = layer.temporal, torch.zeros_like(z)
    for path in paths:
        tube = torch.stack([z[t, 1 + n] for t, n in enumerate(path)])
        normed = own.norm(tube)
        found = own.fc(attention(own.attention, normed, normed))
        places = torch.tensor([[t, 1 + n] for t, n in enumerate(path)])
        residual = residual.index_put(tuple(places.T), found)
    return clip_layer(layer, z + residual)


def divided(layer, z):
    return along(layer, z, [[n] * T for n in range(z.shape[1] - 1)])


def joint(layer, z):
    tokens = z.flatten(0, 1)
    normed = layer.layer_norm1(tokens)
    tokens = tokens + attention(layer.self_attn, normed, normed)
    return (tokens + layer.mlp(layer.layer_norm2(tokens))).unflatten(0, z.shape[:2])


def shifted(states):
    """(T, S, D): channel by channel."""
    fold, found = D // 8, []
    for channel in range(D):
        column = states[:, :, channel]
        empty = torch.zeros_like(column[:1])
        if channel < fold:
            column = torch.cat([column[1:], empty])
        elif channel < 2 * fold:
            column = torch.cat([empty, column[:-1]])
        found.append(column)
    return torch.stack(found, dim=2)


def shift(layer, z):
    return clip_layer(layer, torch.cat([z[:, :1], shifted(z[:, 1:])], dim=1))


def shift_of_keys_and_values(layer, z):
    normed = layer.layer_norm1(z)
    found = []
    for t in range(T):
        own = layer.self_attn
        k, v = shifted(own.k_proj(normed)), shifted(own.v_proj(normed))
        q, size, heads = own.q_proj(normed[t]), D // HEADS, []
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            heads.append((q[:, part] @ k[t, :, part].T / math.sqrt(size)).softmax(-1) @ v[t, :, part])
        frame = z[t] + own.out_proj(torch.cat(heads, dim=1))
        found.append(frame + layer.mlp(layer.layer_norm2(frame)))
    return torch.stack(found)


def convolved(adapter, z):
    """z + W DWConv(W z) of the patches: frame by frame, its neighbours weighted, zeros beyond the ends."""
    down = adapter.down(z[:, 1:])
    kernel, found = adapter.conv.weight[:, 0, :, 0, 0], []  # (C, 3)
    for t in range(T):
        near = [(i, s) for i, s in enumerate((t - 1, t, t + 1)) if 0 <= s < T]
        found.append(sum(kernel[:, i] * down[s] for i, s in near) + adapter.conv.bias)
    return torch.cat([z[:, :1], z[:, 1:] + adapter.up(torch.stack(found))], dim=1)


def st_adapter(layer, z):
    own = layer.temporal
    if own.before_attention is not None:
        z = convolved(own.before_attention, z)
    normed = layer.layer_norm1(z)
    z = z + torch.stack([attention(layer.self_attn, frame, frame) for frame in normed])
    z = convolved(own.before_mlp, z)
    return z + layer.mlp(layer.layer_norm2(z))


def bottleneck(adapter, x):
    hidden = adapter.down(x)
    return adapter.up(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))))


def aim(layer, z):
    own = layer.temporal
    tubes = []
    for n in range(z.shape[1]):
        tube = layer.layer_norm1(z[:, n])
        if own.temporal_in is not None:
            tube = tube + bottleneck(own.temporal_in, tube)
        tubes.append(z[:, n] + bottleneck(own.temporal_out, attention(layer.self_attn, tube, tube)))
    z = torch.stack(tubes, dim=1)
    y = torch.stack([attention(layer.self_attn, frame, frame) for frame in layer.layer_norm1(z)])
    z = z + y + bottleneck(own.spatial, y)
    normed = layer.layer_norm2(z)
    return z + layer.mlp(normed) + own.options.joint_scale * bottleneck(own.joint, normed)


EQUATIONS = {
    "none": clip_layer,
    "average_pooling": average_pooling,
    "message_token": message_token,
    "divided": divided,
    "joint": joint,
    "shift": shift,
    "shift of keys and values": shift_of_keys_and_values,
    "st_adapter": st_adapter,
    "st_adapter twice": st_adapter,
    "aim": aim,
    "aim twice": aim,
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_it_is_its_equation(name, clips):
    """Trunk and gradients, in float64."""
    model = shaken(make_model(ILAVisionModel, vision(name))).double()
    clips = clips.double().requires_grad_()
    found = model(clips).last_hidden_state
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(3), dtype=torch.double)
    tensors = [clips, *model.parameters()]
    gradients = torch.autograd.grad((found * weights).sum(), tensors, allow_unused=True)

    expected = []
    for clip in clips:
        z = model.embeddings(clip)
        if model.time_positions is not None:
            positions = model.time_positions.weight
            moved = z + positions[:, None] if name.startswith("aim") else z[:, 1:] + positions[:, None]
            z = moved if name.startswith("aim") else torch.cat([z[:, :1], moved], dim=1)
        z = model.pre_layrnorm(z)
        for layer in model.encoder.layers:
            z = EQUATIONS[name](layer, z)
        expected.append(z)
    expected = torch.stack(expected)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
    for gradient, other in zip(
        gradients, torch.autograd.grad((expected * weights).sum(), tensors, allow_unused=True), strict=True
    ):
        assert (gradient is None) == (other is None)
        if gradient is not None:
            torch.testing.assert_close(gradient, other, atol=1e-8, rtol=1e-7)


def best_paths(z):
    """ATA on few patches: of all assignments of neighbouring frames the best, followed from the first frame."""
    count = z.shape[1] - 1
    paths = [[n] for n in range(count)]
    for t in range(1, len(z)):
        before, now = (nn.functional.normalize(z[i, 1:], dim=-1) for i in (t - 1, t))
        match = max(
            itertools.permutations(range(count)), key=lambda p: sum(before[i] @ now[n] for i, n in enumerate(p))
        )
        for path in paths:
            path.append(match[path[-1]])
    return paths


def test_ata_against_all_assignments():
    """Of 2×2 patches."""
    model = shaken(make_model(ILAVisionModel, vision("ata", image_size=16))).double()
    clips = torch.randn(B, T, 3, 16, 16, generator=torch.Generator().manual_seed(5), dtype=torch.double)
    found = model(clips)
    loss = found.last_hidden_state.square().sum()
    gradients = torch.autograd.grad(loss, model.parameters(), allow_unused=True)
    expected, moved = [], 0
    for clip in clips:
        z = model.embeddings(clip)
        positions = model.time_positions.weight[:, None]
        z = model.pre_layrnorm(torch.cat([z[:, :1], z[:, 1:] + positions], dim=1))
        for layer in model.encoder.layers:
            paths = best_paths(z.detach())
            moved += sum(len(set(path)) > 1 for path in paths)
            z = along(layer, z, paths)
        expected.append(z)
    assert moved > 0
    expected = torch.stack(expected)
    torch.testing.assert_close(found.last_hidden_state, expected, atol=1e-9, rtol=1e-9)
    again = torch.autograd.grad(expected.square().sum(), model.parameters(), allow_unused=True)
    for gradient, other in zip(gradients, again, strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-7, rtol=1e-6)


# Where they start


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A CLIP vision model, saved."""
    torch.manual_seed(4)
    folder = tmp_path_factory.mktemp("clip")
    CLIPVisionModel(clip_config(tiny_config().vision_config)).save_pretrained(folder)
    return folder


def loaded(folder, name):
    config = tiny_config(vision(name)).vision_config
    return ILAVisionModel.from_pretrained(folder, config=config).eval()


@every
def test_a_new_model_is_clip_where_it_says_so(name, clip_folder, clips):
    """Exactly."""
    model = loaded(clip_folder, name)
    with torch.no_grad():
        found = model(clips).last_hidden_state.flatten(0, 1)
        expected = CLIPVisionModel.from_pretrained(clip_folder).eval()(clips.flatten(0, 1)).last_hidden_state
    # The two compute the activation differently
    assert (found - expected).abs().max() < 1e-5 if MODULES[name][1] else (found - expected).abs().max() > 1e-3
    plain = loaded(clip_folder, "none")
    with torch.no_grad():
        same = torch.equal(plain(clips).last_hidden_state.flatten(0, 1), found)
    assert same == MODULES[name][1]


@pytest.mark.parametrize("name", ["divided", "ata"])
def test_the_attention_over_time_starts_as_a_copy(name, clip_folder, tmp_path):
    model = loaded(clip_folder, name)
    for layer in model.encoder.layers:
        for own, other in ((layer.temporal.norm, layer.layer_norm1), (layer.temporal.attention, layer.self_attn)):
            for parameter, source in zip(own.parameters(), other.parameters(), strict=True):
                assert torch.equal(parameter, source)
        assert not layer.temporal.fc.weight.any()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    again = ILAVisionModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(again[key], value) for key, value in model.state_dict().items())


def test_the_message_token_starts_as_torch_does():
    torch.manual_seed(0)
    config = tiny_config({**vision("message_token"), "num_hidden_layers": 12}).vision_config
    layers = ILAVisionModel(config).encoder.layers
    torchs = nn.MultiheadAttention(D, HEADS).in_proj_weight
    for part in ("q_proj", "k_proj", "v_proj"):
        weights = torch.stack([layer.temporal.attention.get_submodule(part).weight for layer in layers])
        assert weights.std().item() == pytest.approx(torchs.std().item(), rel=0.04)
        assert weights.abs().max().item() == pytest.approx(torchs.abs().max().item(), rel=0.02)
        assert not any(layer.temporal.attention.get_submodule(part).bias.any() for layer in layers)
    for parts in ("fc", "attention.out_proj"):
        weights = torch.stack([layer.temporal.get_submodule(parts).weight for layer in layers])
        assert weights.std().item() == pytest.approx(1 / math.sqrt(3 * D), rel=0.03)
    assert not any(layer.temporal.attention.out_proj.bias.any() for layer in layers)


def test_adapters_start_as_they_say():
    torch.manual_seed(0)
    layers = ILAVisionModel(tiny_config(vision("aim twice")).vision_config).encoder.layers
    for name in ("temporal_in", "temporal_out", "spatial", "joint"):
        weights = torch.stack([getattr(layer.temporal, name).down.weight for layer in layers])
        assert weights.std().item() == pytest.approx(0.02, rel=0.06)
    layers = ILAVisionModel(tiny_config(vision("st_adapter")).vision_config).encoder.layers
    weights = torch.stack([layer.temporal.before_mlp.down.weight for layer in layers])
    assert weights.std().item() == pytest.approx(1 / math.sqrt(3 * D), rel=0.06)
    assert not any(layer.temporal.before_mlp.conv.weight.any() for layer in layers)


def test_positions_of_other_lengths():
    """The nearest; and new ones are no part of CLIP, so that they train where CLIP is frozen."""
    model = make_model(ILAVisionModel, vision("aim"))
    with torch.no_grad():
        model.time_positions.weight.copy_(torch.arange(T)[:, None].expand(-1, D))
    prefix, patches = torch.zeros(1, 2 * T, 1, D), torch.zeros(1, 2 * T, 2, D)
    assert model.time_positions(prefix, patches)[0, :, 0, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert model.time_positions(prefix[:, :2], patches[:, :2])[0, :, 2, 0].tolist() == [0, 2]
    model.freeze("vision")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert "time_positions.weight" in trained
    assert all("temporal" in name or name.startswith("time_positions") for name in trained)


@pytest.mark.parametrize("module", ["shift", "st_adapter"])
def test_all_tokens_before_the_patches_are_left_alone(module, monkeypatch):
    """With one more than CLIP has, as in trunks with registers."""
    layer = make_model(ILAVisionModel, vision(module)).encoder.layers[0]
    monkeypatch.setattr(layer, "num_prefix_tokens", 2)
    monkeypatch.setattr(layer, "attended", torch.zeros_like)
    monkeypatch.setattr(layer, "add_mlp", lambda hidden_states: hidden_states)
    with torch.no_grad():
        for parameter in layer.temporal.parameters():
            parameter.fill_(1)
        hidden_states = torch.randn(1, T, 2 + 3, D)
        changed = (layer.temporal.run_layer(layer, hidden_states) != hidden_states).any(-1)
    assert not changed[:, :, :2].any()
    assert changed[:, :, 2:].all()


# What all models can do


@also_variants
def test_it_trains_saves_and_loads(name, clips, tmp_path):
    model = make_model(ILAForVideoTextClassification, vision(name), training=True)
    own = [each for key, each in model.named_parameters() if ".temporal." in key or "time_positions" in key]
    before = [parameter.detach().clone() for parameter in own]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0)
    for _ in range(2):  # behind a projection that starts at zero there is no gradient at first
        optimizer.zero_grad()
        output = model(clips, labels=torch.tensor([0, 1]))
        output.loss.backward()
        optimizer.step()
    assert (output.loss == output.classification_loss) == (name in MODULES)
    assert all(not torch.equal(parameter, old) for parameter, old in zip(own, before, strict=True))
    model.eval().save_pretrained(tmp_path)
    again = ILAForVideoTextClassification.from_pretrained(tmp_path)
    assert all(getattr(again.config.vision_config, field) == value for field, value in vision(name).items())
    with torch.no_grad():
        assert torch.equal(again(clips).logits, model(clips).logits)


@also_variants
def test_gradients_under_checkpointing(name, clips):
    model = shaken(make_model(ILAVisionModel, vision(name), training=True))

    def gradients():
        return torch.autograd.grad(
            model(clips).last_hidden_state.square().sum(), model.parameters(), allow_unused=True
        )

    expected = gradients()
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    for gradient, other in zip(gradients(), expected, strict=True):
        if other is not None:
            torch.testing.assert_close(gradient, other)


@also_variants
def test_states_attentions_and_compilation(name, clips):
    model = shaken(make_model(ILAVisionModel, vision(name)))
    expected = model(clips).last_hidden_state
    model.set_attn_implementation("eager")
    outputs = model(clips, output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(outputs.last_hidden_state, expected, atol=1e-4, rtol=1e-4)
    layers = model.config.num_hidden_layers
    assert [tuple(states.shape) for states in outputs.hidden_states] == [(B, T, 17, D)] * (layers + 1)
    tokens = T * 17 if name == "joint" else 17
    appends = name in ("average_pooling", "message_token") or name in VARIANTS
    more = 16 if name == "concatenation" else int(appends and "add" not in name)
    appended = 17 + more if name != "joint" else tokens
    assert [tuple(weights.shape[-2:]) for weights in outputs.attentions] == [(tokens, appended)] * layers
    model.set_attn_implementation("sdpa")
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=name != "ata", backend="aot_eager")  # ATA solves assignments outside
    torch.testing.assert_close(compiled(clips).last_hidden_state, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "name",
    [name if name in EXPORTED else pytest.param(name, marks=pytest.mark.slow) for name in (*MODULES, *VARIANTS)],
)
@torch.no_grad()
def test_export(name, clips, tmp_path):
    model = shaken(make_model(ILAForVideoTextClassification, vision(name), num_frames=T))
    if name == "ata":
        with pytest.raises(ValueError, match="cannot be exported: it solves an assignment for every pair"):
            export_onnx(model, tmp_path / "model.onnx")
        return
    export_onnx(model, tmp_path / "model.onnx")
    _, relative = largest_difference(onnx_runner(tmp_path / "model.onnx"), model, [clips])
    assert relative <= 1e-4


@also_variants
def test_its_code_travels_and_its_card_names_it(name, tmp_path):
    """With remote code, where the package is not installed."""
    model = make_model(ILAForVideoTextClassification, vision(name))
    model.save_pretrained(tmp_path)
    assert (tmp_path / "temporal_baselines_ila.py").is_file()
    text = " ".join(card_from_run(model, tiny_processor(model.config), model_name="me/mine", recipe={}).text.split())
    assert "register it before you load" not in text
    if name in VARIANTS:
        assert "its trunk is CLIP's own" not in text
    elif name == "none":
        assert "its trunk is CLIP's own" in text
    else:
        assert SYSTEMS[name.split()[0]] in text


def test_pushed_models_load_without_the_package(tmp_path, clips):
    """A model of each module and variant, and EVL, all in one process."""
    torch.save(clips, tmp_path / "clips.pt")
    expected = {}
    with torch.no_grad():
        for name in (*MODULES, *VARIANTS, "evl"):
            fields = (
                {"integration_module": "evl", "integration_options": {"num_hidden_layers": 2}} if name == "evl" else {}
            )
            of_trunk = {"temporal_module": "none"} if name == "evl" else vision(name)
            model = shaken(make_model(ILAForVideoClassification, of_trunk, **fields))
            repo = name.replace(",", "").replace(" ", "-")
            model.save_pretrained(tmp_path / repo)
            expected[repo] = model(clips).logits.tolist()
    push = """
_, mode, folder, *repos = sys.argv
for repo in repos:
    AutoModelForVideoClassification.from_pretrained(folder + "/" + repo).push_to_hub("tester/" + repo)
"""
    load = """
_, mode, folder, *repos = sys.argv
clips, answers, classes = torch.load(folder + "/clips.pt"), {}, []
for repo in repos:
    model = AutoModelForVideoClassification.from_pretrained("tester/" + repo, **trust)
    answers[repo] = logits(model, {"pixel_values": clips}).tolist()
    classes.append(name(model.vision_model.encoder.layers[0].temporal))
"""
    with HubServer() as hub:
        environment = hub.environment(tmp_path / "pushing", hub.add_token())
        run(push, "local", tmp_path, *expected, cwd=tmp_path, environment=environment)
        environment = hub.environment(tmp_path / "loading")
        report = run(load, "remote", tmp_path, *expected, cwd=tmp_path, environment=environment)
    assert report["answers"] == expected
    classes = dict(zip(expected, report["classes"], strict=True))
    assert {classes.pop("none"), classes.pop("evl")} == {"builtins NoneType"}
    assert all(found.startswith("transformers_modules ILA") for found in classes.values())


def test_what_is_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"`temporal_module` must be one of 'aim', 'ata', .*, got 'nothing'"):
        make_model(ILAVisionModel, {"temporal_module": "nothing"})
    with pytest.raises(ValueError, match=r"`temporal_options` must be empty with temporal_module='ila'"):
        make_model(ILAVisionModel, {"temporal_options": {"num_frames": 8}})
    fields = {"reference_frame": "first", "interaction_token": True, "alignment_join": "add", "first_frame": "self"}
    for field, value in {**fields, "architecture": "released"}.items():
        for module in ("none", "average_pooling", "shift"):
            with pytest.raises(ValueError, match=f"`{field}` must be .* with temporal_module='{module}'"):
                make_model(ILAVisionModel, {"temporal_module": module, field: value})
    model = make_model(ILAVisionModel, {"temporal_module": "average_pooling"})
    with pytest.raises(ValueError, match="`first_frame` must be 'next' with temporal_module='average_pooling'"):
        model.set_first_frame("self")
    assert model.config.first_frame == "next"
    with pytest.raises(
        ValueError, match=r"`temporal_options` of this module may have \['num_frames'.*got \['num_frame'\]"
    ):
        make_model(ILAVisionModel, {"temporal_module": "divided", "temporal_options": {"num_frame": 8}})
    with pytest.raises(StrictDataclassError, match="shift_position"):
        make_model(ILAVisionModel, {"temporal_module": "shift", "temporal_options": {"shift_position": "output"}})
    for module, options in [
        ("shift", {"shift_div": 1}),
        ("aim", {"reduction_factor": 0}),
        ("st_adapter", {"adapter_hidden_size": 0}),
        ("divided", {"num_frames": 0}),
    ]:
        with pytest.raises(StrictDataclassError, match=f"`{next(iter(options))}` must be at least"):
            make_model(ILAVisionModel, {"temporal_module": module, "temporal_options": options})
    for module, option in [("shift", "shift_div"), ("aim", "reduction_factor")]:
        make_model(ILAVisionModel, {"temporal_module": module, "temporal_options": {option: D}})
        with pytest.raises(ValueError, match=rf"`{option}` must be at most `hidden_size`, {D}, .* got {D + 1}"):
            make_model(ILAVisionModel, {"temporal_module": module, "temporal_options": {option: D + 1}})
    monkeypatch.setattr("ila_hf.temporal_baselines_ila.linear_sum_assignment", None)
    with pytest.raises(ImportError, match="needs scipy"):
        make_model(ILAVisionModel, {"temporal_module": "ata"})


def test_a_whole_number_is_a_number():
    """In every field of ours and every option that takes one."""
    assert ILAAIMOptions(joint_scale=1).joint_scale == 1
    whole = {"prompt_alpha": 1, "alignment_loss_weight": 1, "classifier_dropout": 0, "initializer_range": 1}
    assert {name: getattr(tiny_config(**whole), name) for name in whole} == whole
    options = [module.options_class for module in ILA_TEMPORAL_MODULES.values() if hasattr(module, "options_class")]
    for kind in (*filter(None, options), ILAEVLOptions):
        assert all(field.type is not float for field in dataclasses.fields(kind))


def test_the_table_is_complete():
    assert {name.split()[0] for name in MODULES} | {"ila"} == set(ILA_TEMPORAL_MODULES)
    assert {*SYSTEMS, "ila", "none"} == set(ILA_TEMPORAL_MODULES)


@also_variants
@torch.no_grad()
def test_other_lengths_and_types(name, clips):
    """One frame, more frames than it was made for, and half precision."""
    model = shaken(make_model(ILAVisionModel, vision(name)))
    for num_frames in (1, 2 * T):
        frames = clips[:, :1].expand(-1, num_frames, -1, -1, -1)
        assert model(frames).last_hidden_state.isfinite().all()
    expected = model(clips).last_hidden_state
    with torch.autocast("cpu", torch.bfloat16):  # as training with --bf16
        mixed = model(clips).last_hidden_state
    half = model.to(torch.bfloat16)(clips.to(torch.bfloat16)).last_hidden_state
    assert half.dtype == torch.bfloat16
    for found in (mixed, half):
        assert found.isfinite().all()
        if name != "ata":  # matches may change
            assert (found.float() - expected).norm() < 0.1 * expected.norm()


def test_what_is_matched_does_not_depend_on_autocast(clips):
    """In half precision many similarities would be equal."""
    ata = make_model(ILAVisionModel, vision("ata")).encoder.layers[0].temporal
    patches = torch.randn(1, T, 16, D, generator=torch.Generator().manual_seed(0)) * 1e-2 + 1
    with torch.autocast("cpu", torch.bfloat16):
        mixed = ata.match(patches)
    assert torch.equal(mixed, ata.match(patches))
    assert not torch.equal(mixed[:, 1], mixed[:, 0])


@torch.no_grad()
def test_streams(clips):
    """Only where no frame depends on later ones."""
    for name in ("average_pooling", "none"):
        model, cache = shaken(make_model(ILAVisionModel, vision(name))), ILACache()
        found = [model(frame, cache=cache).last_hidden_state for frame in clips.split(1, dim=1)]
        torch.testing.assert_close(torch.cat(found, dim=1), model(clips).last_hidden_state, atol=1e-5, rtol=1e-5)
    for name in ("message_token", "divided", "joint", "shift", "ata", "st_adapter", "aim"):
        with pytest.raises(ValueError, match=f"not causal .temporal_module='{name}'"):
            make_model(ILAVisionModel, vision(name))(clips, cache=ILACache())
    for frame, sees in {
        "first": "sees the first frame, which a cache does not keep",
        "middle": "is not causal",
    }.items():
        with pytest.raises(ValueError, match=f"{sees}.*no other setting of it is"):
            make_model(ILAVisionModel, {"reference_frame": frame, "first_frame": "self"})(clips, cache=ILACache())


@pytest.mark.parametrize(
    ("fields", "shown", "hidden"),
    [
        ({"alignment_join": "add"}, ["is added to the input of its layer", "Table 9"], "mutual-information token"),
        ({"alignment_join": "concatenate"}, ["as further keys and values"], "mutual-information token"),
        ({"reference_frame": "first", "first_frame": "self"}, ["Each pair of frames", "| first |"], "causal in time"),
        (
            {"alignment_operator": "window_attention"},
            ["window\\_attention", "mutual-information token"],
            "Table 9",
        ),
    ],
)
def test_cards_of_variants(fields, shown, hidden):
    model = make_model(ILAForVideoTextClassification, fields)
    text = " ".join(card_from_run(model, tiny_processor(model.config), model_name="me/mine", recipe={}).text.split())
    assert all(each in text for each in shown)
    assert hidden not in text


@torch.no_grad()
def test_of_the_mask_of_concatenated_patches_only_zeros_are_left(clips):
    """The first LayerNorm takes their scale away, as docs/laboratory.md says."""
    flat = {"mask_slope": 0.0, "alignment_join": "concatenate"}
    found = [make_model(ILAVisionModel, {**flat, "mask_peak": peak})(clips).last_hidden_state for peak in (1.0, 0.3)]
    torch.testing.assert_close(*found, atol=1e-3, rtol=1e-3)
    added = [
        make_model(ILAVisionModel, {**flat, "alignment_join": "add", "mask_peak": peak})(clips).last_hidden_state
        for peak in (1.0, 0.3)
    ]
    assert (added[0] - added[1]).abs().max() > 0.1
