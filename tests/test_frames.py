import math

import numpy as np
import pandas as pd
import pytest
from synthetic_records import BASE, STEPS, make

from lorakit.analysis.frames import CURVE_COLUMNS, arm_name, runs, tidy
from lorakit.records import Record
from lorakit.specs import LoRASpec, SFTSpec


def test_one_row_per_curve_point():
    records = make(ranks=(None, 8), rates=[1e-3], seeds=[0, 1])
    frame = tidy(records)
    assert tuple(frame.columns) == CURVE_COLUMNS
    assert len(frame) == 4 * (len(STEPS) + 1)
    first = frame[(frame["arm"] == "rank 8") & (frame["seed"] == 1) & (frame["step"] == 0)].iloc[0]
    assert first["validation_loss"] == pytest.approx(BASE + 0.01)
    assert (first["rank"], first["alpha"], first["targets"], first["method"]) == (8, 32, "all-linear", "lora")
    assert (first["model"], first["dataset"], first["batch_size"]) == ("base@1", "reworded-skills@1", 4)


def test_full_fine_tuning_has_no_rank():
    full = tidy(make(ranks=(None,), rates=[1e-3], seeds=[0]))
    assert full["rank"].isna().all()
    assert full["alpha"].isna().all()
    assert set(full["arm"]) == {"full"} == set(full["method"])


def test_batch_counts_accumulation():
    spec = SFTSpec(model="m@1", dataset="d@1", learning_rate=1e-3, batch_size=4, accumulation=8)
    frame = tidy([Record.from_run(spec, "ok", {}, {"step": [1], "validation_loss": [1.0], "test_loss": [1.0]}, {})])
    assert frame["batch_size"].tolist() == [32]
    assert frame["train_loss"].isna().all()


def test_a_diverged_run_is_infinite_from_where_it_broke_and_a_failed_one_absent():
    def breaks(rank, rate, seed, step):
        return math.nan if step >= 16 else 2.0

    frame = tidy(make(breaks, ranks=(1,), rates=[1e-3], seeds=[0]))
    assert (frame.loc[frame["step"] < 16, "test_loss"] < 4).all()
    assert np.isposinf(frame.loc[frame["step"] >= 16, ["train_loss", "validation_loss", "test_loss"]]).to_numpy().all()
    assert set(frame["status"]) == {"diverged"}
    assert tidy(make(ranks=(1,), status="failed")).empty
    assert runs(make(ranks=(1,), status="failed")).empty


def test_runs_hold_metrics():
    record = make(ranks=(16,), rates=[1e-3], seeds=[3], metrics={"delta_norm": None})[0]
    frame = runs([record])
    assert len(frame) == 1
    row = frame.iloc[0]
    assert (row["arm"], row["seed"], row["base_test_loss"], row["steps"]) == ("rank 16", 3, BASE, STEPS[-1])
    assert math.isnan(row["delta_norm"])
    assert row["tokens"] == STEPS[-1] * 256


def test_empty_frames_have_their_columns():
    assert tuple(tidy([]).columns) == CURVE_COLUMNS
    assert "arm" in runs([]).columns
    assert isinstance(runs([]), pd.DataFrame)


def test_arm_names_tell_configurations_apart():
    variants = [LoRASpec(rank=8), LoRASpec(rank=8, alpha=16), LoRASpec(rank=8, targets="mlp"),
                LoRASpec(rank=8, train_a=False), LoRASpec(rank=8, init_a_scale=2.0),
                LoRASpec(rank=8, learning_rate_b_ratio=16.0), LoRASpec(rank=8, targets=("q_proj", "v_proj"))]
    names = [arm_name(lora) for lora in variants]
    assert len(set(names)) == len(names)
    assert names[-1] == "rank 8, q_proj+v_proj"
