"""int8 with torchao: what is quantised, how far off the logits are, saving and loading."""

import copy

import pytest
import torch
from huggingface_hub import HfApi, RepoUrl
from torch import nn
from transformers import AutoModelForVideoClassification, PreTrainedModel, TorchAoConfig

from ila_hf import ILAConfig, ILAForVideoClassification, ILAForVideoTextClassification
from ila_hf.demo.tiny import tiny_tokenizer


pytest.importorskip("torchao", reason="it needs a newer torch than the lowest that is supported")
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_


HEADS = (ILAForVideoTextClassification, ILAForVideoClassification)
# Otherwise torchao changes settings of the whole process, such as the precision of float32 products
WEIGHTS = Int8WeightOnlyConfig(set_inductor_config=False)
DYNAMIC = Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)


@pytest.fixture(params=HEADS, ids=["text", "linear"])
def head(request):
    return request.param


@pytest.fixture(params=["paper", "released"])
def model(request, tiny_model, head):
    return tiny_model(head, vision={"architecture": request.param}, num_labels=8)


@pytest.fixture(params=[WEIGHTS, DYNAMIC], ids=["weights", "dynamic"])
def scheme(request):
    return request.param


@pytest.fixture
def quantized(model, scheme, tmp_path):
    model.save_pretrained(tmp_path / "float")
    return load(type(model), tmp_path / "float", quantization_config=TorchAoConfig(scheme))


def load(model_class, folder, **arguments):
    return model_class.from_pretrained(folder, **arguments).eval()


def some_clips(number=12):
    """Clips of different colours."""
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(number, 8, 3, 32, 32, generator=generator)
    return noise + 3 * torch.randn(number, 1, 3, 1, 1, generator=generator)


@torch.no_grad()
def logits(model, clips):
    return model(clips).logits


def is_quantized(weight):
    return type(weight).__name__ == "Int8Tensor"


def check_same_weights(model, expected):
    """Logits would differ a little: activations that are rounded may fall to the other side."""
    state = expected.state_dict()
    assert model.state_dict().keys() == state.keys()
    for name, tensor in model.state_dict().items():
        assert is_quantized(tensor) == is_quantized(state[name]), name
        if is_quantized(tensor):
            assert torch.equal(tensor.qdata, state[name].qdata), name
            assert torch.equal(tensor.scale, state[name].scale), name
        else:
            assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize("dynamic", [False, True])
@torch.no_grad()
def test_a_linear_layer_by_hand(dynamic):
    """Rows of weights, and with `dynamic` the tokens, are rounded to 255 steps up to their largest value."""
    linear, tokens = nn.Linear(64, 32), torch.randn(5, 64)
    # Positive: the end of the other side lies halfway between two integers
    linear.weight[:, 3], tokens[:, 7] = 0.3, 4.0

    def rounded(rows):
        step = rows.abs().amax(1, keepdim=True) / 127.5
        return (rows / step).round().clamp(-128, 127) * step

    expected = (rounded(tokens) if dynamic else tokens) @ rounded(linear.weight).T + linear.bias
    exact = linear(tokens)
    quantize_(linear, DYNAMIC if dynamic else WEIGHTS)
    torch.testing.assert_close(linear(tokens), expected, rtol=0, atol=1e-5)
    assert (expected - exact).abs().max() > 1e-3


def test_what_is_quantized(quantized):
    """Every linear layer, and nothing else: convolutions, norms and positions stay."""
    linear = {name for name, module in quantized.named_modules() if isinstance(module, nn.Linear)}
    assert any(".temporal." in name for name in linear) == ("released" in quantized.config.vision_config.architecture)
    assert any(name.startswith("integration.") for name in linear)
    found = {name for name, parameter in quantized.named_parameters() if is_quantized(parameter)}
    assert found == {f"{name}.weight" for name in linear}
    assert {p.dtype for n, p in quantized.named_parameters() if n not in found} == {torch.float32}


def test_logits_stay_close(quantized, model):
    """Within 5 % of their spread."""
    clips = some_clips()
    expected, found = logits(model, clips), logits(quantized, clips)
    assert 0 < (found - expected).abs().max() < 0.05 * (expected.max() - expected.min())


@pytest.mark.parametrize(
    ("head", "architecture"), [(HEADS[0], "paper"), (HEADS[1], "released")], ids=["text", "linear"]
)
def test_classes_stay(tiny_model, head, architecture):
    """Of a model that knows the class of every clip."""
    model, clips, classes = (
        tiny_model(head, vision={"architecture": architecture}, num_labels=8),
        some_clips(8),
        torch.arange(8),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(25):
        optimizer.zero_grad()
        model(clips, labels=classes).loss.backward()
        optimizer.step()
    assert torch.equal(logits(model, clips).argmax(1), classes)
    for scheme in (WEIGHTS, DYNAMIC):
        quantized = copy.deepcopy(model)
        quantize_(quantized, scheme)
        assert torch.equal(logits(quantized, clips).argmax(1), classes)


def test_quantizing_in_memory(model, quantized, scheme):
    """torchao's own function gives the same weights."""
    quantize_(model, scheme)
    check_same_weights(model, quantized)


def test_saving_and_loading(quantized, tmp_path):
    quantized.save_pretrained(tmp_path / "int8")
    loaded = AutoModelForVideoClassification.from_pretrained(tmp_path / "int8").eval()
    assert type(loaded) is type(quantized)
    check_same_weights(loaded, quantized)

    weights = sum(p.numel() for p in quantized.parameters() if is_quantized(p))
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("float", "int8")]
    # one byte for four; the scales of the rows and the names of the parts take a little
    assert sizes[0] - sizes[1] == pytest.approx(3 * weights, rel=0.15)


def test_what_is_pushed_can_be_loaded(tiny_model, tmp_path, monkeypatch):
    tiny_model().save_pretrained(tmp_path / "float")
    model = load(ILAForVideoTextClassification, tmp_path / "float", quantization_config=TorchAoConfig(WEIGHTS))
    pushed = []
    monkeypatch.setattr(HfApi, "create_repo", lambda self, name, **kwargs: RepoUrl(f"https://huggingface.co/{name}"))
    monkeypatch.setattr(PreTrainedModel, "_upload_modified_files", lambda self, *args, **kwargs: pushed.append(args))
    model.save_pretrained(tmp_path / "int8", push_to_hub=True, repo_id="tester/int8")
    assert [args[:2] for args in pushed] == [(tmp_path / "int8", "tester/int8")]
    check_same_weights(load(ILAForVideoTextClassification, tmp_path / "int8"), model)


def test_numbers_of_the_guide():
    """Megabytes of the weights of ila-base-patch16, in float32 and with one byte for those of linear layers."""
    with torch.device("meta"):
        model = ILAForVideoTextClassification(ILAConfig.from_preset("ila-base-patch16"))
    linear = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
    total = model.num_parameters()
    assert (round(4 * total / 1e6), round((4 * total - 3 * linear) / 1e6)) == (679, 280)


def test_saving_in_parts(tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path / "float")
    model = load(ILAForVideoTextClassification, tmp_path / "float", quantization_config=TorchAoConfig(WEIGHTS))
    model.save_pretrained(tmp_path / "int8", max_shard_size="1MB")
    assert len(list((tmp_path / "int8").glob("*.safetensors"))) > 3
    loaded = load(ILAForVideoTextClassification, tmp_path / "int8")
    check_same_weights(loaded, model)


def test_what_is_left_out(tiny_model, tmp_path):
    tiny_model(ILAForVideoClassification).save_pretrained(tmp_path)
    config = TorchAoConfig(WEIGHTS, modules_to_not_convert=["classifier", "integration"])
    model = load(ILAForVideoClassification, tmp_path, quantization_config=config)
    assert not is_quantized(model.classifier.weight)
    assert not is_quantized(model.integration.layers[0].mlp.fc1.weight)
    assert is_quantized(model.visual_projection.weight)


def test_text_features_of_quantized_towers(tiny_model, clips):
    """They are kept, though quantised weights have no address, and not mixed up with those of other weights."""
    model = tiny_model()
    logits(model, clips)
    calls = []
    model.text_model.register_forward_hook(lambda *args: calls.append(1))
    for scale in (1, -1):
        linear = nn.Linear(64, 64, bias=False)
        linear.weight = nn.Parameter(scale * torch.eye(64))
        model.text_projection = linear
        quantize_(model.text_projection, WEIGHTS)
        with torch.no_grad():
            found = model.class_features()
            assert model.class_features() is found
            assert torch.equal(found, model.get_text_features(model.class_texts.input_ids).pooler_output)
    assert len(calls) == 4  # two for the features, two for the comparison


def test_class_texts_of_a_quantized_model(tiny_model, clips):
    model = tiny_model()
    quantize_(model, WEIGHTS)
    before = logits(model, clips)
    model.set_class_texts(["go", "stop"], tiny_tokenizer())
    assert logits(model, clips).shape == (2, 2)
    assert before.shape == (2, 8)
