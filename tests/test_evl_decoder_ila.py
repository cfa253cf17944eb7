"""EVL's decoder: against its equations, written out, forward and gradients; where it starts, and what it costs."""

import copy
import math

import onnx
import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from accelerate.hooks import attach_execution_device_hook
from conftest import make_model
from huggingface_hub.errors import StrictDataclassError
from peft import PeftModel, get_peft_model
from test_remote_code import offline, run
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import pipeline

from ila_hf import (
    ILACache,
    ILAConfig,
    ILAForVideoClassification,
    ILAForVideoTextClassification,
    ILAModel,
    Stream,
)
from ila_hf.analysis.flops import flops_by_part, parameters_by_part
from ila_hf.conversion.export_ila import export_onnx, export_program, largest_difference, onnx_runner
from ila_hf.demo.tiny import save_tiny_clip, tiny_config, tiny_processor
from ila_hf.evaluation.model_card import card_from_run
from ila_hf.evl_decoder_ila import ILAEVLDecoder, ILAFrameDifference
from ila_hf.inference import compile_layers
from ila_hf.inference.graph import stream_graph
from ila_hf.temporal_ila import ILA_TEMPORAL_MODULES
from ila_hf.training.fsdp import unit_names
from ila_hf.training.lora import lora_config
from ila_hf.training.optimization import parameter_groups


B, T, D, HEADS, SIDE = 2, 3, 64, 2, 4  # of the tiny model, on 32 pixels
N, LAYERS = SIDE**2, 2
PARTS = ("temporal_convolution", "temporal_position", "frame_difference")
HEADS_OF_MODELS = (ILAForVideoTextClassification, ILAForVideoClassification)
LABELS = torch.tensor([0, 1])

with_and_without_ila = pytest.mark.parametrize("module", ["none", "ila"])
both_heads = pytest.mark.parametrize("head", HEADS_OF_MODELS)


def evl(module="none", vision=None, **options):
    """Arguments of `make_model` and `tiny_config`."""
    of_trunk = {"temporal_module": module, **(vision or {})}
    settings = {"num_hidden_layers": LAYERS, **options}
    return {
        "vision": of_trunk,
        "num_frames": T,
        "integration_module": "evl",
        "integration_options": settings,
    }


def evl_model(head=ILAForVideoClassification, module="none", training=False, vision=None, **options):
    return make_model(head, training=training, **evl(module, vision, **options))


@pytest.fixture
def clips():
    return torch.randn(B, T, 3, 32, 32, generator=torch.Generator().manual_seed(2))


# The equations


def attention_over(own, query, context):
    """Of one token to others, one head after the other: (D,), (R, D) -> (D,)."""
    q, k, v = own.q_proj(query), own.k_proj(context), own.v_proj(context)
    size, heads = D // HEADS, []
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        heads.append((k[:, part] @ q[part] / math.sqrt(size)).softmax(0) @ v[:, part])
    return own.out_proj(torch.cat(heads))


def frame_difference(table, queries, keys):
    """One frame and one beside it, patch by patch: of queries and keys (N, D), (N, D)."""
    size, found = D // HEADS, []
    for m in range(N):
        weights = 0
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            weights = weights + (keys[:, part] @ queries[m, part] / math.sqrt(size)).softmax(0) / HEADS
        total = 0
        for n in range(N):
            down, right = n // SIDE - m // SIDE, n % SIDE - m % SIDE
            total = total + weights[n] * table[(down + SIDE - 1) * (2 * SIDE - 1) + right + SIDE - 1]
        found.append(total)
    return torch.stack(found)


def in_time(layer, f, q, k):
    """y of a clip: (T, L, D) three times -> (T, L, D)."""
    frames = []
    for t in range(T):
        frame = f[t]
        if layer.temporal_conv is not None:
            kernel = layer.temporal_conv.weight[:, 0, :, 0, 0]  # (D, 3)
            for i, s in enumerate((t - 1, t, t + 1)):
                if 0 <= s < T:
                    frame = frame + kernel[:, i] * f[s]
            frame = frame + layer.temporal_conv.bias
        if layer.position_embedding is not None:
            frame = frame + layer.position_embedding[0, t]
        if layer.frame_difference is not None:
            own = layer.frame_difference
            for s, table in ((t - 1, own.to_previous), (t + 1, own.to_next)):
                if 0 <= s < T:
                    found = frame_difference(table, q[t, 1:], k[s, 1:])
                    frame = frame + torch.cat([torch.zeros_like(found[:1]), found])
        frames.append(frame)
    return torch.stack(frames)


def decoded(decoder, features):
    """Of a batch: the video (B, D) from f, q and k of each layer, (B, T, L, D)."""
    videos = []
    for i in range(B):
        x = decoder.query
        for layer, of_layer in zip(decoder.layers, features, strict=True):
            context = layer.context_norm(in_time(layer, *(each[i] for each in of_layer)).reshape(-1, D))
            x = x + attention_over(layer.cross_attn, layer.query_norm(x), context)
            hidden = layer.fc1(layer.mlp_norm(x))
            x = x + layer.fc2(hidden * torch.sigmoid(1.702 * hidden))
        videos.append(x)
    return torch.stack(videos)


def features_of(trunk, clips):
    """f, q and k of the last layers, from what goes through their projections."""
    seen = {}

    def keep(name):
        return lambda module, args, output: seen.update({name: output})  # of several calls the last

    hooks = []
    for i, layer in enumerate(trunk.encoder.layers):
        hooks += [
            layer.self_attn.q_proj.register_forward_hook(keep((i, "q"))),
            layer.self_attn.k_proj.register_forward_hook(keep((i, "k"))),
        ]
    states = trunk(clips, output_hidden_states=True).hidden_states[1:]
    for hook in hooks:
        hook.remove()
    features = []
    for i in range(len(states) - LAYERS, len(states)):
        shape = states[i].shape
        tokens = (seen[i, name].flatten(0, 1) for name in "qk")
        if seen[i, "k"].shape[1] > shape[2] and seen[i, "k"].shape[0] == B * T:  # tokens are appended
            tokens = (seen[i, "q"].flatten(0, 1), seen[i, "k"][:, : shape[2]].flatten(0, 1))
        features.append((states[i], *(each.reshape(shape) for each in tokens)))
    return features


CASES = {
    "all": {},
    "with ILA": {"module": "ila"},
    "features alone": dict.fromkeys(PARTS, False),
    "convolution": {"temporal_position": False, "frame_difference": False},
    "positions": {"temporal_convolution": False, "frame_difference": False},
    "frame difference": {"temporal_convolution": False, "temporal_position": False},
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_its_equation(case, clips):
    """Video and gradients, of all weights and of the pixels, in float64."""
    model = evl_model(**CASES[case]).double()
    with torch.no_grad():
        for parameter in model.integration.parameters():  # norms start at 1 and 0
            parameter.add_(0.1 * torch.randn_like(parameter))
    clips = clips.double().requires_grad_()
    tensors = [clips, *model.parameters()]
    weights = torch.randn(B, D, generator=torch.Generator().manual_seed(3), dtype=torch.double)

    found = model.get_video_features(clips).pooler_output
    gradients = torch.autograd.grad((found * weights).sum(), tensors, allow_unused=True)
    video = decoded(model.integration, features_of(model.vision_model, clips))
    expected = model.vision_model.post_layernorm(video) @ model.visual_projection.weight.T
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-9)
    others = torch.autograd.grad((expected * weights).sum(), tensors, allow_unused=True)
    for gradient, other in zip(gradients, others, strict=True):
        assert (gradient is None) == (other is None)
        if gradient is not None:
            torch.testing.assert_close(gradient, other, atol=1e-9, rtol=1e-7)
    trained = {
        name for (name, _), each in zip(model.named_parameters(), gradients[1:], strict=True) if each is not None
    }
    assert {name for name, _ in model.named_parameters() if name.startswith("integration.")} <= trained


MODULES = {name: {} for name in ILA_TEMPORAL_MODULES} | {
    "shift": {"shift_position": "key_value"},
    "st_adapter": {"before_attention": True, "adapter_hidden_size": 8},
    "aim": {"before_temporal_attention": True},
}


@pytest.mark.parametrize("module", MODULES)
@torch.no_grad()
def test_it_reads_any_trunk(module, clips):
    """Queries and keys are those of the attention within frames, as projected; the trunk does what it did."""
    model = evl_model(module=module, vision={"temporal_options": MODULES[module]}).double()
    clips = clips.double()
    trunk = model.vision_model
    outputs = trunk(clips, num_feature_layers=LAYERS)
    torch.testing.assert_close(outputs.layer_features, tuple(features_of(trunk, clips)), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(outputs.last_hidden_state, trunk(clips).last_hidden_state, atol=1e-12, rtol=1e-12)
    assert trunk(clips).layer_features is None
    features = model.get_video_features(clips)
    video = trunk.post_layernorm(model.integration(outputs.layer_features, (SIDE, SIDE)))
    torch.testing.assert_close(features.pooler_output, model.visual_projection(video))
    assert "layer_features" not in features


def test_a_module_must_pass_the_request_on(clips, monkeypatch):
    class Deaf(ILA_TEMPORAL_MODULES["joint"]):
        def run_layer(self, layer, hidden_states, **kwargs):
            return super().run_layer(layer, hidden_states)

    monkeypatch.setitem(ILA_TEMPORAL_MODULES, "deaf", Deaf)
    with pytest.raises(ValueError, match=r"Deaf\.run_layer must pass its `kwargs` on to the attention"):
        evl_model(module="deaf")(clips)


def moved_frames(down, right):
    """Queries and keys of three frames in which every patch has moved on; each sees only where it was, or will be."""
    content = torch.arange(N).reshape(SIDE, SIDE)
    frames = torch.stack([content.roll((t * down, t * right), (0, 1)).flatten() for t in range(T)])
    tokens = 100 * torch.nn.functional.one_hot(frames, D).float()  # (T, N, D)
    tokens = torch.cat([torch.zeros(T, 1, D), tokens], dim=1)[None]
    return tokens.roll(D // HEADS, -1) + tokens, frames  # in both heads


@torch.no_grad()
def test_it_tells_where_a_patch_was_and_will_be():
    """With the ways themselves in the tables: (rows down, columns right)."""
    module = ILAFrameDifference(tiny_config())
    ways = torch.arange(1 - SIDE, SIDE).float()
    table = torch.cartesian_prod(ways, ways)
    tokens, frames = moved_frames(1, 2)
    for name, first, step in (("to_previous", 1, -1), ("to_next", 0, 1)):
        module.init_weights()
        assert not module(tokens, tokens, (SIDE, SIDE)).any()
        getattr(module, name)[:, :2] = table
        found = module(tokens, tokens, (SIDE, SIDE))[0]
        assert not found[:, 0].any()  # class tokens
        for t in range(T):
            for m in range(N):
                expected = [0.0, 0.0]
                if first <= t < first + T - 1:
                    n = frames[t + step].tolist().index(int(frames[t, m]))
                    expected = [n // SIDE - m // SIDE, n % SIDE - m % SIDE]
                assert found[t, 1 + m, :2].tolist() == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_frames_of_another_size():
    """The ways between opposite sides keep their vectors, those between are interpolated."""
    module, height, width = ILAFrameDifference(tiny_config()), 3, 7
    ways = torch.arange(1 - SIDE, SIDE).float()
    table = torch.cartesian_prod(ways, ways)
    found = module.of_pairs(table, (height, width))
    for m in range(height * width):
        for n in range(height * width):
            down, right = n // width - m // width, n % width - m % width
            expected = [down * (SIDE - 1) / (height - 1), right * (SIDE - 1) / (width - 1)]
            assert found[m, n].tolist() == pytest.approx(expected, abs=1e-5)
    model = evl_model()
    outputs = model(torch.randn(1, T, 3, 24, 48), interpolate_pos_encoding=True)
    assert outputs.logits.isfinite().all()


# Where it starts


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    save_tiny_clip(folder)
    return folder


@both_heads
def test_a_new_decoder_on_a_clip(head, clip_folder, tmp_path):
    """Its own initial values, also where a checkpoint lacks them; loaded ones stay."""
    torch.manual_seed(0)
    arguments = evl()
    config = tiny_config(arguments.pop("vision"), **arguments)
    model = head.from_pretrained(clip_folder, config=config)
    clip = head.from_pretrained(clip_folder, config=tiny_config({"temporal_module": "none"}))
    for name, parameter in model.vision_model.named_parameters():
        assert torch.equal(parameter, clip.vision_model.get_parameter(name)), name
    for decoder in (model.integration, head(config).integration):
        assert not decoder.query.any()
        for layer in decoder.layers:
            for parameter in (layer.position_embedding, *layer.frame_difference.parameters()):
                assert parameter.isfinite().all()
                assert not parameter.any()
            own = layer.cross_attn
            for linear in (own.q_proj, own.k_proj, own.v_proj, own.out_proj, layer.fc1, layer.fc2):
                bound = math.sqrt(6 / (linear.in_features + linear.out_features))
                assert 0.98 * bound < linear.weight.abs().max() <= bound
                assert linear.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
            assert not any(linear.bias.any() for linear in (own.q_proj, own.k_proj, own.v_proj, own.out_proj))
            for linear in (layer.fc1, layer.fc2):
                assert linear.bias.std().item() == pytest.approx(1e-6, rel=0.3)
            for parameter in layer.temporal_conv.parameters():
                assert 0.8 / math.sqrt(3) < parameter.abs().max() <= 1 / math.sqrt(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    again = head.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(again[key], value) for key, value in model.state_dict().items())


def test_weights_of_the_other_integration_are_not_taken():
    """Both have layers, here of the same width: none of their names are the same."""
    names = [
        {name for name, _ in make_model(ILAForVideoClassification, **arguments).integration.named_parameters()}
        for arguments in ({}, evl())
    ]
    assert not names[0] & names[1]


# What it costs


@pytest.mark.parametrize(
    ("preset", "num_frames", "module", "options", "expected"),
    [
        ("ila-base-patch16", 8, "none", {}, 151.3),
        ("ila-base-patch16", 8, "none", {"frame_difference": False}, 148.0),
        ("ila-base-patch16", 8, "ila", {}, 159.5),
        ("ila-base-patch16", 16, "none", {}, 303.0),
        ("ila-base-patch16", 16, "none", {"frame_difference": False}, 296.0),
        ("ila-large-patch14", 16, "none", {}, 1346.9),
        ("ila-base-patch16", 16, "none", {"num_hidden_layers": 12}, 347.1),
    ],
)
def test_flops_and_parameters(preset, num_frames, module, options, expected):
    """As matrices of known sizes; and the whole is what the original was counted at."""
    config = ILAConfig.from_preset(
        preset,
        vision_config={"temporal_module": module},
        integration_module="evl",
        integration_options=options,
        num_frames=num_frames,
        prompt_num_hidden_layers=0,
    )
    vision, layers = config.vision_config, options.get("num_hidden_layers", 4)
    width, side = vision.hidden_size, vision.image_size // vision.patch_size
    tokens = num_frames * (side**2 + 1)
    # Query and output of x, its MLP; keys and values; scores and their sums; the convolution
    layer = 10 * width**2 + 2 * tokens * width**2 + 2 * tokens * width + 3 * tokens * width
    if options.get("frame_difference", True):
        layer += 4 * (num_frames - 1) * side**4 * width
    found = flops_by_part(config)
    assert found["integration"] == pytest.approx(layers * layer / 1e9, rel=1e-6)
    assert found["all"] == pytest.approx(expected, abs=0.06)
    assert found["head"] == pytest.approx(found["integration"], rel=1e-3)

    size = 4 * (width**2 + width) + 8 * width**2 + 5 * width + 3 * 2 * width + 4 * width + num_frames * width
    size += 2 * (2 * side - 1) ** 2 * width if options.get("frame_difference", True) else 0
    assert parameters_by_part(config)["integration"] == pytest.approx((layers * size + width) / 1e6)


def test_nothing_is_projected_twice(clips):
    model = evl_model()
    calls = []
    for layer in model.vision_model.encoder.layers:
        layer.self_attn.k_proj.register_forward_hook(lambda *_: calls.append(1))
    model(clips)
    assert len(calls) == len(model.vision_model.encoder.layers)


# What all models can do


@both_heads
@with_and_without_ila
def test_it_trains_saves_and_loads(head, module, clips, tmp_path):
    """With CLIP frozen: decoder, alignment and head train, and nothing else."""
    model = evl_model(head, module, training=True)
    model.freeze("vision", "text") if head is ILAForVideoTextClassification else model.freeze("vision")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    parts = {"integration", "norm", "classifier", "prompt", "logit_scale"}
    assert {name for name in trained if name.split(".")[0] not in parts} == {
        name for name, _ in model.named_parameters() if ".temporal." in name
    }
    groups = parameter_groups(model, 1e-3, 0.1)
    decaying = [id(each) for group in groups if group["name"] == "new, decay" for each in group["params"]]
    for parameter in (model.integration.query, *(layer.position_embedding for layer in model.integration.layers)):
        assert id(parameter) not in decaying
    assert id(model.integration.layers[0].fc1.weight) in decaying
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW(groups)
    for _ in range(2):
        optimizer.zero_grad()
        model(clips, labels=LABELS).loss.backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != (name in trained), name
    model.eval().save_pretrained(tmp_path)
    again = head.from_pretrained(tmp_path)
    assert again.config.integration_module == "evl"
    assert isinstance(again.integration, ILAEVLDecoder)
    with torch.no_grad():
        assert torch.equal(again(clips).logits, model(clips).logits)


@both_heads
@with_and_without_ila
def test_all_that_is_not_frozen_gets_a_gradient(head, module, clips):
    """Processes that train together rely on it; with one frame, too."""
    model = evl_model(head, module, training=True)
    for frames in (clips, clips[:, :1]):
        model.zero_grad()
        model(frames, labels=LABELS).loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("module", ["none", "ila", "aim"])
def test_gradients_under_checkpointing(module, use_reentrant, clips):
    model = evl_model(module=module, training=True, vision={"mask_jitter": 0.0}, dropout=0.0)
    model.dropout.p = 0.0
    clips.requires_grad_()  # as the reentrant kind wants it of its input

    def gradients():
        loss = model(clips, labels=LABELS).loss
        model.zero_grad()
        loss.backward()
        return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}

    expected = gradients()
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": use_reentrant})
    assert all(layer.gradient_checkpointing for layer in model.integration.layers)
    found = gradients()
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize(("head", "module"), [(HEADS_OF_MODELS[0], "none"), (HEADS_OF_MODELS[1], "ila")])
def test_compilation(head, module, clips):
    """One graph of forward, loss and backward."""
    model = evl_model(head, module, training=True, dropout=0.0)
    if head is ILAForVideoClassification:
        model.dropout.p = 0.0
    other = copy.deepcopy(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found, expected = compiled(clips, labels=LABELS), other(clips, labels=LABELS)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=1e-4)
    found.loss.backward()
    expected.loss.backward()
    for name, parameter in other.named_parameters():
        grad = model.get_parameter(name).grad
        assert (grad is None) == (parameter.grad is None), name
        if grad is not None:
            torch.testing.assert_close(grad, parameter.grad, atol=1e-4, rtol=1e-3, msg=name)
    torch._dynamo.reset()


@torch.no_grad()
def test_compilation_by_layers(clips):
    """The layers that are read are compiled once more, and serve all lengths."""
    model, other = evl_model(module="message_token"), evl_model(module="message_token")
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    compile_layers(model, backend=counter, fullgraph=True, dynamic=True)
    for num_frames in (T, T + 1, T + 3):
        frames = torch.randn(B, num_frames, 3, 32, 32)
        torch.testing.assert_close(model(frames).logits, other(frames).logits, atol=1e-4, rtol=1e-4)
    assert counter.frame_count == 3  # the temporal module, and layers of both kinds
    torch._dynamo.reset()


@torch.no_grad()
def test_export(tmp_path):
    """To ONNX, without the vectors of all pairs of patches in the file."""
    model = evl_model(ILAForVideoTextClassification, "ila", vision={"image_size": 64})
    export_onnx(model, tmp_path / "model.onnx", num_frames=T)
    clips = torch.randn(B, T, 3, 64, 64)
    _, relative = largest_difference(onnx_runner(tmp_path / "model.onnx"), model, [clips])
    assert relative <= 1e-4
    initializers = onnx.load(tmp_path / "model.onnx").graph.initializer
    limit = sum(each.numel() for name, each in model.named_parameters() if model.parameter_origin(name) != "text")
    assert sum(math.prod(each.dims) for each in initializers) < 1.01 * limit


@pytest.mark.parametrize(("module", "image_size"), [("none", 32), ("ila", 48)])
@torch.no_grad()
def test_a_program_of_other_clips(module, image_size):
    """Of any length, and of frames of another size."""
    model = evl_model(module=module)
    program = export_program(model, num_frames=5, dynamic_frames=True, image_size=image_size).module()
    for num_frames in (3, 6):
        frames = torch.randn(B, num_frames, 3, image_size, image_size)
        expected = model(frames, interpolate_pos_encoding=True).logits
        torch.testing.assert_close(program(frames)["logits"], expected, atol=1e-4, rtol=1e-4)


def test_its_code_travels(tmp_path, clips):
    """Where the package is not installed."""
    model = evl_model(ILAForVideoTextClassification, "ila")
    model.save_pretrained(tmp_path / "model")
    torch.save(clips, tmp_path / "clips.pt")
    code = """
model = AutoModelForVideoClassification.from_pretrained(sys.argv[2], **trust)
classes = [name(model), name(model.integration)]
answers = logits(model, {"pixel_values": torch.load(sys.argv[3])}).tolist()
"""
    report = run(
        code, "remote", tmp_path / "model", tmp_path / "clips.pt", cwd=tmp_path, environment=offline(tmp_path / "home")
    )
    assert report["classes"] == [
        "transformers_modules ILAForVideoTextClassification",
        "transformers_modules ILAEVLDecoder",
    ]
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(report["answers"]), model(clips).logits, atol=1e-5, rtol=1e-5)


@with_and_without_ila
@torch.no_grad()
def test_other_lengths_types_and_back_ends(module, clips):
    model = evl_model(ILAForVideoTextClassification, module)
    for num_frames in (1, 2 * T):
        assert model(torch.randn(B, num_frames, 3, 32, 32)).logits.isfinite().all()
    expected = model.get_video_features(clips).pooler_output
    model.set_attn_implementation("eager")
    assert model.integration.block_config._attn_implementation == "eager"
    outputs = model.get_video_features(clips, output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(outputs.pooler_output, expected, atol=1e-4, rtol=1e-4)
    layers = model.config.vision_config.num_hidden_layers
    assert [tuple(states.shape) for states in outputs.hidden_states] == [(B, T, 1 + N, D)] * (layers + 1)
    assert len(outputs.attentions) == layers
    fused = copy.deepcopy(model).fuse()
    torch.testing.assert_close(fused.get_video_features(clips).pooler_output, expected, atol=1e-3, rtol=1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model.get_video_features(clips).pooler_output
    half = model.to(torch.bfloat16).get_video_features(clips.to(torch.bfloat16)).pooler_output
    assert half.dtype == torch.bfloat16
    for found in (mixed, half):
        assert (found.float() - expected).norm() < 0.1 * expected.norm()


@torch.no_grad()
def test_of_two_tokens_before_the_patches_none_has_a_place():
    own = evl_model(ILAForVideoClassification).integration.layers[0].frame_difference
    own.to_previous.normal_()
    own.to_next.normal_()
    queries, keys = torch.randn(2, B, T, 1 + N, D)
    expected = own(queries, keys, (SIDE, SIDE))
    queries, keys = (torch.cat([states[:, :, :1], states], dim=2) for states in (queries, keys))
    found = own(queries, keys, (SIDE, SIDE))
    assert torch.equal(found[:, :, 1:], expected)
    assert expected[:, :, 1:].any()
    assert not found[:, :, :2].any()


@torch.no_grad()
def test_a_frame_alone_has_no_neighbours(clips):
    """Then frame-difference attention does nothing, and for other lengths positions are interpolated."""
    model = evl_model()
    features = model.vision_model(clips[:, :1], num_feature_layers=LAYERS).layer_features
    layer = model.integration.layers[0]
    assert not layer.frame_difference(*features[0][1:], (SIDE, SIDE)).any()
    layer.position_embedding.copy_(torch.arange(T).float()[None, :, None].expand(1, T, D))
    layer.temporal_conv = layer.frame_difference = None
    features = torch.zeros(1, 2 * T, 1 + N, D)
    found = layer.context(features, features, features, (SIDE, SIDE))
    assert found[0, :, 5, 7].tolist() == pytest.approx([0, 0.25, 0.75, 1.25, 1.75, 2])


@torch.no_grad()
def test_offloading_and_hooks(clips):
    """accelerate's hooks copy the arguments of every module."""
    model = evl_model(module="ila")
    expected = model(clips).logits
    hooked = copy.deepcopy(model)
    attach_execution_device_hook(hooked, "cpu")
    torch.testing.assert_close(hooked(clips).logits, expected)
    torch.testing.assert_close(cpu_offload(copy.deepcopy(model), "cpu")(clips).logits, expected, atol=1e-5, rtol=0)
    assert "ILAEVLDecoderLayer" in model._no_split_modules
    device_map = {name: "cpu" for name, _ in model.named_children()}
    found = dispatch_model(copy.deepcopy(model), device_map, force_hooks=True)(clips).logits
    torch.testing.assert_close(found, expected)


# peft 0.21 asks for it under the name that transformers has given up
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_lora(clips, tmp_path):
    """The decoder trains in full, beside adapters of the trunk, and is saved with them."""
    model = evl_model(ILAForVideoTextClassification, "ila")
    base = copy.deepcopy(model)
    adapted = get_peft_model(model, lora_config(model, rank=2)).train()
    optimizer = torch.optim.AdamW([each for each in adapted.parameters() if each.requires_grad], lr=0.01)
    adapted(clips, labels=LABELS).loss.backward()
    assert adapted.base_model.model.integration.query.grad is not None
    optimizer.step()
    adapted.eval().save_pretrained(tmp_path)
    with torch.no_grad():
        expected = adapted(clips).logits
        assert not torch.allclose(base(clips).logits, expected, atol=1e-3)
        loaded = PeftModel.from_pretrained(base, tmp_path).eval()
        torch.testing.assert_close(loaded(clips).logits, expected, atol=1e-5, rtol=1e-5)


def test_units_of_fsdp():
    assert unit_names(evl_model(ILAModel)) == ["CLIPEncoderLayer", "ILAEVLDecoderLayer", "ILAEncoderLayer"]


def test_its_card_names_it():
    model = evl_model(ILAForVideoTextClassification, frame_difference=False)
    text = " ".join(card_from_run(model, tiny_processor(model.config), model_name="me/mine", recipe={}).text.split())
    assert "its trunk is CLIP's own. The features of a video come from the decoder of EVL" in text
    assert "| integration\\_module | evl |" in text
    assert "| integration\\_options.frame\\_difference | False |" in text
    plain = make_model()
    text = card_from_run(plain, tiny_processor(plain.config), model_name="me/mine", recipe={}).text
    assert "EVL" not in text
    assert "integration" not in text


# What is refused


def test_streams_are_refused(clips, video_file):
    model = evl_model(ILAForVideoTextClassification, "ila", vision={"first_frame": "self"})
    processor, cache = tiny_processor(model.config), ILACache()
    refused = pytest.raises(ValueError, match=r'A cache needs integration_module="transformer", got "evl"')
    with refused:
        model(clips, cache=cache)
    assert len(cache) == 0
    with refused:
        Stream(model, processor)
    with refused:
        stream_graph(model)
    assert model.vision_model(clips, cache=cache).last_hidden_state.isfinite().all()  # the trunk is causal
    classify = pipeline("video-classification", model=model, processor=processor)
    windows = classify(str(video_file), window_seconds=0.6, stride_seconds=0.2)  # have frames in common
    assert len(windows) > 2


def test_bad_options_are_refused(clips):
    with pytest.raises(StrictDataclassError, match="integration_module"):
        tiny_config(integration_module="evel")
    with pytest.raises(StrictDataclassError, match=r'`integration_options` must be empty with .*"transformer"'):
        tiny_config(integration_options={"dropout": 0.1})
    with pytest.raises(ValueError, match=r"`num_hidden_layers` of .* must be at most 3, .* got 4"):
        make_model(ILAModel, integration_module="evl")
    for options, match in (
        ({"num_hidden_layers": 0}, "`num_hidden_layers` must be at least 1, got 0"),
        ({"dropout": 1.0}, r"`dropout` must be in \[0, 1\), got 1.0"),
        ({"frame_difference": "yes"}, "frame_difference"),
    ):
        with pytest.raises(StrictDataclassError, match=match):
            evl_model(**options)
    with pytest.raises(ValueError, match=r"`integration_options` of this module may have .*, got \['num_layers'\]"):
        evl_model(num_layers=2)
    for count in (-1, 4):
        with pytest.raises(ValueError, match=f"`num_feature_layers` must be between 0 and 3, got {count}"):
            evl_model().vision_model(clips, num_feature_layers=count)
