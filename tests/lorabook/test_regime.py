import json

import pytest
from synthetic_records import make

from lorabook.claims import regime as module
from lorabook.claims.regime import pretraining_facts, regime, regime_of
from lorakit.analysis.frames import runs, tidy

INSIDE = {"best_rate": 1e-3, "peak_rate": 1e-2, "delta_norm": 0.05, "base_text_before": 2.0, "base_text_after": 2.1}


@pytest.mark.parametrize(
    ("change", "failed", "value"),
    [({"best_rate": 1.2e-2}, "best full rate", 1.2), ({"skill": 0.1}, "share of its skills", 0.1),
     ({"delta_norm": 0.2}, "‖ΔW‖", 0.2),
     ({"base_text_after": 2.5}, "rise of the loss", 0.25)],
)
def test_each_criterion_alone_leaves_post_training(change, failed, value):
    assert regime(**INSIDE).name == "post-training"
    found = regime(**{**INSIDE, **change})
    assert found.name == "new-skill regime"
    (criterion,) = found.failed
    assert criterion.name.startswith(failed)
    assert criterion.value == pytest.approx(value)
    assert ("below the limit" if failed.startswith("share") else "above the limit") in str(found)


def test_limits_are_inclusive_and_an_improvement_is_no_rise():
    assert regime(**{**INSIDE, "delta_norm": 0.1}).name == "post-training"
    assert regime(**{**INSIDE, "base_text_after": 1.5}).name == "post-training"


@pytest.mark.parametrize(("tokens", "value"), [(400, 0.2), (100, 0.4), (1600, 0.1)])
def test_rates_are_compared_at_equal_tokens_a_step(tokens, value):
    """Adam's best rate grows as the root of the batch."""
    found = regime(**INSIDE, tokens_a_step=tokens, pretraining_tokens_a_step=1600)
    assert found.criteria[0].value == pytest.approx(value)


def test_what_is_not_known_is_said():
    found = regime(**{**INSIDE, "peak_rate": None})
    assert found.name == "post-training"
    assert found.criteria[0].passed is None
    assert "best full rate / peak pre-training rate, at equal tokens a step not known" in str(found)
    assert regime(best_rate=None, peak_rate=None, delta_norm=float("nan"), base_text_before=None,
                  base_text_after=None).name == "not known"


def test_regime_of_reads_full_fine_tuning_at_its_best_rate():
    records = make(metrics={"delta_norm": 0.02})
    metrics = runs(records)
    metrics.loc[(metrics["method"] == "lora") | (metrics["learning_rate"] != 1e-3), "delta_norm"] = 5.0
    found = regime_of(tidy(records), metrics, peak_rate=1e-2)
    assert found.name == "post-training"
    assert found.criteria[0].value == pytest.approx(0.1, rel=0.1)
    assert found.criteria[1].value == pytest.approx(0.02)
    assert found.criteria[2].value == pytest.approx(0.03)
    unswept = records + make(ranks=(4,), rates=[1e-3])  # LoRA's own grid is no matter of the gate
    assert regime_of(tidy(unswept), metrics, peak_rate=1e-2) == found
    lora = make(ranks=(4,))
    assert regime_of(tidy(lora), runs(lora), peak_rate=1e-2).name == "not known"


def test_pretraining_facts_come_from_the_record_of_the_weights(tmp_path, monkeypatch):
    record = tmp_path / "base.json"
    record.write_text(json.dumps({"parameters": 7, "pretraining": {"peak_learning_rate": 0.01}}))
    monkeypatch.setattr(module.sources, "embedded", lambda: {"base": record})
    assert pretraining_facts("base@abc") == {"parameters": 7, "peak_learning_rate": 0.01}
    assert pretraining_facts("org/other@abc") == {}
