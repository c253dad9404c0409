"""The rules of alpha against learning rate and of high rank in RL, written on 2026-11-26 before their first runs."""

from __future__ import annotations

DATE = "2026-11-26"
MARGIN = 0.05  # of the improvement (of the gain in accuracy) of the arm that is compared with
ALPHA_RULE = (
    "Ranks 4, 16 and 128 on `tiny`, post-training with replay, 206 steps, five seeds; alpha 8, 32 and 128, each at its "
    "own best rate by mean validation loss; four settings: plain Adam, weight decay 0.1, clipping at 1, and Adam "
    "without its epsilon. Test loss minus that of alpha 32, paired by seed, in per cent of the mean improvement at "
    "alpha 32. That alpha does nothing that the rate cannot do holds if every 95 % interval lies within "
    f"± {MARGIN:.0%} in every setting; does not hold if one lies wholly beyond after Bonferroni's correction; "
    "otherwise inconclusive."
)
HIGH_RANK_RULE = (
    "GRPO on `tiny`, copying, equally many episodes in steps of 8 or 32 problems times 8 completions, three seeds. (a) "
    "Alpha fixed at 32: test accuracy of ranks 64 and 128 minus rank 8's, each at its best rate by mean validation "
    f"accuracy, paired by seed. No collapse: every 95 % interval lies above minus {MARGIN:.0%} of rank 8's gain. (b) "
    "At rank 8's best rate: alpha of four times the rank minus alpha 32, for ranks 64 and 128. High rank collapses "
    "where alpha grows with it if both intervals lie below 0 at one batch size or both; it does not if both lie above "
    f"minus {MARGIN:.0%} at both. Otherwise inconclusive, after Bonferroni's correction where a limit refutes."
)
