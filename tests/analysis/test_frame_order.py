"""What is left of the accuracy without the order of the frames, and on minimal pairs."""

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import ImageClassifierOutput

from ila_hf.__main__ import main
from ila_hf.analysis import frame_order_scores, pair_accuracy, shuffle_frames
from ila_hf.analysis.frame_order import numbers_of_pairs
from ila_hf.data.video_data import load_videos
from ila_hf.demo.motion_videos import MOTION_SETS, make_motion_videos
from ila_hf.demo.tiny import tiny_processor


class Rising(nn.Module):
    """Takes a clip whose last frame is brighter than the first for class 0, others for class 1."""

    def forward(self, pixel_values):
        rise = pixel_values[:, -1].mean((1, 2, 3)) - pixel_values[:, 0].mean((1, 2, 3))
        return ImageClassifierOutput(logits=torch.stack([rise, -rise], dim=1))


def ramp(*values):
    return torch.tensor(values).float()[:, None, None, None].expand(-1, 3, 2, 2)


def test_pair_accuracy():
    # Pairs 7 and 2 are right, of 5 one clip, of 1 none
    hits = [True, False, True, True, True, False, False, True]
    assert pair_accuracy(hits, [7, 5, 2, 7, 2, 1, 1, 5]) == 0.5
    assert pair_accuracy(torch.tensor(hits), [7, 5, 2, 7, 2, 1, 1, 5]) == 0.5
    with pytest.raises(ValueError, match="A pair must be two clips, got 3 with the number 4"):
        pair_accuracy([True] * 5, [4, 4, 4, 3, 3])
    with pytest.raises(ValueError, match="A pair must be two clips, got 1 with the number 9"):
        pair_accuracy([True] * 3, [3, 3, 9])
    with pytest.raises(ValueError, match="at least one pair, got none"):
        pair_accuracy([], [])


def test_frames_are_shuffled_clip_by_clip_and_views_alike():
    clips = torch.arange(6 * 2 * 8).view(6, 2, 8, 1, 1, 1).float()  # clips, views, frames
    shuffled = shuffle_frames(clips, torch.Generator().manual_seed(0))
    assert torch.equal(shuffled.sort(2).values, clips)
    places = shuffled[..., 0, 0, 0] - clips[:, :, :1, 0, 0, 0]
    assert torch.equal(places[:, 0], places[:, 1])
    assert len({tuple(order.tolist()) for order in places[:, 0]}) == 6
    assert torch.equal(shuffle_frames(clips, torch.Generator().manual_seed(0)), shuffled)
    one_view = shuffle_frames(clips[:, 0], torch.Generator().manual_seed(0))
    assert torch.equal(one_view, shuffled[:, 0])


def test_scores_of_a_model_that_needs_the_order():
    clips = torch.stack([ramp(*range(8)), ramp(*range(7, -1, -1))] * 100)
    labels = torch.tensor([0, 1] * 100)
    batches = [{"pixel_values": c, "labels": k} for c, k in zip(clips.split(7), labels.split(7), strict=True)]
    model = Rising().train()
    scores = frame_order_scores(model, batches, [i // 2 for i in range(200)])
    assert (scores.top1, scores.pair_accuracy) == (1, 1)
    assert abs(scores.shuffled_top1 - 0.5) < 0.15  # 4 deviations
    assert abs(scores.shuffled_pair_accuracy - 0.25) < 0.18  # of independent guesses, 4 deviations
    assert not model.training
    # One of every pair is wrong: half of the clips are right, and no pair; without pairs there is no accuracy of them
    wrong = [{**batch, "labels": torch.zeros_like(batch["labels"])} for batch in batches]
    of_wrong = frame_order_scores(model, wrong, [i // 2 for i in range(200)])
    assert (of_wrong.top1, of_wrong.pair_accuracy) == (0.5, 0)
    assert frame_order_scores(model, wrong)[2:] == (None, None)
    # What could not be read is no hit
    unread = [{**batch, "labels": torch.full_like(batch["labels"], -100)} for batch in batches]
    assert frame_order_scores(model, unread)[:2] == (0, 0)
    with pytest.raises(ValueError, match="at least one clip, got none"):
        frame_order_scores(model, [])


def save(model, names, folder):
    """Model and processor, with classes of these names."""
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: i for i, name in enumerate(names)}
    model.save_pretrained(folder)
    processor = tiny_processor(model.config)
    processor.save_pretrained(folder)
    return processor


def test_the_command(tmp_path, tiny_model, capsys):
    """Against the scores of the clips as the processor makes them; a damaged file counts as wrong."""
    make_motion_videos(tmp_path / "videos", {"validation": 8}, kind="reversed_pairs")
    videos = tmp_path / "videos/validation"
    (videos / "moving_up/0000003.mp4").write_bytes(b"no video")
    names = sorted(name.replace(" ", "_") for name in MOTION_SETS["reversed_pairs"].classes)
    model = tiny_model()
    processor = save(model, names, tmp_path / "model")
    main(["temporal-score", "--model", str(tmp_path / "model"), "--videos", str(videos), "--pairs"])
    printed = dict(line.split(": ") for line in capsys.readouterr().out.splitlines()[-4:])
    assert list(printed) == ["top1", "shuffled_top1", "pair_accuracy", "shuffled_pair_accuracy"]
    hits = {}
    for file in videos.glob("*/*.mp4"):
        if file.stem != "0000003":
            clip = processor(videos=str(file), return_tensors="pt").pixel_values
            hits[int(file.stem)] = names[model(clip).logits.argmax()] == file.parent.name
    assert len(hits) == 7
    assert float(printed["top1"].split()[0]) == pytest.approx(100 * sum(hits.values()) / 8)
    right = [hits.get(2 * i, False) and hits.get(2 * i + 1, False) for i in range(4)]
    assert float(printed["pair_accuracy"].split()[0]) == pytest.approx(100 * sum(right) / 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--model m", "Pass `model` and `videos`"),
        ("--videos v", "Pass `model` and `videos`"),
        ("--model m --videos v --batch_size 0", "a `batch_size` of at least 1"),
        ("", "Pass `confusion_matrix`, or `model` and `videos`"),
        ("--confusion_matrix c --model m --videos v", "Pass `confusion_matrix`, or"),
        ("--model m --videos v --benchmark kinetics-400", "are for `confusion_matrix`"),
        ("--confusion_matrix c --pairs", "`pairs` is for `model` and `videos`"),
    ],
)
def test_arguments_that_do_not_fit(words, message, capsys):
    with pytest.raises(SystemExit):
        main(["temporal-score", *words.replace(" m", " .").split()])
    assert message in capsys.readouterr().err


def test_pairs_are_those_of_the_numbers(tmp_path, capsys):
    make_motion_videos(tmp_path / "two", {"train": 6, "validation": 12}, kind="two_events")
    rows = load_videos(tmp_path / "two/validation")
    assert sorted(numbers_of_pairs(rows)) == [500_000 + i // 2 for i in range(12)]
    make_motion_videos(tmp_path / "easy", {"train": 8, "validation": 8})
    with pytest.raises(ValueError, match="are of the kind 'easy', which is not made of pairs"):
        numbers_of_pairs(load_videos(tmp_path / "easy/validation"))
    with pytest.raises(ValueError, match=r"holds clips of .*easy.*: give another folder"):
        make_motion_videos(tmp_path / "easy", {"train": 8}, kind="noise")


def test_names_of_pairs_are_numbers(tmp_path, tiny_model, capsys):
    make_motion_videos(tmp_path / "videos", {"validation": 8}, kind="reversed_pairs")
    save(tiny_model(), [path.name for path in sorted((tmp_path / "videos/validation").iterdir())], tmp_path / "model")
    file = next((tmp_path / "videos/validation").glob("*/*.mp4"))
    file.rename(file.with_stem("mine"))
    with pytest.raises(SystemExit):
        main(["temporal-score", "--model", str(tmp_path / "model"), "--videos", str(file.parents[1]), "--pairs"])
    assert "have numbers for names, such as 0000012.mp4, got 'mine.mp4'" in capsys.readouterr().err
