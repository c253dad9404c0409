"""What the book makes of `estimate`."""

import pytest

import lorakit as lk
from lorabook.claims.cost import flops_ratio, peaks_lower_in_rl
from lorabook.claims.decisions import FAILS, HOLDS, OPEN
from lorakit.records import Record, Store
from lorakit.theory.compute import training_flops


def counted(store, rank, factor=1.0, recompute=False):
    shape, lora = lk.ModelShape.of("tiny"), lk.LoRASpec(rank=rank) if rank else None
    spec = {"kind": "count", "model": "tiny@1", "shape": "tiny", "rank": rank, "recompute": recompute, "batch_size": 2,
            "length": 64}
    flops = factor * 128 * sum(training_flops(shape, lora, 64, recompute).values())
    store.append("cpu", "counts", Record(spec=spec, id=f"{rank}-{recompute}", status="ok", metrics={"flops": flops}))


@pytest.mark.parametrize(("ranks", "factor", "outcome"), [
    ((None, 1, 4, 128), 1.0, HOLDS), ((None, 1, 4), 1.02, FAILS), ((None, 1, 128), 1.0, OPEN), ((1, 4), 1.0, OPEN)])
def test_c11_follows_its_rule(tmp_path, ranks, factor, outcome):
    store = Store(tmp_path)
    for rank in ranks:
        counted(store, rank, factor if rank == 4 else 1.0)
        counted(store, rank, 3.0, recompute=True)  # another question
    ((scale, found),) = flops_ratio(store)
    assert found.outcome == outcome, found.reason
    assert scale.parameters == 393_856
    if outcome == HOLDS:
        assert 0.66 < found.interval.low < found.interval.high < 0.71
        assert "rank 128 2." in found.reason


def test_c11_fails_where_a_low_rank_saves_nothing(tmp_path, monkeypatch):
    from lorabook.claims import step_cost

    monkeypatch.setattr(step_cost, "training_flops", lambda shape, lora, *_: {"all": 10.0 if lora else 10.1})
    store = Store(tmp_path)
    for rank in (None, 1, 4):
        spec = {"model": "tiny@1", "shape": "tiny", "rank": rank, "recompute": False, "batch_size": 1, "length": 1}
        store.append("cpu", "counts", Record(spec=spec, id=str(rank), status="ok",
                                             metrics={"flops": 10.0 if rank else 10.1}))
    ((_, found),) = flops_ratio(store)
    assert found.outcome == FAILS


def test_c11_without_counts_is_silent(tmp_path):
    assert flops_ratio(Store(tmp_path)) == []


@pytest.mark.parametrize(("shares", "outcome"), [
    ((0.6, 0.62, 0.61), HOLDS), ((1.2, 1.22, 1.21), FAILS), ((0.5, 1.5, 1.0), OPEN), ((0.6, 0.6), OPEN)])
def test_t2_follows_its_rule(tmp_path, shares, outcome):
    store = Store(tmp_path)
    for seed, share in enumerate(shares):
        for rank, peak in ((None, 3e9), (1, share * 3e9)):
            spec = {"kind": "rl-memory", "model": "m@1", "rank": rank, "seed": seed}
            store.append("cpu", "rl-memory", Record(spec=spec, id=f"{rank}-{seed}", status="ok",
                                                    metrics={"peak_bytes": peak, "weights": 400}))
    ((scale, found),) = peaks_lower_in_rl(store)
    assert (found.outcome, found.seeds, scale.parameters) == (outcome, len(shares), 100)
    assert peaks_lower_in_rl(Store(tmp_path / "empty")) == []


def test_a_base_of_the_book_brings_its_shape():
    spec = lk.SFTSpec(model="smollm2-135m-instruct-q4", learning_rate=1e-3, dtype="bfloat16")
    assert lk.estimate(None, spec, "H200").memory["weights"] == 2 * 134_515_008
