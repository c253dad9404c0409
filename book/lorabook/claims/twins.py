"""The claims on other runs than their first ones: on SmolLM2-135M by rules of their own, and on new seeds and bases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from lorabook.claims import (
    batch_size,
    capacity,
    grpo,
    layers,
    learning_rate,
    rank,
    real_base,
    real_base_memory,
    real_base_rl,
    smollm2,
    window,
)
from lorabook.claims.claim import Claim
from lorabook.claims.decisions import UNTESTED, Finding
from lorabook.claims.evidence import Evidence
from lorabook.claims.real_runs import NotYetError
from lorabook.experiments import EXPERIMENTS, anew, fresh
from lorabook.experiments.smollm2 import BOTH_SCREENED, E3_TASKS, SCREENED, rl_screens

Rule = Callable[[Evidence], Finding]


def _or_not_yet(finding: Rule) -> Rule:
    """A rule that says what is missing instead of raising."""
    def rule(evidence: Evidence) -> Finding:
        try:
            return finding(evidence)
        except NotYetError as error:
            return Finding(UNTESTED, str(error))

    return rule


def _named(*names: str) -> tuple[str, ...]:
    """Those that are defined: confirming experiments follow once rates are screened."""
    return tuple(name for name in names if name in EXPERIMENTS)


E1_RATES = _named(*(f"smollm2-rank-{seed}" for seed in SCREENED))
E1 = _named(*E1_RATES, "smollm2-rank-confirmed")
E2 = _named(*E1, *(f"smollm2-layers-{name}" for seed in BOTH_SCREENED for name in (f"{seed}", f"gsm8k-{seed}")),
            "smollm2-layers-confirmed", "smollm2-layers-gsm8k-confirmed")
E3 = _named(*(name for task in E3_TASKS for name in rl_screens(task)),
            *(f"smollm2-grpo-{task}-confirmed" for task in E3_TASKS))
E3_LAYERS = _named(*rl_screens(E3_TASKS[0]), f"smollm2-grpo-{E3_TASKS[0]}-confirmed",
                   "smollm2-grpo-layers", "smollm2-grpo-layers-confirmed")
E4 = _named("smollm2-capacity", "smollm2-capacity-confirmed")
E5 = _named(*(f"smollm2-batch-{seed}" for seed in BOTH_SCREENED), "smollm2-batch-confirmed")


def _plain(spec: Any) -> bool:
    """Full fine-tuning of the linear layers alone decides nothing."""
    return bool(spec.full_targets == "all")


# "For each task", "for each dataset, apart": these rules say so.
_BY_DATASET = (real_base.mlp_carries_it, real_base_rl.equal_in_rl, real_base_rl.ten_times_in_rl,
               real_base_rl.ten_times_at_rank_one)

# Rules changed after their records were there: when, and why.
_CHANGED: dict[Rule, tuple[str, str]] = {
    real_base.same_first_steps: (smollm2.E1_C4_CHANGED, smollm2.E1_C4_WHY),
    **dict.fromkeys((real_base.ten_times, real_base.shorter_means_more), (window.CHANGED, window.ON_SMOLLM2)),
    **dict.fromkeys(_BY_DATASET, (smollm2.BY_DATASET_CHANGED, smollm2.BY_DATASET_WHY)),
    real_base_rl.ten_times_in_rl: (smollm2.BY_DATASET_CHANGED, f"{window.ON_SMOLLM2} {smollm2.BY_DATASET_WHY}")}


def _on_smollm2() -> list[Claim]:
    """Claims on SmolLM2-135M, by the rules of `smollm2`; runs on two cores and on a GPU are judged apart."""
    e1, e2, e3, e4, e5 = (f"{text} {smollm2.GPU_PROTOCOL}" for text in (
        smollm2.E1_PROTOCOL, smollm2.E2_PROTOCOL, f"{smollm2.E3_PROTOCOL} {smollm2.E3_WIDENED}",
        smollm2.E4_PROTOCOL, smollm2.E5_PROTOCOL))
    rows: Sequence[tuple[Claim, Rule, str, tuple[str, ...]]] = (
        (rank.equal_to_full, real_base.equal_to_full, f"{e1} {smollm2.E1_C1_RULE}", E1),
        (rank.same_first_steps, real_base.same_first_steps, f"{e1} {smollm2.E1_C4_RULE}",
         _named(*E1_RATES, "smollm2-rank-early")),
        (learning_rate.ten_times, real_base.ten_times, f"{e1} {smollm2.E1_C3_RULE} {window.WORDS}", E1_RATES),
        (learning_rate.shorter_means_more, real_base.shorter_means_more,
         f"{e1} {smollm2.E1_C14_RULE} {window.WORDS}", E1_RATES),
        (learning_rate.b_outgrows_a, real_base.b_outgrows_a, f"{e1} {smollm2.E1_C14_RULE}", E1_RATES),
        (batch_size.gap_grows_with_batch, real_base.gap_grows_with_batch, f"{e5} {smollm2.E5_C5_RULE}", E5),
        (rank.rank_sets_departure, real_base_memory.rank_sets_departure, f"{e4} {smollm2.E4_C2_RULE}", E4),
        (capacity.bits_of_weights, real_base_memory.bits_of_weights, f"{e4} {smollm2.E4_C10_RULE}", E4),
        (layers.mlp_carries_it, real_base.mlp_carries_it, f"{e2} {smollm2.E2_C6_RULE}", E2),
        (grpo.equal_in_a_wider_band, real_base_rl.equal_in_rl, f"{e3} {smollm2.E3_C8_RULE}", E3),
        (grpo.ten_times_in_rl, real_base_rl.ten_times_in_rl, f"{e3} {smollm2.E3_C3_RULE} {window.WORDS}", E3),
        (grpo.ten_times_at_rank_one, real_base_rl.ten_times_at_rank_one, f"{e3} {smollm2.E3_T1_RULE}", E3),
        (grpo.mlp_carries_it_in_rl, real_base_rl.mlp_carries_it_in_rl, f"{e3} {smollm2.E3_C6_RULE}", E3_LAYERS),
    )
    return [replace(claim, rule=_or_not_yet(rule), rule_text=text, experiments=names, seeds=1, needs=_plain,
                    by_dataset=rule in _BY_DATASET,
                    written=smollm2.GPU_DATE if names in (E4, E5) else smollm2.DATE,
                    changed=changed, why=why)
            for claim, rule, text, names in rows for changed, why in (_CHANGED.get(rule, ("", "")),)]


def _on_new_runs() -> list[Claim]:
    """Claims whose rules were changed after their records, on seeds and bases that were run since."""
    supervised = (rank.equal_to_full, learning_rate.ten_times, learning_rate.shorter_means_more)
    whole = (grpo.equal_in_a_wider_band, grpo.ten_times_in_rl)
    rows = (("learning-rate-fresh", "", supervised), ("learning-rate-bases", "", supervised),
            ("grpo-fresh-short", fresh.RL_SHORT, (*whole, grpo.ten_times_at_rank_one, grpo.rank_one_is_a_bottleneck)),
            ("grpo-fresh", fresh.RL_WHOLE, whole),
            ("layers-fresh", anew.PROTOCOL, (layers.mlp_carries_it,)),
            ("moe-fresh", anew.PROTOCOL, (layers.mlp_carries_it,)),
            ("grpo-layers-fresh", anew.PROTOCOL, (grpo.mlp_carries_it_in_rl,)),
            ("learning-rate-long", anew.PROTOCOL, (learning_rate.b_outgrows_a,)),
            ("rank-beyond", anew.BEYOND, (rank.rank_sets_departure,)),
            ("capacity-fresh", anew.PROTOCOL, (capacity.bits_of_weights,)))
    return [replace(claim, experiments=(name,), again=True, rule_text=f"{protocol} {claim.rule_text}".lstrip(),
                    stopped=f"{fresh.SHORT_STEPS} steps" if protocol == fresh.RL_SHORT else "")
            for name, protocol, claims in rows for claim in claims]


def with_twins(claims: Iterable[Claim]) -> tuple[Claim, ...]:
    """The claims, each with its own on other runs."""
    others = [*_on_smollm2(), *_on_new_runs()]
    return tuple(replace(claim, twins=tuple(other for other in others if other.id == claim.id)) for claim in claims)
