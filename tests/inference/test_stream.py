"""Streams against clips that are cut one by one; the command."""

import json

import av
import numpy as np
import pytest
import torch
from conftest import make_model, save_model
from test_cache_ila import of_clips

from ila_hf import ILAForVideoClassification, ILAModel, Stream, Timeline, VideoReadError, read_video
from ila_hf.__main__ import main
from ila_hf.demo.drawing import write_video
from ila_hf.demo.motion_clips import draw_clip
from ila_hf.demo.tiny import tiny_processor
from ila_hf.inference.stream import write_on


@pytest.fixture(scope="module")
def model():
    return make_model(vision={"first_frame": "self"}, num_frames=4)


@pytest.fixture(scope="module")
def processor(model):
    return tiny_processor(model.config)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Three drawn clips, one after the other, 24 frames of 64 pixels."""
    clips = [draw_clip(number) for number in range(3)]
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write_video(path, np.concatenate([frames[:8] for frames, *_ in clips]), 8)
    return path


def expected_scores(model, processor, film, every=1, function="softmax"):
    frames = read_video(film)[0][::every]
    video = processor(videos=frames, do_sample_frames=False, return_tensors="pt").pixel_values[0]
    logits = of_clips(model, video)
    return logits.softmax(-1) if function == "softmax" else logits


def scores_in_order(prediction, model):
    scores = {each["label"]: each["score"] for each in prediction["labels"]}
    return torch.tensor([scores[model.config.id2label[i]] for i in range(len(scores))])


@pytest.mark.parametrize("chunk_size", [1, 5])
def test_predictions_of_a_file(model, processor, film, chunk_size):
    stream = Stream(model, processor, top_k=8, chunk_size=chunk_size)
    for _ in range(2):  # the second call begins anew
        found = list(stream(film))
        expected = expected_scores(model, processor, film)
        assert len(found) == len(expected) == 24
        for i, prediction in enumerate(found):
            torch.testing.assert_close(scores_in_order(prediction, model), expected[i], atol=1e-5, rtol=1e-5)
            scores = [each["score"] for each in prediction["labels"]]
            assert scores == sorted(scores, reverse=True)
            assert prediction["timestamp"] == pytest.approx((max(i - 3, 0) / 8, i / 8))
            assert prediction["dropped_frames"] == 0
        torch.testing.assert_close(torch.stack([p["frame"] for p in found]), read_video(film)[0], rtol=0, atol=0)


def test_two_videos_at_the_same_time(model, processor, film):
    stream = Stream(model, processor, top_k=8)
    alone = [prediction["labels"] for prediction in stream(film)]
    frames = read_video(film)[0].flip(0)
    first, second = stream(film), stream(frames, source_fps=8)
    for expected, prediction, _ in zip(alone, first, second, strict=True):
        assert prediction["labels"] == expected


def test_rate_classes_and_function(model, processor, film):
    found = list(Stream(model, processor.video_processor, 4, top_k=2, function_to_apply="none")(film))
    expected = expected_scores(model, processor, film, every=2, function="none")
    assert [prediction["timestamp"][1] for prediction in found] == pytest.approx([i / 4 for i in range(12)])
    for prediction, row in zip(found, expected, strict=True):
        scores, places = row.topk(2)
        assert [each["label"] for each in prediction["labels"]] == [model.config.id2label[i] for i in places.tolist()]
        assert [each["score"] for each in prediction["labels"]] == pytest.approx(scores.tolist(), abs=1e-4)


def test_frames_pushed_one_by_one(model, processor, film):
    stream, expected = Stream(model, processor, top_k=8), expected_scores(model, processor, film)
    frames = read_video(film)[0]
    for i, frame in enumerate(frames[:6]):
        pushed = frame.permute(1, 2, 0).numpy() if i % 2 else frame
        found = scores_in_order(stream.push(pushed, i / 8), model)
        torch.testing.assert_close(found, expected[i], atol=1e-5, rtol=1e-5)
    stream.reset()
    found = stream.push(frames[0], 9.0)
    torch.testing.assert_close(scores_in_order(found, model), expected[0], atol=1e-5, rtol=1e-5)
    assert found["timestamp"] == (9.0, 9.0)


def test_a_linear_head_and_several_labels(film):
    model = make_model(
        ILAForVideoClassification,
        vision={"first_frame": "self"},
        num_labels=3,
        problem_type="multi_label_classification",
    )
    processor = tiny_processor(model.config)
    found = list(Stream(model, processor, num_frames=2)(film))
    assert found[5]["timestamp"] == pytest.approx((4 / 8, 5 / 8))
    video = processor(videos=read_video(film)[0], do_sample_frames=False, return_tensors="pt").pixel_values
    with torch.no_grad():
        expected = model(video[:, :2]).logits[0].sigmoid()
    torch.testing.assert_close(scores_in_order(found[1], model), expected, atol=1e-5, rtol=1e-5)


def test_a_processor_of_views_sees_one(model, film):
    """Frames of a stream are not cut into crops."""
    processor = tiny_processor(model.config).video_processor
    processor.num_crops, processor.num_clips = 3, 2
    found = list(Stream(model, processor, top_k=8)(film))
    expected = expected_scores(model, tiny_processor(model.config), film)
    torch.testing.assert_close(scores_in_order(found[9], model), expected[9], atol=1e-5, rtol=1e-5)


def test_what_is_refused(model, processor, film, tmp_path):
    with pytest.raises(ValueError, match=r'call `model.set_first_frame\("self"\)`'):
        Stream(make_model(), processor)
    with pytest.raises(ValueError, match="ILAModel has no classes"):
        Stream(make_model(ILAModel, vision={"first_frame": "self"}), processor)
    for name in ("top_k", "chunk_size", "num_frames"):
        with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
            Stream(model, processor, **{name: 0})
    with pytest.raises(ValueError, match="`function_to_apply` must be one of 'softmax', 'sigmoid', 'none', got 'max'"):
        Stream(model, processor, function_to_apply="max")
    with pytest.raises(ValueError, match="`source` must be"):
        Stream(model, processor)(3)
    with pytest.raises(VideoReadError, match="no such file"):
        next(Stream(model, processor)(tmp_path / "missing.mp4"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A causal model, and one that was trained with first_frame="next"."""
    return {
        first_frame: save_model(
            tmp_path_factory.mktemp(first_frame), vision={"first_frame": first_frame}, num_frames=4
        )
        for first_frame in ("self", "next")
    }


def test_the_command(model, processor, folders, film, tmp_path, capsys):
    annotated, written = tmp_path / "annotated.mp4", tmp_path / "found.json"
    arguments = ["stream", "--model", folders["self"], "--video", str(film), "--frames_per_second", "4"]
    main([*arguments, "--output", str(annotated), "--timeline", str(written), "--threshold", "0.2", "--top_k", "8"])
    printed = capsys.readouterr().out
    found = list(Stream(model, processor, 4, top_k=8)(film))
    timeline = Timeline.from_predictions(found, 0.2)
    assert len(timeline) > 0
    entries = json.loads(written.read_text())
    assert [entry["label"] for entry in entries] == [entry.label for entry in timeline]
    assert [entry["score"] for entry in entries] == pytest.approx([entry.score for entry in timeline], abs=1e-4)
    assert "12 frames, timeline:" in printed
    assert f"Wrote {annotated}." in printed
    assert f"Wrote {written}." in printed
    with av.open(str(annotated)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert times == pytest.approx([i / 4 for i in range(12)], abs=2e-3)
    frames, sources = read_video(annotated)[0].float(), read_video(film)[0][::2].float()
    bar = frames.shape[2] - 12
    assert (frames[:, :, :bar] - sources[:, :, :bar]).abs().mean() < 6
    assert (frames[:, :, bar:] - sources[:, :, bar:]).abs().mean() > 20


def test_the_command_ends_and_refuses(folders, film, tmp_path, capsys):
    main(["stream", "--model", folders["next"], "--first_frame", "self", "--video", str(film), "--max_seconds", "0.5"])
    assert "5 frames, timeline:" in capsys.readouterr().out
    causal = ["--model", folders["self"], "--video", str(film)]
    refused = {
        "--first_frame self": ["--model", folders["next"], "--video", str(film)],
        "written as .json, .csv, .vtt": ["--model", folders["self"], "--video", str(film), "--timeline", "a.txt"],
        "there is no such file": ["--model", folders["self"], "--video", str(tmp_path / "missing.mp4")],
        # Before anything is seen, which would be lost
        "`merge_seconds` must be 0 or more, got -1.0": [*causal, "--merge_seconds", "-1"],
        "to write 'a.vtt' to": [*causal, "--timeline", str(tmp_path / "missing" / "a.vtt")],
        "to write 'a.mp4' to": [*causal, "--output", str(tmp_path / "missing" / "a.mp4")],
    }
    for message, arguments in refused.items():
        with pytest.raises(SystemExit, match="2"):
            main(["stream", *arguments])
        assert message in capsys.readouterr().err


def test_of_a_live_video_nothing_is_kept_that_nobody_asked_for(folders, film, tmp_path, capsys):
    arguments = ["stream", "--model", folders["self"], "--video", str(film), "--input_format", "mp4"]
    annotated, written = tmp_path / "annotated.mp4", tmp_path / "found.json"
    main([*arguments, "--output", str(annotated)])
    printed = capsys.readouterr().out
    assert " s  " in printed  # classes, as they change
    assert "timeline" not in printed
    assert f"Wrote {annotated}." in printed
    main([*arguments, "--timeline", str(written)])
    assert "frames, timeline:" in capsys.readouterr().out
    assert written.exists()


def test_a_recorded_playlist_misses_nothing(folders, film, monkeypatch):
    """What looks live need not be."""
    asked = []

    def predictions(self, source, drop_late=None, input_format=None):
        asked.append((self.chunk_size, drop_late))
        yield from ()

    monkeypatch.setattr(Stream, "__call__", predictions)
    for words in ([], ["--no-live"], ["--live"]):
        main(["stream", "--model", folders["self"], "--video", "http://localhost/a.m3u8", *words])
    main(["stream", "--model", folders["self"], "--video", str(film), "--live"])
    assert asked == [(1, True), (8, False), (1, True), (1, True)]


def test_what_was_seen_is_written_before_an_error(folders, film, tmp_path, capsys, monkeypatch):
    def breaks(self, predict=Stream._answers):
        def answers(*arguments):
            for number, prediction in enumerate(predict(*arguments)):
                if number == 3:
                    raise VideoReadError("the cable")
                yield {**prediction, "dropped_frames": number}

        return answers

    monkeypatch.setattr(Stream, "_answers", breaks(None))
    written = tmp_path / "found.csv"
    with pytest.raises(SystemExit, match="2"):
        main(["stream", "--model", folders["self"], "--video", str(film), "--timeline", str(written)])
    captured = capsys.readouterr()
    assert "3 frames, timeline:" in captured.out
    assert "3 frames were dropped" in captured.out
    assert "the cable" in captured.err
    assert written.exists()


def test_captions_fit():
    from PIL import Image

    for size in ((64, 64), (320, 180), (9, 9)):
        image = Image.new("RGB", size, (200, 0, 0))
        write_on(image, "a class with a long name 0.97")
        assert image.size == size
        assert image.getpixel((0, 0)) == (200, 0, 0) or size == (9, 9)


def test_what_was_read_is_answered_before_an_error(model, processor, film):
    """In chunks, too, and where the size changes on the way."""
    frames = read_video(film)[0][:5]

    def camera():
        yield from frames[:3]
        yield torch.nn.functional.pad(frames[3], (0, 8))
        yield torch.nn.functional.pad(frames[4], (0, 8))
        raise VideoReadError("the cable")

    for chunk_size in (1, 8):
        found = []
        predictions = Stream(model, processor, chunk_size=chunk_size)(camera(), source_fps=8)
        with pytest.raises(VideoReadError, match="the cable"):
            found.extend(prediction["timestamp"][1] for prediction in predictions)
        assert found == [0, 0.125, 0.25, 0.375, 0.5]
