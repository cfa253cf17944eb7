# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Implicit learnable alignment: section 3.2 of https://arxiv.org/abs/2304.10465.

Nothing here knows CLIP. What a layer makes of the aligned pairs is in temporal_ila.py.

    maps (B, T, h, w, D) ► pairs (M, 2D, h, w) ► ILAInteraction ► ILAPointPrediction ► ILAMask ► pooled features
                                       Eq. 5:   (M, C, h, w)         (M, 2, 2)      (M, 2, h, w)    Eq. 3a, 7

Maps stay in the layout of tokens, features last, which is torch's channels-last: joining the frames of a pair is one
copy in one piece, and nothing else is moved.

Notation: B clips · T frames · N = h·w patches · L = 1 + N tokens (class token first) · D width · M pairs of
neighbouring frames · C = `alignment_hidden_size` · p interactive point (x, y) in [-1, 1]².
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import initialization as init

from .configuration_ila import ILAVisionConfig
from .fusion_ila import fuse_norm


def reset_convolutions(module: nn.Module) -> None:
    """torch's own initial weights suit convolutions of 9 to 2D·9 inputs better than one fixed spread."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d | nn.Conv3d):
            child.reset_parameters()


class ILAConv2d(nn.Conv2d):
    """A convolution that keeps the size of maps (M, I, h, w).

    Where only the centre of its kernel meets the map, because kernel or map are 1×1, it is a matrix product, which
    takes weights and maps as they lie.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        centre = (self.kernel_size[0] // 2, self.kernel_size[1] // 2)
        keeps_size = self.padding == centre and self.stride == (1, 1)
        if not keeps_size or (self.kernel_size != (1, 1) and input.shape[2:] != (1, 1)):
            return super().forward(input)
        patches = input.permute(0, 2, 3, 1)  # (M, I, h, w) -> (M, h, w, I)
        weight, bias = self.weight[:, :, centre[0], centre[1]], self.bias
        if self.groups == 1:
            return nn.functional.linear(patches, weight, bias).permute(0, 3, 1, 2)
        inputs = patches.flatten(0, 2).unflatten(1, (self.groups, -1)).transpose(0, 1)  # (G, M·N, I/G)
        weight = weight.unflatten(0, (self.groups, -1))  # (O, I/G) -> (G, O/G, I/G)
        output = (inputs @ weight.transpose(1, 2)).transpose(0, 1).flatten(1)  # (G, M·N, O/G) -> (M·N, O)
        output = output if bias is None else output + bias
        return output.unflatten(0, patches.shape[:3]).permute(0, 3, 1, 2)


class ILATemporalConv(nn.Conv3d):
    """A convolution over the frames of every patch, (B, C, T, h, w) -> (B, C, T, h, w).

    For one in three dimensions torch has no fast code on the CPU; it runs in two, time and patches.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        maps = input.flatten(3)  # (B, C, T, h, w) -> (B, C, T, N)
        padding = (self.kernel_size[0] // 2, 0)
        output = nn.functional.conv2d(maps, self.weight[..., 0], self.bias, padding=padding, groups=self.groups)
        return output.unflatten(3, input.shape[3:])


class ILAInteraction(nn.Sequential):
    """Conv(·) of Eq. 5: what the two frames of a pair have in common, (M, 2D, h, w) -> (M, C, h, w).

    Original: `message_attn.interactive_block`. The paper leaves the layers open; `alignment_conv` chooses between
    those of the Kinetics-400 models ("separable") and of the SSv2 models ("dense").
    """

    def __init__(self, config: ILAVisionConfig):
        inputs, channels = 2 * config.hidden_size, config.alignment_hidden_size
        # CODEPATH: "dense" in the Something-Something v2 models, "separable" in those of Kinetics-400
        if config.alignment_conv == "dense":
            blocks = [*self._block(inputs, channels, 3), *self._block(channels, channels, 3)]
        else:
            blocks = [*self._block(inputs, inputs, 3, groups=inputs), *self._block(inputs, channels, 1)]
            # CODEPATH: the released Kinetics-400 models have one more than those of the paper
            if config.architecture == "released":
                blocks += self._block(channels, channels, 3)
        super().__init__(*blocks)

    @staticmethod
    def _block(inputs: int, outputs: int, kernel_size: int, groups: int = 1) -> list[nn.Module]:
        convolution = ILAConv2d(inputs, outputs, kernel_size, padding=kernel_size // 2, groups=groups)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]

    def fuse(self) -> None:
        """See `fuse` of the models."""
        for i in range(0, len(self), 3):
            self[i], self[i + 1] = fuse_norm(self[i], self[i + 1]), nn.Identity()


class ILAWindowAttention(nn.Module):
    """Attention of every place of a map to the 3×3 places around it, (M, h, w, 2D) -> (M, h, w, 2D)."""

    def __init__(self, config: ILAVisionConfig):
        super().__init__()
        width = 2 * config.hidden_size
        self.num_heads = 2 * config.num_attention_heads
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        size = maps.shape[1:3]
        query, key, value = self.qkv(self.norm(maps)).permute(0, 3, 1, 2).chunk(3, dim=1)  # (M, 2D, h, w)
        query = query.flatten(2).unflatten(1, (self.num_heads, -1))[:, :, :, None]  # (M, heads, d, 1, N)
        # (M, 2D, h, w) -> (M, heads, d, 9, N)
        key, value = (self.around(states).unflatten(1, (self.num_heads, -1)) for states in (key, value))
        scores = (query * key).sum(2) * query.shape[2] ** -0.5  # (M, heads, 9, N)
        inside = self.around(torch.ones_like(maps[:1, None, :, :, 0]))[:, 0] > 0  # (1, 9, N)
        weights = scores.masked_fill(~inside[:, None], float("-inf")).softmax(2)
        output = (weights[:, :, None] * value).sum(3).flatten(1, 2)  # (M, 2D, N)
        return maps + self.out(output.transpose(1, 2)).unflatten(1, size)

    @staticmethod
    def around(states: torch.Tensor) -> torch.Tensor:
        """The places around every place: (M, C, h, w) -> (M, C, 9, N)."""
        return nn.functional.unfold(states, 3, padding=1).unflatten(1, (states.shape[1], 9))


class ILAWindowInteraction(nn.Module):
    """Window attention in the place of Conv(·) of Eq. 5, (M, 2D, h, w) -> (M, C, h, w): a row of Table 8.

    The paper leaves the layers open. Two of attention, without MLP, of the width of the pair meet its FLOPs.
    """

    def __init__(self, config: ILAVisionConfig):
        super().__init__()
        self.attention1, self.attention2 = ILAWindowAttention(config), ILAWindowAttention(config)
        self.fc = nn.Linear(2 * config.hidden_size, config.alignment_hidden_size)

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        hidden = self.attention2(self.attention1(pairs.permute(0, 2, 3, 1)))  # (M, h, w, 2D)
        return self.fc(hidden).permute(0, 3, 1, 2)


class ILAPointPrediction(nn.Module):
    """Two interactive points from the interaction of a pair (Eq. 5), (M, C, h, w) -> (M, 2, 2).

    Original: `message_attn.prediction_block`. Rows are the previous and the current frame, columns x and y. The last
    convolution starts at zero, so that every point starts in the centre.
    """

    def __init__(self, config: ILAVisionConfig):
        super().__init__()
        channels = config.alignment_hidden_size
        self.conv1 = ILAConv2d(channels, channels // 2, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(channels // 2)
        self.conv2 = ILAConv2d(channels // 2, channels // 2, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(channels // 2)
        self.fc1 = ILAConv2d(channels // 2, channels // 4, 1, groups=2)
        self.fc2 = ILAConv2d(channels // 4, 4, 1, groups=2)
        self.pool = nn.MaxPool2d(2)
        self.point_range = config.point_range
        # The paper leaves the order open. Its FLOPs for Kinetics-400 are met with the pooling before each convolution
        self.pool_first = config.architecture == "paper" and config.alignment_conv == "separable"

    def start_in_the_centre(self) -> None:
        """Initial weights of the last layer."""
        for parameter in self.fc2.parameters():
            init.zeros_(parameter)

    def fuse(self) -> None:
        """See `fuse` of the models."""
        for convolution, norm in (("conv1", "norm1"), ("conv2", "norm2")):
            setattr(self, convolution, fuse_norm(getattr(self, convolution), getattr(self, norm)))
            setattr(self, norm, nn.Identity())

    def forward(self, interaction: torch.Tensor) -> torch.Tensor:
        hidden = interaction
        for convolution, norm in ((self.conv1, self.norm1), (self.conv2, self.norm2)):
            hidden = convolution(self.pool(hidden) if self.pool_first else hidden)
            hidden = norm(hidden) if self.pool_first else self.pool(norm(hidden))
            hidden = hidden.relu()
        hidden = hidden.amax((2, 3), keepdim=True)  # (M, C/2, 1, 1)
        points = self.fc2(self.fc1(hidden).relu()).flatten(1)  # (M, 4)
        return self.point_range * points.tanh().unflatten(1, (2, 2))


class ILAMask(nn.Module):
    """Mask around an interactive point (Eq. 6), in float32: points (..., 2) -> (..., h, w).

    A profile is η up to the distance δ and falls from there with the slope β, down to 0. In training it is averaged
    over nine points, shifted by `mask_jitter`·s·{-1, 0, 1}²; the buffer `jitter_scale` is s.
    """

    def __init__(self, config: ILAVisionConfig):
        super().__init__()
        self.peak, self.radius, self.slope = config.mask_peak, config.mask_radius, config.mask_slope
        self.jitter = config.mask_jitter
        self.separable = config.mask_distance == "separable"
        self.jitter_decay_epoch = config.mask_jitter_decay_epoch
        self.jitter_scale = nn.Buffer(torch.ones(()))

    # No hyperparameter: a state of the training
    # trf-ignore: TRF033
    def set_epoch(self, epoch: int) -> None:
        """Set s: 1 before the decay epoch, halved at it and at every later one."""
        self.jitter_scale.fill_(0.5 ** max(0, epoch + 1 - self.jitter_decay_epoch))

    def profile(self, distance: torch.Tensor) -> torch.Tensor:
        # η - β·max(0, |e| - δ) is the lower of η and η + βδ - β|e|
        return (self.peak + self.slope * self.radius - self.slope * distance).clamp(0.0, self.peak)

    def forward(self, points: torch.Tensor, height: int, width: int) -> torch.Tensor:
        centres = points.float()[..., None]  # (..., 2, S), of S shifts
        if self.training:
            shifts = centres.new_tensor([-1.0, 0.0, 1.0])
            centres = centres + self.jitter * self.jitter_scale.float() * shifts
        # Distances to every row and column for every shift: (..., S, w) and (..., S, h)
        columns = torch.linspace(-1, 1, width, device=points.device)
        rows = torch.linspace(-1, 1, height, device=points.device)
        x, y = columns - centres[..., 0, :, None], rows - centres[..., 1, :, None]
        if self.separable:
            # The mean over the 3×3 grid of products is the product of the means over the 3 shifts of each axis.
            x, y = self.profile(x.abs()).mean(-2), self.profile(y.abs()).mean(-2)
            return y[..., :, None] * x[..., None, :]
        squares = y[..., :, None, :, None] ** 2 + x[..., None, :, None, :] ** 2  # (..., S, S, h, w)
        # The root has no finite slope at 0; inside the radius the profile is flat, so the clamp changes nothing else.
        distance = squares.clamp(min=torch.finfo(squares.dtype).tiny).sqrt()
        return self.profile(distance).mean((-4, -3))


def pool_patches(patches: torch.Tensor, masks: torch.Tensor, mean: bool) -> torch.Tensor:
    """Sum or mean over the patches of the aligned features (Eq. 7, 3a), under K masks for every frame.

    (B, T, N, D), (B, T, K, h, w) -> (B, T, K, D)
    """
    masks = masks.flatten(3)  # (B, T, K, N)
    # Divided first: in float16 a sum over many patches could overflow
    masks = (masks / masks.shape[3] if mean else masks).to(patches.dtype)
    return masks @ patches


@dataclass
class ILAPairs:
    """The M pairs of neighbouring frames of B clips, and the points that align them.

    M is T - 1, or T where there is a frame before the first, or one to which all are aligned (Table 6). The pair of a
    frame with itself counts neither in the loss nor in the diagnostics.

    Args:
        interaction (B, M, C, h, w): Output of [`ILAInteraction`].
        points (B, M, 2, 2): Previous and current frame, (x, y).
        before (B, 1, h, w, D), optional: The map before the first.
        itself: Which pair is that of a frame with itself, if any.
        reference: Which frame is the previous one of every pair. None: the one before.
    """

    interaction: torch.Tensor
    points: torch.Tensor
    before: torch.Tensor | None
    itself: int | None
    reference: int | None = None

    @staticmethod
    def frames(
        sequence: torch.Tensor, before: torch.Tensor | None, reference: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Previous and current frame of every pair: (B, T, ...), (B, 1, ...) -> twice (B, M, ...)."""
        if reference is not None:
            return sequence[:, reference : reference + 1].expand_as(sequence), sequence
        if before is None:
            return sequence[:, :-1], sequence[:, 1:]
        return torch.cat([before, sequence[:, :-1]], dim=1), sequence

    def pool(self, patches: torch.Tensor, masks: torch.Tensor, mean: bool) -> torch.Tensor:
        """Both aligned features of every pair: (B, T, N, D), (B, M, 2, h, w) -> (B, M, 2, D)."""
        if self.has_all_frames:
            frames = self.frames(patches, None if self.before is None else self.before.flatten(2, 3), self.reference)
            return torch.cat([pool_patches(frames[i], masks[:, :, i : i + 1], mean) for i in range(2)], dim=2)
        # Every frame is both, the last and the first one under an empty mask: for products of their own, the patches
        # of all previous and of all current frames would be copied
        empty = torch.zeros_like(masks[:, :1, 0])
        as_previous, as_current = torch.cat([masks[:, :, 0], empty], dim=1), torch.cat([empty, masks[:, :, 1]], dim=1)
        pooled = pool_patches(patches, torch.stack([as_previous, as_current], dim=2), mean)  # (B, T, 2, D)
        return torch.stack([pooled[:, :-1, 0], pooled[:, 1:, 1]], dim=2)

    def own(self, per_pair: torch.Tensor) -> torch.Tensor:
        """What each frame is in the pair with its predecessor: (B, M, 2, ...) -> (B, T, ...).

        The first frame, if there is none before it, is the previous frame of the first pair.
        """
        if self.has_all_frames:
            return per_pair[:, :, 1]
        return torch.cat([per_pair[:, :1, 0], per_pair[:, :, 1]], dim=1)

    @property
    def has_all_frames(self) -> bool:
        """Whether every frame is the current one of a pair, so that M is T."""
        return self.before is not None or self.reference is not None

    def neighbours(self, per_pair: torch.Tensor) -> torch.Tensor:
        """Leave out the pair of a frame with itself: (B, M, ...) -> (B, T-1, ...)."""
        if self.itself is None:
            return per_pair
        if self.itself == 0:
            return per_pair[:, 1:]
        return torch.cat([per_pair[:, : self.itself], per_pair[:, self.itself + 1 :]], dim=1)


class ILAAlignment(nn.Module):
    """Implicit alignment of neighbouring frames (section 3.2). It knows maps of features, nothing of CLIP."""

    def __init__(self, config: ILAVisionConfig):
        super().__init__()
        # CODEPATH: "convolution" in all published models, "window_attention" in a row of Table 8
        operators = {"convolution": ILAInteraction, "window_attention": ILAWindowInteraction}
        self.interaction = operators[config.alignment_operator](config)
        self.prediction = ILAPointPrediction(config)
        self.mask = ILAMask(config)

    def init_weights(self) -> None:
        """Convolutions as in torch; every point in the centre; s = 1."""
        reset_convolutions(self)
        self.prediction.start_in_the_centre()
        init.ones_(self.mask.jitter_scale)

    def forward(
        self,
        maps: torch.Tensor,
        pair_with_itself: bool = False,
        before: torch.Tensor | None = None,
        reference: int | None = None,
    ) -> ILAPairs:
        """Pair maps (B, T, h, w, D) with their predecessors; the first with `before` (B, 1, h, w, D), or itself.

        With a `reference`, pair all with that frame.
        """
        batch = maps.shape[0]
        if pair_with_itself and reference is None:
            before = maps[:, :1]
        pairs = torch.cat(ILAPairs.frames(maps, before, reference), dim=4)  # previous frame first: (B, M, h, w, 2D)
        interaction = self.interaction(pairs.flatten(0, 1).permute(0, 3, 1, 2))  # (B·M, 2D, h, w) -> (B·M, C, h, w)
        points = self.prediction(interaction)
        interaction, points = (x.unflatten(0, (batch, -1)) for x in (interaction, points))
        itself = reference if reference is not None else 0 if pair_with_itself else None
        return ILAPairs(interaction, points, before, itself, reference)
