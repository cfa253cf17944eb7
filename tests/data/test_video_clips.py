"""Clips: what is drawn, what becomes of videos that cannot be read, and who decodes what."""

import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator, DataLoaderConfiguration, skip_first_batches
from datasets import ClassLabel, Dataset, Features, Value, load_dataset
from video_files import write_shards

from ila_hf import ILAVideoProcessor, VideoLimits, VideoReadError
from ila_hf.data.unreadable_videos import UnreadableVideos
from ila_hf.data.video_clips import ClipReader, ClipSampler, VideoClips, collate_clips, stream_clips
from ila_hf.data.video_data import load_video_dataset, undecoded
from ila_hf.data.video_transforms import training_transform


SIZES = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}


@pytest.fixture
def processor():
    return ILAVideoProcessor(num_frames=4, **SIZES)


@pytest.fixture
def broken(tmp_path):
    path = tmp_path / "broken.mp4"
    path.write_text("not a video")
    return path


def dataset_of(*videos):
    features = Features({"video": Value("string"), "label": ClassLabel(num_classes=len(videos))})
    return Dataset.from_dict({"video": list(map(str, videos)), "label": range(len(videos))}, features=features)


def test_evaluation_is_what_the_processor_gives(numbered_video, video_file, processor):
    clips = VideoClips(dataset_of(numbered_video, video_file), ClipReader(processor, train=False))
    batch = collate_clips([clips[0], clips[1]])
    expected = processor([numbered_video, video_file], return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["pixel_values"], expected)
    assert batch["labels"].tolist() == [0, 1]
    views = ILAVideoProcessor(num_frames=4, num_clips=2, num_crops=3, **SIZES)
    clips = VideoClips(dataset_of(numbered_video), ClipReader(views, train=False))
    assert clips[0]["pixel_values"].shape == (6, 4, 3, 32, 32)
    assert torch.equal(clips[0]["pixel_values"], views(numbered_video, return_tensors="pt")["pixel_values"][0])


@pytest.mark.parametrize("streaming", [False, True])
def test_a_stock_folder_of_videos_needs_no_torchcodec(tmp_path, numbered_video, video_file, processor, streaming):
    """Its rows are decoded by torchcodec when they are looked at, which needs FFmpeg's libraries."""
    for name, video in (("a", numbered_video), ("b", video_file)):
        (tmp_path / "train" / name).mkdir(parents=True)
        shutil.copy(video, tmp_path / "train" / name / "1.mp4")
    data = load_dataset("videofolder", data_dir=str(tmp_path), split="train", streaming=streaming)
    assert data.features["video"].decode
    reader = ClipReader(processor, train=False)
    clips = list(stream_clips(data, reader)) if streaming else [*map(VideoClips(data, reader).__getitem__, range(2))]
    expected = processor([numbered_video, video_file], return_tensors="pt")["pixel_values"]
    assert torch.equal(torch.stack([torch.as_tensor(clip["pixel_values"]) for clip in clips]), expected)
    assert [clip["labels"] for clip in clips] == [0, 1]
    rows = undecoded(data)
    assert torch.equal(processor([row["video"] for row in rows], return_tensors="pt")["pixel_values"], expected)


def test_training_frames_are_drawn_from_the_generator_of_torch(numbered_video, processor):
    reader = ClipReader(processor, train=True)
    row = {"video": str(numbered_video), "label": 0}

    def draw():
        torch.manual_seed(3)
        return torch.stack([reader(row)["pixel_values"] for _ in range(20)])

    first = draw()
    assert torch.equal(draw(), first)
    brightness = first.mean((2, 3, 4))  # tells the frame
    assert len(torch.unique(brightness[:, 0])) > 4
    assert (brightness.diff(dim=1) > 0).all()  # in order


def test_training_takes_one_view_and_its_transform(numbered_video):
    views = ILAVideoProcessor(num_frames=4, num_clips=2, num_crops=3, **SIZES)
    seen = []

    def transform(frames):
        seen.append((frames.shape, frames.dtype))
        return frames[..., :40, :40]

    clip = ClipReader(views, train=True, transform=transform)({"video": str(numbered_video), "label": 0})
    assert seen == [((4, 3, 48, 64), torch.uint8)]
    assert clip["pixel_values"].shape == (4, 3, 40, 40)  # not resized or cropped once more
    assert ClipReader(views, train=True)({"video": str(numbered_video), "label": 0})["pixel_values"].shape[0] == 4


def test_a_broken_video_is_replaced_in_training(numbered_video, broken, processor):
    clips = VideoClips(dataset_of(broken, numbered_video), ClipReader(processor, train=True))
    with pytest.warns(UserWarning, match=r"Cannot read the video '.*broken\.mp4'"):
        sample = clips[0]
    assert sample["labels"] == 1
    assert sample["pixel_values"].shape == (4, 3, 32, 32)
    with warnings.catch_warnings():  # reported once
        warnings.simplefilter("error")
        assert clips[0]["labels"] == 1
    loader = torch.utils.data.DataLoader(clips, batch_size=1, collate_fn=collate_clips)
    assert [batch["labels"].tolist() for batch in loader] == [[1], [1]]
    with (
        pytest.warns(UserWarning, match=r"broken\.mp4"),
        pytest.raises(VideoReadError, match=r"100 videos in a row cannot be read; the last: '.*broken\.mp4'"),
    ):
        VideoClips(dataset_of(broken), ClipReader(processor, train=True))[0]


def test_a_broken_video_in_evaluation(numbered_video, broken, processor, tmp_path):
    with pytest.warns(UserWarning, match=r"broken"), pytest.raises(VideoReadError, match=r"broken\.mp4"):
        VideoClips(dataset_of(broken), ClipReader(processor, train=False))[0]
    views = ILAVideoProcessor(num_frames=4, num_clips=2, num_crops=3, **SIZES)
    for used in (processor, views):
        reader = ClipReader(used, train=False, on_error="wrong", unreadable=UnreadableVideos(tmp_path / "list.jsonl"))
        clips = VideoClips(dataset_of(numbered_video, broken, tmp_path / "missing.mp4"), reader)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            batch = collate_clips([clips[i] for i in range(3)])
        assert batch["labels"].tolist() == [0, -100, -100]  # three clips, none is dropped
        assert batch["pixel_values"].shape[0] == 3
    assert list(reader.unreadable.read()) == [str(broken), str(tmp_path / "missing.mp4")]
    for train, policy in ((False, "skip"), (True, "wrong"), (True, "drop")):
        with pytest.raises(ValueError, match=rf"`on_error` must be one of .*, got '{policy}'"):
            ClipReader(processor, train=train, on_error=policy)


def test_limits_apply(numbered_video, processor):
    reader = ClipReader(processor, train=False, limits=VideoLimits(max_pixels=100))
    with pytest.warns(UserWarning, match="max_pixels"), pytest.raises(VideoReadError, match="`max_pixels` of 100"):
        reader({"video": str(numbered_video), "label": 0})


def test_bytes_are_called_by_their_path(broken, processor):
    reader = ClipReader(processor, train=False)
    row = {"video": {"path": "shard/0001.mp4", "bytes": broken.read_bytes()}, "label": 0}
    with (
        pytest.warns(UserWarning, match="shard"),
        pytest.raises(VideoReadError, match=r"^Cannot read the video 'shard/0001\.mp4'"),
    ):
        reader(row)
    assert list(reader.unreadable.read()) == ["shard/0001.mp4"]
    with pytest.warns(UserWarning, match="11 bytes, SHA-1"), pytest.raises(VideoReadError, match="SHA-1"):
        reader({"video": {"path": None, "bytes": broken.read_bytes()}, "label": 0})


@pytest.mark.parametrize("video", [None, {"path": None, "bytes": None}])
def test_rows_without_a_video(processor, numbered_video, video):
    reader = ClipReader(processor, train=True)
    with pytest.warns(UserWarning, match="there is neither a path nor bytes"):
        assert reader({"video": video, "label": 0}) is None


def test_paths_on_the_hub_are_opened_there(numbered_video, processor, monkeypatch):
    opened = []

    def open_file(self, path, *args, **kwargs):
        opened.append(path)
        if path.endswith("gone.mp4"):
            raise FileNotFoundError(path)
        return numbered_video.open("rb")

    monkeypatch.setattr("huggingface_hub.HfFileSystem.open", open_file)
    reader = ClipReader(processor, train=False)
    url = "hf://datasets/user/set/clip.mp4"
    clip = reader({"video": {"path": url, "bytes": None}, "label": 0})["pixel_values"]
    assert torch.equal(clip, processor(numbered_video, return_tensors="pt")["pixel_values"][0])
    assert opened == [url]
    with pytest.warns(UserWarning, match="gone"), pytest.raises(VideoReadError, match=r"gone\.mp4"):
        reader({"video": "hf://datasets/user/set/gone.mp4", "label": 0})


# ------------------------------------------------------------------------------------------- workers and processes


def epoch(clips, workers):
    """Mean brightness of every clip of an epoch with a fixed seed."""
    torch.manual_seed(5)
    loader = torch.utils.data.DataLoader(
        clips, batch_size=2, shuffle=True, num_workers=workers, collate_fn=collate_clips
    )
    return torch.cat([batch["pixel_values"].mean((2, 3, 4)) for batch in loader])


def test_what_is_drawn_depends_on_seed_epoch_and_number_only(numbered_video, processor):
    data, reader = dataset_of(*[numbered_video] * 6), ClipReader(processor, train=True)
    clips = VideoClips(data, reader, seed=1)
    first = epoch(clips, 0)
    assert torch.equal(epoch(clips, 2), first)  # whatever the workers
    assert torch.equal(epoch(clips, 0), first)
    one = clips[3]["pixel_values"]
    state = torch.get_rng_state()
    assert torch.equal(clips[3]["pixel_values"], one)
    assert torch.equal(torch.get_rng_state(), state)  # and what the model draws is left alone
    assert not torch.equal(clips[4]["pixel_values"], one)
    clips.set_epoch(1)
    assert not torch.equal(clips[3]["pixel_values"], one)
    assert not torch.equal(VideoClips(data, reader, seed=2)[3]["pixel_values"], one)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_epoch_goes_on_with_the_clips_it_would_have_seen(numbered_video, processor, workers):
    def batches(skip):
        clips = VideoClips(dataset_of(*[numbered_video] * 8), ClipReader(processor, train=True))
        loader = torch.utils.data.DataLoader(
            clips, batch_size=2, shuffle=True, num_workers=workers, collate_fn=collate_clips
        )
        loader = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True)).prepare(
            loader
        )
        loader.set_epoch(1)
        return [batch["pixel_values"].mean((2, 3, 4)) for batch in (skip_first_batches(loader, skip))]

    torch.manual_seed(0)
    whole = batches(0)
    torch.manual_seed(0)
    rest = batches(2)
    assert len(rest) == 2
    assert torch.equal(torch.cat(rest), torch.cat(whole[2:]))


@pytest.mark.parametrize("make", ["map", "stream"])
def test_workers_that_are_spawned(numbered_video, processor, tmp_path, make):
    reader = ClipReader(processor, train=True, transform=training_transform(processor))
    if make == "map":
        clips = VideoClips(dataset_of(numbered_video, numbered_video), reader)
    else:
        write_shards(tmp_path, numbered_video.read_bytes(), shards=1, samples=2)
        files = str(tmp_path / "*.tar")
        data = load_video_dataset("webdataset", data_files=files, streaming=True, label_names=["a", "b", "c"])
        clips = stream_clips(data, reader)
    loader = torch.utils.data.DataLoader(
        clips, batch_size=2, num_workers=1, collate_fn=collate_clips, multiprocessing_context="spawn"
    )
    (batch,) = loader
    assert batch["pixel_values"].shape == (2, 4, 3, 32, 32)


def test_workers_share_the_list_of_unreadable_videos(numbered_video, broken, processor, tmp_path):
    unreadable = UnreadableVideos(tmp_path / "out" / "unreadable.jsonl")
    clips = VideoClips(
        dataset_of(*[broken, numbered_video] * 4), ClipReader(processor, train=True, unreadable=unreadable)
    )
    for _ in range(2):
        assert len(epoch(clips, 2)) == 8
    assert len(unreadable.file.read_text().splitlines()) == len(unreadable) == 1


def test_streams_skip_and_are_shared_by_workers(numbered_video, processor, tmp_path):
    write_shards(tmp_path, numbered_video.read_bytes(), shards=2, samples=3)
    bad = tmp_path / "bad"
    bad.mkdir()
    write_shards(bad, b"not a video", shards=1, samples=2)
    files = [*map(str, sorted(tmp_path.glob("*.tar"))), str(bad / "train-0.tar")]
    data = load_video_dataset("webdataset", data_files=files, streaming=True, label_names=["a", "b", "c"])
    unreadable = UnreadableVideos(tmp_path / "unreadable.jsonl")
    clips = stream_clips(data, ClipReader(processor, train=True, unreadable=unreadable))
    for workers in (0, 3):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loader = torch.utils.data.DataLoader(clips, batch_size=1, num_workers=workers, collate_fn=collate_clips)
            batches = list(loader)
        assert sorted(batch["labels"].item() for batch in batches) == [0, 0, 1, 1, 2, 2]
        assert batches[0]["pixel_values"].shape == (1, 4, 3, 32, 32)
    assert sorted(unreadable.read()) == [f"{bad}/train-0.tar/000{i}.mp4" for i in range(2)]
    with pytest.raises(ValueError, match="3 shards cannot be shared by 4 processes"):
        stream_clips(data, ClipReader(processor, train=True), num_processes=4)


@pytest.mark.parametrize("workers", [0, 2])
def test_two_processes_decode_half_of_a_stream_each(numbered_video, tmp_path, workers):
    write_shards(tmp_path, numbered_video.read_bytes(), shards=4, samples=3)
    script = Path(__file__).parent / "stream_in_two_processes.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    subprocess.run([*command, str(script), str(tmp_path), str(workers)], check=True, capture_output=True, timeout=120)
    seen = [(tmp_path / f"seen_{rank}.txt").read_text().split() for rank in range(2)]
    assert len(seen[0]) == len(seen[1]) == 6
    assert len({*seen[0], *seen[1]}) == 12  # each is decoded once, by one of them


# --------------------------------------------------------------------------------------------- epochs and their order


def test_workers_that_persist_see_the_epoch(numbered_video, processor):
    """They hold a copy of the data set, made before the first epoch."""
    clips = VideoClips(dataset_of(*[numbered_video] * 4), ClipReader(processor, train=True), seed=1)
    loader = torch.utils.data.DataLoader(
        clips, batch_size=2, num_workers=1, persistent_workers=True, collate_fn=collate_clips
    )

    def draw(number):
        clips.set_epoch(number)
        assert clips.epoch == number
        return torch.cat([batch["pixel_values"] for batch in loader])

    first, second = draw(0), draw(1)
    assert all(not torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert torch.equal(draw(0), first)
    assert torch.equal(draw(1), second)
    assert torch.equal(torch.stack([clips[i]["pixel_values"] for i in range(4)]), second)  # nor do workers matter


def order_of(sampler, number):
    sampler.set_epoch(number)
    return list(sampler)


def test_the_order_depends_on_seed_and_epoch_only():
    sampler = ClipSampler(20, seed=3)
    assert (len(sampler), list(sampler)) == (20, order_of(sampler, 0))
    orders = [order_of(sampler, number) for number in range(3)]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert len({tuple(order) for order in (*orders, list(range(20)))}) == 4
    torch.manual_seed(9)
    state = torch.get_rng_state()
    other = ClipSampler(20, seed=3)
    assert [order_of(other, number) for number in (2, 0, 1)] == [orders[2], orders[0], orders[1]]
    assert torch.equal(torch.get_rng_state(), state)
    assert order_of(ClipSampler(20, seed=4), 0) != orders[0]


def test_what_remains_of_an_epoch_is_left_out():
    sampler = ClipSampler(21, round_to=8)
    assert len(sampler) == 16
    dropped = []
    for number in range(4):
        order = order_of(sampler, number)
        assert len(order) == len(set(order)) == 16
        assert order == order_of(ClipSampler(21), number)[:16]
        dropped.append(frozenset(range(21)) - set(order))
    assert len(set(dropped)) == 4
    assert len(list(ClipSampler(16, round_to=8))) == 16


def test_fewer_clips_than_a_step_takes():
    assert len(list(ClipSampler(8, round_to=8))) == 8
    with pytest.raises(ValueError, match="7 clips are fewer than all processes take in one step, 8"):
        ClipSampler(7, round_to=8)
    with pytest.raises(ValueError, match="0 clips are fewer than all processes take in one step, 1"):
        ClipSampler(0)
