"""The deletion check: against a naive computation, and with scores that depend on one place."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ila_hf import ILAForVideoClassification, ILAForVideoTextClassification, ILAVisionModel
from ila_hf.analysis import deletion_check
from ila_hf.analysis.deletion import hide_patches


class OnePlace(nn.Module):
    """The score of class 1 is the brightness of the patch in row 1, column 2 of every frame; that of class 0 is 0."""

    config = SimpleNamespace(patch_size=8, image_size=32, num_channels=3)

    def forward(self, pixel_values):
        score = pixel_values[:, :, :, 8:16, 16:24].sum((1, 2, 3, 4)) / (3 * 64)
        return SimpleNamespace(logits=torch.stack([torch.zeros_like(score), score], dim=1))


def test_a_score_of_one_place():
    """Frames are black but for that patch: hiding it takes 15/16 of the score; hiding any other, nothing."""
    clip = torch.zeros(1, 2, 3, 32, 32)
    clip[:, :, :, 8:16, 16:24] = 1
    right, wrong = torch.zeros(2, 1, 2, 4, 4)
    right[..., 1, 2] = 1
    wrong[..., 3, 0] = 1
    found = deletion_check(OnePlace(), clip, right, share=1 / 16, draws=400)
    assert (int(found.class_ids), float(found.score), found.hidden, found.draws) == (1, 2.0, 1, 400)
    assert float(found.drop) == pytest.approx(2 * 15 / 16)
    # The two frames fall by 15/16 each, together, with a chance of 1/16: mean 2·15/256, variance 4·(15/16)³/16
    assert float(found.random_mean) == pytest.approx(2 * 15 / 256, abs=0.08)
    assert float(found.random_std) == pytest.approx((4 * (15 / 16) ** 3 / 16) ** 0.5, abs=0.12)
    assert float(deletion_check(OnePlace(), clip, wrong, share=1 / 16).drop) == 0
    assert float(deletion_check(OnePlace(), clip, right, class_id=0).drop) == 0


def test_a_patch_stays():
    clip = torch.zeros(1, 2, 3, 32, 32)
    clip[:, :, :, 8:16, 16:24] = 1
    darkest = torch.ones(1, 2, 4, 4)
    darkest[..., 1, 2] = 0
    found = deletion_check(OnePlace(), clip, darkest, share=0.99)
    assert (found.hidden, float(found.drop)) == (15, 0.0)


def test_what_is_hidden_at_random_is_as_steady_as_the_map():
    """A score that only falls where something flickers: a map that stays says no more than chance, nor less."""

    class Steadiness(OnePlace):
        def forward(self, pixel_values):
            steady = -(pixel_values[:, 1:] - pixel_values[:, :-1]).abs().mean((1, 2, 3, 4))
            return SimpleNamespace(logits=torch.stack([steady, torch.full_like(steady, -9.0)], dim=1))

    still = torch.rand(1, 1, 3, 32, 32).expand(-1, 4, -1, -1, -1).contiguous()
    found = deletion_check(Steadiness(), still, torch.rand(1, 1, 4, 4).expand(-1, 4, -1, -1))
    for value in (found.drop, found.random_mean, found.random_std):
        assert float(value) == pytest.approx(0, abs=1e-6)


def test_equal_values_are_ordered_at_random():
    """A map that highlights nothing must not favour a corner: with a patch of 16 hidden, each is as likely."""
    clip = torch.zeros(400, 1, 3, 32, 32)
    clip[..., 8:16, 16:24] = 1
    fallen = deletion_check(OnePlace(), clip, torch.ones(400, 1, 4, 4), class_id=1, share=1 / 16).drop > 0
    assert fallen.float().mean() == pytest.approx(1 / 16, abs=0.04)


@pytest.mark.parametrize("model_class", [ILAForVideoTextClassification, ILAForVideoClassification])
@torch.no_grad()
def test_naive_computation(tiny_model, model_class):
    """Patch by patch, on frames with pixels that belong to no patch."""
    model = tiny_model(model_class)
    clips, maps = torch.randn(2, 3, 3, 35, 50), torch.rand(2, 3, 4, 6)
    found = deletion_check(model, clips, maps, share=0.2, draws=5, seed=3)
    assert found.hidden == 5  # of 24

    def logits(pixel_values):
        return model(pixel_values, interpolate_pos_encoding=True).logits

    classes = logits(clips).argmax(1)
    assert found.class_ids.tolist() == classes.tolist()

    def score(chosen):
        hidden = clips.clone()
        for b, t in torch.cartesian_prod(torch.arange(2), torch.arange(3)).tolist():
            for place in chosen(b, t):
                row, column = divmod(int(place), 6)
                patch = hidden[b, t, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
                for channel in range(3):
                    patch[channel] = clips[b, t, channel].mean()
        return logits(hidden)[torch.arange(2), classes]

    whole = logits(clips)[torch.arange(2), classes]
    torch.testing.assert_close(found.score, whole)

    def highlighted(b, t):
        return sorted(range(24), key=lambda place: -float(maps[b, t].flatten()[place]))[:5]

    torch.testing.assert_close(found.drop, whole - score(highlighted), atol=1e-5, rtol=1e-4)
    # The same generator: an order for equal values comes first
    generator = torch.Generator().manual_seed(3)
    torch.rand(2, 3, 24, generator=generator)
    elsewhere = [torch.randperm(24, generator=generator).argsort() for _ in range(5)]
    falls = [whole - score(lambda b, t, to=to: to[highlighted(b, t)]) for to in elsewhere]
    mean = sum(falls) / 5
    torch.testing.assert_close(found.random_mean, mean, atol=1e-5, rtol=1e-4)
    variance = sum((fall - mean) ** 2 for fall in falls) / 4
    torch.testing.assert_close(found.random_std, variance.sqrt(), atol=1e-5, rtol=1e-4)


def test_the_seed_gives_the_draws(tiny_model, clips):
    model, maps = tiny_model(), torch.rand(2, 8, 4, 4)
    one, same, other = (deletion_check(model, clips, maps, draws=2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.random_mean, same.random_mean)
    assert not torch.equal(one.random_mean, other.random_mean)
    assert torch.equal(one.drop, other.drop)


def test_the_mean_colour_is_that_of_the_frame():
    clip = torch.arange(2 * 3 * 16 * 16.0).view(1, 2, 3, 16, 16)
    places = torch.zeros(1, 2, 2, 2, dtype=torch.bool)
    places[0, 1, 0, 1] = True
    hidden = hide_patches(clip, places, 8)
    assert torch.equal(hidden[0, 0], clip[0, 0])
    for channel in range(3):
        assert (hidden[0, 1, channel, :8, 8:] == clip[0, 1, channel].mean()).all()
    assert torch.equal(hidden[0, 1, :, 8:], clip[0, 1, :, 8:])
    assert torch.equal(hidden[0, 1, :, :, :8], clip[0, 1, :, :, :8])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attribution": torch.rand(2, 7, 4, 4)}, r"must be \(B, T, h, w\) = \(2, 8, 4, 4\), got \(2, 7, 4, 4\)"),
        ({"attribution": torch.full((2, 8, 4, 4), torch.nan)}, "`attribution` must be finite, got NaN or infinity"),
        ({"attribution": -torch.rand(2, 8, 4, 4).log() / 0}, "`attribution` must be finite"),
        ({"share": 0}, "`share` must be between 0 and 1, got 0"),
        ({"share": 1}, "`share` must be between 0 and 1, got 1"),
        ({"draws": 1}, "`draws` must be at least 2, got 1"),
        ({"class_id": -1}, r"`class_id` must be in \[0, 7\], got -1"),
    ],
)
def test_it_refuses(tiny_model, clips, arguments, message):
    with pytest.raises(ValueError, match=message):
        deletion_check(tiny_model(), clips, **{"attribution": torch.rand(2, 8, 4, 4), **arguments})
    with pytest.raises(ValueError, match="need a classification model, got ILAVisionModel"):
        deletion_check(tiny_model(ILAVisionModel), clips, torch.rand(2, 8, 4, 4))
