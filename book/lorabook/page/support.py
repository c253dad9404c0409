"""What each line of the calculator rests on, in a few words, with numbers from records and public figures."""

from __future__ import annotations

from lorabook.claims import rl_tasks
from lorabook.experiments.fresh import SHORT_STEPS
from lorabook.experiments.recipes import ARTICLE, FACTORS, SYNCS
from lorabook.experiments.results import recorded, store
from lorabook.page import ratios
from lorabook.page.calculator_form import Support
from lorabook.page.public import RL_QUOTED, kept
from lorabook.page.recipes import Recipes
from lorakit.analysis.statistics import Interval
from lorakit.analysis.sweep import Sweep
from lorakit.grpo_spec import GRPOSpec
from lorakit.theory.learning_rate import recommend_learning_rate

CHAPTERS = {"rank": ("02-rank", "Rank"), "capacity": ("03-capacity", "Capacity"), "cost": ("04-cost", "Cost"),
            "layers": ("05-layers", "Layers"), "rate": ("06-learning-rate", "Learning rate"),
            "alpha": ("12-alpha", "Alpha"),
            "batch": ("07-batch-size", "Batch size"), "grpo": ("09-grpo", "GRPO"),
            "disagreement": ("10-disagreement", "When it fails"), "public": ("public", "Others' runs")}


class SupportChanged(RuntimeError):  # noqa: N818 - named for what happened
    """Records or public figures no longer say what a line of the calculator says they say."""


def says(condition: bool, words: str) -> None:
    """Stop the build where a line is no longer true."""
    if not condition:
        raise SupportChanged(f"the records no longer say: {words}")


def support() -> dict[str, dict[str, Support]]:
    """For each task and line of the answer."""
    shared = {"alpha": Support("algebra; runs in float64", "high: alpha and the rate trade off exactly; fix one, tune "
                               "the other", CHAPTERS["alpha"]),
              "price": Support("list prices of 2026, by card", "low: they move every month", CHAPTERS["cost"])}
    return {"sft": {**supervised(), **shared}, "rl": {**by_reward(), **shared}}


def supervised() -> dict[str, Support]:
    """Lines of supervised training."""
    found, of = kept(store().root), ratios.ratios()
    room, law = found["figures"]["room"]["all"], found["learning_rate"]
    memory, time = found["estimates"]["memory"], found["estimates"]["time"]
    short, long = (ratios.of(of, "SmolLM2-135M", steps) for steps in ("100 ", "1,000 "))
    toy = ratios.of(of, "tiny", "128 ")
    says(min(short.low, long.low) > 9 and max(short.high, long.high) < 16, "about ten to fifteen on SmolLM2")
    best = Sweep(ratios.on_gpu()).optima()["rank 16"].learning_rate
    share = best / recommend_learning_rate("smollm2-135m", 16).learning_rate
    says(0.3 < share < 0.6, "on one H200 the best rate was about half of the rule's")
    margin = max(memory["most"] - 1, 1 - memory["least"])
    tight, enough = (room["median"][span][0] for span in ("below 2", "4 to 8"))
    says(tight > 3 * enough, "a rank near the floor costs loss")
    factor = max(time["most"], 1 / time["least"])
    return {
        "rank": Support(f"{room['cells']} adapters on models from 1B up (others' runs); four datasets on tiny",
                        f"medium: at 4 to 8 times the floor others' runs ended {enough:.1f} % above the best loss, "
                        f"below twice the floor {tight:.1f} %; a spare rank costs memory and a little time. On our "
                        "four small datasets always taking rank 8 was right as often", CHAPTERS["capacity"],
                        "At a bit a token rank {floor} holds the data. Data may carry more, and runs learn them in "
                        "time at four to eight times that; a spare rank costs memory and a little time."),
        "layers": Support("two datasets on tiny, one on SmolLM2-135M",
                          "medium: which half matters more changed with the data", CHAPTERS["layers"]),
        "learning rate": Support(
            f"{law['cells']} sweeps of {law['models']} models (others' runs); SmolLM2-135M on an H200",
            f"medium: it costs {law['regret']['law']['mean']:.1f} % of the loss on average, "
            f"{law['regret']['law']['largest']:.1f} % at most, against the best rate of each model; with steps of only "
            f"128 tokens the best was {share:.1f} times it",
            CHAPTERS["rate"],
            f"A law through {law['cells']} public sweeps. Full fine-tuning's rate, {{full-rate}}, is far too low."),
        "full fine-tuning's rate": Support(
            f"SmolLM2-135M: LoRA's best is {short.mean:.0f} times full's after 100 steps, {long.mean:.0f} after 1,000",
            f"low: one model; the article says ten, tiny says {toy.mean:.1f}", CHAPTERS["rate"]),
        "batch": Support("tiny, batches of 4 to 32", "low: no reason was seen to leave full fine-tuning's batch",
                         CHAPTERS["batch"]),
        "memory": Support(f"{memory['rows']} public measurements",
                          f"high: every estimate within {100 * margin:.0f} % of it", CHAPTERS["cost"]),
        "time": Support(f"{time['rows']} public timings", f"medium: all within a factor {factor:.1f}; one pass over "
                        "full sequences", CHAPTERS["cost"]),
        "full fine-tuning": Support("as LoRA's", "medium: all weights, with float32 masters", CHAPTERS["cost"]),
    }


def by_reward() -> dict[str, Support]:
    """Lines of training by reward."""
    copying = recorded("grpo")
    gaps = copying.compare("full")
    held = rl_tasks.room(copying.curves, copying.runs)["rank 1"]
    says(gaps["rank 1"].high < 0 and gaps["rank 8"].low > -5, "on tiny rank 1 ends behind full fine-tuning, rank 8 not")
    brief = recorded("grpo-fresh-short")
    early, spare = brief.compare("full")["rank 1"], rl_tasks.room(brief.curves, brief.runs)["rank 1"]
    says(held < 1 < 2 < spare and early.high < 0, "rank 1 is behind without room for what it is told, and with room")
    behind = (f"on tiny it ended {-gaps['rank 1'].mean:.0f} points of accuracy behind, with room for {held:.1f} times "
              f"the bits, and was {-early.mean:.0f} behind after {SHORT_STEPS} steps, with room for {spare:.1f} times; "
              "rank 8 kept up")
    tiny = ratios.over_full(copying, 8)
    others = RL_QUOTED["rank 16"]["ratio"]
    says(2 < others < tiny.mean < 8, "by reward the best rates are three to six times full fine-tuning's")
    lost = one_prompt_costs()
    says(lost < -5, "one prompt a step costs accuracy")
    return {
        "rank": Support("copying by reward on tiny, ranks 1 to 64",
                        f"low: an episode tells a bit at most, so rank 1 would hold all; {behind}", CHAPTERS["grpo"],
                        f"An episode tells a bit at most, so rank 1 would hold all. But {behind}."),
        "layers": Support("tiny", "low: attention alone beat the MLP alone there, against the article",
                          CHAPTERS["grpo"]),
        "learning rate": Support("Qwen3-1.7B (others', one seed) and tiny",
                                 "low: about a fifth of rank 16's supervised rate, in one seed and on a toy",
                                 CHAPTERS["grpo"],
                                 "By reward best rates lay near a fifth of rank 16's supervised one, in one seed of "
                                 "Qwen3-1.7B and on tiny. Sweep."),
        "full fine-tuning's rate": Support("the same two", f"low: LoRA's best was {others:.1f} and {tiny.mean:.1f} "
                                           "times full's", CHAPTERS["grpo"]),
        "batch": Support("tiny", "low: these numbers were compared with no others; one prompt a step instead of "
                         f"{ARTICLE.prompts_per_step} cost {-lost:.0f} points, and a prompt whose samples are all "
                         "right or all wrong teaches nothing, so take many",
                         CHAPTERS["disagreement"]),
        "memory": Support("as in supervised runs", "low: the learner alone; SmolLM2's step took "
                          f"{_over_predicted():.1f} times the prediction, and a sampler's cache comes on top",
                          CHAPTERS["cost"]),
        "time": Support("as in supervised runs", "low: the learner's part; sampling comes on top",
                        CHAPTERS["cost"]),
        "full fine-tuning": Support("as LoRA's", "medium: all weights, with float32 masters", CHAPTERS["cost"]),
    }


def one_prompt_costs() -> float:
    """Points of accuracy of one prompt a step, with as many samples, minus the article's recipe."""
    return _apart("grpo-factors", FACTORS, "one prompt a step, 64 samples", "the article's recipe").mean


def rounding_alone() -> Interval:
    """Points of accuracy between two arms of float32 that differ in rounding alone: what chance does to an RL run."""
    return _apart("grpo-sync", SYNCS, "merged, float32", "adapter as it is, float32")


def _over_predicted() -> float:
    """Measured over predicted peak of a step of GRPO with TRL at rank 1, on SmolLM2-135M."""
    over = [float(record.metrics["peak_bytes"] or 0) / float(record.metrics["predicted_peak_bytes"] or 1)
            for record in store().records("cpu", "rl-memory") if record.spec["rank"] == 1]
    return sum(over) / len(over)


def _apart(experiment: str, recipes: dict[str, GRPOSpec], one: str, other: str) -> Interval:
    """Points of accuracy of a recipe minus another's, paired by seed."""
    return Recipes(recorded(experiment), recipes).compare(other)[one]
