"""Timelines against the rule, applied to every instant by itself; the files that they are written to."""

import csv
import json
import random
import subprocess
import sys

import numpy as np
import pytest

from ila_hf import Timeline
from ila_hf.inference import TimelineEntry


def predictions_of(scores, window=1.0, stride=0.5):
    """Of windows; scores is a dict of lists."""
    count = len(next(iter(scores.values())))
    return [
        {
            "timestamp": (i * stride, i * stride + window),
            "labels": [{"label": name, "score": values[i]} for name, values in scores.items()],
        }
        for i in range(count)
    ]


def test_one_class_after_the_other():
    scores = {"run": [0.9, 0.8, 0.2, 0.1], "jump": [0.1, 0.2, 0.8, 0.6]}
    assert Timeline.from_predictions(predictions_of(scores)) == [
        ("run", 0.0, 1.25, pytest.approx((0.75 * 0.9 + 0.5 * 0.8) / 1.25)),
        ("jump", 1.25, 2.5, pytest.approx((0.5 * 0.8 + 0.75 * 0.6) / 1.25)),
    ]


def test_below_the_threshold_nothing_holds():
    scores = {"run": [0.9, 0.4, 0.9], "jump": [0.1, 0.4, 0.1]}
    found = Timeline.from_predictions(predictions_of(scores))
    assert [entry[:3] for entry in found] == [("run", 0.0, 0.75), ("run", 1.25, 2.0)]
    found = Timeline.from_predictions(predictions_of(scores), threshold=0.4)
    assert [entry[:3] for entry in found] == [("run", 0.0, 2.0), ("jump", 0.75, 1.25)]
    assert Timeline.from_predictions(predictions_of(scores), threshold=0.95) == []
    assert Timeline.from_predictions([]) == []


def test_gaps_are_closed_before_short_entries_are_left_out():
    scores = {"run": [0.9, 0.1, 0.7, 0.1, 0.1, 0.1, 0.8, 0.1]}
    for merge, shortest, expected in (
        (0, 0, [(0, 0.75), (1.25, 1.75), (3.25, 3.75)]),
        (0.5, 0, [(0, 1.75), (3.25, 3.75)]),
        (0.5, 0.6, [(0, 1.75)]),
        (0, 0.6, [(0, 0.75)]),
        (2, 0, [(0, 3.75)]),
    ):
        found = Timeline.from_predictions(predictions_of(scores), merge_seconds=merge, min_seconds=shortest)
        assert [(entry.start, entry.end) for entry in found] == expected
    merged = Timeline.from_predictions(predictions_of(scores), merge_seconds=0.5)
    assert merged[0].score == pytest.approx((0.75 * 0.9 + 0.5 * 0.7) / 1.25)


@pytest.mark.parametrize("smoothing", [0.0, 0.7, 2.0])
def test_against_every_instant(smoothing):
    """At uneven times: whether a class holds, instant by instant."""
    draw = random.Random(0)
    ends = np.cumsum([draw.choice([0.1, 0.25, 0.6]) for _ in range(60)]).tolist()
    predictions = []
    for end in ends:
        run = draw.random()
        labels = [{"label": "run", "score": run}, {"label": "jump", "score": 1 - run}]
        predictions.append({"timestamp": (max(end - 1.3, 0.0), end), "labels": labels[: draw.randint(1, 2)]})
    found = Timeline.from_predictions(iter(predictions), 0.5, smoothing)
    assert len(found) >= 4
    middles = [sum(each["timestamp"]) / 2 for each in predictions]
    for instant in np.arange(predictions[0]["timestamp"][0], ends[-1], 0.013):
        nearest = min(range(60), key=lambda i: abs(middles[i] - instant))
        distances = sorted(abs(middle - instant) for middle in middles)
        if distances[1] - distances[0] < 1e-6:
            continue
        around = [i for i in range(60) if abs(middles[i] - middles[nearest]) <= smoothing / 2 + 1e-9]
        for name in ("run", "jump"):
            scores = [
                next((each["score"] for each in predictions[i]["labels"] if each["label"] == name), 0.0)
                for i in around
            ]
            holds = any(entry.label == name and entry.start <= instant < entry.end for entry in found)
            assert holds == (sum(scores) / len(scores) >= 0.5), (name, instant)


def test_files(tmp_path):
    timeline = Timeline([TimelineEntry('to "run", <fast> & far', 0.5, 3661.25, 0.875), TimelineEntry("Ü", 2, 3, 1)])
    for suffix in ("json", "csv", "vtt"):
        timeline.save(tmp_path / f"found.{suffix}")
    assert [TimelineEntry(**each) for each in json.loads((tmp_path / "found.json").read_text("utf-8"))] == timeline
    with open(tmp_path / "found.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["label"], float(row["start"])) for row in rows] == [(entry.label, entry.start) for entry in timeline]
    assert (tmp_path / "found.vtt").read_text("utf-8") == (
        "WEBVTT\n\n"
        '00:00:00.500 --> 01:01:01.250\nto "run", &lt;fast&gt; &amp; far (0.88)\n\n'
        "00:00:02.000 --> 00:00:03.000\nÜ (1.00)\n"
    )
    with pytest.raises(ValueError, match=r"written as .json, .csv, .vtt; got '.*found.txt'"):
        timeline.save(tmp_path / "found.txt")
    assert Timeline().to_webvtt() == "WEBVTT\n"


def test_captions_of_ffmpeg(tmp_path):
    """FFmpeg reads what is written."""
    import av

    Timeline([TimelineEntry("run", 0.5, 2.25, 0.9), TimelineEntry("jump", 2.25, 4, 0.8)]).save(tmp_path / "a.vtt")
    with av.open(str(tmp_path / "a.vtt")) as container:
        packets = [packet for packet in container.demux() if packet.size]
        unit = container.streams.subtitles[0].time_base
    assert [(float(p.pts * unit), float(p.duration * unit)) for p in packets] == [(0.5, 1.75), (2.25, 1.75)]
    assert [bytes(packet).decode() for packet in packets] == ["run (0.90)", "jump (0.80)"]


@pytest.mark.parametrize("argument", ["threshold", "smoothing_seconds", "min_seconds", "merge_seconds"])
def test_what_is_refused(argument):
    with pytest.raises(ValueError, match=f"`{argument}` must be 0 or more, got -1"):
        Timeline.from_predictions([], **{argument: -1})
    with pytest.raises(ValueError, match=r"could not be read: .*no video"):
        Timeline.from_predictions({"error": "no video"})
    windows = [*predictions_of({"run": [1, 1]}), {"error": "no video"}]
    assert [entry[:3] for entry in Timeline.from_predictions(windows)] == [("run", 0.0, 1.5)]
    with pytest.raises(ValueError, match="go back in time"):
        Timeline.from_predictions(predictions_of({"run": [1, 1]}, stride=-0.5))


def test_it_needs_no_model():
    code = "import sys; from ila_hf.inference.timeline import Timeline; print('ila_hf.modeling_ila' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
