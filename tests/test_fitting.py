"""What cannot fit on a card is refused before it is probed, with what would hold it."""

from dataclasses import replace

import pytest

from lorakit.specs import LoRASpec, SFTSpec
from lorakit.sweep import sweeps
from lorakit.sweep.workers import Worker
from lorakit.theory.fitting import DoesNotFitError, least_bytes, needed_bytes, require_fit
from lorakit.theory.hardware import GPUS

LLAMA = SFTSpec(model="meta-llama/Llama-3.1-8B@d04e592bb4f6aa9cfee91e2e20afa771667e1d4b", dataset="d@1",
                learning_rate=1e-4, lora=LoRASpec(rank=64), batch_size=16, max_length=2048, dtype="bfloat16")
OWN = replace(LLAMA, model="mine@0123456789ab", lora=None)


def test_a_run_fits_if_micro_batches_or_recompute_make_it_fit():
    assert needed_bytes(LLAMA, LLAMA.batch_size, False) > GPUS["H100"].bytes > least_bytes(LLAMA)
    require_fit([LLAMA], "NVIDIA H100 80GB HBM3")


def test_what_cannot_fit_is_named_with_the_cards_that_would_hold_it():
    with pytest.raises(DoesNotFitError, match=r"1 of 1 runs cannot fit on one T4 .*lora of meta-llama/Llama-3.1-8B, up "
                                              r"to \d+ GB in micro-batches .*One .*H100.* would hold them"):
        require_fit([LLAMA], "T4")
    with pytest.raises(DoesNotFitError, match=r"full of meta-llama.*No known GPU alone would hold them: take an ad"):
        require_fit([LLAMA, replace(LLAMA, lora=None)], "H100")


def test_a_model_that_nobody_knows_is_left_to_the_probe():
    assert least_bytes(OWN) == 0
    require_fit([OWN], "T4")


def test_a_plan_on_a_machine_asks_of_its_own_card(monkeypatch, tmp_path):
    monkeypatch.setattr("lorakit.sweep.devices._usable_gpus", lambda: ["Tesla T4", "a card of tomorrow"])
    monkeypatch.setattr(Worker, "ask", lambda *_: pytest.fail("a probe was started"))
    with pytest.raises(DoesNotFitError, match="cannot fit on one T4"):
        sweeps.plan([LLAMA], tmp_path, device="cuda")


