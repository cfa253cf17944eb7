"""Timing models in turn: what is measured and how it is told; no test looks at how long anything takes."""

import json
from types import SimpleNamespace

import pytest
import torch
from transformers import CLIPVisionModel

from ila_hf import ILAForVideoTextClassification, ILAVisionModel
from ila_hf.__main__ import main
from ila_hf.analysis import benchmark
from ila_hf.analysis.benchmark import (
    Measurement,
    Step,
    TensorMemory,
    add_memory,
    form_of,
    machine_line,
    make_step,
    markdown_table,
    measure,
)
from ila_hf.analysis.flops import clip_config
from ila_hf.demo.tiny import tiny_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model of one layer."""
    folder = tmp_path_factory.mktemp("model")
    ILAForVideoTextClassification(tiny_config({"num_hidden_layers": 1})).save_pretrained(folder)
    return folder


def test_ratios_are_those_to_the_neighbours(monkeypatch):
    clock, runs = [0.0], []

    def step(name, share):
        def run():
            runs.append(name)
            clock[0] += share * len(runs)  # the machine gets slower with every run

        return run

    monkeypatch.setattr("ila_hf.analysis.benchmark.time.perf_counter", lambda: clock[0])
    steps = {"CLIP": step("CLIP", 1), "ILA": step("ILA", 1.5), "X-CLIP": step("X-CLIP", 3)}
    reference, *others = measure("case", steps, 3)
    warm_up, timed = runs[:6], runs[6:]
    assert warm_up == [*steps] * 2
    assert timed[::2] == ["CLIP"] * 7
    assert all(set(timed[i : i + 4 : 2]) == {"ILA", "X-CLIP"} for i in (1, 5, 9))
    assert (reference.milliseconds, reference.ratio, reference.rounds) == (13000, 1, 7)  # runs 7, 9, ... 19
    assert [(each.low, each.ratio, each.high, each.rounds) for each in others] == [(1.5,) * 3 + (3,), (3,) * 3 + (3,)]


def test_quartiles_are_among_what_was_measured(monkeypatch):
    """Of two rounds, too: those of a sample from a wider distribution would lie outside."""
    clock, times = [0.0], iter((1.0, 2.0))

    def own():
        clock[0] += next(times)

    def reference():
        clock[0] += 1

    monkeypatch.setattr("ila_hf.analysis.benchmark.time.perf_counter", lambda: clock[0])
    _, found = measure("case", {"CLIP": reference, "ILA": own}, 2, warm_up=0)
    assert found.milliseconds == 1500
    assert (found.low, found.ratio, found.high) == (1.25, 1.5, 1.75)


@pytest.mark.parametrize(("is_cuda", "seen"), [(False, ["ILA"]), (True, ["ILA", "ILA, compiled"])])
def test_memory_that_cannot_be_counted_is_left_out(is_cuda, seen):
    names = ("ILA", "ILA, compiled", "ILA, int8")
    rows = [Measurement("case", name, 1, 1, 1, 1) for name in names]
    step = SimpleNamespace(clips=SimpleNamespace(is_cuda=is_cuda), peak_mebibytes=lambda: 5.0)
    add_memory(rows, dict.fromkeys(names, step))
    assert [row.name for row in rows if row.mebibytes is not None] == seen


def test_a_time_limit_leaves_three_rounds():
    runs = []
    _, found = measure("case", {"CLIP": lambda: None, "a": lambda: runs.append(1)}, 100, seconds=0)
    assert len(runs) == 2 + found.rounds == 2 + 3


def test_memory_of_tensors():
    """Written out: views share memory, and what is gone does not count."""
    memory = TensorMemory()
    outside = torch.zeros(1000)
    memory.add(outside)
    with memory:
        first = outside + 1
        second = first * 2
        del first
        view = second.view(10, 100)
    assert (memory.total, memory.peak) == (8000, 12000)
    del second, view
    assert memory.total == 4000


def test_memory_of_a_step():
    """Training keeps activations and gradients, an evaluation does not; weights count once."""
    model = ILAVisionModel(tiny_config().vision_config)
    weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers())) / 2**20
    clips = torch.randn(1, 4, 3, 32, 32)
    evaluation = Step(model, clips).peak_mebibytes()
    training = Step(model, clips, training=True).peak_mebibytes()
    assert weights < evaluation < 2 * weights
    assert training > 2 * weights
    assert all(parameter.grad is None for parameter in model.parameters())


def test_checkpointing_keeps_fewer_activations():
    model = ILAVisionModel(tiny_config({"num_hidden_layers": 6}).vision_config)
    clips = torch.randn(8, 8, 3, 32, 32)
    plain = Step(model, clips, training=True).peak_mebibytes()
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    assert Step(model, clips, training=True).peak_mebibytes() < 0.75 * plain


@torch.no_grad()
def test_forms_compute_the_same(clips):
    model = ILAVisionModel(tiny_config({"num_hidden_layers": 1}).vision_config).eval()
    expected = model(clips).last_hidden_state
    torch.testing.assert_close(form_of(model, "fused")(clips).last_hidden_state, expected, atol=1e-5, rtol=1e-5)
    half = form_of(model, "bfloat16")(clips.bfloat16()).last_hidden_state
    torch.testing.assert_close(half.float(), expected, atol=0.1, rtol=0.1)
    assert not model._has_fused_part()
    assert model.dtype == torch.float
    pytest.importorskip("torchao", reason="it needs a newer torch than the lowest supported")
    assert not torch.equal(form_of(model, "int8")(clips).last_hidden_state, expected)


def test_the_reference_has_the_size_of_the_model():
    config = tiny_config().vision_config
    clip = CLIPVisionModel(clip_config(config))
    own = ILAVisionModel(config)
    sizes = {name: parameter.shape for name, parameter in clip.named_parameters()}
    assert sizes == {name: parameter.shape for name, parameter in own.named_parameters() if ".temporal." not in name}


def test_table():
    rows = [
        Measurement("1 × 8 frames", "CLIP", 12.5, 1, 1, 1, 100.4),
        Measurement("1 × 8 frames", "ILA", 14, 1.123, 1.1, 1.2, 110.0),
        Measurement("2 × 8 frames", "CLIP", 25, 1, 1, 1),
    ]
    assert markdown_table(rows).split("\n") == [
        "| | 1 × 8 frames | 2 × 8 frames |",
        "|---|---|---|",
        "| CLIP | 12.5 ms, 100 MiB | 25 ms |",
        "| ILA | 1.12 (1.10-1.20), 110 MiB |  |",
    ]


@pytest.mark.parametrize("training", [False, True])
def test_the_command(folder, tmp_path, capsys, training):
    file = tmp_path / "times.json"
    arguments = ["benchmark", "--model", str(folder), "--batch_size", "1", "2", "--num_frames", "4", "--rounds", "2"]
    forms = ["--training"] if training else ["--forms", "fused", "bfloat16"]
    main([*arguments, *forms, "--output_file", str(file)])
    found = json.loads(file.read_text())
    names = ["CLIP", "ILA", *([] if training else ["ILA, fused", "CLIP, bfloat16", "ILA, bfloat16"])]
    cases = ["1 × 4 frames", "2 × 4 frames"]
    assert [(each["case"], each["name"]) for each in found["measurements"]] == [(c, n) for c in cases for n in names]
    assert all(each["mebibytes"] > 0 for each in found["measurements"])
    assert found["machine"]["torch"] == torch.__version__
    reference = found["measurements"][0]["name"]
    assert all(each["rounds"] == 2 for each in found["measurements"] if each["name"] != reference)
    where, empty, *table = capsys.readouterr().out.splitlines()
    assert (where, empty) == (machine_line(found["machine"]), "")
    assert f"threads {torch.get_num_threads()}, torch {torch.__version__}" in where or torch.cuda.is_available()
    assert table[0] == "| | 1 × 4 frames | 2 × 4 frames |"
    assert len(table) == 2 + len(names)


def test_every_shape_is_compiled_for_itself(folder, monkeypatch):
    """What one shape has left behind must not slow down the next."""
    symbolic = []

    def backend(graph, inputs):
        symbolic.extend(
            isinstance(size, torch.SymInt) for each in inputs for size in (each, *getattr(each, "shape", ()))
        )
        return graph.forward

    def compiled(model, form):
        model = form_of(model, "fused") if isinstance(model, ILAVisionModel) else model
        for layer in model.encoder.layers:
            layer.compile(backend=backend)
        return model

    monkeypatch.setattr(benchmark, "form_of", compiled)
    arguments = ["benchmark", "--model", str(folder), "--num_frames", "4", "--rounds", "2"]
    main([*arguments, "--batch_size", "2", "3", "4", "--forms", "compiled"])
    assert symbolic
    assert not any(symbolic)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "1"], "`--rounds` must be at least 2, got 1"),
        (["--batch_size", "0"], "`--batch_size` must be at least 1, got 0"),
        (["--num_frames", "8", "-1"], "`--num_frames` must be at least 1, got -1"),
        (["--training", "--forms", "fused"], "for inference, got --forms fused"),
    ],
)
def test_bad_numbers(folder, capsys, arguments, message):
    with pytest.raises(SystemExit):
        main(["benchmark", "--model", str(folder), *arguments])
    assert message in capsys.readouterr().err


def test_a_model_in_half_precision_is_timed_in_float32(folder, tmp_path, capsys):
    """As CLIP is: the ratio would be that of two types."""
    ILAForVideoTextClassification.from_pretrained(folder).bfloat16().save_pretrained(tmp_path / "half")
    file = tmp_path / "times.json"
    for model in (folder, tmp_path / "half"):
        main(["benchmark", "--model", str(model), "--rounds", "2", "--forms", "--output_file", str(file)])
        sizes = {each["name"]: each["mebibytes"] for each in json.loads(file.read_text())["measurements"]}
        assert sizes["ILA"] > sizes["CLIP"]


def test_noise_fits_the_model():
    """CLIP takes frames, ILA clips, each in the type of its weights; what is no module takes clips in float32."""
    config = tiny_config().vision_config
    shape = (2, 3, 32)
    own, clip = ILAVisionModel(config), CLIPVisionModel(clip_config(config))
    assert make_step(own, shape, "cpu").clips.shape == (2, 3, 3, 32, 32)
    assert make_step(clip, shape, "cpu").clips.shape == (6, 3, 32, 32)
    assert make_step(form_of(clip, "bfloat16"), shape, "cpu").clips.dtype == torch.bfloat16
    assert make_step(len, shape, "cpu").clips.dtype == torch.float


@torch.no_grad()
def test_compiled_layers_of_clip_compute_the_same():
    torch._dynamo.reset()
    clip = CLIPVisionModel(clip_config(tiny_config({"num_hidden_layers": 1}).vision_config)).eval()
    frames = torch.randn(2, 3, 32, 32)
    expected = clip(frames).last_hidden_state
    torch.testing.assert_close(form_of(clip, "compiled")(frames).last_hidden_state, expected, atol=1e-5, rtol=1e-5)
    torch._dynamo.reset()
