"""Tables and pictures of an evaluation and of a training."""

import math

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from ila_hf.evaluation.reports import (
    draw_confusion_matrix,
    draw_curves,
    read_confusion_matrix,
    write_class_table,
    write_confusion_matrix,
)


NAMES = ["push, left", 'say "go"', "héllo"]
MATRIX = np.array([[3, 1, 0, 0], [2, 0, 2, 0], [0, 0, 0, 0]])


def _pixels(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB")).astype(int)


def test_confusion_matrix_csv(tmp_path):
    path = tmp_path / "matrix.csv"
    write_confusion_matrix(path, MATRIX, NAMES)
    assert path.read_text(encoding="utf-8").splitlines() == [
        'true \\ predicted,"push, left","say ""go""",héllo',
        '"push, left",3,1,0',
        '"say ""go""",2,0,2',
        "héllo,0,0,0",
    ]
    matrix, names = read_confusion_matrix(path)
    assert (matrix.tolist(), names) == (MATRIX.tolist(), NAMES)


def test_clips_without_a_prediction_have_a_column(tmp_path):
    path = tmp_path / "matrix.csv"
    unread = MATRIX + np.array([0, 0, 0, 1])
    for names in (NAMES, ["a", "b", "unreadable"]):
        for matrix in (MATRIX, unread):
            write_confusion_matrix(path, matrix, names)
            read, read_names = read_confusion_matrix(path)
            assert (read.tolist(), read_names) == (matrix.tolist(), names)
    write_confusion_matrix(path, unread, NAMES)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].endswith("héllo,unreadable")
    assert lines[3] == "héllo,0,0,0,1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a confusion matrix"),
        ("id,name\n0,a\n", r"got the first row \['id', 'name'\]"),
        ("true \\ predicted,a,b\nb,1,0\na,0,1\n", "in their order"),
        ("true \\ predicted,a,b\na,1\nb,0,1\n", r"got \['1'\] for 'a'"),
        ("true \\ predicted,a,b\na,1,0.5\nb,0,1\n", r"got \['1', '0.5'\] for 'a'"),
        ("true \\ predicted,a,a\na,1,0\na,0,1\n", "names of classes must be different"),
    ],
)
def test_files_that_are_no_confusion_matrix(tmp_path, text, message):
    (tmp_path / "matrix.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_confusion_matrix(tmp_path / "matrix.csv")


@pytest.mark.parametrize("write", [write_confusion_matrix, write_class_table, draw_confusion_matrix])
def test_names_that_do_not_fit(tmp_path, write):
    with pytest.raises(ValueError, match=r"of 2 classes must be \(2, 3\), got \(3, 4\)"):
        write(tmp_path / "file", MATRIX, ["a", "b"])
    assert not (tmp_path / "file").exists()


def test_class_table(tmp_path):
    matrix = np.array([[2, 0, 0, 0, 1], [1, 1, 2, 2, 0], [0, 0, 0, 0, 0], [0, 3, 0, 0, 4]])
    write_class_table(tmp_path / "classes.csv", matrix, ["a", "b", "c", "d"])
    assert (tmp_path / "classes.csv").read_text().splitlines() == [
        "class,clips,correct,accuracy,most_confused_with,most_confused_clips",
        "a,3,2,0.6667,,",
        "b,6,1,0.1667,c,2",
        "c,0,0,,,",
        "d,7,0,0.0000,b,3",
    ]


@pytest.mark.parametrize(("num_classes", "side"), [(2, 440), (8, 560), (60, 1600), (400, 1600)])
def test_picture_of_a_confusion_matrix(tmp_path, num_classes, side):
    path = tmp_path / "matrix.png"
    matrix = np.eye(num_classes, num_classes + 1, dtype=np.int64)
    names = [f"$\\no{i}$ is no formula, {'long name ' * 9}" for i in range(num_classes)]
    draw_confusion_matrix(path, matrix, names)
    right = _pixels(path)
    assert right.shape == (side, side, 3)
    draw_confusion_matrix(path, np.roll(matrix, 1, axis=0), names)
    assert (_pixels(path) != right).any()


def test_counts_of_a_confusion_matrix(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: figures.append(figure))
    draw_confusion_matrix(tmp_path / "matrix.png", MATRIX, NAMES)
    texts = {text.get_position()[::-1]: text.get_text() for text in figures[0].axes[0].texts}
    assert texts == {(0, 0): "3", (0, 1): "1", (1, 0): "2", (1, 2): "2"}
    draw_confusion_matrix(tmp_path / "matrix.png", np.eye(61, 62, dtype=np.int64), [str(i) for i in range(61)])
    assert not figures[1].axes[0].texts


def test_colours_of_a_confusion_matrix(tmp_path):
    # 100 classes have no names, so the heat map is the large block; counts do not matter, shares do
    path = tmp_path / "matrix.png"
    matrix = np.zeros((100, 101), np.int64)
    matrix[:50, 0] = np.arange(1, 51)  # dark but for the first column
    draw_confusion_matrix(path, matrix, [str(i) for i in range(100)])
    pixels = _pixels(path)
    dark, bright, white = (68, 1, 84), (253, 231, 37), (255, 255, 255)  # the ends of matplotlib's default colours
    column = pixels[:, 800]
    dark_rows = np.nonzero((np.abs(column - dark) < 3).all(axis=1))[0]
    assert len(dark_rows) == pytest.approx(750, abs=50)  # half of the map
    assert np.ptp(dark_rows) == len(dark_rows) - 1
    row = pixels[dark_rows[len(dark_rows) // 2], :800]
    assert (np.abs(row - bright) < 3).all(axis=1).sum() == pytest.approx(13, abs=4)  # one column of a hundred
    assert (pixels[dark_rows[-1] + 100, 800] == white).all()  # classes without clips
    # Clips that could not be read are a column more, and shift the others
    matrix[:50, -1] = 1
    draw_confusion_matrix(path, matrix, [str(i) for i in range(100)])
    assert (_pixels(path) != pixels).any()


def _log(**figures):
    return [{"step": step, **{key: value / step for key, value in figures.items()}} for step in (10, 20, 30)]


def test_curves(tmp_path):
    path = tmp_path / "curves.png"
    train = _log(loss=30, classification_loss=20, alignment_loss=10)
    evaluation = _log(eval_loss=25, eval_top1=5, eval_top5=9, eval_mean_class_accuracy=4)
    pictures = []
    for log in (train, evaluation, train + evaluation, _log(eval_top1=5), _log(eval_top1=5)[:1]):
        assert draw_curves(path, log) is True
        pictures.append(_pixels(path))
        assert pictures[-1].shape == (450, 1100, 3)
    for i, picture in enumerate(pictures):
        assert all((picture != other).any() for other in pictures[:i])


def test_a_single_point_can_be_seen(tmp_path):
    assert draw_curves(tmp_path / "curves.png", [{"step": 10, "eval_top1": 0.5}])
    middle = _pixels(tmp_path / "curves.png")[150:280, 700:1000]  # of the panel on the right, far from the legend
    assert (middle.std(axis=2) > 20).any()


def test_every_figure_is_drawn(tmp_path):
    path = tmp_path / "curves.png"
    keys = ("loss", "classification_loss", "alignment_loss", "eval_loss")
    keys += ("eval_top1", "eval_top5", "eval_mean_class_accuracy")
    pictures = []
    for key in keys:
        assert draw_curves(path, _log(**{key: 5}))
        pictures.append(_pixels(path))
        halves = pictures[-1][:, :550], pictures[-1][:, 550:]
        drawn, empty = halves if key in keys[:4] else halves[::-1]
        assert (drawn.std(axis=2) > 20).any()  # a coloured line
        assert (empty.std(axis=2) == 0).all()  # black on white
        assert (empty[200:250, 200:350] < 100).any()  # the words that say so
    for i, picture in enumerate(pictures):
        assert all((picture != other).any() for other in pictures[:i])


def test_missing_and_non_finite_values_are_passed_over(tmp_path):
    log = [*_log(loss=30, eval_top1=5), {"step": 40, "epoch": 1.0}]
    assert draw_curves(tmp_path / "a.png", log)
    gaps = [
        {"step": 1, "loss": math.nan},
        {"step": 2, "loss": math.inf, "eval_top1": None},
        {"loss": 7.0},
        {"step": 3, "eval_top1": "0.5"},
    ]
    assert draw_curves(tmp_path / "b.png", gaps[:2] + log + gaps[2:])
    assert (_pixels(tmp_path / "a.png") == _pixels(tmp_path / "b.png")).all()
    for nothing in ([], gaps, [{"step": 5, "train_runtime": 3.0, "learning_rate": 1e-3}]):
        assert draw_curves(tmp_path / "none.png", nothing) is False
    assert not (tmp_path / "none.png").exists()


def test_numbers_of_numpy_are_numbers(tmp_path):
    log = _log(loss=30)
    assert draw_curves(tmp_path / "a.png", log)
    assert draw_curves(tmp_path / "b.png", [{k: np.float64(v) for k, v in entry.items()} for entry in log])
    assert (_pixels(tmp_path / "a.png") == _pixels(tmp_path / "b.png")).all()
