"""Export: onnxruntime and a reloaded program give what the model gives, from files that need nothing else."""

import json
import re
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import make_model

import ila_hf.conversion.export_ila
from ila_hf import (
    ILACache,
    ILAForVideoClassification,
    ILAForVideoTextClassification,
    ILAModel,
    ILAProcessor,
    ILAVideoProcessor,
    ILAVisionModel,
)
from ila_hf.__main__ import main
from ila_hf.conversion.export_ila import (
    PAST,
    OnnxStream,
    export_onnx,
    export_program,
    largest_difference,
    save_program,
)
from ila_hf.demo.motion_clips import MOTIONS
from ila_hf.demo.tiny import tiny_config, tiny_processor
from ila_hf.inference import inference_graph


# The first has the second token and pairs the first frame with itself; the second has projections of the maps
VARIANTS = {
    "paper": {"interaction_token": True, "first_frame": "self", "num_hidden_layers": 1},
    "released": {"architecture": "released", "num_hidden_layers": 1},
}


def make_clips(batch, frames=8, size=32):
    """Over the whole range of normalised pixels."""
    generator = torch.Generator().manual_seed(batch)
    return torch.empty(batch, frames, 3, size, size).uniform_(-2.6, 2.6, generator=generator)


def run_onnx(path, clips):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, map(torch.from_numpy, session.run(names, {"pixel_values": clips.numpy()})), strict=True))


@pytest.fixture(scope="module", params=VARIANTS)
def classifier(request, tmp_path_factory):
    """A text classifier and its ONNX file."""
    model = make_model(vision=VARIANTS[request.param])
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(model, path)
    return model, path


@torch.no_grad()
def test_onnx_classifies_as_the_model(classifier):
    model, path = classifier
    for batch in (1, 2, 3):
        clips = make_clips(batch)
        expected = model(clips).logits
        logits = run_onnx(path, clips)["logits"]
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
        assert torch.equal(logits.argmax(1), expected.argmax(1))


def test_the_file_is_valid_and_complete(classifier):
    _, path = classifier
    onnx.checker.check_model(str(path), full_check=True)
    proto = onnx.load(path)
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", 20)]
    assert [path.name] == [file.name for file in path.parent.iterdir()]  # no external data
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    }
    assert shapes == {"pixel_values": ["batch", 8, 3, 32, 32], "logits": ["batch", 8]}
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(metadata.pop("labels")) == list(MOTIONS)
    assert metadata == {"model_class": "ILAForVideoTextClassification", "num_frames": "8", "image_size": "32"}


def test_the_text_tower_is_not_in_the_file(classifier):
    model, path = classifier
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    assert not [name for name in weights if "text" in name and name != "text_features"]
    np.testing.assert_allclose(weights["text_features"], model.class_features().detach(), atol=1e-6)
    size = sum(weight.size for weight in weights.values())
    assert 0.95 * size < sum(p.numel() for n, p in model.named_parameters() if model.parameter_origin(n) != "text")
    assert model.text_model is not None  # the model itself keeps it


def test_the_file_does_not_tell_where_it_was_made(classifier):
    _, path = classifier
    assert b"modeling_ila.py" not in path.read_bytes()


@torch.no_grad()
def test_a_trunk_of_other_frames(tmp_path):
    """Four frames of 48 pixels: the positions of 32 pixels are interpolated."""
    model = make_model(ILAVisionModel, vision=VARIANTS["paper"]).train()
    export_onnx(model, tmp_path / "model.onnx", num_frames=4, image_size=48, opset=18)
    assert model.training
    model.eval()
    clips = make_clips(3, 4, 48)
    outputs, expected = run_onnx(tmp_path / "model.onnx", clips), model(clips, interpolate_pos_encoding=True)
    assert list(outputs) == ["last_hidden_state", "pooler_output"]
    for name, output in outputs.items():
        torch.testing.assert_close(output, expected[name], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("model_class", "variant"), [(ILAForVideoTextClassification, "released"), (ILAForVideoClassification, "paper")]
)
@torch.no_grad()
def test_a_reloaded_program_is_the_model(model_class, variant, tmp_path):
    model = make_model(model_class, vision=VARIANTS[variant])
    path = tmp_path / "model.pt2"
    save_program(export_program(model), path, {"labels": "[]"})
    extra = {"metadata.json": ""}
    program = torch.export.load(path, extra_files=extra)
    assert json.loads(extra["metadata.json"]) == {"labels": "[]"}
    assert not [name for name in program.state_dict if "text_model" in name]
    for batch in (1, 2, 5):
        expected = model(make_clips(batch))
        for name, output in program.module()(make_clips(batch)).items():
            torch.testing.assert_close(output, expected[name], atol=1e-5, rtol=0)


def test_a_program_holds_no_pickles_and_no_paths(tmp_path):
    save_program(export_program(make_model(ILAVisionModel, vision=VARIANTS["paper"])), tmp_path / "model.pt2")
    with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    weights = [name for name in contents if "/weights/weight_" in name]
    assert len(weights) > 30
    assert not contents["model/data/sample_inputs/model.pt"]
    # torch pickles into a zip file of its own
    assert not [name for name, content in contents.items() if content.startswith(b"PK") or b"pkl" in content]
    assert not [name for name, content in contents.items() if b'"use_pickle": true' in content]
    assert not [name for name, content in contents.items() if b"modeling_ila.py" in content]


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_dynamic_frames(variant):
    model = make_model(vision={**VARIANTS[variant], "num_hidden_layers": 1})
    module = export_program(model, dynamic_frames=True).module()
    for batch, frames in [(1, 3), (2, 8), (3, 13)]:
        clips = make_clips(batch, frames)
        torch.testing.assert_close(module(clips)["logits"], model(clips).logits, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model and its processor."""
    folder = tmp_path_factory.mktemp("model")
    model = make_model(vision=VARIANTS["paper"])
    model.save_pretrained(folder)
    tiny_processor(model.config).save_pretrained(folder)
    return folder


@torch.no_grad()
def test_the_command_and_the_example(folder, video_file, tmp_path, monkeypatch, capsys):
    """On a real video, as docs/export.md shows it."""
    (tmp_path / "clip.mp4").write_bytes(video_file.read_bytes())
    monkeypatch.chdir(tmp_path)
    main(["export", "--model", str(folder), "--output_dir", "exported", "--format", "onnx", "torch_export"])
    printed = capsys.readouterr().out
    assert printed.count("largest difference from the model") == 2
    files = sorted(path.name for path in (tmp_path / "exported").iterdir() if path.suffix != ".py")
    assert files == ["config.json", "model.onnx", "model.pt2", "video_preprocessor_config.json"]
    clips = ILAVideoProcessor.from_pretrained("exported")("clip.mp4", return_tensors="np")["pixel_values"]
    session = onnxruntime.InferenceSession("exported/model.onnx")
    logits = session.run(["logits"], {"pixel_values": clips})[0]
    labels = json.loads(session.get_modelmeta().custom_metadata_map["labels"])
    model = ILAForVideoTextClassification.from_pretrained(folder).eval()
    inputs = ILAProcessor.from_pretrained(folder)(videos="clip.mp4", return_tensors="pt")
    expected = model(inputs["pixel_values"]).logits
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert labels == [model.config.id2label[i] for i in range(model.config.num_labels)]


@pytest.mark.slow
@torch.no_grad()
def test_the_command_for_a_trunk_of_any_length(folder, tmp_path):
    main(["export", "--model", str(folder), "--output_dir", str(tmp_path), "--part", "vision", "--dynamic_frames"])
    model = ILAVisionModel.from_pretrained(folder).eval()
    for frames in (3, 7, 16):
        clips = make_clips(2, frames)
        outputs = run_onnx(tmp_path / "model.onnx", clips)
        torch.testing.assert_close(outputs["pooler_output"], model(clips).pooler_output, atol=1e-4, rtol=0)


def test_the_processor_fits_the_graph(folder, tmp_path, monkeypatch):
    """T and S are others than the model's, and of the many views of its videos there is one."""
    ILAVideoProcessor.from_pretrained(folder, num_clips=2, num_crops=3).save_pretrained(tmp_path / "views")
    ILAForVideoTextClassification.from_pretrained(folder).save_pretrained(tmp_path / "views")
    monkeypatch.setattr(ila_hf.conversion.export_ila, "export_program", lambda *args, **kwargs: None)
    monkeypatch.setattr(ila_hf.conversion.export_ila, "save_program", lambda *args: None)
    monkeypatch.setattr(ila_hf.conversion.export_ila, "largest_difference", lambda *args: (0.0, 0.0))
    monkeypatch.setattr(torch.export, "load", lambda path: torch.nn.Identity())
    arguments = ["--model", str(tmp_path / "views"), "--output_dir", str(tmp_path), "--format", "torch_export"]
    monkeypatch.setattr(torch.nn.Identity, "module", lambda self: self, raising=False)
    main(["export", *arguments, "--num_frames", "4", "--image_size", "56"])
    video = np.zeros((10, 60, 80, 3), dtype=np.uint8)
    clips = ILAVideoProcessor.from_pretrained(tmp_path)(video, do_sample_frames=True, return_tensors="np")
    assert clips["pixel_values"].shape == (1, 4, 3, 56, 56)
    saved = json.loads((tmp_path / "video_preprocessor_config.json").read_text())
    assert saved["size"] == {"shortest_edge": 64}


def test_a_file_that_differs_is_not_kept(folder, tmp_path, monkeypatch, capsys):
    export = ila_hf.conversion.export_ila.export_program

    def export_another(model, **shape):
        with torch.no_grad():
            model.integration.layers[0].self_attn.q_proj.weight.mul_(1.5)
            program = export(model, **shape)
            model.integration.layers[0].self_attn.q_proj.weight.div_(1.5)
        return program

    monkeypatch.setattr(ila_hf.conversion.export_ila, "export_program", export_another)
    (tmp_path / "model.pt2").write_text("of an earlier run")
    with pytest.raises(SystemExit):
        main(["export", "--model", str(folder), "--output_dir", str(tmp_path), "--format", "torch_export"])
    said = r"model.pt2 is not kept: it differs from the model by \d.*, \d.* relative to the largest output, over 1e-04"
    assert re.search(said, capsys.readouterr().err)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"model.pt2": "of an earlier run"}


def test_largest_difference():
    """Absolute, and relative to the largest value of an output where that exceeds 1; nan is not overlooked."""
    model = make_model(vision={"num_hidden_layers": 1})
    model.logit_scale.data.fill_(6.0)
    graph, clips = inference_graph(model), [make_clips(1), make_clips(2)]
    expected = [graph(batch)["logits"] for batch in clips]
    answers = iter([{"logits": expected[0]}, {"logits": expected[1] + 0.01}])
    largest = float(expected[1].abs().max())
    found = largest_difference(lambda batch: next(answers), model, clips)
    assert largest > 2
    assert found == pytest.approx((0.01, 0.01 / largest), rel=1e-2)
    model.logit_scale.data.fill_(-3.0)
    expected = [inference_graph(model)(batch)["logits"] for batch in clips]
    assert max(float(logits.abs().max()) for logits in expected) < 1
    answers = iter([{"logits": expected[0] - 0.02}, {"logits": expected[1] + 0.01}])
    found = largest_difference(lambda batch: next(answers), model, clips)
    assert found == pytest.approx((0.02, 0.02), rel=1e-3)
    answers = iter([{"logits": expected[0] * torch.nan}, {"logits": expected[1]}])
    assert np.isnan(largest_difference(lambda batch: next(answers), model, clips)).all()


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_missing_packages(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'needs {package}: pip install "ila-hf\[export\]"'):
        export_onnx(make_model(ILAVisionModel), tmp_path / "model.onnx")


@pytest.mark.parametrize("open_session", [ila_hf.conversion.export_ila.onnx_runner, OnnxStream])
def test_sessions_use_as_many_threads_as_torch(tmp_path, monkeypatch, open_session):
    opened = []

    def session(path, options, providers):
        opened.append(options.intra_op_num_threads)
        inputs = [SimpleNamespace(name=PAST + "frame")]
        return SimpleNamespace(get_inputs=lambda: inputs, get_outputs=list)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    open_session(tmp_path / "model.onnx")
    assert opened == [3]


def test_missing_onnxruntime(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r'needs onnxruntime: pip install "ila-hf\[export\]"'):
        ila_hf.conversion.export_ila.onnx_runner(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("model_class", "arguments", "message"),
    [
        (ILAModel, {}, "Only vision and classification models can be exported, got ILAModel"),
        (ILAVisionModel, {"opset": 17}, r"`opset` must be 18 to \d+, got 17"),
        (ILAVisionModel, {"opset": 99}, r"`opset` must be 18 to \d+, got 99"),
        (ILAVisionModel, {"num_frames": 2, "dynamic_frames": True}, "takes 3 to 1024 frames, got 2"),
        (ILAVisionModel, {"num_frames": 1025, "dynamic_frames": True}, "takes 3 to 1024 frames, got 1025"),
        (ILAVisionModel, {"num_frames": 0}, "`num_frames` must be at least 1, got 0"),
        (ILAVisionModel, {"num_frames": -1}, "`num_frames` must be at least 1, got -1"),
        (ILAVisionModel, {"image_size": 0}, "`image_size` must be at least 1, got 0"),
        (ILAVisionModel, {"image_size": -1}, "`image_size` must be at least 1, got -1"),
        (ILAVisionModel, {"image_size": 8}, "at least 32×32 pixels"),
    ],
)
def test_what_cannot_be_exported(tiny_model, tmp_path, model_class, arguments, message):
    with pytest.raises(ValueError, match=message):
        export_onnx(tiny_model(model_class), tmp_path / "model.onnx", **arguments)


@pytest.mark.parametrize("flag", ["--num_frames", "--image_size"])
def test_nought_is_not_the_default(flag, folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["export", "--model", str(folder), "--output_dir", str(tmp_path), flag, "0"])
    assert f"`{flag[2:]}` must be at least 1, got 0" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_opset_that_the_converter_does_not_reach(tmp_path, monkeypatch):
    """torch would write the file in another opset."""
    export = torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **kwargs: export(*args, **{**kwargs, "opset_version": 18}))
    with pytest.raises(ValueError, match="cannot translate to `opset` 21, it stays at 18: take a lower one"):
        export_onnx(make_model(ILAVisionModel, vision={"num_hidden_layers": 1}), tmp_path / "model.onnx", opset=21)
    assert not list(tmp_path.iterdir())


def test_a_model_without_class_texts(tmp_path):
    with pytest.raises(ValueError, match="no class texts"):
        export_program(ILAForVideoTextClassification(tiny_config()))


STREAMS = {
    "text": (ILAForVideoTextClassification, True),
    "linear": (ILAForVideoClassification, False),
}


@pytest.fixture(scope="module", params=STREAMS)
def streaming(request, tmp_path_factory):
    """A causal classifier that looks back on four frames, and its ONNX file of streams."""
    model_class, token = STREAMS[request.param]
    vision = {"first_frame": "self", "interaction_token": token, "num_hidden_layers": 1}
    model = make_model(model_class, vision=vision, num_frames=4)
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(model, path, stream=True)
    return model, path


@pytest.mark.parametrize("batch", [1, 3])
@torch.no_grad()
def test_onnx_streams_frame_by_frame(streaming, batch):
    """As the model with its cache, beyond T frames, and for streams that begin at different times."""
    model, path = streaming
    stream, cache = OnnxStream(path), ILACache()
    videos = make_clips(batch, 7)
    state = stream.initial_state(batch)
    for number, frames in enumerate(videos.split(1, dim=1)):
        if number == 3:  # the first stream begins anew
            state = {name: tensor.clone() for name, tensor in state.items()}
            for tensor in state.values():
                tensor[0] = 0
            cache.reset(0)
        logits, state = stream(frames, state)
        torch.testing.assert_close(logits, model(frames, cache=cache).logits[:, 0], atol=1e-4, rtol=0)
    assert torch.equal(state["lengths"], cache.lengths)
    for name, tensor in cache.states.items():
        torch.testing.assert_close(state[name], tensor, atol=1e-4, rtol=1e-4)


def test_the_file_of_streams_is_valid(streaming):
    model, path = streaming
    onnx.checker.check_model(str(path), full_check=True)
    proto = onnx.load(path)
    inputs, outputs = (
        {value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}
        for values in (proto.graph.input, proto.graph.output)
    )
    state = {name.removeprefix("past."): shape for name, shape in inputs.items() if name != "pixel_values"}
    assert inputs["pixel_values"] == ["batch", 1, 3, 32, 32]
    assert state["lengths"] == ["batch"]
    assert state["layers.0"] == ["batch", 1, 17, 64]
    assert outputs == {"logits": ["batch", model.config.num_labels]} | {f"present.{k}": v for k, v in state.items()}
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    assert (metadata["stream"], metadata["num_frames"]) == ("true", "4")


def test_the_command_exports_streams(tmp_path, capsys):
    for first_frame in ("self", "next"):
        model = make_model(vision={"first_frame": first_frame, "num_hidden_layers": 1}, num_frames=3)
        model.save_pretrained(tmp_path / first_frame)
    arguments = ["--output_dir", str(tmp_path / "out"), "--stream", "--format", "onnx", "torch_export"]
    main(["export", "--model", str(tmp_path / "self"), *arguments])
    printed = capsys.readouterr().out
    assert len(re.findall(r"largest difference from the model \d\.\de-\d\d", printed)) == 2
    stream = OnnxStream(tmp_path / "out" / "model.onnx")
    assert stream.initial_state()["frame_features"].shape == (1, 2, 64)
    for arguments, message in (
        (["--model", str(tmp_path / "next"), "--stream"], "A cache needs a causal trunk"),
        (["--model", str(tmp_path / "self"), "--stream", "--dynamic_frames"], "one frame at a time"),
        (
            ["--model", str(tmp_path / "self"), "--stream", "--part", "vision"],
            "Streams are exported of classification",
        ),
    ):
        with pytest.raises(SystemExit):
            main(["export", "--output_dir", str(tmp_path / "refused"), *arguments])
        assert message in capsys.readouterr().err


def test_a_file_of_clips_takes_no_streams(classifier):
    with pytest.raises(ValueError, match="takes clips, not streams"):
        OnnxStream(classifier[1])
