"""What the models refuse, and what they say then."""

import pytest
import torch

from ila_hf import ILAForVideoClassification, ILAForVideoTextClassification, ILAModel, ILAVisionModel
from ila_hf.demo.tiny import tiny_tokenizer


HEADS = (ILAForVideoTextClassification, ILAForVideoClassification)


def test_one_pair_of_few_patches_cannot_train(tiny_model):
    model = tiny_model(training=True)
    message = "BatchNorm cannot train on one pair of frames so small: pass at least 2 clips or 3 frames"
    with pytest.raises(ValueError, match=message):
        model(torch.randn(1, 2, 3, 32, 32))
    assert model.eval()(torch.randn(1, 2, 3, 32, 32)).logits.isfinite().all()


@pytest.mark.parametrize("model_class", HEADS)
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 8]), r"in \[0, 7\] for 8 classes, got \[8\]"),
        (torch.tensor([-1, 0]), r"in \[0, 7\] for 8 classes, got \[-1\]"),
        (torch.tensor([0, 1, 2]), r"one class id per clip, \(2,\), got shape \(3,\)"),
        (torch.tensor([[0], [1]]), r"one class id per clip, \(2,\), got shape \(2, 1\)"),
        (torch.ones(2, 9), r"\(B, K\) = \(2, 8\) like the logits, got \(2, 9\)"),
    ],
)
def test_bad_labels(tiny_model, clips, model_class, labels, message):
    model = tiny_model(model_class, num_labels=8)
    with pytest.raises(ValueError, match=message):
        model(clips, labels=labels)


@pytest.mark.parametrize("model_class", [ILAVisionModel, *HEADS])
@pytest.mark.parametrize(
    ("pixel_values", "message"),
    [
        (None, "`pixel_values` is missing"),
        (torch.zeros(8, 3, 32, 32), r"five dimensions, \(B, T, 3, H, W\), got shape \(8, 3, 32, 32\)"),
        (torch.zeros(1, 8, 4, 32, 32), r"3 channels, \(B, T, 3, H, W\), got \(1, 8, 4, 32, 32\)"),
        (torch.zeros(1, 0, 3, 32, 32), r"at least one clip and one frame.*got \(1, 0, 3, 32, 32\)"),
        (torch.zeros(0, 8, 3, 32, 32), r"at least one clip and one frame.*got \(0, 8, 3, 32, 32\)"),
        (torch.zeros(1, 8, 3, 32, 32, dtype=torch.uint8), "floating point, got torch.uint8: ILAVideoProcessor"),
        (torch.zeros(1, 8, 3, 32, 24), r"at least 32×32 pixels, got 4×3 patches of 8 pixels"),
    ],
)
def test_bad_clips(tiny_model, model_class, pixel_values, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(model_class)(pixel_values, interpolate_pos_encoding=True)


@pytest.mark.parametrize(
    ("texts", "arguments", "message"),
    [
        ([], {}, "`texts` is empty"),
        (torch.zeros(0, 5, dtype=torch.long), {}, "`texts` is empty"),
        ("run", {}, "must be a list with one text per class, got the string 'run'"),
        (["a", "b", "a"], {"tokenizer": tiny_tokenizer()}, r"must be different, got \['a'\] more than once"),
        (["run"], {}, "'run' need `tokenizer`"),
        (["run"], {"labels": ["a", "b"]}, "2 `labels` for 1 class texts"),
        (["go", "x" * 90], {"tokenizer": tiny_tokenizer()}, "'xxx.*' has 92 tokens; the text tower takes 77"),
        (torch.ones(2, 78, dtype=torch.long), {}, r"S up to 77, got shape \(2, 78\)"),
        (torch.ones(7, dtype=torch.long), {}, r"must be \(K, S\).*got shape \(7,\)"),
        (torch.full((1, 5), 514), {}, r"in \[0, 513\], got values from 514 to 514"),
        (torch.tensor([[512, 5, 513], [512, 5, 5]]), {}, r"Class text 1 has no end-of-text token \(id 513\)"),
    ],
)
def test_bad_class_texts(tiny_model, texts, arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_model().set_class_texts(texts, **arguments)


@pytest.mark.parametrize("model_class", [ILAModel, ILAForVideoTextClassification])
def test_empty_texts_of_a_call(tiny_model, clips, model_class):
    with pytest.raises(ValueError, match=r"at least one text, \(K, S\), got shape \(0, 5\)"):
        tiny_model(model_class)(pixel_values=clips, input_ids=torch.zeros(0, 5, dtype=torch.long))
