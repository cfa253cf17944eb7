"""Data types on loading; weights on other devices, in CPU memory and on disk, with accelerate.

No GPU is needed: what is offloaded lies on the meta device until a module is called, wherever that module computes.
"""

import copy
import re

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model, infer_auto_device_map
from accelerate.hooks import AlignDevicesHook, add_hook_to_module, attach_execution_device_hook

from ila_hf import ILAForVideoClassification, ILAForVideoTextClassification, ILAModel, ILAVisionModel
from ila_hf.demo.tiny import tiny_tokenizer


HEADS = (ILAForVideoTextClassification, ILAForVideoClassification)
ARCHITECTURES = ("paper", "released")


@pytest.fixture(params=HEADS, ids=["text", "linear"])
def head(request):
    return request.param


@pytest.fixture(params=ARCHITECTURES)
def model(request, tiny_model, head):
    return tiny_model(head, vision={"architecture": request.param})


@torch.no_grad()
def logits(model, clips):
    return model(clips).logits


def check_logits(model, clips, expected):
    # Not exactly: weights that are read from a file may lie elsewhere in a cache line
    torch.testing.assert_close(logits(model, clips), expected, rtol=0, atol=1e-5)


def parts(model):
    """The smallest modules that a device map may name: those that are not split further."""
    names = []
    for name, _ in model.named_modules():
        *parents, last = name.split(".")
        is_layer = parents[-1:] == ["layers"] and parents[0] in ("text_model", "vision_model")
        is_tower_part = parents in (["text_model"], ["vision_model"]) and last != "encoder"
        if is_layer or is_tower_part or (name and not parents and last not in ("text_model", "vision_model")):
            names.append(name)
    return [name for name in names if any(True for _ in model.get_submodule(name).parameters()) or "texts" in name]


# --- Offloading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("buffers", [False, True], ids=["", "buffers"])
@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_offloaded_weights_give_the_same_logits(model, clips, tmp_path, place, buffers):
    expected = logits(model, clips)
    if place == "cpu":
        offloaded = cpu_offload(copy.deepcopy(model), execution_device="cpu", offload_buffers=buffers)
    else:
        offloaded = disk_offload(copy.deepcopy(model), str(tmp_path), execution_device="cpu", offload_buffers=buffers)
    assert all(parameter.is_meta for parameter in offloaded.parameters())
    assert {buffer.is_meta for name, buffer in offloaded.named_buffers() if "position_ids" not in name} == {buffers}
    for _ in range(2):  # what a call has loaded is gone in the next
        check_logits(offloaded, clips, expected)
    assert all(parameter.is_meta for parameter in offloaded.parameters())


@pytest.mark.parametrize("buffers", [False, True], ids=["", "buffers"])
@pytest.mark.parametrize("first", ["cpu", "disk"])
def test_loading_with_a_device_map(model, clips, tmp_path, first, buffers):
    """Every second module on disk; a scalar of the model itself, CLIP's logit scale, must not be there."""
    expected = logits(model, clips)
    model.save_pretrained(tmp_path / "model", max_shard_size="2MB")
    other = {"cpu": "disk", "disk": "cpu"}[first]
    device_map = {name: (first, other)[i % 2] for i, name in enumerate(parts(model))}
    if hasattr(model, "logit_scale"):
        device_map["logit_scale"] = "cpu"
    loaded = type(model).from_pretrained(
        tmp_path / "model", device_map=device_map, offload_folder=str(tmp_path / "rest"), offload_buffers=buffers
    )
    on_disk = {name for name, parameter in loaded.named_parameters() if parameter.is_meta}
    assert 0.2 < len(on_disk) / len(list(loaded.parameters())) < 0.8
    for _ in range(2):
        check_logits(loaded.eval(), clips, expected)


def test_automatic_device_map_keeps_layers_together(model, clips, tmp_path):
    """A layer goes with its temporal module, though the encoder calls that by itself."""
    expected = logits(model, clips)
    model.save_pretrained(tmp_path / "model")
    layer = sum(p.nbytes for p in model.vision_model.encoder.layers[0].parameters())
    limits = {"cpu": 5 * layer}  # one place for the layer that is loaded, one for the largest module
    loaded = type(model).from_pretrained(
        tmp_path / "model", device_map="auto", max_memory=limits, offload_folder=str(tmp_path / "rest")
    )
    check_logits(loaded.eval(), clips, expected)
    whole = type(model).from_pretrained(tmp_path / "model", device_map="auto")
    check_logits(whole.eval(), clips, expected)
    for size in (1.5, 2.5):
        limits = {0: int(size * layer), "cpu": 10**9}
        found = infer_auto_device_map(model, limits, no_split_module_classes=list(model._no_split_modules))
        assert "cpu" in found.values()
        assert not any(re.search(r"\.layers\.\d+\.", name) for name in found)


def test_layers_on_two_devices(tiny_model):
    """A temporal module is called with the output of the layer before it, which may lie on another device.

    The meta device takes the place of a second GPU: torch refuses to compute with tensors of two devices there, too.
    """
    encoder = tiny_model(ILAVisionModel).encoder
    hidden_states = torch.randn(1, 3, 17, 64)
    encoder.layers[1].to("meta")
    with pytest.raises(RuntimeError, match="device"):
        encoder(hidden_states, (4, 4))
    encoder.layers[2].to("meta")
    for layer in encoder.layers[1:]:  # as `accelerate.dispatch_model` does
        add_hook_to_module(layer, AlignDevicesHook(execution_device="meta"))
        attach_execution_device_hook(layer, "meta")
    last, outputs, features = encoder(hidden_states, (4, 4), num_feature_layers=3)
    assert last.is_meta
    assert [[each.is_meta for each in of_layer] for of_layer in features] == [[False] * 3, [True] * 3, [True] * 3]
    assert last.shape == hidden_states.shape
    assert [output.loss.is_meta for output in outputs] == [False, True, True]


def test_features_of_an_offloaded_model(tiny_model, clips, tmp_path):
    """Methods beside `forward` work, too, and the text tower is loaded once for texts that stay."""
    model = tiny_model()
    expected = model.class_features()
    videos = model.get_video_features(clips).pooler_output
    offloaded = disk_offload(model, str(tmp_path), execution_device="cpu", offload_buffers=True)
    calls = []
    offloaded.text_model.register_forward_hook(lambda *args: calls.append(1))
    with torch.no_grad():
        for _ in range(3):
            assert torch.equal(offloaded.class_features(), expected)
        assert torch.equal(offloaded.get_video_features(clips).pooler_output, videos)
    assert len(calls) == 1


def test_class_texts_of_an_offloaded_model(tiny_model, clips, tmp_path):
    """They can be replaced where buffers stay in memory."""
    expected = tiny_model()
    expected.set_class_texts(["go", "stop"], tiny_tokenizer())
    model = disk_offload(tiny_model(), str(tmp_path / "weights"), execution_device="cpu")
    logits(model, clips)
    model.set_class_texts(["go", "stop"], tiny_tokenizer())
    assert torch.equal(logits(model, clips), logits(expected, clips))
    model = disk_offload(tiny_model(), str(tmp_path / "all"), execution_device="cpu", offload_buffers=True)
    with pytest.raises(ValueError, match="class texts are offloaded"):
        model.set_class_texts(["go", "stop"], tiny_tokenizer())


def test_an_offloaded_model_is_saved(tiny_model, tmp_path):
    model = tiny_model()
    expected = model.state_dict()
    model.save_pretrained(tmp_path / "model")
    device_map = {name: "cpu" if i % 2 else "disk" for i, name in enumerate(parts(model))} | {"logit_scale": "cpu"}
    loaded = ILAForVideoTextClassification.from_pretrained(
        tmp_path / "model", device_map=device_map, offload_folder=str(tmp_path / "rest")
    )
    loaded.save_pretrained(tmp_path / "again")
    again = ILAForVideoTextClassification.from_pretrained(tmp_path / "again").state_dict()
    assert again.keys() == expected.keys()
    for name, tensor in again.items():
        assert torch.equal(tensor, expected[name]), name


def test_dispatching_a_model_in_memory(tiny_model, clips, tmp_path):
    model = tiny_model(ILAModel)
    inputs = {"pixel_values": clips, **tiny_tokenizer()(["go", "stop now"], padding=True, return_tensors="pt")}
    with torch.no_grad():
        expected = model(**inputs).logits_per_video
        device_map = {name: "disk" if i % 3 else "cpu" for i, name in enumerate(parts(model))} | {"logit_scale": "cpu"}
        dispatched = dispatch_model(model, device_map, main_device="cpu", offload_dir=str(tmp_path))
        assert torch.equal(dispatched(**inputs).logits_per_video, expected)


# --- Data types -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_loading_in_half_precision(model, clips, tmp_path, dtype):
    """Computed in half precision, but for masks and logits; saved and loaded again as it is."""
    expected = logits(model, clips)
    model.save_pretrained(tmp_path / "float")
    loaded = type(model).from_pretrained(tmp_path / "float", dtype=dtype).eval()
    assert loaded.dtype == dtype
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    with torch.no_grad():
        outputs = loaded(clips.to(dtype), output_alignments=True)
    assert outputs.logits.dtype == outputs.alignment_loss.dtype == outputs.alignment_masks[0].dtype == torch.float32
    # Rounding to 8 or 11 bits in three layers; the logits of the text head are cosines times 14
    scale = 14.3 if isinstance(model, ILAForVideoTextClassification) else 1.0
    atol = scale * (0.03 if dtype is torch.bfloat16 else 0.004)
    torch.testing.assert_close(outputs.logits, expected, rtol=0, atol=atol)

    loaded.save_pretrained(tmp_path / "half")
    again = type(model).from_pretrained(tmp_path / "half", dtype="auto").eval()
    assert again.dtype == again.config.dtype == dtype
    assert torch.equal(logits(again, clips.to(dtype)), outputs.logits)
    size = sum(file.stat().st_size for file in (tmp_path / "half").glob("*.safetensors"))
    assert size < 0.55 * sum(file.stat().st_size for file in (tmp_path / "float").glob("*.safetensors"))
    assert type(model).from_pretrained(tmp_path / "half", dtype=torch.float32).dtype == torch.float32
