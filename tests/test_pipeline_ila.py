"""The pipelines against the processor, the model and a loop."""

import functools
import gc
import http.server
import logging
import math
import pickle
import threading

import datasets
import numpy as np
import pytest
import torch
from conftest import make_model, save_model
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from transformers import (
    VideoClassificationPipeline,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    VideoMAEVideoProcessor,
    pipeline,
)
from transformers.pipelines.pt_utils import KeyDataset

from ila_hf import (
    ILACache,
    ILAForVideoClassification,
    ILAModel,
    ILAProcessor,
    VideoReadError,
    pipeline_ila,
    read_video,
)
from ila_hf.demo.tiny import tiny_processor
from ila_hf.pipeline_ila import (
    ILAVideoClassificationPipeline,
    ILAZeroShotVideoClassificationPipeline,
)
from ila_hf.registration import add_pipelines


TASKS = ("video-classification", "zero-shot-video-classification")
LABELS = ["a dog runs", "a cat sleeps", "moving left"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def classify(folder):
    return pipeline("video-classification", model=folder)


@pytest.fixture(scope="module")
def zero_shot(folder):
    return pipeline("zero-shot-video-classification", model=folder)


@pytest.fixture(scope="module")
def scores_of(classify, folder):
    """Softmax scores by label, from the processor and the model."""
    processor = ILAProcessor.from_pretrained(folder)

    def scores_of(video, model=classify.model, labels=None, **sampling):
        inputs = processor(videos=video, return_tensors="pt", videos_kwargs={"do_sample_frames": True, **sampling})
        with torch.no_grad():
            if labels is None:
                labels, logits = list(model.config.id2label.values()), model(**inputs).logits
            else:
                inputs |= processor(text=labels, padding=True, return_tensors="pt")
                logits = model(**inputs).logits
        return dict(zip(labels, logits.softmax(-1)[0].tolist(), strict=True))

    return scores_of


def check(answers, scores, top_k=None):
    best = sorted(scores, key=scores.get, reverse=True)[:top_k]
    assert [answer["label"] for answer in answers] == best
    assert [answer["score"] for answer in answers] == pytest.approx([scores[label] for label in best], abs=1e-5)


def test_pipelines_are_registered(classify, zero_shot, folder, caplog):
    assert type(classify) is ILAVideoClassificationPipeline
    assert type(zero_shot) is ILAZeroShotVideoClassificationPipeline
    with caplog.at_level(logging.INFO, "transformers"):
        add_pipelines(pipeline_ila)  # once more
        again = pipeline("video-classification", model=folder)
    assert type(again) is ILAVideoClassificationPipeline
    assert "already registered" not in caplog.text
    assert "not supported" not in caplog.text


def test_everything_that_is_a_video(classify, scores_of, video_file):
    scores = scores_of(video_file)
    frames = read_video(video_file)[0]
    images = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in frames]
    videos = [str(video_file), video_file, video_file.read_bytes(), frames, frames.permute(0, 2, 3, 1).numpy()]
    for video in videos:
        check(classify(video, top_k=4), scores, 4)
    with open(video_file, "rb") as file:
        check(classify(file), scores, 5)
    for answers in classify([*videos, images], top_k=1, batch_size=4):
        check(answers, scores, 1)
    for answers in (*classify(torch.stack([frames] * 2)), *classify((video_file,))):
        check(answers, scores, 5)
    assert classify([]) == []


def test_urls(classify, scores_of, numbered_video):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=numbered_video.parent)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        answers = classify(f"http://127.0.0.1:{server.server_address[1]}/{numbered_video.name}")
    finally:
        server.shutdown()
        server.server_close()
    check(answers, scores_of(numbered_video), 5)


class Files(Dataset):
    def __init__(self, files):
        self.files = files

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        return self.files[i]


def test_batches_and_streams(classify, scores_of, video_file, numbered_video, monkeypatch):
    sizes = []
    forward = type(classify.model).forward
    monkeypatch.setattr(
        type(classify.model),
        "forward",
        lambda self, pixel_values, **kwargs: sizes.append(len(pixel_values)) or forward(self, pixel_values, **kwargs),
    )
    files = [str(video_file), str(numbered_video), str(video_file)]
    expected = [scores_of(file) for file in files]
    sizes.clear()
    for videos in (files, (file for file in files), Files(files)):
        for answer, scores in zip(classify(videos, batch_size=2), expected, strict=True):
            check(answer, scores, 5)
    assert sizes == [2, 1] * 3


def test_a_stream_is_not_read_ahead(classify, video_file):
    taken = []

    def files():
        for i in range(10):
            taken.append(i)
            yield str(video_file)

    stream = iter(classify(files(), batch_size=2))
    next(stream)
    assert len(taken) < 6


@pytest.mark.parametrize("window", [{}, {"window_seconds": 0.3}], ids=["files", "windows"])
def test_the_next_video_is_read_while_the_model_is_busy(classify, video_file, monkeypatch, window):
    """The model computes the first batch until the second one has been begun."""
    read, was_read = [], threading.Event()
    preprocess, forward = type(classify).preprocess, type(classify.model).forward

    def count(self, video, **kwargs):
        read.append(threading.current_thread())
        if len(read) == 2:
            was_read.set()
        return preprocess(self, video, **kwargs)

    def wait(self, pixel_values, **kwargs):
        assert was_read.wait(60)
        return forward(self, pixel_values, **kwargs)

    monkeypatch.setattr(type(classify), "preprocess", count)
    monkeypatch.setattr(type(classify.model), "forward", wait)
    expected = {} if window else {"top_k": 5}
    answers = classify([str(video_file)] * 3, **window, **expected)
    assert len(answers) == 3
    assert threading.main_thread() not in read


def test_an_error_ahead_comes_in_its_turn(classify, scores_of, video_file, tmp_path):
    files = [str(video_file), str(tmp_path / "none.mp4"), str(video_file)]
    answers = iter(classify(Files(files)))
    check(next(answers), scores_of(video_file), 5)
    with pytest.raises(FileNotFoundError, match=r"none\.mp4"):
        next(answers)
    check(next(answers), scores_of(video_file), 5)
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(answers)


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_bad_files_end_nothing(classify, scores_of, video_file, tmp_path, batch_size, num_workers):
    (tmp_path / "text.mp4").write_text("no video")
    bad = str(tmp_path / "text.mp4")
    files = [bad, str(video_file), bad, bad, str(video_file)]
    for videos in (files, Files(files), (file for file in files)):
        answers = classify(videos, on_error="return", batch_size=batch_size, num_workers=num_workers)
        for answer, file in zip(answers, files, strict=True):
            if file == bad:
                assert list(answer) == ["error"]
                assert "text.mp4" in answer["error"]
            else:
                check(answer, scores_of(video_file), 5)
        answers = list(classify(videos, on_error="skip", batch_size=batch_size)) if videos is files else [None] * 2
        assert len(answers) == 2
    assert list(classify(bad, on_error="return")) == ["error"]
    assert list(classify([bad], on_error="skip")) == []
    assert classify(bad, on_error="skip") is None


@pytest.mark.parametrize("causal_model", [False, True])
def test_bad_files_end_no_windows(classify, causal, video_file, numbered_video, tmp_path, causal_model, monkeypatch):
    pipe = pipeline("video-classification", **causal) if causal_model else classify
    (tmp_path / "text.mp4").write_text("no video")
    bad = str(tmp_path / "text.mp4")
    arguments = {"window_seconds": 0.8, "stride_seconds": 0.2}
    first, second = pipe([str(video_file), str(numbered_video)], **arguments)
    found = pipe([bad, str(video_file), bad, str(numbered_video), bad], on_error="return", batch_size=3, **arguments)
    assert [list(each) if isinstance(each, dict) else len(each) for each in found] == [
        ["error"],
        len(first),
        ["error"],
        len(second),
        ["error"],
    ]
    for answers, expected in ((found[1], first), (found[3], second)):
        for answer, like in zip(answers, expected, strict=True):
            assert answer["timestamp"] == like["timestamp"]
            assert answer["labels"][0]["score"] == pytest.approx(like["labels"][0]["score"], abs=1e-5)
    assert [len(each) for each in pipe([bad, str(video_file)], on_error="skip", **arguments)] == [len(first)]
    windows = pipeline_ila.sliding_windows

    def breaks(video, *args, **kwargs):
        for number, part in enumerate(windows(video, *args, **kwargs)):
            if number == 2:
                raise VideoReadError("the end of it is missing")
            yield part

    monkeypatch.setattr(pipeline_ila, "sliding_windows", breaks)
    (answer,) = pipe([str(video_file)], on_error="return", **arguments)
    assert [list(each) for each in answer] == [["timestamp", "labels"]] * 2 + [["error"]]
    with pytest.raises(VideoReadError, match="the end of it"):
        pipe([str(video_file)], **arguments)


def test_reading_ahead_ends_with_the_answers(classify, video_file):
    """Also where nobody wants them all."""
    before = set(threading.enumerate())
    answers = iter(classify(Files([str(video_file)] * 9)))
    next(answers)
    readers = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("ThreadPool")]
    assert readers
    del answers
    gc.collect()
    for thread in readers:
        thread.join(60)
        assert not thread.is_alive()


def test_everything_that_holds_videos(classify, scores_of, video_file, numbered_video):
    files = [str(video_file), str(numbered_video)]
    expected = [scores_of(file) for file in files]
    column = datasets.Dataset.from_dict({"video": files})["video"]
    stream = datasets.IterableDataset.from_generator(lambda: ({"video": file} for file in files))["video"]
    for videos in (map(str, files), iter(files), column, stream):
        answers = classify(videos, batch_size=2, top_k=3)
        assert not isinstance(answers, list)
        for answer, scores in zip(answers, expected, strict=True):
            check(answer, scores, 3)
    assert [len(answer) for answer in classify(column, window_seconds=2.0)] == [1, 2]


def test_columns_of_videos_need_no_torchcodec(classify, scores_of, video_file, numbered_video):
    files = [str(video_file), str(numbered_video)]
    data = datasets.Dataset.from_dict({"clip": files}, features=datasets.Features({"clip": datasets.Video()}))
    for videos in (KeyDataset(data, "clip"), data["clip"], data.to_iterable_dataset()["clip"]):
        for answer, file in zip(classify(videos, batch_size=2, top_k=3), files, strict=True):
            check(answer, scores_of(file), 3)
    row = data.cast_column("clip", datasets.Video(decode=False))[0]["clip"]
    check(classify(row, top_k=3), scores_of(files[0]), 3)


def test_streams_take_no_workers(classify, scores_of, video_file, monkeypatch):
    """Which would need to pickle a generator, where they do not start as copies."""
    workers = []
    monkeypatch.setattr(
        "ila_hf.pipeline_ila.DataLoader", lambda *a, **k: workers.append(k["num_workers"]) or DataLoader(*a, **k)
    )
    (answer,) = classify((file for file in [video_file]), num_workers=2)
    check(answer, scores_of(video_file), 5)
    assert workers == [0]


def test_views_are_averaged(classify, zero_shot, scores_of, numbered_video, video_file):
    """4 clips × 3 crops, as the papers test: the mean of the scores of 12 views."""
    processor = type(classify.video_processor).from_dict(
        {**classify.video_processor.to_dict(), "num_clips": 4, "num_crops": 3}
    )
    files = [numbered_video, video_file]
    windows = [read_video(numbered_video)[0][:20], read_video(numbered_video)[0][20:]]

    def mean_of(video, model, **text):
        views = processor(video, do_sample_frames=True, return_tensors="pt").pixel_values[0]
        assert views.shape == (12, 8, 3, 32, 32)
        with torch.no_grad():
            return model(pixel_values=views, **text).logits.softmax(-1).mean(0).tolist()

    several = pipeline("video-classification", model=classify.model, video_processor=processor)
    names = list(classify.model.config.id2label.values())
    expected = {file: dict(zip(names, mean_of(file, classify.model), strict=True)) for file in files}
    for file, answer in zip(files, several(files, batch_size=2), strict=True):
        check(answer, expected[file], 5)
    answers = several(numbered_video, window_seconds=2.0, batch_size=2)
    for answer, frames in zip(answers, windows, strict=True):
        check(answer["labels"], dict(zip(names, mean_of(frames, classify.model), strict=True)), 5)

    several = pipeline(
        "zero-shot-video-classification",
        model=zero_shot.model,
        video_processor=processor,
        tokenizer=zero_shot.tokenizer,
    )
    texts = zero_shot.tokenizer(LABELS, padding=True, return_tensors="pt")
    for file, answer in zip(files, several(files, candidate_labels=LABELS, batch_size=2), strict=True):
        check(answer, dict(zip(LABELS, mean_of(file, classify.model, **texts), strict=True)))


def test_a_processor_in_place_of_its_parts(classify, zero_shot, folder, video_file):
    processor = ILAProcessor.from_pretrained(folder)
    pipe = pipeline("video-classification", model=classify.model, processor=processor)
    assert pipe(video_file) == classify(video_file)
    pipe = pipeline("zero-shot-video-classification", model=zero_shot.model, processor=processor)
    assert pipe(video_file, candidate_labels=LABELS) == zero_shot(video_file, candidate_labels=LABELS)
    other = tiny_processor(classify.model.config).video_processor
    pipe = pipeline("video-classification", model=classify.model, processor=processor, video_processor=other)
    assert pipe.video_processor is other


def test_a_configuration_that_asks_for_tuples(folder, video_file, classify, zero_shot):
    for task, pipe, arguments in zip(TASKS, (classify, zero_shot), ({}, {"candidate_labels": LABELS}), strict=True):
        tuples = pipeline(task, model=folder)
        tuples.model.config.return_dict = False
        assert tuples(video_file, **arguments) == pipe(video_file, **arguments)


def test_numbers_of_numpy(classify, video_file):
    numbers = {"num_frames": 4, "frame_sampling_rate": 2, "top_k": 2}
    arguments = {name: np.int64(number) for name, number in numbers.items()}
    assert classify(video_file, **arguments) == classify(video_file, **numbers)
    windows = classify(video_file, window_seconds=np.float64(0.5), **arguments)
    assert windows == classify(video_file, window_seconds=0.5, **numbers)


def test_frames_are_taken_as_asked(classify, zero_shot, scores_of, numbered_video):
    check(classify(numbered_video, num_frames=4), scores_of(numbered_video, num_frames=4), 5)
    frames = read_video(numbered_video, [*range(8, 32, 3)])[0]  # 8 frames, 3 apart, from the middle of 40
    check(classify(numbered_video, frame_sampling_rate=3), scores_of(frames), 5)
    check(zero_shot(numbered_video, candidate_labels=LABELS, frame_sampling_rate=3), scores_of(frames, labels=LABELS))
    configured = pipeline(
        "video-classification", model=classify.model, video_processor=classify.video_processor, frame_sampling_rate=3
    )
    check(configured(numbered_video), scores_of(frames), 5)
    assert classify(numbered_video) != configured(numbered_video)


def test_several_labels_per_video(tiny_model, clips):
    model = tiny_model(ILAForVideoClassification, num_labels=4, problem_type="multi_label_classification")
    classify = pipeline(
        "video-classification", model=model, video_processor=tiny_processor(model.config).video_processor
    )
    frames = (clips[0] * 40 + 128).clamp(0, 255).byte()
    inputs = classify.video_processor(frames, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    for arguments, scores in (
        ({}, logits.sigmoid()),
        ({"function_to_apply": "softmax"}, logits.softmax(0)),
        ({"function_to_apply": "none"}, logits),
    ):
        answers = classify(frames, **arguments)
        assert [answer["score"] for answer in answers] == pytest.approx(scores.sort(descending=True)[0].tolist())
    with pytest.raises(ValueError, match="function_to_apply"):
        classify(frames, function_to_apply="relu")


@pytest.mark.parametrize("stride", [None, 0.5])
@pytest.mark.parametrize("task", TASKS)
def test_windows_are_classified_as_if_cut_out(
    task, stride, classify, zero_shot, scores_of, numbered_video, video_file
):
    pipe, arguments, labels = classify, {"top_k": 5}, None
    if task == "zero-shot-video-classification":
        pipe, arguments, labels = zero_shot, {"candidate_labels": LABELS}, LABELS
    files = [numbered_video, video_file]
    arguments |= {"window_seconds": 1.2, "stride_seconds": stride}
    if stride is None:
        del arguments["stride_seconds"]
    answers = pipe(files, batch_size=3, **arguments)
    assert pipe(numbered_video, **arguments) == [
        {"timestamp": a["timestamp"], "labels": [{**b, "score": pytest.approx(b["score"])} for b in a["labels"]]}
        for a in answers[0]
    ]
    assert [[a["timestamp"] for a in video] for video in pipe((f for f in files), batch_size=2, **arguments)] == [
        [a["timestamp"] for a in video] for video in answers
    ]
    for file, fps, windows in zip(files, (10, 25), answers, strict=True):
        frames = read_video(file)[0]
        start = 0.0
        for window in windows:
            first, last = (math.ceil(second * fps - 1e-6) for second in (start, start + 1.2))
            piece = frames[first:last]
            end = min(start + 1.2, len(frames) / fps)
            assert window["timestamp"] == pytest.approx((start, end))
            check(window["labels"], scores_of(piece, labels=labels), 5)
            start += stride or 1.2
        assert windows[-1]["timestamp"][1] == pytest.approx(len(frames) / fps)
    assert len(answers[0]) == (4 if stride is None else 7)


@pytest.fixture(scope="module")
def causal():
    model = make_model(vision={"first_frame": "self"}, num_frames=4)
    return {"model": model, "processor": tiny_processor(model.config)}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_causal_model_sees_every_frame_of_windows_once(causal, task, batch_size, numbered_video, video_file):
    """Windows of four frames that move by one: what a stream answers after each of them."""
    model, processor = causal["model"], causal["processor"]
    pipe, arguments = pipeline(task, **causal), {"top_k": 8}
    if task == "zero-shot-video-classification":
        arguments = {"candidate_labels": list(model.config.id2label.values())}
    arguments |= {"window_seconds": 0.8, "stride_seconds": 0.2, "batch_size": batch_size}
    shapes = []
    hook = model.vision_model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append((args or (kwargs["pixel_values"],))[0].shape[:2]), with_kwargs=True
    )
    answers = pipe([numbered_video, video_file], **arguments)
    assert [answers[0]] == pipe([numbered_video], **arguments)
    assert answers[0] == next(iter(pipe((f for f in [numbered_video]), **arguments)))
    hook.remove()
    assert {batch for batch, _ in shapes} == {1}
    assert sum(frames for _, frames in shapes) == 3 * 20 + math.ceil(read_video(video_file)[1].duration / 0.2)
    for file, windows, fps in ((numbered_video, answers[0], 10), (video_file, answers[1], 25)):
        frames = read_video(file)[0]
        parts = math.ceil(len(frames) / fps / 0.2 - 1e-6)
        shown = [min(math.floor((part + 0.5) * 0.2 * fps + 1e-6), len(frames) - 1) for part in range(parts)]
        clip = processor(videos=frames[shown], do_sample_frames=False, return_tensors="pt").pixel_values
        with torch.no_grad():
            expected = model(clip, cache=ILACache(4)).logits[0, 3:].softmax(-1)
        assert len(windows) == len(expected)
        for window, scores in zip(windows, expected, strict=True):
            named = {model.config.id2label[i]: score for i, score in enumerate(scores.tolist())}
            check(window["labels"], named, 8)


@pytest.mark.parametrize(
    "arguments",
    [
        {"stride_seconds": 0.8},
        {"stride_seconds": 0.3},
        {"stride_seconds": 0.2, "frame_sampling_rate": 1},
        {"stride_seconds": 0.2, "window_seconds": 60.0},
    ],
)
def test_windows_without_common_frames_are_cut(causal, classify, arguments, numbered_video):
    """Whatever the model is."""
    model = causal["model"]
    arguments = {"window_seconds": 0.8, "top_k": 8, **arguments}
    answers = pipeline("video-classification", **causal)(numbered_video, **arguments)
    for answer in answers:
        first, last = (math.ceil(second * 10 - 1e-6) for second in answer["timestamp"])
        clip = causal["processor"](
            videos=read_video(numbered_video)[0][first:last],
            do_sample_frames=True,
            return_tensors="pt",
            **({"sampling_strategy": "dense"} if "frame_sampling_rate" in arguments else {}),
        ).pixel_values
        with torch.no_grad():
            scores = model(clip).logits[0].softmax(-1)
        check(answer["labels"], {model.config.id2label[i]: score for i, score in enumerate(scores.tolist())}, 8)


def test_sampling_in_windows(classify, scores_of, video_file):
    frames = read_video(video_file)[0][:25]
    (first, *_) = classify(video_file, window_seconds=1, frame_sampling_rate=3, num_frames=4)
    # The middle of the 25 frames of the window
    check(first["labels"], scores_of(frames[[6, 9, 12, 15]], num_frames=4), 5)
    uniform = pipeline(
        "video-classification",
        model=classify.model,
        video_processor=type(classify.video_processor).from_dict(
            {**classify.video_processor.to_dict(), "sampling_strategy": "uniform"}
        ),
    )
    (first, *_) = uniform(video_file, window_seconds=1)
    check(first["labels"], scores_of(frames, sampling_strategy="uniform"), 5)


def test_zero_shot(zero_shot, classify, scores_of, video_file, numbered_video):
    assert type(zero_shot.model) is ILAModel
    scores = scores_of(video_file, labels=LABELS)
    check(zero_shot(video_file, candidate_labels=LABELS), scores)
    check(zero_shot(str(video_file), candidate_labels=" a dog runs,a cat sleeps ,moving left"), scores)
    texts = [f"a video of {label}." for label in LABELS]
    expected = dict(zip(LABELS, scores_of(video_file, labels=texts).values(), strict=True))
    check(zero_shot(video_file, candidate_labels=LABELS, hypothesis_template="a video of {}."), expected)
    # The classes of the model themselves
    own = list(classify.model.config.id2label.values())
    check(zero_shot(video_file, candidate_labels=own), scores_of(video_file))
    for answers, file in zip(
        zero_shot([video_file, numbered_video], candidate_labels=LABELS, batch_size=2),
        (video_file, numbered_video),
        strict=True,
    ):
        check(answers, scores_of(file, labels=LABELS))


def test_zero_shot_with_a_classification_model(classify, zero_shot, folder, video_file):
    processor = ILAProcessor.from_pretrained(folder)
    pipe = pipeline(
        "zero-shot-video-classification",
        model=classify.model,
        tokenizer=processor.tokenizer,
        video_processor=processor.video_processor,
        candidate_labels=LABELS,
    )
    assert pipe(video_file) == zero_shot(video_file, candidate_labels=LABELS)


def test_texts_are_encoded_once(zero_shot, video_file, monkeypatch):
    calls = []
    encode = ILAModel.get_text_features
    monkeypatch.setattr(ILAModel, "get_text_features", lambda *a, **k: calls.append(1) or encode(*a, **k))
    zero_shot([video_file] * 3, candidate_labels=LABELS)
    zero_shot(video_file, candidate_labels=LABELS, window_seconds=0.3)
    assert len(calls) == 2


def test_models_without_texts_or_classes(tiny_model, folder, tmp_path):
    linear = tiny_model(ILAForVideoClassification, num_labels=3)
    processor = ILAProcessor.from_pretrained(folder)
    linear.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    parts = {"tokenizer": processor.tokenizer, "video_processor": processor.video_processor}
    for model in (linear, str(tmp_path)):
        with pytest.raises(ValueError, match="ILAForVideoClassification has no text tower"):
            pipeline("zero-shot-video-classification", model=model, **parts)
    linear.save_pretrained(tmp_path / "without_texts")
    processor.video_processor.save_pretrained(tmp_path / "without_texts")
    with pytest.raises(ValueError, match="ILAForVideoClassification has no text tower"):
        pipeline("zero-shot-video-classification", model=str(tmp_path / "without_texts"))
    for task in TASKS:
        model = tiny_model(ILAModel) if task.startswith("zero") else linear
        with pytest.raises(ValueError, match="needs `video_processor`"):
            pipeline(task, model=model, tokenizer=processor.tokenizer)
    with pytest.raises(ValueError, match="ILAModel has no classes"):
        pipeline("video-classification", model=tiny_model(ILAModel), video_processor=processor.video_processor)
    with pytest.raises(ValueError, match="needs `tokenizer`"):
        ILAZeroShotVideoClassificationPipeline(tiny_model(ILAModel), video_processor=processor.video_processor)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 0}, "`num_frames` must be a whole number of at least 1, got 0"),
        ({"top_k": 0}, "`top_k` must be a whole number of at least 1, got 0"),
        ({"top_k": 1.5}, "`top_k` must be a whole number of at least 1, got 1.5"),
        ({"top_k": True}, "`top_k` must be a whole number of at least 1, got True"),
        ({"frame_sampling_rate": -1}, "`frame_sampling_rate` must be a whole number of at least 1, got -1"),
        ({"window_seconds": 0}, "`window_seconds` must be a positive number of seconds, got 0"),
        ({"on_error": "pass"}, "`on_error` must be 'raise', 'skip' or 'return', got 'pass'"),
        ({"stride_seconds": 1.0}, "`stride_seconds` of 1.0 needs `window_seconds`"),
    ],
)
def test_bad_numbers(classify, video_file, arguments, message):
    with pytest.raises(ValueError, match=message):
        classify(video_file, **arguments)


def test_bad_videos(classify, video_file):
    for arguments in ({}, {"window_seconds": 1.0}):
        with pytest.raises(VideoReadError, match=r"nowhere.mp4': there is no such file"):
            classify("nowhere.mp4", **arguments)
    with pytest.raises(ValueError, match="needs a video or a list of videos, got None"):
        classify(None)
    with pytest.raises(ValueError, match="not the frames of one: got Image"):
        classify([Image.new("RGB", (40, 40))] * 8)
    with pytest.raises(ValueError, match="got 2 in a list"):
        classify([[str(video_file)] * 2])
    with pytest.raises(ValueError, match="Got Tensor, whose frames have no time stamps"):
        classify(torch.zeros(8, 3, 40, 40, dtype=torch.uint8), window_seconds=1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "`candidate_labels` is missing"),
        ({"candidate_labels": []}, "at least one"),
        ({"candidate_labels": "cat,,dog"}, "none of them empty"),
        ({"candidate_labels": ["cat", "dog", "cat"]}, r"must be different, got \['cat'\]"),
        ({"candidate_labels": LABELS, "hypothesis_template": "a video"}, "must contain {}, got 'a video'"),
        ({"candidate_labels": ["x" * 100, "y"]}, "has 102 tokens; the text tower takes 77"),
    ],
)
def test_bad_texts(zero_shot, video_file, arguments, message):
    with pytest.raises(ValueError, match=message):
        zero_shot(video_file, **arguments)


def test_saved_pipelines_load(classify, zero_shot, tmp_path, video_file):
    classify.save_pretrained(tmp_path / "classes")
    zero_shot.save_pretrained(tmp_path / "texts")
    again = pipeline("video-classification", model=str(tmp_path / "classes"))
    check(again(video_file), {answer["label"]: answer["score"] for answer in classify(video_file)})
    again = pipeline("zero-shot-video-classification", model=str(tmp_path / "texts"))
    scores = {answer["label"]: answer["score"] for answer in zero_shot(video_file, candidate_labels=LABELS)}
    check(again(video_file, candidate_labels=LABELS), scores)
    again = pickle.loads(pickle.dumps(classify))
    check(again(video_file), {answer["label"]: answer["score"] for answer in classify(video_file)})


def test_other_models_have_the_pipeline_of_transformers(video_file):
    config = VideoMAEConfig(
        image_size=32,
        patch_size=16,
        num_frames=8,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=3,
    )
    model = VideoMAEForVideoClassification(config).eval()
    processor = VideoMAEVideoProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    ours = pipeline("video-classification", model=model, video_processor=processor)
    stock = VideoClassificationPipeline(model, video_processor=processor, task="video-classification")
    assert type(ours) is VideoClassificationPipeline
    frames = read_video(video_file)[0]
    assert ours(frames, top_k=2) == stock(frames, top_k=2)
    assert ours([frames, frames], frame_sampling_rate=2) == stock([frames, frames], frame_sampling_rate=2)
    with pytest.raises(TypeError, match="window_seconds"):
        ours(frames, window_seconds=1.0)


def test_half_precision(folder, video_file, classify):
    pipe = pipeline("video-classification", model=folder, dtype=torch.bfloat16)
    assert pipe.model.dtype == torch.bfloat16
    expected = {answer["label"]: answer["score"] for answer in classify(video_file)}
    got = {answer["label"]: answer["score"] for answer in pipe(video_file)}
    assert got == pytest.approx(expected, abs=0.05)
    assert np.isfinite(list(got.values())).all()


def test_unknown_arguments_are_named(tiny_model, video_file):
    model = tiny_model()
    classify = pipeline("video-classification", model=model, processor=tiny_processor(model.config))
    with pytest.raises(TypeError, match="'video-classification' has no argument 'topk'"):
        classify(str(video_file), topk=3)
