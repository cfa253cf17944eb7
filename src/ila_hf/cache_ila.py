# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What a causal model keeps of the frames of streams, so that each of them is encoded once."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn


class ILACache:
    """State of a batch of streams, as `model(frames, cache=cache)` takes it, changes it in place, and returns it.

    Kept are, of every aligning layer, the tokens of the last frame that it has seen, and of the last T - 1 frames
    their features and, for the prompt, those of their patches. The size does not grow with the streams.

    A new cache takes streams as the first frames bring them. Streams can be added, dropped and begun anew at any time:
    the others do not notice. Where not all streams have a frame at the same time, keep one cache for each, and run
    those that have with [`ILACache.join`] and [`ILACache.select`].

    Args:
        num_frames: T, how many frames a prediction looks back on, itself included. Default: `config.num_frames`.

    Example:

    ```python
    >>> from ila_hf import ILACache

    >>> cache = ILACache()
    >>> for frame in frames:  # (B, 1, 3, S, S), of B streams
    ...     logits = model(frame, cache=cache).logits[:, -1]
    >>> cache.reset(0)  # another video begins in the first stream
    ```

    Raises:
        ValueError: For a `num_frames` below 1.
    """

    def __init__(self, num_frames: int | None = None):
        if num_frames is not None and num_frames < 1:
            raise ValueError(f"`num_frames` must be at least 1, got {num_frames}.")
        self.num_frames = num_frames
        #: Frames seen of every stream, (B,), on the CPU.
        self.lengths = torch.zeros(0, dtype=torch.long)
        #: By name, streams first. What a stream has not filled yet is zero.
        self.states: dict[str, torch.Tensor] = {}

    def __len__(self) -> int:
        """The number of streams."""
        return len(self.lengths)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_frames={self.num_frames}, lengths={self.lengths.tolist()})"

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return self.lengths.nbytes + sum(state.nbytes for state in self.states.values())

    def check_batch(self, batch: int) -> None:
        """Of the models: refuse frames of more or fewer streams; a cache without streams takes any.

        Raises:
            ValueError: See above.
        """
        count = self.lengths.shape[0]  # `len` would make it a constant of a graph
        if count not in (0, batch):
            raise ValueError(
                f"The cache has {count} streams, got frames of {batch}: every stream takes part in every call. See "
                "ILACache.select and ILACache.join."
            )

    def begin(self) -> "ILACache":
        """Of models with more behind the trunk: what a call changes in the place of this cache, until [`finish`]."""
        begun = type(self)(self.num_frames)
        begun.lengths, begun.states = self.lengths, dict(self.states)  # tensors are replaced, not changed
        return begun

    def finish(self, begun: "ILACache") -> "ILACache":
        """Of the models: take what [`begin`] gave, and return this cache."""
        self.num_frames, self.lengths, self.states = begun.num_frames, begun.lengths, begun.states
        return self

    def previous(self, name: str, frames: torch.Tensor) -> torch.Tensor:
        """Of the models: the frame before the first of `frames` (B, S, ...), of a new stream the first: (B, 1, ...).

        Raises:
            ValueError: If the streams had frames before, but not here.
        """
        first = frames[:, :1]
        if name not in self.states:
            self._check_unseen(name, self.lengths)
            return first
        stored = self._state(name, first)
        if not torch.compiler.is_compiling() and bool(self.lengths.all()):
            return stored
        is_new = (self.lengths == 0).to(frames.device).view(-1, *[1] * (frames.ndim - 1))
        return torch.where(is_new, first, stored)

    def advance(self, batch: int, num_frames: int, states: dict[str, torch.Tensor]) -> None:
        """Of the models: the trunk has seen so many frames of every stream; `states` are of the last of them.

        Nothing of the cache changes before: layers that fail leave it as it was.
        """
        lengths = self.lengths if self.lengths.shape[0] > 0 else self.lengths.new_zeros(batch)
        self.lengths = lengths + num_frames
        self.states = {**self.states, **states}

    def clips(self, name: str, frames: torch.Tensor, kept: int | torch.Tensor) -> torch.Tensor:
        """Of the models: the last T frames as of each of `frames` (B, S, ...) that is kept -> (B, P, T, ...).

        Where there were fewer, they are the last, behind zeros: see [`clip_lengths`]. [`advance`] has counted `frames`
        before. Kept are the last so many, all (0), or those at the places in a tensor.

        Raises:
            ValueError: If the streams had frames before, but not here.
        """
        num_frames = cast("int", self.num_frames)  # the models have set it
        past = num_frames - 1
        if name in self.states:
            stored = self._state(name, frames[:, :1].expand(-1, past, *frames.shape[2:]))
        else:
            self._check_unseen(name, self.lengths - frames.shape[1])
            stored = frames.new_zeros(frames.shape[0], past, *frames.shape[2:])
        sequence = torch.cat([stored, frames], dim=1)
        self.states[name] = sequence[:, frames.shape[1] :].detach().clone()
        return sequence.unfold(1, num_frames, 1)[:, _places(kept)].movedim(-1, 2)

    def clip_lengths(self, num_frames: int, kept: int | torch.Tensor) -> torch.Tensor | None:
        """Of the models: how many frames the clips are of that [`clips`] returns, (B, P); None: all of T.

        Args:
            num_frames: S, of the frames of this call.
            kept: As for [`clips`].
        """
        places, longest = torch.arange(1 - num_frames, 1), cast("int", self.num_frames)
        lengths = (self.lengths[:, None] + places).clamp(max=longest)[:, _places(kept)]
        # A graph is of any length
        if not torch.compiler.is_compiling() and bool((lengths == longest).all()):
            return None
        return lengths

    @staticmethod
    def _check_unseen(name: str, lengths: torch.Tensor) -> None:
        if not torch.compiler.is_compiling() and bool(lengths.any()):
            raise ValueError(
                f"The cache has seen frames, but has no {name!r} of them: it is of another model, or of a part of "
                "this one."
            )

    def _state(self, name: str, like: torch.Tensor) -> torch.Tensor:
        state = self.states[name]
        if state.shape != like.shape:
            raise ValueError(
                f"The cache is of another model, or of frames of another size: its {name!r} has the shape "
                f"{tuple(state.shape)}, expected {tuple(like.shape)}."
            )
        return state.to(like)

    def add(self, count: int = 1) -> None:
        """Begin streams, behind those that there are."""
        if count < 1:
            raise ValueError(f"`count` must be at least 1, got {count}.")
        self.lengths = nn.functional.pad(self.lengths, (0, count))
        for name, state in self.states.items():
            self.states[name] = torch.cat([state, state.new_zeros(count, *state.shape[1:])])

    def drop(self, stream: int) -> None:
        """End a stream; those behind it move up."""
        self._check_stream(stream)
        rest = self.select([i for i in range(len(self)) if i != stream % len(self)])
        self.lengths, self.states = rest.lengths, rest.states

    def reset(self, stream: int | None = None) -> None:
        """Begin a stream anew, or all of them."""
        if stream is not None:
            self._check_stream(stream)
        which = slice(None) if stream is None else stream
        # New tensors: those that there are may have been made in inference mode, or be shared with a copy
        self.lengths = self.lengths.clone()
        self.lengths[which] = 0
        self.states = {name: state.clone() for name, state in self.states.items()}
        for state in self.states.values():
            state[which] = 0

    def select(self, streams: Sequence[int]) -> "ILACache":
        """A cache of some of the streams, in this order.

        Raises:
            IndexError: For a stream that there is not.
        """
        for stream in streams:
            self._check_stream(stream)
        selected = type(self)(self.num_frames)
        places = torch.as_tensor(streams, dtype=torch.long) % max(len(self), 1)
        selected.lengths = self.lengths[places]
        if len(selected) > 0:
            selected.states = {name: state[places.to(state.device)] for name, state in self.states.items()}
        return selected

    @classmethod
    def join(cls, caches: Iterable["ILACache"]) -> "ILACache":
        """One cache of the streams of several of the same model, in this order. New ones, without states, may be among
        them: they count as one stream each.

        Raises:
            ValueError: For caches of different models, and for none.
        """
        caches = list(caches)
        if not caches:
            raise ValueError("There is no cache to join.")
        used = [cache for cache in caches if cache.states]
        counts: set[int | None] = {cache.num_frames for cache in caches if cache.num_frames is not None}
        if len(counts) > 1:
            raise ValueError(f"The caches differ in `num_frames`: {sorted(counts, key=str)}.")
        joined = cls(next(iter(counts), None))
        shapes = [{name: tuple(state.shape[1:]) for name, state in cache.states.items()} for cache in used]
        for other in shapes[1:]:
            if other != shapes[0]:
                raise ValueError(f"The caches are of different models: their tensors are {shapes[0]} and {other}.")
        joined.lengths = torch.cat([cache.lengths if len(cache) else cache.lengths.new_zeros(1) for cache in caches])
        for name, like in used[0].states.items() if used else ():
            parts = [
                cache.states[name] if cache.states else like.new_zeros(max(len(cache), 1), *like.shape[1:])
                for cache in caches
            ]
            joined.states[name] = torch.cat(parts)
        return joined

    def to(self, *args: Any, **kwargs: Any) -> "ILACache":
        """Move or cast the states, as `torch.Tensor.to` does, in place. Models do so by themselves, at every call."""
        self.states = {name: state.to(*args, **kwargs) for name, state in self.states.items()}
        return self

    def save(self, path: str | Path) -> None:
        """Write the cache as safetensors."""
        tensors = {"lengths": self.lengths, **{f"states.{name}": state for name, state in self.states.items()}}
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(tensors, path, {"num_frames": "" if self.num_frames is None else str(self.num_frames)})

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> "ILACache":
        """Read what [`save`] has written.

        Raises:
            ValueError: For another file of safetensors.
        """
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        tensors = load_file(path, str(device))
        if "num_frames" not in metadata or "lengths" not in tensors:
            raise ValueError(f"{str(path)!r} is no cache: it was not written by ILACache.save.")
        cache = cls(int(metadata["num_frames"]) if metadata["num_frames"] else None)
        cache.lengths = tensors.pop("lengths").cpu()
        cache.states = {name.removeprefix("states."): tensor for name, tensor in tensors.items()}
        return cache

    def _check_stream(self, stream: int) -> None:
        if not -len(self) <= stream < len(self):
            raise IndexError(f"There is no stream {stream}: the cache has {len(self)}.")


def _places(kept: int | torch.Tensor) -> slice | torch.Tensor:
    return slice(-kept, None) if isinstance(kept, int) else kept.cpu()


__all__ = ["ILACache"]
