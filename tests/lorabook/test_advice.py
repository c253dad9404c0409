"""Advised rates beside measured ones."""

import pytest
from synthetic_records import make

from lorabook.page import advice
from lorakit.analysis.sweep import Sweep


def test_an_advised_rate_is_held_against_the_best_one_and_priced():
    part = Sweep(make(ranks=(None, 16), model="base@1"))
    full, lora = advice._of(part, "a base", "text", "smollm2-135m", False)
    assert (full.arm, lora.arm, lora.setting, lora.in_fit) == ("full", "rank 16", "text, 128 steps", False)
    assert lora.best == pytest.approx(1e-3, rel=0.05)
    assert lora.factor == pytest.approx(0.68, abs=0.02), "7.0e-4 over 1e-3"
    assert 0 < lora.cost < 0.02
    assert full.cost != full.cost, "7e-5 lies below the grid"
    text = repr(advice.table([full, lora]))
    assert "off the grid" in text
    assert "a base, text, 128 steps  " in text
    assert f"{lora.cost:+.0%}" in text
