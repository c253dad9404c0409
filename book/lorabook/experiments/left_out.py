"""Why an experiment lacks a size: what `lorabook plan` prints, and what a new experiment has to say."""

from __future__ import annotations

from fnmatch import fnmatch

SIZES = {"live": ("cpu", "live"), "record": ("cpu", "record"), "gpu": ("gpu", "record"), "paper": ("paper", "record")}
IS_SMOLLM2 = "it is SmolLM2 on two cores: on a GPU that is the gpu definition of the experiment without the suffix"
SLOW = "a step takes SmolLM2 up to a second, and its weights are fetched: a live run uses embedded ones, in 90 s"
UNSCREENED = "its rates are those that the screening chose, and on two cores that is not whole"
TINY_ASKED = "grids of two settings are asked of `tiny` first"
AGAIN = "it is the cpu definition of `learning-rate` once more, on new seeds and bases"
ANEW = "it asks a changed rule once more, on new seeds of embedded bases"
NEW_SEEDS = "it is the cpu definition of `grpo` once more, on new seeds"
REPLAY = "replay keeps a model of 0.4 million weights in post-training; `rank` asks larger bases without it"
EVENLY = "N says how many guesses a base needs only where it guesses evenly, as `tiny` was taught to"
PAID = "no task is known on which SmolLM2 meets a new form at times: it earned nothing on any of reasoning-gym"
TOO_LONG = "at 2 bits for each of 135 million weights, 300 times, one run is 14 billion tokens, and more beyond"
# Patterns of names; the last that fits an experiment counts.
LEFT_OUT: dict[str, dict[str, str]] = {
    "rank-replay": {"gpu": REPLAY, "paper": REPLAY},
    "rank-smollm2": {"live": SLOW, "gpu": IS_SMOLLM2, "paper": IS_SMOLLM2},
    "capacity-full": {"gpu": TOO_LONG, "paper": TOO_LONG},
    "capacity-placement": {"paper": "rank 1 on an 8B model's MLP holds twice what the largest set of strings carries"},
    "moe": {"gpu": "SmolLM2 has no experts"},
    "learning-rate-width": {"gpu": "SmolLM2 has one width"},
    "learning-rate-width-256": {"gpu": "SmolLM2 has one width", "paper": "one rung of `learning-rate-width`"},
    "learning-rate-invariance": {"paper": "an identity of algebra, and 8 billion weights in float64 are 64 GB"},
    "learning-rate-smollm2-[0-4]": {"live": SLOW, "gpu": IS_SMOLLM2, "paper": IS_SMOLLM2},
    "learning-rate-fresh": {"live": AGAIN, "gpu": AGAIN, "paper": AGAIN},
    "learning-rate-bases": {"live": AGAIN, "gpu": AGAIN, "paper": AGAIN},
    **{name: dict.fromkeys(("live", "gpu", "paper"), ANEW) for name in (
        "layers-fresh", "moe-fresh", "grpo-layers-fresh", "learning-rate-long", "rank-beyond", "capacity-fresh")},
    "learning-rate-alpha-*": {"live": TINY_ASKED, "gpu": TINY_ASKED, "paper": TINY_ASKED},
    "smollm2-*": {"live": SLOW, "paper": IS_SMOLLM2},
    **{f"smollm2-{name}": {"live": SLOW, "record": UNSCREENED, "paper": IS_SMOLLM2}
       for name in ("rank-confirmed", "layers-confirmed", "grpo-ordered-sums-confirmed")},
    "smollm2-rank-early": {"live": SLOW, "record": UNSCREENED, "paper": IS_SMOLLM2},
    "secret-reward": {"gpu": EVENLY, "paper": EVENLY},
    "secret-example": {"gpu": EVENLY, "paper": EVENLY},
    "secret-wait": {"gpu": EVENLY, "paper": EVENLY},
    "grpo-form": {"gpu": PAID},
    "grpo-form-factors": {"gpu": PAID},
    "grpo-fresh*": {"live": NEW_SEEDS, "gpu": NEW_SEEDS, "paper": NEW_SEEDS},
    "grpo-high-rank": {"live": TINY_ASKED, "gpu": TINY_ASKED, "paper": TINY_ASKED},
}


def left_out(name: str) -> dict[str, str]:
    """The sizes that an experiment lacks, each with the reason; sizes as in `SIZES`."""
    fitting = [reasons for pattern, reasons in LEFT_OUT.items() if fnmatch(name, pattern)]
    return fitting[-1] if fitting else {}
