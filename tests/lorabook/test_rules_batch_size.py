import math
from dataclasses import replace

import pytest
from synthetic_records import BASE, jitter, make

from lorabook.claims.batch_size import gap_grows_with_batch, gaps_by_batch, growth
from lorabook.claims.evidence import Evidence
from lorabook.experiments import get
from lorakit.analysis.frames import runs, tidy
from lorakit.analysis.statistics import GridEdgeError
from lorakit.specs import LoRASpec, SFTSpec

REGIMES = {8: 0.02, 32: 0.05, 256: 0.08, 1024: 0.3}  # ‖ΔW‖/‖W‖: the largest batch is outside post-training


def batch_records(gap, batches=(8, 32, 256, 1024), ranks=(None, 16, 64), norms=REGIMES, steps=128):
    """Records at several batch sizes; `gap(batch, rank, seed)` is what LoRA loses, of an improvement of 1.5."""
    found = []
    for batch in batches:
        def loss(rank, rate, seed, step, batch=batch):
            late = 0.0 if rank is None else gap(batch, rank, seed)
            u = 0.2 * (math.log10(rate) + 3) ** 2
            return BASE - 1.5 + u + late + 0.01 * seed + jitter(rank or 500, seed, batch, size=0.001)

        for record in make(loss, ranks=ranks, metrics={"delta_norm": norms[batch]}, steps=(1, 8, steps)):
            spec = replace(SFTSpec.from_json(record.spec), batch_size=batch)
            found.append(replace(record, id=spec.id, spec=spec.to_json()))
    return found


def judged(*args, **kwargs):
    records = batch_records(*args, **kwargs)
    return gap_grows_with_batch(Evidence("cpu", "base@1", tidy(records), runs(records), peak_learning_rate=1e-2))


def doubling(each):
    """A gap that grows by `each` with every doubling of the batch, and is `each` at 32."""
    return lambda batch, rank, seed: each * math.log2(batch / 16)


def test_c5_holds_where_the_gap_grows_alike_at_every_rank():
    found = judged(doubling(0.1))
    assert found.outcome == "holds"
    assert "rank 64, growth of the gap from batch 32 to 256 +20" in found.reason
    assert "from batch 8" not in found.reason, "1024 is outside post-training, and 8 is below the claim's range"
    assert "batch 1024: new-skill regime" in found.regime


def test_c5_fails_where_the_gap_does_not_grow_or_shrinks():
    assert judged(lambda *run: 0.3).outcome == "does not hold"
    assert judged(doubling(-0.1)).outcome == "does not hold"


def test_c5_a_growth_below_the_margin_is_none():
    found = judged(doubling(0.01))
    assert found.interval.low > 0
    assert found.outcome == "does not hold"


@pytest.mark.parametrize("favoured", [16, 64])
def test_c5_fails_where_rank_changes_the_growth(favoured):
    found = judged(lambda batch, rank, seed: doubling(0.05 if rank == favoured else 0.15)(batch, rank, seed))
    assert found.outcome == "does not hold"


def test_c5_is_inconclusive_where_seeds_disagree_or_one_rank_is_missing():
    assert judged(lambda batch, rank, seed: doubling(0.1 * (seed - 1))(batch, rank, seed)).outcome == "inconclusive"
    assert judged(doubling(0.1), ranks=(None, 64)).outcome == "inconclusive"


def test_c5_looks_at_ranks_of_16_or_more_with_a_trained():
    low = judged(lambda batch, rank, seed: doubling(0.5 if rank == 1 else 0.1)(batch, rank, seed),
                 ranks=(None, 1, 16, 64))
    assert low.outcome == "holds"
    records = batch_records(doubling(0.1))
    frozen = []
    for record in batch_records(lambda *run: 0.0, ranks=(64,)):
        spec = replace(SFTSpec.from_json(record.spec), lora=LoRASpec(rank=64, train_a=False))
        frozen.append(replace(record, id=spec.id, spec=spec.to_json()))
    both = [*records, *frozen]
    evidence = Evidence("cpu", "base@1", tidy(both), runs(both), peak_learning_rate=1e-2)
    assert gap_grows_with_batch(evidence).outcome == "holds"


@pytest.mark.parametrize(("norms", "words"), [
    ({8: 0.02, 32: 0.05, 256: 0.3, 1024: 0.3}, "32; they must span"), ({4: 0.02, 8: 0.02, 16: 0.02}, "none; they must"),
    ({8: 0.02, 64: 0.05}, "64; they must"),
])
def test_c5_needs_batches_of_the_claim_far_apart_in_post_training(norms, words):
    found = judged(doubling(0.1), batches=tuple(norms), norms=norms)
    assert found.outcome == "not tested"
    assert words in found.reason


def test_c5_needs_steps_at_the_largest_batch():
    found = judged(doubling(0.1), steps=29)
    assert found.outcome == "not tested"


def test_c5_raises_where_one_batch_has_its_best_rate_at_the_edge():
    def loss(rank, rate, seed, step):
        return BASE - 1.5 - 0.1 * math.log10(rate)

    records = make(loss, ranks=(None, 16, 64))
    with pytest.raises(GridEdgeError):
        gap_grows_with_batch(Evidence("cpu", "base@1", tidy(records), runs(records), peak_learning_rate=1e-2))


def test_gaps_and_their_growth_by_hand():
    records = batch_records(lambda batch, rank, seed: 0.1 * seed if batch == 8 else 0.5, batches=(8, 32))
    small, large = gaps_by_batch(tidy(records), runs(records), 1e-2)
    assert (small.batch, large.batch) == (8, 32)
    assert small.by_arm["rank 16"][3] == pytest.approx(0.3, abs=0.005)
    assert growth(small, large, "rank 16")[3] == pytest.approx(0.2, abs=0.01)
    assert small.improvement[0] == pytest.approx(1.5, abs=0.01)


@pytest.mark.parametrize(("profile", "size"), get("batch-size").runs)
def test_every_batch_sees_the_same_samples_and_has_its_own_equally_dense_grid(profile, size):
    specs = get("batch-size").specs(profile, size)
    assert len({spec.steps * spec.batch_size * spec.accumulation for spec in specs}) == 1
    grids = {}
    for spec in specs:
        grids.setdefault((spec.batch_size * spec.accumulation, spec.lora), set()).add(spec.learning_rate)
    assert len({len(rates) for rates in grids.values()}) == 1
    steps = [max(rates) / min(rates) for rates in grids.values()]
    assert max(steps) / min(steps) == pytest.approx(1, abs=0.02)
    assert len({batch for batch, _ in grids}) >= 2


def test_the_batch_of_eight_is_that_of_the_rank_chapter():
    shared = {spec.id for spec in get("rank-replay").specs("cpu", "record")}
    assert sum(spec.id in shared for spec in get("batch-size").specs("cpu", "record")) == 3 * 5 * 5
