"""The questions that one asks of a sweep, on records with a known answer, and on recorded runs against the ledger."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from synthetic_records import BASE, RATES, make

import lorakit as lk
from lorakit.analysis.curves import FrameError
from lorakit.analysis.statistics import GridEdgeError, GridEdgeWarning, SeedError
from lorakit.analysis.tables import Table
from lorakit.records import Record, Store

LAG = {None: 0.0, 1: 0.4, 8: 0.0, 16: 0.1, 64: -0.4}  # of the end's loss; full fine-tuning gains 2 nats


def loss(rank, rate, seed, step):
    """A parabola around 1e-3 (full: 3e-4); ranks differ by `LAG`, and rank 16 by noise that seeds do not share."""
    noise = (0.2 if rank == 16 else 0.002) * math.sin(9.7 * seed + (rank or 500))
    return 1 + 0.5 * math.log10(rate / (1e-3 if rank else 3e-4)) ** 2 + LAG[rank] + noise + 0.1 * seed


@pytest.fixture(scope="module")
def sweep():
    return lk.Sweep(make(loss, ranks=tuple(LAG), steps=(1, 10)))


def test_a_comparison_says_worse_equal_better_and_open(sweep):
    found = sweep.compare()
    assert {arm: gap.word for arm, gap in found.items()} == {
        "rank 1": "worse", "rank 8": "equal", "rank 16": "open", "rank 64": "better"}
    gap = found["rank 1"]
    assert gap.mean == pytest.approx(100 * 0.4 / sweep.improvement(), abs=0.3)
    assert gap.low < gap.mean < gap.high
    assert (gap.n, gap.margin, gap.unit) == (5, 5.0, "% of full's improvement")
    assert sweep.compare("rank 1")["full"].word == "better"
    assert sweep.compare(margin=30)["rank 1"].word == "equal"


def test_the_improvement_is_what_the_reference_gains_over_the_base(sweep):
    assert sweep.improvement() == pytest.approx(BASE - 1 - 0.2, abs=0.01)  # seeds add 0.2 on average


def test_optima_and_ratio_find_the_known_rates(sweep):
    best = sweep.optima()
    assert best["full"].learning_rate == pytest.approx(3e-4, rel=0.02)
    assert best["rank 8"].low <= 1e-3 * 1.001
    assert best["rank 8"].high >= 1e-3 * 0.999
    ratio = sweep.ratio()["rank 8"]
    assert ratio.mean == pytest.approx(1e-3 / 3e-4, rel=0.02)
    assert ratio.low <= ratio.mean <= ratio.high
    assert sweep.optima().frame.loc["full", "grid_rate"] == 3e-4


def test_the_window_leaves_out_what_lies_beyond_a_cliff():
    def cliff(rank, rate, seed, step):
        return 9.0 if rank and rate == max(RATES) else loss(rank, rate, seed, step)

    fallen = lk.Sweep(make(cliff, ranks=(None, 8), steps=(1, 10)))
    narrow, wide = fallen.ratio()["rank 8"], fallen.ratio(reach=2)["rank 8"]
    assert narrow.mean == pytest.approx(1e-3 / 3e-4, rel=0.02)
    assert wide.mean < 0.8 * narrow.mean


def test_a_sweep_without_a_finished_run_says_so():
    nothing = lk.Sweep([])
    assert nothing.runs.empty
    assert nothing.curves.empty
    for ask in (nothing.best, nothing.optima, nothing.ratio, nothing.table, nothing.plot.loss, nothing.compare,
                nothing.plot.gaps, nothing.plot.u_curve):
        with pytest.raises(ValueError, match=r"no finished run|nothing to compare"):
            ask()


def test_a_ratio_over_partly_shared_seeds_fits_both_arms_to_those_alone():
    """Full fine-tuning's seeds 2 to 4 lie elsewhere; with bends of 1 and 3 the minimum of seeds 0 and 1 is known."""
    def bowl(rank, rate, seed, step):
        bend, center = {0: (1, -3.1), 1: (3, -2.9)}.get(seed, (20, -2.5))
        return 1 + bend * (math.log10(rate) - center - (0.5 if rank else 0)) ** 2

    half = [10 ** (k / 2) for k in range(-9, -2)]
    records = [*make(bowl, ranks=(None,), rates=half), *make(bowl, ranks=(8,), rates=half, seeds=range(2)),
               *make(bowl, ranks=(16,), rates=half, seeds=[1])]
    sweep = lk.Sweep(records)
    both, one = sweep.ratio()["rank 8"], sweep.ratio()["rank 16"]
    assert (both.mean, both.n) == (pytest.approx(10**0.5), 2)
    assert sweep.optima()["rank 8"].learning_rate == pytest.approx(10 ** ((-3.1 - 3 * 2.9) / 4 + 0.5))
    assert (one.mean, one.low, one.high, one.n) == (pytest.approx(10**0.5), 0, math.inf, 1)


def test_the_best_run_is_the_best_seed_at_the_best_rate(sweep):
    best = sweep.best()
    assert (best.spec["lora"]["rank"], best.spec["learning_rate"], best.spec.get("seed", 0)) == (64, 1e-3, 0)
    assert sweep.best("full").spec["lora"] is None
    assert {record.spec["learning_rate"] for record in sweep.at_best()} == {3e-4, 1e-3}
    assert len(sweep.at_best()) == 5 * len(LAG)


def test_one_seed_has_no_interval_and_says_so(sweep):
    one = sweep.only(seed=0)
    gap = one.compare()["rank 1"]
    assert (gap.word, gap.low, gap.high) == ("open", -math.inf, math.inf)
    assert "1 seed, no interval" in repr(one.compare())
    assert "1 seed, none" in repr(one.optima())
    assert "1 seed, no interval" in repr(one.ratio())
    assert "1 seed" in str(one.plot.u_curve().to_dict()["title"])
    assert "1 seed; no intervals" in str(one.plot.gaps().to_dict()["title"])


def test_two_settings_of_one_adapter_are_two_arms():
    specs = [replace(spec, batch_size=size) for size in (4, 32)
             for spec in lk.vary(lk.SFTSpec(model="m@1", dataset="d@1", learning_rate=1e-3, steps=2),
                                 rank=[8], learning_rate=RATES, seed=range(2))]
    made = []
    for spec in specs:
        end = [abs(math.log10(spec.learning_rate / 1e-3)) + 8 / spec.batch_size]
        curve = {"step": [2], "tokens": [9], **{f"{split}_loss": end for split in ("train", "validation", "test")}}
        made.append(Record.from_run(spec, "ok", {"base_test_loss": 3}, curve, {}))
    sweep = lk.Sweep(made)
    assert sweep.arms == ["rank 8", "rank 8, batch_size 32"]
    assert sweep.compare("rank 8")["rank 8, batch_size 32"].word == "better"


def test_two_engines_of_one_spec_are_two_arms():
    records = make(loss, ranks=(None,), steps=(1, 10))
    moved = [replace(record, provenance={**record.provenance, "engine": engine})
             for engine in ("packed", "trl") for record in records]
    sweep = lk.Sweep(moved)
    assert sweep.arms == ["full, engine packed", "full, engine trl"]
    assert len(sweep.runs) == len(sweep) == 2 * len(records)
    assert sweep.compare("full, engine trl")["full, engine packed"].word == "equal"
    assert sweep.best("full, engine trl").provenance["engine"] == "trl"
    sweep.plot.u_curve().to_dict()


def test_rl_runs_are_compared_in_points_of_accuracy():
    made = []
    for spec in lk.vary(lk.GRPOSpec(model="m@1", task="t@1", reward=None, learning_rate=1e-3, steps=9),
                        rank=[1, 8, None], learning_rate=[1e-4, 1e-3, 1e-2], seed=range(3)):
        behind = 0.2 if spec.lora and spec.lora.rank == 1 else 0.0
        right = 0.8 - behind - 0.2 * abs(math.log10(spec.learning_rate / 1e-3)) + 0.01 * spec.seed
        made.append(Record.from_run(spec, "ok", {"base_test_accuracy": 0.3}, {
            "step": [1, 9], "tokens": [1, 9], "reward": [0.3, right], "validation_accuracy": [0.3, right],
            "test_accuracy": [0.3, right]}, {}))
    sweep = lk.Sweep(made)
    assert {arm: gap.word for arm, gap in sweep.compare().items()} == {"rank 1": "worse", "rank 8": "equal"}
    assert sweep.compare()["rank 1"].mean == pytest.approx(-20)
    assert sweep.improvement() == pytest.approx(0.51)
    assert "test accuracy" in repr(sweep.table())
    for chart in (sweep.plot.u_curve(), sweep.plot.loss(), sweep.plot.curve("reward"), sweep.plot.gaps()):
        assert chart.to_dict()["description"]


def test_a_diverged_run_loses_and_is_not_left_out():
    def explodes(rank, rate, seed, step):
        return math.nan if rank and rate == 1e-3 and seed == 2 and step > 1 else loss(rank, rate, seed, step)

    sweep = lk.Sweep(make(explodes, ranks=(None, 8), steps=(1, 10)))
    assert sweep.at_best().only(arm="rank 8").runs["learning_rate"].unique().tolist() != [1e-3]


def test_an_optimum_at_the_end_of_its_grid_warns_and_stops_a_strict_sweep():
    records = make(lambda rank, rate, seed, step: -math.log10(rate), ranks=(None, 8), steps=(1, 10))
    with pytest.warns(GridEdgeWarning, match="widen the grid upwards"):
        found = lk.Sweep(records).optima()
    assert "its highest" in repr(found)
    with pytest.raises(GridEdgeError):
        lk.Sweep(records, strict=True).optima()


def test_parts_and_sums_of_a_sweep(sweep):
    part = sweep.only("reworded-skills", rank=[1, 8], learning_rate=1e-3)
    assert part.arms == ["rank 1", "rank 8"]
    assert len(part) == 10
    assert len(part + sweep.only(rank=None)) == 10 + 25
    assert len(sweep.only("other")) == 0
    assert sweep[0] is sweep.records[0]
    assert sweep[:2] == list(sweep)[:2]
    assert sweep == list(sweep.records)
    assert repr(sweep).startswith("<Sweep of 125 runs: full, rank 1")
    with pytest.raises(FrameError, match=r"no column 'rnak'; columns: .*rank"):
        sweep.only(rnak=8)


def test_what_does_not_pair_or_is_unknown_says_so(sweep):
    with pytest.raises(FrameError, match="no arm 'rank 3'; arms: full, rank 1"):
        sweep.compare("rank 3")
    with pytest.raises(FrameError, match="no arm but full"):
        sweep.only(arm="full").compare()
    assert "not compared" not in repr(sweep.only(arm="full").table()), "one arm alone asks for no comparison"
    apart = lk.Sweep([r for r in sweep if bool(r.spec["lora"]) == (r.spec.get("seed", 0) < 3)])
    with pytest.raises(FrameError, match="no seed in common"):
        apart.compare()
    assert "not compared: rank 1 and full have no seed in common" in repr(apart.table())
    with pytest.raises(SeedError, match="no seed in common"):
        apart.ratio()
    mixed = sweep + make(loss, ranks=(8,), steps=(1, 10), dataset="other@1")
    with pytest.raises(FrameError, match=r"mixes 2 values of dataset.*sweep.only\(dataset="):
        mixed.compare()
    assert "no table" in mixed._repr_html_()


def test_arms_pair_over_the_seeds_that_both_have(sweep):
    half = lk.Sweep([r for r in sweep if r.spec["lora"] or r.spec.get("seed", 0) < 3])
    three = lk.Sweep([r for r in sweep if r.spec.get("seed", 0) < 3])
    for arm, gap in half.compare().items():
        assert gap.n == 3
        assert gap.word == three.compare()[arm].word
    assert half.ratio()["rank 8"].n == 3


def test_the_end_is_read_on_the_larger_sets_where_the_spec_asks_for_them():
    def larger(record, tokens):
        spec = replace(lk.SFTSpec.from_json(record.spec), final_evaluation_tokens=tokens)
        end = {"validation_loss": 0.5, "test_loss": 0.25}
        return Record.from_run(spec, "ok", record.metrics | end, record.curve, record.provenance)

    (one,) = make(ranks=(8,), rates=[1e-3], seeds=[0])
    asked = lk.Sweep([larger(one, 16_384)]).curves
    assert asked.iloc[-1][["validation_loss", "test_loss"]].tolist() == [0.5, 0.25]
    assert asked["test_loss"].iloc[:-1].tolist() == one.curve["test_loss"][:-1]
    assert lk.Sweep([larger(one, None)]).curves["test_loss"].tolist() == one.curve["test_loss"]


def test_without_the_base_loss_a_margin_must_be_given(sweep):
    bare = lk.Sweep([replace(record, metrics={}) for record in sweep])
    with pytest.raises(FrameError, match="give margin="):
        bare.compare()
    gap = bare.compare(margin=0.05)["rank 1"]
    assert (gap.word, gap.unit) == ("worse", "nats per label token")
    assert gap.mean == pytest.approx(0.4, abs=0.01)


def test_a_store_is_a_sweep_of_all_its_runs(tmp_path, sweep):
    store = Store(tmp_path)
    for record in sweep[:4]:
        store.append("cpu", "x", record)
    failed = replace(sweep[0], status="failed", curve={}, metrics={})
    store.append("cpu", "y", failed)
    assert {record.id for record in lk.Sweep(Store(tmp_path))} == {record.id for record in sweep[:4]}
    assert all(record.status == "ok" for record in lk.Sweep(Store(tmp_path)))


def test_tables_have_numbers_to_the_right_and_escape_names():
    table = Table([{"arm": "<b>", "loss": "1.5", "verdict": "equal"}], "a & b")
    page = table._repr_html_()
    assert "&lt;b&gt;" in page
    assert "a &amp; b" in page
    assert page.index("text-align:right") > page.index(">arm<")
    assert page.count("text-align:right") == 2, "head and cell of the one column of numbers"
    assert repr(Table([{"arm": "rank 16", "x": "1"}, {"arm": "full", "x": "10"}])).splitlines()[1:] == [
        "rank 16   1", "full     10"]


def test_charts_say_what_was_found(sweep):
    gaps = sweep.plot.gaps().to_dict()
    assert " ".join(gaps["title"]["text"]) == ("Worse than full: rank 1; better than full: rank 64; "
                                               "equal to full: rank 8; open: rank 16")
    marks = [layer["mark"]["type"] for layer in gaps["layer"]]
    assert marks == ["rect", "rule", "rule", "text", "point"], "margin, zero, intervals, words, means"
    assert gaps["layer"][0]["encoding"]["x"]["datum"] == -5
    assert sweep.plot.loss(title="Finding").to_dict()["title"]["text"] == ["Finding"]


def test_the_charts_of_ratios_and_of_counts_have_a_row_an_arm(sweep):
    ratios = sweep.plot.ratios(rules={10: "ten times"}, title="Ten?").to_dict()
    arms = {arm for arm in sweep.arms if arm != "full"}
    assert {row["name"] for rows in ratios["datasets"].values() for row in rows if "text" in row} == arms
    counted = sweep.plot.counts(0.0, "test_loss")
    assert counted.to_dict()["description"].endswith("full 5 of 5, rank 1 5 of 5, rank 8 5 of 5, rank 16 5 of 5, "
                                                     "rank 64 5 of 5.")
