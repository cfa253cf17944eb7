"""The counts of FLOPs, compared with those that README and docs state, and with a formula."""

import pytest

from ila_hf import PRESET_NAMES, ILAConfig
from ila_hf.analysis.flops import clip_flops, trunk_flops


def test_flops_of_the_ten_variants():
    """What the docs state; the published figures differ by up to 2 % (B/32: -7 %, the last row: +14 %)."""
    expected = (37.3, 74.9, 148.7, 298.5, 675.6, 3186.6, 214.1, 438.7, 891.2, 4226.4)
    for name, value in zip(PRESET_NAMES, expected, strict=True):
        assert trunk_flops(ILAConfig.from_preset(name)) == pytest.approx(value, rel=0.01)
    released = {"ila-base-patch32": 49.9, "ila-base-patch16": 198.6}
    for name, value in released.items():
        config = ILAConfig.from_preset(name, architecture="released")
        assert trunk_flops(config) == pytest.approx(value, rel=0.01)


def test_clip_costs_what_its_matrices_cost():
    """8 frames, 12 layers, L = 197 tokens of width D = 768: 12 D² L + 2 D L² a layer, and the patches."""
    config = ILAConfig.from_preset("ila-base-patch16")
    layer = 12 * 768**2 * 197 + 2 * 768 * 197**2
    patches = 196 * 768 * 3 * 16**2
    assert clip_flops(config) == pytest.approx(8 * (12 * layer + patches) / 1e9)


def test_a_trunk_that_aligns_nowhere_costs_as_much_as_clip():
    config = ILAConfig.from_preset("ila-base-patch16", vision_config={"alignment_layers": []})
    assert trunk_flops(config) == clip_flops(config)
