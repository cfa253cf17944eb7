"""The metric against loops over clips, and the temporal score."""

import math
import sys

import evaluate
import numpy as np
import pytest
import torch

from ila_hf.evaluation.metrics import VideoClassificationMetric, class_accuracies


def _names(num_classes):
    return [f"class {i}" for i in range(num_classes)]


def _clips(num_clips, num_classes, seed=0):
    """Probabilities with many ties, every seventh clip without a prediction, every ninth of unknown class."""
    rng = np.random.default_rng(seed)
    predictions = rng.integers(1, 4, (num_clips, num_classes)).astype(np.float64)
    predictions /= predictions.sum(axis=1, keepdims=True)
    predictions[::7, rng.integers(num_classes)] = np.nan
    references = rng.integers(num_classes, size=num_clips)
    references[::9] = -100
    return predictions, references


def _loop(predictions, references):
    """The same figures clip by clip, by sorting, and the confusion matrix."""
    num_classes = len(predictions[0])
    top1, top5, losses = 0, 0, []
    matrix = [[0] * (num_classes + 1) for _ in range(num_classes)]
    for prediction, reference in zip(predictions.tolist(), references.tolist(), strict=True):
        if reference == -100:
            continue
        if any(math.isnan(p) for p in prediction):
            matrix[reference][num_classes] += 1
            continue
        order = sorted(range(num_classes), key=lambda k: (-prediction[k], k))
        top1 += order[0] == reference
        top5 += reference in order[:5]
        losses.append(-math.log(prediction[reference]))
        matrix[reference][order[0]] += 1
    accuracies = [row[i] / sum(row) for i, row in enumerate(matrix) if sum(row)]
    results = {
        "top1": top1 / len(references),
        **({"top5": top5 / len(references)} if num_classes > 5 else {}),
        "mean_class_accuracy": sum(accuracies) / len(accuracies),
        "loss": sum(losses) / len(losses),
        "num_clips": len(references),
        **({"num_unreadable": len(references) - len(losses)} if len(losses) < len(references) else {}),
    }
    return results, matrix


@pytest.mark.parametrize("num_classes", [1, 3, 5, 12])
def test_equals_a_loop_over_clips(num_classes):
    predictions, references = _clips(200, num_classes)
    references[references == 2] = 0  # a class without clips
    metric = VideoClassificationMetric(_names(num_classes))
    results = metric.compute(predictions=predictions, references=references)
    expected, matrix = _loop(predictions, references)
    assert results == pytest.approx(expected)
    assert all(type(value) is float for value in results.values())
    assert metric.confusion_matrix.tolist() == matrix


def test_literal_values():
    metric = VideoClassificationMetric(["a", "b", "c", "d", "e", "f"])
    nan = float("nan")
    predictions = [
        [0.5, 0.25, 0.25, 0, 0, 0],  # right
        [0.125, 0.5, 0.125, 0.125, 0.0625, 0.0625],  # b, is f: e comes before it
        [0.25, 0.25, 0.25, 0.25, 0, 0],  # a, is d: among the top 5
        [nan, nan, nan, nan, nan, nan],  # not read, is a
        [1, 0, 0, 0, 0, 0],  # of unknown class
    ]
    results = metric.compute(predictions=predictions, references=[0, 5, 3, 0, -100])
    assert results == pytest.approx(
        {
            "top1": 0.2,
            "top5": 0.4,
            "mean_class_accuracy": 0.5 / 3,
            "loss": (math.log(2) + math.log(16) + math.log(4)) / 3,
            "num_clips": 5,
            "num_unreadable": 2,
        }
    )
    expected = np.zeros((6, 7))
    expected[0, 0] = expected[5, 1] = expected[3, 0] = expected[0, 6] = 1
    assert (metric.confusion_matrix == expected).all()
    assert metric.confusion_matrix.dtype == np.int64


def test_a_constant_prediction_is_right_for_one_class_only():
    metric = VideoClassificationMetric(_names(10))
    results = metric.compute(predictions=np.full((10, 10), 0.1), references=np.arange(10))
    assert (results["top1"], results["top5"]) == (0.1, 0.5)


def test_a_probability_of_zero_has_a_finite_loss():
    metric = VideoClassificationMetric(["a", "b"])
    assert metric.compute(predictions=[[1.0, 0.0]], references=[1])["loss"] == pytest.approx(126 * math.log(2))
    # Rounded above 1, it is not less than no loss
    assert metric.compute(predictions=[[1.0078125, 0.0]], references=[0])["loss"] == 0


def test_streaming_equals_all_at_once():
    predictions, references = _clips(100, 7)
    metric = VideoClassificationMetric(_names(7))
    expected = metric.compute(predictions=predictions, references=references)
    matrix = metric.confusion_matrix
    for i in range(0, 60, 16):
        batch = slice(i, min(i + 16, 60))
        metric.add_batch(predictions=predictions[batch], references=references[batch])
    metric.add_batch(predictions=np.empty((0, 7)), references=np.empty(0, np.int64))
    for prediction, reference in zip(predictions[60:], references[60:], strict=True):
        metric.add(prediction=prediction, reference=reference)
    assert len(metric) == 100
    assert metric.compute() == pytest.approx(expected)
    assert (metric.confusion_matrix == matrix).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_tensors_of_any_float_type(dtype):
    predictions, references = _clips(50, 6)
    tensor = torch.tensor(predictions, dtype=dtype, requires_grad=True)
    metric = VideoClassificationMetric(_names(6))
    metric.add_batch(predictions=tensor[1:], references=torch.tensor(references[1:], dtype=torch.int32))
    metric.add(prediction=tensor[0], reference=torch.tensor(references[0]))
    assert metric.compute() == pytest.approx(_loop(tensor.detach(), references)[0])


def test_compute_starts_anew():
    metric = VideoClassificationMetric(["a", "b"])
    assert metric.confusion_matrix.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert metric.compute(predictions=[[0.75, 0.25]], references=[1])["top1"] == 0
    metric.add(prediction=[0.75, 0.25], reference=0)
    assert metric.confusion_matrix.tolist() == [[0, 0, 0], [1, 0, 0]]  # of the last compute
    assert metric.compute() == pytest.approx(
        {"top1": 1, "mean_class_accuracy": 1, "loss": math.log(4 / 3), "num_clips": 1}
    )
    assert metric.confusion_matrix.tolist() == [[1, 0, 0], [0, 0, 0]]
    with pytest.raises(ValueError, match="no clips"):
        metric.compute()


def test_a_mean_over_nothing_is_nan():
    metric = VideoClassificationMetric(["a", "b"])
    results = metric.compute(predictions=[[math.nan, math.nan], [0.5, 0.5]], references=[0, -100])
    assert math.isnan(results["loss"])
    assert (results["top1"], results["mean_class_accuracy"]) == (0, 0)
    results = metric.compute(predictions=[[0.5, 0.5]], references=[-100])
    assert math.isnan(results["loss"])
    assert math.isnan(results["mean_class_accuracy"])
    assert (results["top1"], results["num_clips"]) == (0, 1)


def test_memory_does_not_grow_and_no_files_are_written(tmp_path, monkeypatch):
    def kept():
        return {key: getattr(value, "nbytes", sys.getsizeof(value)) for key, value in vars(metric).items()}

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "cache"))
    metric = VideoClassificationMetric(_names(4))
    predictions, references = _clips(16, 4)
    metric.add_batch(predictions=predictions, references=references)
    before = kept()
    for _ in range(999):
        metric.add_batch(predictions=predictions, references=references)
    assert kept() == before
    assert metric.compute()["num_clips"] == 16_000
    assert list(tmp_path.iterdir()) == []


def test_is_a_metric_of_evaluate():
    metric = evaluate.combine([VideoClassificationMetric(["a", "b"])])
    metric.add_batch(predictions=[[0.75, 0.25]], references=[0])
    assert metric.compute()["top1"] == 1


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([[0.5, 0.5]], [0], r"shape \(B, 3\), got \(1, 2\)"),
        ([0.5, 0.25, 0.25], [0], r"shape \(B, 3\), got \(3,\)"),
        ([[0.5, 0.25, 0.25]], [0, 1], r"1 integers, one per prediction, got int64 of shape \(2,\)"),
        ([[0.5, 0.25, 0.25]], [0.5], "got float64"),
        ([[0.5, 0.25, 0.25]], None, "got object"),
        ([[0.5, 0.25, 0.25]] * 2, [0, 3], "from 0 to 2, or -100 for an unknown class, got 3"),
        ([[0.5, 0.25, 0.25]], [-1], "got -1"),
        ([[0.5, 0.25, 0.25], [2.5, -1, 0]], [0, 1], "must be probabilities, got 2.5; logits need a softmax"),
        ([[1, -0.5, 0]], [0], "must be probabilities, got -0.5"),
    ],
)
def test_bad_input_is_named_and_not_counted(predictions, references, message):
    metric = VideoClassificationMetric(["a", "b", "c"])
    with pytest.raises(ValueError, match=message):
        metric.add_batch(predictions=predictions, references=references)
    assert len(metric) == 0


def test_bad_names():
    with pytest.raises(ValueError, match=r"must be different, got \['a'\]"):
        VideoClassificationMetric(["a", "b", "a"])
    with pytest.raises(ValueError, match="at least one class name"):
        VideoClassificationMetric([])


def test_class_accuracies():
    matrix = np.array([[3, 1, 0, 0], [0, 0, 0, 0], [1, 0, 2, 1]])
    assert class_accuracies(matrix, ["a", "b", "c"]) == {"a": 0.75, "c": 0.5}  # no clip is of class b
    with pytest.raises(ValueError, match=r"of 2 classes must be \(2, 3\), got \(3, 4\)"):
        class_accuracies(matrix, ["a", "b"])
