"""What the page on speed says: the law, gains, waits, goals, and what was not timed."""

import ast
from pathlib import Path

import pytest

import lorakit as lk
from lorabook.claims import pack_time, speed_goals
from lorabook.claims.pack_time import Law
from lorabook.claims.speed_goals import GOALS, NOT_TIMED, ray_words, verdict
from lorakit.records import Record, Store

CHAPTER = Path(__file__).parents[2] / "book" / "14-how-fast.md"


def made(name, metrics, date="2026-11-26", curve=None, **spec):
    return Record(id=f"{name}-{date}-{spec.get('tokens')}", spec={"kind": "benchmark", "name": name, **spec},
                  status="ok", metrics=metrics, curve=curve or {}, provenance={"date": date, "device": "two cores"})


def stepped(tokens, pack, loop, **more):
    arms = {"packed": 16, "packed_4": 4, "packed_1": 1, "peft_tuned": 1}
    seconds = {f"{arm}_seconds_median": pack.step(count, tokens) / count for arm, count in arms.items()}
    seconds["peft_tuned_seconds_median"] = loop.step(1, tokens)
    return made("step-p1", seconds | more, tokens=tokens, arms=arms)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(speed_goals, "RESULTS", tmp_path)
    return Store(tmp_path)


def test_the_law_is_found_in_steps_that_follow_it():
    pack, loop = Law(0.002, 1e-5), Law(0.004, 3e-5)
    records = [stepped(tokens, pack, loop) for tokens in (64, 128, 2048)]
    found = pack_time.laws(records)
    for kind, law in (("pack", pack), ("loop", loop)):
        assert (found[kind].fixed, found[kind].each) == pytest.approx((law.fixed, law.each))
        assert found[kind].off < 1e-6
    gains = pack_time.curve(records).pivot_table(index="tokens", columns="arm", values="gain")
    assert gains["16 in a pack"].to_numpy() == pytest.approx(gains["16, by the law"].to_numpy())
    assert gains.loc[64, "16 in a pack"] > gains.loc[64, "4 in a pack"] > 1
    assert pack_time.gain(loop, pack, 10**9, 128) == pytest.approx(loop.step(1, 128) / (pack.each * 128))


def test_arms_are_ratios_with_the_range_of_their_rounds_and_packs_are_none_of_them():
    ratios = {f"{arm}_over_packed_{part}": value for arm, values in {"packed": (1, 1, 1), "vmap": (2, 1.5, 2.5)}.items()
              for part, value in zip(("median", "low", "high"), values, strict=True)}
    (name, found), = pack_time.times(made("packed-sweep-small", ratios, curve={"round": [1, 2]})).items()
    assert (name, found.mean, found.low, found.high, found.n) == ("torch.func vmap", 2, 1.5, 2.5, 2)


def test_turns_are_early_where_they_are():
    waits = {f"{arm}_until_{share}%": value for arm, values in {"packed": (1, 4), "time_sliced": (3, 13),
                                                                "peft_tuned": (11, 12)}.items()
             for share, value in zip((25, 100), values, strict=True)}
    frame = pack_time.waits(made("packed-sweep-small", waits | {"vmap_until_25%": 2.0}))
    assert len(frame) == 6
    assert pack_time.turns_are_early(frame)
    assert not pack_time.turns_are_early(frame.assign(seconds=5.0))
    late = frame.assign(seconds=frame["seconds"] + 2.5 * (frame["arm"] == "in packs"))
    assert not pack_time.turns_are_early(late), "packs come first at every share"


def test_what_a_pack_cannot_save_is_a_share_of_its_step():
    metrics = {f"{arm}_{kind}": value for arm, values in {"packed": (60, 30, 10, 0, 100, 200),
                                                          "peft_tuned": (80, 70, 230, 20, 400, 2600)}.items()
               for kind, value in zip(("products", "others", "rest", "optimizer", "whole", "dispatched"), values,
                                      strict=True)}
    record = made("profile", metrics)
    found = pack_time.remains([record])
    assert (found["products"], found["peft_rest"], found["dispatched"]) == (0.6, 0.575, 200)
    assert found["ceiling"] == pytest.approx(400 / 90)
    assert pack_time.profile([record])["milliseconds"].sum() == pytest.approx(0.5)
    assert set(pack_time.remains([]).values()) == {None}


def test_what_grpo_gains_on_one_core_is_told_part_by_part():
    parts = {"sampling": (50, 300), "update": (40, 80), "scoring": (0, 40), "rewards": (4, 5), "evaluation": (1, 3),
             "rest": (5, 72), "whole": (100, 500), "operations": (80, 300), "dispatched": (10, 90),
             "products": (0.6, 0.7)}
    record = made("profile-grpo", {f"{arm}_{part}": value for part, both in parts.items()
                                   for arm, value in zip(("packed", "trl"), both, strict=True)}, processes=2)
    said = pack_time.rl_words([record])
    for words in ("on one core packs gain 5.0 times", "is 50% of a pack's time and gains 6.0 times",
                  "is 40% and gains 2.0 times", "80% of a pack's time at the most", "60% of theirs is matrix products",
                  "would gain 12.5 times or more", "8% of TRL's time goes"):
        assert words in said
    assert [row["TRL over packs"] for row in pack_time.rl_profile([record]).rows][:3] == ["6.0", "2.0", ""]
    assert pack_time.rl_profile([]) is None, "the page shows nothing, and says so"
    assert "No profile" in pack_time.rl_words([])


def test_ray_is_judged_by_its_record_or_not_measured(store):
    assert ray_words(pack_time.newest("ray-overhead")) == "not measured"
    found = {"ray_over_local_median": 1.3, "ray_over_local_low": 1.2, "ray_over_local_high": 1.4,
             "ray_cpu_seconds": 220.0, "local_cpu_seconds": 200.0, "shortest_run": 5.8}
    store.append("cpu", "ray-overhead", made("ray-overhead", found))
    assert ray_words(pack_time.newest("ray-overhead")) == (
        "1.30 times as long (1.20 to 1.40; goal 1.25, missed), and 1.10 times the CPU seconds; the shortest run takes "
        "5.8 s")


def test_what_the_chapter_draws_where_all_is_timed_can_be_drawn(store):
    """The chapter's own chart cells, on records that are not there yet."""
    jupytext = pytest.importorskip("jupytext", reason="needs the book's packages")
    cells = [cell.source for cell in jupytext.read(CHAPTER, fmt="md:myst").cells
             if cell.cell_type == "code" and "lk.plots." in cell.source]
    assert len(cells) == 4
    ratios = {f"{arm}_over_packed_{part}": value for arm in ("vmap", "peft_tuned", "trl_tuned", "time_sliced")
              for value, part in enumerate(("low", "median", "high"), 2)}
    waits = {f"{arm}_until_{share}%": share / 10 for arm in ("packed", "time_sliced", "peft_tuned")
             for share in (25, 100)}
    parts = {f"{arm}_{kind}": 1.0 for arm in ("packed", "peft_tuned") for kind in (
        "products", "others", "rest", "optimizer", "whole", "dispatched")} | {"packed_rest": 0.1}
    store.append("cpu", "packed-sweep", made("packed-sweep-small", ratios | waits | {"tokens_per_step": 128},
                                             points=16))
    store.append("cpu", "profile", made("profile", parts))
    for tokens in (64, 2048):
        store.append("cpu", "step-p1", stepped(tokens, Law(0.002, 1e-5), Law(0.004, 1e-5)))
    small, steps = pack_time.newest("packed-sweep-small")[0], pack_time.newest("step-p1")
    names = {"lk": lk, "pack_time": pack_time, "small": small, "steps": steps, "loops": pack_time.times(small)}
    for source in cells:
        *before, last = ast.parse(source).body
        exec(compile(ast.Module(before, []), "cell", "exec"), names)  # noqa: S102 - it is our own text
        chart = eval(compile(ast.Expression(last.value), "cell", "eval"), names)  # noqa: S307
        assert "mark" in str(chart.to_dict()), source
    assert NOT_TIMED not in {value for name, value in pack_time.numbers().items()
                             if name not in ("gpu", "grpo", "verdict_grpo", "one", "sixteen")}


def test_goals_have_a_verdict_where_they_are_asked_and_else_are_not_timed(store):
    missed, reached, small = GOALS[0], next(g for g in GOALS if g.most), GOALS[10]
    assert {verdict(goal) for goal in GOALS} == {NOT_TIMED}
    store.append("gpu", "step-p1", made("step-p1", {missed.metric: 9.0}, tokens=1024, arms={}))
    store.append("gpu", "step-p1", made("step-p1", {missed.metric: 5.0}, "2026-11-27", tokens=2048, arms={}))
    store.append("gpu", reached.record, made(reached.record, {reached.metric: 0.8}))
    store.append("cpu", "packed-sweep", made("packed-sweep-small", {small.metric: 4.5}))
    assert [verdict(goal) for goal in (missed, reached, small)] == ["missed", "reached", "reached"]
    assert "not timed" in repr(speed_goals.goals())


def test_the_numbers_of_the_page_come_from_the_newest_records_or_are_not_timed(store):
    sweep = {"vmap_over_packed_median": 2.0, "peft_tuned_over_packed_median": 3.0, "trl_tuned_over_packed_median": 14.0,
             "tokens_per_step": 128}
    store.append("cpu", "packed-sweep", made("packed-sweep-small", sweep | {"vmap_over_packed_median": 9.0},
                                             "2026-11-25", points=16))
    store.append("cpu", "packed-sweep", made("packed-sweep-small", sweep, points=16))
    found = pack_time.numbers()
    assert (found["vmap"], found["points"], found["made"]) == ("2.0", "16", "2026-11-26")
    assert {found[name] for name in ("few", "most", "off", "limit", "products", "one", "gpu")} == {NOT_TIMED}
    for tokens in (64, 2048):
        store.append("cpu", "step-p1", stepped(tokens, Law(0.002, 1e-5), Law(0.004, 1e-5), packed_1_peak_bytes=2e6)
                     if tokens > 64 else stepped(tokens, Law(0.002, 1e-5), Law(0.004, 1e-5)))
    assert {name: pack_time.numbers()[name] for name in ("few", "many", "off", "one")} == {
        "few": "64", "many": "2,048", "off": "0%", "one": "2"}
