"""Evaluation: views averaged as a loop would, figures and predictions of batches that come and go."""

import csv
import math
import tracemalloc

import av
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from video_files import encode, pictures

from ila_hf import (
    ILAForVideoClassification,
    ILAForVideoTextClassification,
    ILAVideoProcessor,
    sample_frame_indices,
)
from ila_hf.data.video_clips import ClipReader, VideoClips, collate_clips
from ila_hf.evaluation.views import Evaluation, view_probabilities


# --- Views --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Wide, high and short videos whose short side is that of the clips, so that nothing is resized."""
    folder = tmp_path_factory.mktemp("views")
    sizes = {"wide.mp4": (40, 32, 50), "high.mp4": (29, 44, 32), "short.mp4": (6, 32, 34)}
    return [encode(folder / name, frames=pictures(*size)) for name, size in sizes.items()]


def decode(file):
    """All frames, (n, 3, H, W), uint8."""
    with av.open(str(file)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


def single_views(file, strategy, num_clips, num_crops):
    """The views one by one, each (1, 8, 3, 32, 32): frames chosen, cut and normalised by hand."""
    frames = decode(file)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    room = [side - 32 for side in frames.shape[-2:]]
    places = (0, 0.5, 1) if num_crops == 3 else (0.5,)
    for clip in range(num_clips):
        chosen = frames[sample_frame_indices(len(frames), 8, strategy, clip=clip, num_clips=num_clips)]
        for place in places:
            top, left = (round(place * extra) for extra in room)
            yield ((chosen[..., top : top + 32, left : left + 32] / 255 - mean) / std)[None]


@pytest.mark.parametrize("model_class", [ILAForVideoTextClassification, ILAForVideoClassification])
@pytest.mark.parametrize(
    ("num_clips", "num_crops", "strategy"), [(4, 3, "sparse"), (2, 1, "uniform"), (1, 1, "sparse")]
)
@torch.no_grad()
def test_views_of_files_are_averaged(tiny_model, files, model_class, num_clips, num_crops, strategy):
    model = tiny_model(model_class, num_labels=8)
    processor = ILAVideoProcessor(
        num_frames=8,
        sampling_strategy=strategy,
        num_clips=num_clips,
        num_crops=num_crops,
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
    )
    features = Features({"video": Value("string"), "label": ClassLabel(num_classes=3)})
    rows = Dataset.from_dict({"video": list(map(str, files)), "label": [0, 1, 2]}, features=features)
    clips = VideoClips(rows, ClipReader(processor, train=False))
    batch = collate_clips([clips[i] for i in range(3)])["pixel_values"]
    views = (num_clips * num_crops,) if num_clips * num_crops > 1 else ()
    assert batch.shape == (3, *views, 8, 3, 32, 32)
    found = view_probabilities(model, batch)
    for i, file in enumerate(files):
        scores = [model(view).logits.softmax(1) for view in single_views(file, strategy, num_clips, num_crops)]
        assert len(scores) == num_clips * num_crops
        if file.name != "short.mp4":  # the clips of six frames may be the same
            assert all(float((score - scores[0]).abs().max()) > 1e-5 for score in scores[1:])
        expected = sum(scores) / len(scores)
        torch.testing.assert_close(found[i : i + 1], expected, atol=1e-6, rtol=0)
        alone = view_probabilities(model, batch[i : i + 1])  # whatever the size of a batch
        torch.testing.assert_close(alone, expected, atol=1e-6, rtol=0)
    assert len(torch.unique(found[:, 0])) == 3


def test_scores_are_averaged_not_logits():
    """And in float32, one view at a time."""
    seen = []

    class Half(torch.nn.Module):
        def forward(self, pixel_values):
            seen.append(tuple(pixel_values.shape))
            logits = pixel_values.flatten(1)[:, :2].to(torch.bfloat16)
            return type("Output", (), {"logits": logits})

    views = torch.tensor([[2.0, 0.0], [-4.0, 0.0]]).view(1, 2, 1, 1, 1, 2)
    scores = view_probabilities(Half(), views)
    assert seen == [(1, 1, 1, 1, 2)] * 2
    expected = (1 / (1 + math.exp(-2)) + 1 / (1 + math.exp(4))) / 2
    torch.testing.assert_close(scores, torch.tensor([[expected, 1 - expected]]))
    torch.testing.assert_close(view_probabilities(Half(), views[:, 0]), torch.tensor([[2.0, 0.0]]).softmax(1))


# --- Counting -----------------------------------------------------------------------------------------------------

NAMES = ["run", "jump, high", "swim", "ski", "row", "box"]


def rows_of(labels, names=NAMES):
    feature = ClassLabel(names=names) if names else Value("int64")
    features = Features({"video": Value("string"), "label": feature})
    return Dataset.from_dict({"video": [f"v/{i}.mp4" for i in range(len(labels))], "label": labels}, features=features)


@pytest.fixture
def predicted():
    """Probabilities of eleven clips of six classes, and their classes; clips 3 and 8 could not be read."""
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.randn(11, 6, generator=generator).softmax(1)
    labels = torch.randint(6, (11,), generator=generator)
    probabilities[[3, 8]] = math.nan
    return probabilities, labels


def naive(probabilities, labels):
    """Figures of clips of known classes, counted one by one; a clip that could not be read is a miss."""
    top1 = top5 = 0
    losses, hits = [], {}
    for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True):
        rank = None if math.isnan(row[0]) else sum(value > row[label] for value in row)
        top1 += rank == 0
        top5 += rank is not None and rank < 5
        losses += [] if rank is None else [-math.log(row[label])]
        hits.setdefault(label, []).append(rank == 0)
    means = [sum(own) / len(own) for own in hits.values()]
    return {
        "top1": top1 / len(labels),
        "top5": top5 / len(labels),
        "mean_class_accuracy": sum(means) / len(means),
        "loss": sum(losses) / len(losses),
        "num_clips": len(labels),
        **({"num_unreadable": len(labels) - len(losses)} if len(losses) < len(labels) else {}),
    }


@pytest.mark.parametrize("sizes", [[11], [4, 4, 3], [1] * 11])
def test_unreadable_clips_take_the_class_of_their_row(predicted, sizes):
    """The reader gives them the label -100; they are misses of their class."""
    probabilities, labels = predicted
    marked = labels.clone()
    marked[[3, 8]] = -100
    with Evaluation(NAMES, rows_of(labels.tolist())) as evaluation:
        for rows, own in zip(probabilities.split(sizes), marked.split(sizes), strict=True):
            evaluation.add(rows, own)
    found = evaluation.compute()
    assert found == pytest.approx(naive(probabilities, labels), rel=1e-6)
    matrix = evaluation.metric.confusion_matrix
    assert matrix[:, -1].sum() == 2
    assert matrix[labels[3], -1] >= 1
    assert matrix.sum(1).tolist() == np.bincount(labels, minlength=6).tolist()


def test_without_rows_the_labels_of_the_batches_count(predicted):
    """Of a stream: arrays too. A label that is missing is a miss in no class."""
    probabilities, labels = predicted
    evaluation = Evaluation(NAMES)
    evaluation.add(probabilities.numpy(), labels.numpy())
    assert evaluation.compute() == pytest.approx(naive(probabilities, labels), rel=1e-6)
    evaluation.add(torch.eye(6)[:2], torch.tensor([0, -100]))
    assert evaluation.compute()["top1"] == 0.5
    assert evaluation.metric.confusion_matrix.sum() == 1


def test_unlabelled_rows_are_only_predicted(predicted, tmp_path):
    probabilities, _ = predicted
    file = tmp_path / "predictions.csv"
    with Evaluation(NAMES, rows_of([-1] * 11, names=None), file) as evaluation:
        evaluation.add(probabilities, torch.full((11,), -1))
    assert evaluation.compute() == {}
    rows = list(csv.reader(file.open(newline="")))[1:]
    assert [row[0] for row in rows] == [f"v/{i}.mp4" for i in range(11)]
    assert all(row[1] == "" for row in rows)
    assert rows[0][2] == NAMES[int(probabilities[0].argmax())]


def test_the_predictions_file(tmp_path):
    """The five likeliest classes of every clip, equal ones by their ids; nothing for one that could not be read."""
    file = tmp_path / "predictions.csv"
    first = [0.1, 0.3, 0.25, 0.05, 0.2, 0.1]
    with Evaluation(NAMES, rows_of([2, 1, 0]), file) as evaluation:
        evaluation.add(torch.tensor([first, [math.nan] * 6]), torch.tensor([2, -100]))
        evaluation.add(torch.tensor([[1.0, 0, 0, 0, 0, 0]]), torch.tensor([0]))
    assert file.read_text(encoding="utf-8").splitlines() == [
        "video,label,class_1,probability_1,class_2,probability_2,class_3,probability_3,class_4,probability_4,"
        "class_5,probability_5",
        'v/0.mp4,swim,"jump, high",0.3,swim,0.25,row,0.2,run,0.1,box,0.1',
        'v/1.mp4,"jump, high",,,,,,,,,,',
        'v/2.mp4,run,run,1,"jump, high",0,swim,0,ski,0,row,0',
    ]
    assert evaluation.compute()["top1"] == pytest.approx(1 / 3)


def test_predictions_of_few_classes_and_of_clips_without_names(tmp_path):
    file = tmp_path / "predictions.csv"
    with Evaluation(["a", "b"], predictions_file=str(file)) as evaluation:
        evaluation.add(torch.tensor([[0.25, 0.75]]), torch.tensor([1]))
        evaluation.add(torch.tensor([[1 / 3, 2 / 3]], dtype=torch.bfloat16), torch.tensor([-100]))
    rows = list(csv.reader(file.open(newline="")))
    assert rows[0] == ["video", "label", "class_1", "probability_1", "class_2", "probability_2"]
    assert rows[1] == ["clip 0", "b", "b", "0.75", "a", "0.25"]
    assert rows[2][:3] == ["clip 1", "", "b"]
    assert float(rows[2][3]) == pytest.approx(2 / 3, abs=2e-3)


def test_what_was_predicted_is_on_disk_after_an_error(tmp_path):
    file = tmp_path / "predictions.csv"
    evaluation = Evaluation(["a", "b"], predictions_file=file)

    def fail():
        with evaluation:
            evaluation.add(torch.tensor([[0.25, 0.75]]), torch.tensor([1]))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert len(file.read_text().splitlines()) == 2
    assert evaluation.file.closed


def test_memory_does_not_grow(tmp_path):
    """40 000 clips of 50 classes are 8 MB of probabilities; what is kept of them is less than a hundredth."""
    names = [str(i) for i in range(50)]
    generator = torch.Generator().manual_seed(0)

    def add(evaluation, batches):
        for _ in range(batches):
            probabilities = torch.rand(1000, 50, generator=generator).softmax(1)
            evaluation.add(probabilities, torch.randint(50, (1000,), generator=generator))

    with Evaluation(names) as evaluation:
        add(evaluation, 1)
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        add(evaluation, 40)
        after = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    assert after - before < 80_000
    assert evaluation.compute()["num_clips"] == 41_000
