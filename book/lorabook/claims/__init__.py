"""The claims of the sources, in our own words, each with the rule that judges it, in the ledger's order."""

from __future__ import annotations

from lorabook.claims import batch_size, capacity, cost, grpo, layers, learning_rate, rank, reward
from lorabook.claims import learning_rate_laws as laws
from lorabook.claims.twins import with_twins

CLAIMS = with_twins((
    rank.equal_to_full, rank.rank_sets_departure, rank.same_first_steps, batch_size.gap_grows_with_batch,
    layers.mlp_carries_it, layers.same_ratio, learning_rate.ten_times, laws.same_after_transformation,
    laws.same_at_every_width, learning_rate.shorter_means_more, learning_rate.b_outgrows_a,
    learning_rate.more_sensitive,
    capacity.episodes_fit_rank_one, capacity.bits_of_tokens, capacity.bits_of_weights, cost.flops_ratio,
    reward.bits_of_episodes_and_tokens, reward.episodes_against_examples, grpo.equal_in_a_wider_band,
    grpo.ten_times_in_rl, grpo.mlp_carries_it_in_rl, grpo.behind_at_the_same_rate, grpo.behind_at_its_own_rate,
    grpo.ten_times_at_rank_one, cost.peaks_lower_in_rl, grpo.rank_one_is_a_bottleneck,
))
