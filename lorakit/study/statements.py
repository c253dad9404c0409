"""The claims of the sources, in our own words, each with the rule that judges it and the experiments that feed it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorakit.study.evidence import Evidence, Finding, Scale
from lorakit.study.rules import batch_size, capacity, cost, grpo, layers, learning_rate, rank, reward
from lorakit.study.rules import learning_rate_laws as laws

if TYPE_CHECKING:
    from lorakit.records import Store

SMOLLM2_RATES = tuple(f"learning-rate-smollm2-{seed}" for seed in range(5))


@dataclass(frozen=True)
class Claim:
    """One claim of a source, and how it is judged.

    Args:
        id: such as `C1`.
        source: citation key in the book's references.
        statement: the claim in our own words, as a clause that can follow "that".
        rule_text: the rule that `evaluate` or `compute` follows, in words, fixed before the records.
        scope: about what the source makes the claim.
        experiments: names in `lorakit.study.experiments`.
        chapter: document that shows the evidence.
        evaluate: the rule in code, for a claim about training: pure, from the runs of one base model to a finding.
        compute: instead, for a claim that no seed can change (exact computation, counted operations): from the store,
            which it need not read, to a finding per scale, the largest first; scale None: about no base in particular.
        seeds: that a verdict needs where it is not the profile's number.
    """

    id: str
    source: str
    statement: str
    rule_text: str
    scope: str
    experiments: tuple[str, ...]
    chapter: str
    evaluate: Callable[[Evidence], Finding] | None = None
    compute: Callable[[Store], Sequence[tuple[Scale | None, Finding]]] | None = None
    seeds: int | None = None


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="C1", source="schulman2025lora",
        statement="LoRA of high rank ends at the test loss of full fine-tuning on small and medium-sized datasets",
        rule_text=rank.C1_RULE,
        scope="Post-training on instruction and reasoning data, Llama 3 and Qwen3 models of 1B to 30B parameters.",
        experiments=("rank", "rank-replay"),
        chapter="02-rank",
        evaluate=rank.equal_to_full,
    ),
    Claim(
        id="C2", source="schulman2025lora",
        statement="past its capacity LoRA leaves the common loss curve at a step that grows with its rank, and from "
        "there learns more slowly instead of stopping at a floor",
        rule_text=rank.C2_RULE,
        scope="Datasets that exceed what the adapter can hold.",
        experiments=("rank",),
        chapter="02-rank",
        evaluate=rank.rank_sets_departure,
    ),
    Claim(
        id="C4", source="schulman2025lora",
        statement="at one learning rate the first steps are the same for every rank",
        rule_text=rank.C4_RULE,
        scope="LoRA with the scale alpha / rank, alpha the same for all ranks.",
        experiments=("rank",),
        chapter="02-rank",
        evaluate=rank.same_first_steps,
    ),
    Claim(
        id="C5", source="schulman2025lora",
        statement="the gap between LoRA and full fine-tuning grows with the batch size, alike at every rank",
        rule_text=batch_size.C5_RULE,
        scope="In some settings: 10,000 examples of OpenThoughts3, batches of 32 and more.",
        experiments=("batch-size",),
        chapter="07-batch-size",
        evaluate=batch_size.gap_grows_with_batch,
    ),
    Claim(
        id="C6", source="schulman2025lora",
        statement="attention alone does worse than the MLP alone even with equally many weights, and adding attention "
        "to the MLP gains nothing",
        rule_text=layers.C6_RULE,
        scope="Llama-3.1-8B and Qwen3-30B-A3B (rank 256 against 128) in supervised fine-tuning, and in RL on MATH; all "
        "arms with the head.",
        experiments=("layers", "moe"),
        chapter="05-layers",
        evaluate=layers.mlp_carries_it,
    ),
    Claim(
        id="C7", source="schulman2025lora",
        statement="an adapter for each expert, of the total rank divided by the number of active experts, keeps the "
        "ratio of adapter weights to full weights the same as in other layers",
        rule_text=layers.C7_RULE,
        scope="Mixtures of experts; Qwen3-30B-A3B with 8 active experts.",
        experiments=(),
        chapter="05-layers",
        compute=layers.same_ratio,
    ),
    Claim(
        id="C3", source="schulman2025lora",
        statement="the best learning rate of high-rank LoRA is about ten times that of full fine-tuning, moves by less "
        "than a factor of two from rank 4 upwards, and is lower at rank 1",
        rule_text=learning_rate.C3_RULE,
        scope="Post-training on Tulu 3 and OpenThoughts 3, Llama 3 and Qwen3 models, alpha 32, ranks 1 to 512.",
        experiments=("learning-rate", *SMOLLM2_RATES),
        chapter="06-learning-rate",
        evaluate=learning_rate.ten_times,
    ),
    Claim(
        id="C12", source="schulman2025lora",
        statement="training with (alpha, init_A, LR_A, LR_B) is the same as with (alpha / (p q), p init_A, p LR_A, "
        "q LR_B), so that the four settings have two degrees of freedom",
        rule_text=laws.C12_RULE,
        scope="Adam with an epsilon of zero, no weight decay.",
        experiments=("learning-rate-invariance",),
        chapter="06-learning-rate",
        compute=laws.same_after_transformation,
    ),
    Claim(
        id="C13", source="schulman2025lora",
        statement="the ratio of the best learning rates of LoRA and full fine-tuning does not depend on the model's "
        "width",
        rule_text=laws.C13_RULE,
        scope="A fit over 14 Llama and Qwen models on Tulu 3.",
        experiments=("learning-rate-width", "learning-rate-width-256"),
        chapter="06-learning-rate",
        compute=laws.same_at_every_width,
    ),
    Claim(
        id="C14", source="schulman2025lora",
        statement="the shorter the run, the larger the ratio of the best learning rates of LoRA and full fine-tuning; "
        "by the end of a run B has grown larger than A",
        rule_text=learning_rate.C14_RULE,
        scope="Runs of about 100 steps against longer ones (anecdotal, the source says); Tulu 3 and OpenThoughts 3.",
        experiments=("learning-rate",),
        chapter="06-learning-rate",
        evaluate=learning_rate.shorter_means_more,
    ),
    Claim(
        id="A1", source="anyscale2023lora",
        statement="LoRA is more sensitive than full fine-tuning to a learning rate that is about three times too high",
        rule_text=learning_rate.A1_RULE,
        scope="Llama 2 on SQL and GSM8K, where 1e-4 was unstable and 3e-5 was not.",
        experiments=("learning-rate",),
        chapter="06-learning-rate",
        evaluate=learning_rate.more_sensitive,
    ),
    Claim(
        id="C9", source="schulman2025lora",
        statement="an episode of reinforcement learning tells about one bit, so that rank 1 has room for what such a "
        "run tells",
        rule_text=capacity.C9_RULE,
        scope="Policy gradients with a scalar advantage; an upper bound, computed, about no model in particular.",
        experiments=(),
        chapter="03-capacity",
        compute=capacity.episodes_fit_rank_one,
    ),
    Claim(
        id="C10", source="schulman2025lora",
        statement="fine-tuning data carry about one bit a token, measured by the loss of the first pass, and a trained "
        "weight holds about two",
        rule_text=capacity.C10_RULE,
        scope="Datasets for language models, tokens that are pieces of words; two bits a weight is from pre-training.",
        experiments=("capacity", "dataset-bits", *SMOLLM2_RATES),
        chapter="03-capacity",
        evaluate=capacity.bits_of_tokens_and_weights,
        seeds=3,
    ),
    Claim(
        id="C11", source="schulman2025lora",
        statement="with a rank far below the width, training with LoRA takes slightly more than two thirds of full "
        "fine-tuning's floating-point operations (2 N² + 6 N R multiply-adds for an N × N matrix against 3 N²)",
        rule_text=cost.C11_RULE,
        scope="Matrix products of supervised training; the source leaves out attention scores. Operations, not time.",
        experiments=(),
        chapter="04-cost",
        compute=cost.flops_ratio,
    ),
    Claim(
        id="C10-RL", source="schulman2025lora",
        statement="an episode of reinforcement learning tells about as many bits as one token of supervised training, "
        "so that with episodes of a thousand tokens and more a token tells about a thousand times less",
        rule_text=reward.C10_RL_RULE,
        scope="Policy gradients with a reward for the whole episode, episodes of thousands of tokens; an argument.",
        experiments=(reward.SUPERVISED, *reward.TASKS),
        chapter="08-reward",
        compute=reward.bits_of_episodes_and_tokens,
    ),
    Claim(
        id="M1", source="bledden2025memorization",
        statement="to learn one secret out of N takes a number of episodes that grows as about the 0.9th power of N "
        "where a reward says right or wrong, and one number of examples whatever N where the answer is shown",
        rule_text=reward.M1_RULE,
        scope="A small network from scratch, N of 10, 100 and 500, 10 seeds; 19, 129 and 599 episodes, 2 examples.",
        experiments=(reward.REWARDED, reward.SHOWN),
        chapter="08-reward",
        compute=reward.episodes_against_examples,
    ),
    Claim(
        id="C8", source="schulman2025lora",
        statement="in reinforcement learning LoRA reaches full fine-tuning's accuracy down to rank 1, over a wider "
        "band of good learning rates",
        rule_text=grpo.C8_RULE,
        scope="Policy gradients, the group's mean subtracted; Llama-3.1-8B on MATH and GSM8K, Qwen3-8B on DeepMath.",
        experiments=("grpo", "grpo-form"),
        chapter="09-grpo",
        evaluate=grpo.equal_in_a_wider_band,
    ),
    Claim(
        id="C3-RL", source="schulman2025lora",
        statement="in reinforcement learning, as in supervised training, LoRA's best learning rate is about ten times "
        "full fine-tuning's",
        rule_text=grpo.C3_RL_RULE,
        scope="The same runs as C8.",
        experiments=("grpo", "grpo-form"),
        chapter="09-grpo",
        evaluate=grpo.ten_times_in_rl,
    ),
    Claim(
        id="C6-RL", source="schulman2025lora",
        statement="in reinforcement learning, too, attention alone does worse than the MLP alone with equally many "
        "weights, and adding attention to the MLP gains nothing",
        rule_text=grpo.C6_RL_RULE,
        scope="Llama-3.1-8B on MATH.",
        experiments=("grpo-layers",),
        chapter="09-grpo",
        evaluate=grpo.mlp_carries_it_in_rl,
    ),
    Claim(
        id="O1", source="osmosis2025limits",
        statement="trained by GRPO with the learning rate of full fine-tuning, LoRA stays far behind it",
        rule_text=grpo.O1_RULE,
        scope="Qwen3-4B on DAPO-Math-17k, rewards for form and answer, settings kept largely similar.",
        experiments=("grpo", "grpo-form"),
        chapter="10-disagreement",
        evaluate=grpo.behind_at_the_same_rate,
    ),
    Claim(
        id="O2", source="osmosis2025limits",
        statement="LoRA as such is less effective than full fine-tuning in reinforcement learning",
        rule_text=grpo.O2_RULE,
        scope="The source's conclusion from one comparison; judged here with a learning rate chosen for each method.",
        experiments=("grpo", "grpo-form"),
        chapter="10-disagreement",
        evaluate=grpo.behind_at_its_own_rate,
    ),
    Claim(
        id="T1", source="trl2025lora",
        statement="GRPO with LoRA of rank 1, at ten times full fine-tuning's learning rate, does as well as full "
        "fine-tuning",
        rule_text=grpo.T1_RULE,
        scope="SmolLM3-3B, 500 steps on mathematics, training reward of one run.",
        experiments=("grpo", "grpo-form"),
        chapter="09-grpo",
        evaluate=grpo.ten_times_at_rank_one,
    ),
    Claim(
        id="T2", source="trl2025lora",
        statement="an RL step with LoRA of rank 1 peaks at less memory than one of full fine-tuning",
        rule_text=cost.T2_RULE,
        scope="SmolLM3-3B; the guide shows the memory of one run of each.",
        experiments=(),
        chapter="09-grpo",
        compute=cost.peaks_lower_in_rl,
    ),
    Claim(
        id="P1", source="yin2025perl",
        statement="a very small rank is a bottleneck in reinforcement learning",
        rule_text=grpo.P1_RULE,
        scope="PeRL: R1-Distill-Qwen 1.5B and 7B at one rate with alpha = 2 r; verl's manual asks for rank 32.",
        experiments=("grpo", "grpo-form"),
        chapter="10-disagreement",
        evaluate=grpo.rank_one_is_a_bottleneck,
    ),
)
