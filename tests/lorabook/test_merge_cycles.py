"""The matrix that is merged and unmerged is treated as PEFT treats a layer's."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from lorabook.probes.merge_cycles import ALPHA, RANK, WIDTH, changes, drift, lost, matrix, steps_until_seen


@pytest.mark.parametrize("round_first", [False, True])
def test_a_cycle_is_pefts(round_first):
    weight, draw = matrix(torch.bfloat16)
    delta = next(changes(draw, learns=False))
    left, values, right = torch.linalg.svd(delta)
    model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH, bias=False, dtype=torch.bfloat16)),
                           LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["0"]))
    layer = model.base_model.model[0]
    with torch.no_grad():
        layer.base_layer.weight.copy_(weight)
        layer.lora_A["default"].weight.copy_(right[:RANK])
        layer.lora_B["default"].weight.copy_(left[:, :RANK] * values[:RANK] * RANK / ALPHA)
    for _ in range(3):
        model.merge_adapter(safe_merge=round_first)
        model.unmerge_adapter()
    theirs = ((layer.base_layer.weight - weight.double()).norm() / weight.double().norm()).item()
    assert theirs == pytest.approx(drift(torch.bfloat16, learns=False, cycles=3, round_first=round_first)[-1], rel=0.02)


def test_a_small_change_is_lost_in_bfloat16_and_arrives_in_float32():
    assert lost(torch.bfloat16, 1e-4) > 0.9 > 0.5 > lost(torch.bfloat16, 1e-2)
    assert lost(torch.float32, 1e-5) < 0.01


def test_half_the_change_is_seen_later_at_a_lower_rate_and_a_greater_width():
    assert steps_until_seen(1e-6, 4096) == pytest.approx(10 * steps_until_seen(1e-5, 4096))
    assert steps_until_seen(1e-5, 4096) == pytest.approx(2 * steps_until_seen(1e-5, 1024))
