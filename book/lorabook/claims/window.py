"""The window of a ratio of best learning rates: one rule for every claim about such a ratio.

Written on 2026-11-26 at 09:15 UTC, while the runs on new seeds (`learning-rate-fresh`) were under way and before
anybody had read one of their records. C13 had been left out, and follows it since `LAW_CHANGED`.
"""

from __future__ import annotations

from lorakit.analysis.parabolas import REACH

CHANGED = "2026-11-26T09:15"  # to the minute, since records of the same day are older and younger
LAW_CHANGED = "2026-11-26T12:45"
WORDS = (
    "An arm's best rate is the vertex of one parabola in the logarithm of the rate, through the mean validation losses "
    f"over one window for all seeds: the rate of least mean loss and {REACH} on either side. A ratio is that of two "
    "such rates; its paired interval is the jackknife's, each seed left out in turn."
)
WHY = (
    "Claims about a ratio of best rates had three windows: two rates on either side on tiny, one on SmolLM2, and each "
    "seed's own in RL. Now one stands for all: that which was registered for SmolLM2 before its runs, with the same "
    "best rates and wider intervals. On made-up curves that rise more steeply to the right, as those of learning rates "
    "do, five rates miss the minimum by up to a factor of 1.6 and their intervals seldom hold it; three miss it by "
    "less than 1.1. Intervals of three with one bend, taken as known, held the truth 80 to 90 times in 100 on "
    "parabolas; the jackknife's hold it 91 to 95 times. Written at 09:15 UTC, while the first new seeds "
    "were being run and before anybody had read a record of them."
)
ON_SMOLLM2 = (
    "Best rates are those of the rule as registered, whose three rates the window keeps; the jackknife's intervals are "
    f"new, and wider. {WHY}"
)
LAW_WHY = (
    "The best rates of every width are read over the window that stands for all other ratios; until then each seed had "
    "three rates of its own. The runs are the same as before, and were known."
)
