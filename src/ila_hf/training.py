# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What training ILA with the Trainer needs beyond it."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class MaskJitterCallback(TrainerCallback):
    """Decays the mask jitter with the epochs; see [`ILAPreTrainedModel.set_mask_jitter_epoch`]."""

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Set the jitter of the epoch that begins."""
        # The epoch is a sum of fractions; one that has just ended may fall short by rounding
        model.set_mask_jitter_epoch(int((state.epoch or 0) + 1e-3))
