import math

import pytest
from synthetic_records import RATES, STEPS, make

from lorakit.analysis.curves import (
    FrameError,
    arms,
    best_rate_by_validation,
    common_curve,
    departure_by_seed,
    departure_step,
    excess,
    losses_at,
    optima,
    pointwise_minimum,
)
from lorakit.analysis.frames import tidy
from lorakit.analysis.statistics import GridEdgeError, GridEdgeWarning


def shape(best=1e-3, lag=lambda rank, step: 0.0):
    """A parabola in log10 rate around `best`, falling with steps, plus an excess by rank and step."""
    def loss(rank, rate, seed, step):
        return 2 - math.log10(1 + step) / 4 + math.log10(rate / best) ** 2 / 10 + 0.01 * seed + lag(rank, step)
    return loss


def by_rate(frame, step=None):
    """Validation losses at a step, seeds by rates."""
    return losses_at(frame, step).pivot(index="seed", columns="learning_rate", values="validation_loss")


def test_arms_are_ordered_by_rank():
    assert arms(tidy(make(ranks=(64, 4, None, 16)))) == ["full", "rank 4", "rank 16", "rank 64"]


def test_best_rate_is_chosen_on_validation_and_read_on_test():
    frame = tidy(make(shape(), ranks=(None,)))
    frame.loc[frame["learning_rate"] == 3e-3, "test_loss"] = 0.1  # a test loss must not draw the choice
    best = best_rate_by_validation(frame)
    assert set(best["learning_rate"]) == {1e-3}
    assert best["seed"].tolist() == [0, 1, 2, 3, 4]
    assert best["test_loss"].min() > 0.1


def test_a_single_seed_does_not_choose_for_the_others():
    frame = tidy(make(shape(), ranks=(16,)))
    lucky = (frame["seed"] == 0) & (frame["learning_rate"] == 3e-3)
    frame.loc[lucky, "validation_loss"] -= 0.02  # best for seed 0, not for the mean over five
    assert set(best_rate_by_validation(frame)["learning_rate"]) == {1e-3}
    curves = pointwise_minimum(frame)
    assert curves.groupby("step")["learning_rate"].nunique().eq(1).all()


def test_pointwise_minimum_chooses_anew_at_each_step():
    def loss(rank, rate, seed, step):
        best = 3e-3 if step < 16 else 3e-4
        return 2 + math.log10(rate / best) ** 2 / 10 - step / 1000

    curves = pointwise_minimum(tidy(make(loss, ranks=(16,))))
    rates = curves.groupby("step")["learning_rate"].first()
    assert rates[rates.index < 16].eq(3e-3).all()
    assert rates[rates.index >= 16].eq(3e-4).all()
    assert list(rates.index) == STEPS


def test_edges_of_the_grid():
    frame = tidy(make(shape(best=1e-2), ranks=(16,)))
    with pytest.raises(GridEdgeError, match="rank 16"):
        best_rate_by_validation(frame)
    with pytest.raises(GridEdgeError, match="upwards"):
        optima(frame)
    with pytest.warns(GridEdgeWarning):
        assert set(best_rate_by_validation(frame, size="live")["learning_rate"]) == {1e-2}


def test_a_diverged_run_is_never_best_at_the_end():
    def loss(rank, rate, seed, step):
        if rate == 3e-3 and seed == 2 and step > 64:
            return math.nan
        return shape(best=3e-3)(rank, rate, seed, step)

    frame = tidy(make(loss, ranks=(16,)))
    assert by_rate(frame)[3e-3].tolist()[2] == math.inf
    assert set(best_rate_by_validation(frame)["learning_rate"]) == {1e-3}
    assert set(best_rate_by_validation(frame, step=64)["learning_rate"]) == {3e-3}
    assert optima(frame)["rank 16"].grid_rate == 1e-3


def test_a_diverged_run_whose_curve_stops_counts_as_infinite():
    frame = tidy(make(shape(), ranks=(16,)))
    gone = (frame["learning_rate"] == 1e-3) & (frame["seed"] == 0)
    frame.loc[gone, "status"] = "diverged"
    frame = frame[~(gone & (frame["step"] > 8))]
    assert losses_at(frame)["test_loss"].max() == math.inf
    assert len(losses_at(frame)) == len(RATES) * 5
    assert math.isfinite(losses_at(frame, 8)["test_loss"].max())
    assert set(best_rate_by_validation(frame)["learning_rate"]) <= {3e-4, 3e-3}


def test_a_diverged_run_is_infinite_at_the_end_whatever_it_recorded():
    frame = tidy(make(shape(), ranks=(16,)))
    frame.loc[(frame["learning_rate"] == 1e-3) & (frame["seed"] == 0), "status"] = "diverged"
    assert by_rate(frame)[1e-3].tolist()[0] == math.inf
    assert math.isfinite(by_rate(frame, 64)[1e-3].tolist()[0])
    assert set(best_rate_by_validation(frame)["learning_rate"]) <= {3e-4, 3e-3}


def test_frames_that_cannot_answer_say_why():
    frame = tidy(make())
    with pytest.raises(FrameError, match="columns missing: seed"):
        pointwise_minimum(frame.drop(columns="seed"))
    with pytest.raises(FrameError, match="no finished run is in this sweep or frame"):
        pointwise_minimum(frame[:0])
    with pytest.raises(FrameError, match="mixes 2 values of dataset"):
        pointwise_minimum(tidy(make() + make(dataset="other@1")))
    with pytest.raises(FrameError, match=r"rank 16 was not run at learning rate 0.001 with seed 3"):
        best_rate_by_validation(frame[~frame["id"].isin(
            frame[(frame["arm"] == "rank 16") & (frame["learning_rate"] == 1e-3) & (frame["seed"] == 3)]["id"])])
    with pytest.raises(FrameError, match="no point at step 128"):
        losses_at(frame[(frame["seed"] > 0) | (frame["step"] < 128)])
    with pytest.raises(FrameError, match="no arm 'rank 5'"):
        excess(pointwise_minimum(frame), "rank 5")


def late(rank, step):
    """Ranks 1, 4 and 16 leave after 8, 32 and 128 steps."""
    leaves = {1: 8, 4: 32}.get(rank, 1000)
    return 0.1 * math.log2(step / leaves) if step > leaves else 0.0


@pytest.fixture(scope="module")
def curves():
    return pointwise_minimum(tidy(make(shape(lag=late), ranks=(None, 1, 4, 16))))


def test_departure_is_the_first_step_of_a_lasting_excess(curves):
    steps = {arm: departure_step(curves, arm, margin=0.05) for arm in arms(curves)}
    assert steps == {"full": None, "rank 1": 16, "rank 4": 64, "rank 16": None}
    assert departure_step(curves, "rank 1", margin=0.15) == 32
    assert departure_step(curves, "rank 1", "rank 4", margin=0.05) == 16
    assert departure_by_seed(curves, "rank 1", margin=0.05) == dict.fromkeys(range(5), 16)


def test_an_arm_that_comes_back_has_not_left():
    def bump(rank, step):
        return 0.5 if rank == 1 and step == 16 else 0.0

    curves = pointwise_minimum(tidy(make(shape(lag=bump), ranks=(None, 1))))
    assert departure_step(curves, "rank 1", "full", margin=0.05) is None


def test_an_excess_that_seeds_do_not_agree_on_is_no_departure():
    def loss(rank, rate, seed, step):
        return shape()(rank, rate, seed, step) + (0.5 if rank == 1 and seed == 0 and step >= 16 else 0.0)

    curves = pointwise_minimum(tidy(make(loss, ranks=(None, 1))))
    assert departure_step(curves, "rank 1", "full", margin=0.05) is None
    assert departure_by_seed(curves, "rank 1", "full", margin=0.05) == {0: 16, 1: None, 2: None, 3: None, 4: None}


def test_the_common_curve_is_the_lowest_arm_by_validation():
    def swap(rank, step):
        return 0.1 if (rank is None) == (step < 16) else 0.0

    curves = pointwise_minimum(tidy(make(shape(lag=swap), ranks=(None, 8))))
    common = common_curve(curves)
    assert len(common) == len(STEPS) * 5
    early, lasting = common[common["step"] < 16], common[common["step"] >= 16]
    assert set(early["method"]) == {"lora"}
    assert set(lasting["method"]) == {"full"}
    assert excess(curves, "full").loc[128].abs().max() == 0
