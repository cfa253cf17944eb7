# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The easy and the hard set of motion videos: the class is the motion of an object.

Every motion has an opposite, which is drawn as the same clip played backwards. A bag of frames, without their order,
can therefore tell the pairs apart but not the two motions of a pair: it is right half of the time.

The easy set shows one bright object. In the hard set the class names an object and its motion, "the red square moves
left". Beside that target move an object of its colour and one of its shape, each in another direction than the target;
a bar hides a part of its path; and the camera drifts, taking the whole scene along, by up to 6 pixels while the target
moves 32 to 45. The target is larger and faster than the others, so that a tiny model can learn the set within some
hundred steps; one that follows the largest object will do as well as one that knows the named one.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np

from .drawing import COLOURS, SHAPES, SIZE, draw_length, paint, texture, to_clip


# Each motion and its opposite; class texts and folder names are these, folders with "_" for " "
OPPOSITES = (
    ("moving right", "moving left"),
    ("moving down", "moving up"),
    ("coming closer", "going away"),
    ("circling clockwise", "circling counterclockwise"),
)
MOTIONS = tuple(motion for pair in OPPOSITES for motion in pair)
# The hard set: objects that give a clip its class, and those with the colour of one and the shape of the other
TARGETS = (("red", "square"), ("blue", "ring"))
DISTRACTORS = (("red", "ring"), ("blue", "square"))
DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}  # x, y
HARD_CLASSES = tuple(f"the {colour} {shape} moves {way}" for colour, shape in TARGETS for way in DIRECTIONS)
TARGET_TRAVEL, DISTRACTOR_TRAVEL = (0.5, 0.7), (0.2, 0.4)  # ranges, in sides of a frame
TARGET_RADIUS, DISTRACTOR_RADIUS = (0.15, 0.18), (0.09, 0.12)
DRIFT = 6  # pixels that the camera moves during a clip at most, along each axis
SCENE = SIZE + DRIFT  # pixels of a side of what the camera sees in the course of a clip


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


def draw_motion(
    rng: np.random.Generator, pair: int, backgrounds: Sequence[np.ndarray] = (), reversible: bool = False
) -> tuple[np.ndarray, int]:
    """Draw one bright object with the first motion of `OPPOSITES[pair]`.

    Object, colour, position, speed, length, frame rate and background vary; of the length see [`draw_length`].

    Returns:
        Frames (T, 64, 64, 3), uint8; frames per second.
    """
    num_frames, fps = draw_length(rng, reversible)
    scenery = texture(rng, backgrounds)
    shape = SHAPES[rng.integers(len(SHAPES))]
    colour = rng.uniform(0.3, 1.0, 3)
    colour = colour / colour.max()
    path = zip(*_path(rng, pair, num_frames), strict=True)
    return to_clip([paint(scenery, shape, colour, x, y, radius) for x, y, radius in path]), fps


def draw_clip(index: int, seed: int = 0, backgrounds: Sequence[np.ndarray] = ()) -> tuple[np.ndarray, str, int]:
    """Draw clip number `index` of the set `seed`; the same arguments give the same clip. See [`draw_motion`].

    Returns:
        Frames (T, 64, 64, 3), uint8; the motion; frames per second.
    """
    pair, backwards = divmod(index % len(MOTIONS), 2)
    clip, fps = draw_motion(np.random.default_rng((seed, index)), pair, backgrounds)
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
    num_frames, fps = draw_length(rng)
    scenery = texture(rng, backgrounds, SCENE)
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
        scene = scenery
        for colour, shape, centres, size in (objects[i] for i in depth):
            x, y = centres[step]
            scene = paint(scene, shape, COLOURS[colour], x, y, size)
        frames.append((scene * (1 - bar) + grey * bar)[top : top + SIZE, left : left + SIZE])
    clip = to_clip(frames)
    return (clip[::-1] if backwards else clip), HARD_CLASSES[label], fps
