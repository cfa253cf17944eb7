"""What a run keeps track of; that ILATrainer does so is in test_trainer.py."""

import json
import math

import pytest

from ila_hf.training.progress import LossRecord, check_gradient


def test_loss_record_is_a_mean_over_batches_and_can_be_restored():
    record = LossRecord()
    for value in (1.0, 2.0, 6.0):
        record.add({"loss": value, "classification_loss": 2 * value, "alignment_loss": 0.0})
    restored = LossRecord()
    restored.__dict__.update(json.loads(json.dumps(record.__dict__)))
    for one in (record, restored):
        assert one.take() == {"loss": 3.0, "classification_loss": 6.0, "alignment_loss": 0.0}
        one.add({"loss": 5.0, "classification_loss": 1.0, "alignment_loss": 0.5})
        assert one.take()["loss"] == 5.0
        assert one.total / one.total_batches == 3.5


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite(norm):
    check_gradient(1e30, 7)
    with pytest.raises(FloatingPointError, match=f"not finite in step 7: its norm is {norm:g}"):
        check_gradient(norm, 7)
