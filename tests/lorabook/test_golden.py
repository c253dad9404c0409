"""Code may change as long as these numbers do not; what must change them opens an epoch (`lorakit/epochs.py`)."""

import pytest
import torch
from golden import CASES, HERE, measure, stored

from lorakit.packed import layers, optimizer
from lorakit.packed.optimizer import PackedAdamW

BOUND = 1e-6
STORED = stored()
pytestmark = pytest.mark.filterwarnings("ignore::lorakit.theory.shapes.RankWasteWarning")


def distance(name):
    """The largest difference of a curve from the stored one, over its points and columns."""
    now, then = measure(name), STORED[name][2]
    assert now.keys() == then.keys()
    assert now["step"] == then["step"]
    return max(abs(a - b) for column in now if column != "step" for a, b in zip(now[column], then[column], strict=True))


def test_every_case_is_stored_with_its_spec():
    assert {name: (engine, spec) for name, (engine, spec, _) in STORED.items()} == CASES


@pytest.mark.parametrize("name", HERE)
def test_a_golden_curve_repeats(name):
    assert distance(name) <= BOUND


@pytest.mark.parametrize("name", HERE)
def test_a_golden_run_moves(name):
    """A run that changes nothing would repeat whatever the code does."""
    for column, values in STORED[name][2].items():
        assert abs(values[-1] - values[0]) > 0.003 * abs(values[0]), column


STEP = PackedAdamW.step


def clipped_late(self):
    """AdamW that clips its update instead of its gradient."""
    self.clips, before = False, self.flat.clone()
    norm = STEP(self)
    share = (self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0).unsqueeze(1)
    self.flat.copy_(before + (self.flat - before) * share)
    return norm


def break_epsilon(patch):
    made = optimizer.PackedAdamW.__init__
    patch.setattr(optimizer.PackedAdamW, "__init__",
                  lambda self, groups, betas, epsilon, clip: made(self, groups, betas, 10 * epsilon, clip))


def break_clipping(patch):
    patch.setattr(PackedAdamW, "step", clipped_late)


def break_scale(patch):
    made = layers.PackedLoRALinear.__init__

    def unscaled(self, base, a, b, scale, *rest):
        made(self, base, a, b, torch.ones_like(scale), *rest)

    patch.setattr(layers.PackedLoRALinear, "__init__", unscaled)


@pytest.mark.parametrize(("name", "broken"), [
    ("packed rank 1", break_epsilon), ("packed full", break_epsilon), ("rl policy gradient", break_epsilon),
    ("packed rank 16, clipped", break_clipping), ("packed full, decay, clipped", break_clipping),
    ("packed rank 8, alpha 16, seed 3", break_scale), ("packed B alone", break_scale),
])
def test_a_broken_engine_leaves_the_golden_curves(name, broken, monkeypatch):
    broken(monkeypatch)
    assert distance(name) > BOUND
