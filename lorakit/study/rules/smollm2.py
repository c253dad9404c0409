"""The rules for SmolLM2-135M on two cores, written on 2026-11-25 before the first run of its experiments."""

from __future__ import annotations

DATE = "2026-11-25"
CONFIRMED = 8  # fresh seeds at the chosen rate
MARGIN = 0.05  # of full fine-tuning's improvement over the base
HIGH_RANK, MIDDLE_RANK = 16, 4
TEN, ABOUT, SHIFT = 10.0, 1.5, 2.0
EARLY_STEPS, SHORT = 10, 100

E1_PROTOCOL = (
    "SmolLM2-135M-Instruct, real text, 400 steps of 2 sequences of 64 tokens. Arms: full fine-tuning, full fine-tuning "
    "of the linear layers alone, LoRA of ranks 1, 4, 16 and 64 with alpha 32. Rates, equally dense for every arm, are "
    "screened on seeds 0 and 1 (0 to 4 for full fine-tuning and ranks 1 and 16); each arm's rate is the one of least "
    "mean validation loss at the end. Verdicts on losses are read at that rate on eight fresh seeds (100 to 107), on "
    "the same 16,384 tokens of test text for all. A chosen rate at the end of its grid widens the grid for all arms."
)
E1_C1_RULE = (
    "Test loss at the end, LoRA minus full fine-tuning, paired by seed, in per cent of full fine-tuning's mean "
    f"improvement over the base. Holds if for every rank of {HIGH_RANK} or more the 95 % interval lies within ± "
    f"{MARGIN:.0%}. Does not hold if one lies wholly beyond it at 95 % after Bonferroni's correction. Otherwise "
    "inconclusive. The same against full fine-tuning of the linear layers alone is printed beside it and decides "
    "nothing: where the two differ, embedding and head are the reason."
)
E1_C3_RULE = (
    "An arm's best rate is the vertex of one parabola in log rate, fitted to the mean validation loss of the screened "
    "seeds over one window for all seeds (the three rates around the least mean), with the seeds' own losses over the "
    "same window giving its interval. Ratios are geometric means with paired 95 % intervals. Three parts, apart: (a) "
    f"rank {HIGH_RANK} over full lies within a factor {ABOUT:g} of {TEN:g}; (b) rank 64 over rank {MIDDLE_RANK} lies "
    f"below {SHIFT:g} (two seeds: inconclusive unless both agree and the ratio of the rates chosen is 1); (c) rank 1 "
    "over rank 16 lies below 1. Holds if all parts do, does not hold if an interval lies wholly outside after "
    "Bonferroni's correction, otherwise inconclusive."
)
E1_C4_RULE = (
    f"Runs of {EARLY_STEPS} steps, evaluated at each, of every rank at rank 16's chosen rate with the eight fresh "
    "seeds: each rank's test loss minus rank 64's at every step, paired by seed. Margin: "
    f"{MARGIN:.0%} of rank 64's improvement over the base by the last of these steps. Holds if every 95 % interval "
    "lies within it; does not hold if one lies wholly beyond it after Bonferroni's correction; otherwise inconclusive."
)
E1_C14_RULE = (
    f"Part (a) alone: the ratio of best rates, rank 16 over full, at the last evaluated step up to {SHORT}, over the "
    "same ratio at step 400, seed by seed over five seeds. Holds if the 95 % interval lies above 1, does not hold if "
    "it lies wholly below 1, otherwise inconclusive. Part (b), B's norm over A's, is printed and judged apart: the "
    "source speaks of the end of long runs, and 400 steps are not long."
)
