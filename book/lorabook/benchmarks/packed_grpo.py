"""P6 on a CPU: an RL sweep of 16 policies on two cores, packed, against TRL's GRPOTrainer, one run after another.

    python book/lorabook/benchmarks/packed_grpo.py     # `tiny`, 8 prompts × 8 completions of up to 12 tokens, 20 steps

Four rates times four seeds. The arms take turns (A B A B …), three rounds; imports are outside the clock; processes
have one thread. The packed arm has two processes of 8 policies; TRL makes one run after another, of which four a round
are timed, one a rate, and their time is multiplied by four. Each arm samples with its own sampler: tests hold that runs
with the same draws are the same, so what is asserted here is that TRL's rewards and lengths lie in the band of the
packed seeds. The record goes to `book/lorabook/benchmarks/results`.
"""

from __future__ import annotations

import os
import statistics
import time
from multiprocessing import get_context
from typing import Any

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

from packed_sweep import Benchmark  # noqa: E402

from lorakit.grpo_spec import GRPOSpec  # noqa: E402
from lorakit.records import Record, Store  # noqa: E402
from lorakit.specs import LoRASpec, vary  # noqa: E402

ROUNDS, STEPS, SEEDS, RATES = int(os.environ.get("ROUNDS", "3")), int(os.environ.get("STEPS", "20")), 4, 4
WIDEST = 4.0  # standard deviations over seeds that one more run may be away from their mean, enlarged as a t value


def _load(spec: GRPOSpec) -> tuple[Any, Any, Any]:
    import torch

    from lorakit.bases.models import load_model
    from lorakit.data.rl_tasks import load_task

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    return *load_model(spec.model), load_task(spec.task)


def _summary(result: Any) -> tuple[float, float]:
    """Mean reward and mean length of all episodes of a run."""
    episodes = [b - a for a, b in zip([0, *result.curve["episodes"]], result.curve["episodes"], strict=False)]
    return tuple(sum(n * v for n, v in zip(episodes, result.curve[name], strict=True)) / sum(episodes)
                 for name in ("reward", "length"))  # type: ignore[return-value]


def packed(specs: list[GRPOSpec]) -> list[tuple[float, float]]:
    """One pack."""
    from lorakit.packed.grpo import train_grpo_pack

    return [_summary(result) for result in train_grpo_pack(specs, *_load(specs[0]))]


def trl(specs: list[GRPOSpec]) -> list[tuple[float, float]]:
    """One run after another."""
    from lorakit.reference.grpo import train_grpo

    return [_summary(train_grpo(spec, *_load(spec))) for spec in specs]


def main() -> None:
    """Time both arms, compare them, and write the record."""
    base = GRPOSpec(task="copy", learning_rate=1e-3, lora=LoRASpec(rank=8), steps=STEPS, max_completion_length=12,
                    evaluations=2, evaluation_problems=16)
    rates = [2e-4 * 2**i for i in range(RATES)]
    specs = vary(base, learning_rate=rates, seed=range(SEEDS))
    some = specs[::SEEDS]  # seed 0 of every rate
    arms = {"packed": (packed, [specs[0::2], specs[1::2]], 1), "trl": (trl, [some], SEEDS)}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    found: dict[str, dict[str, tuple[float, float]]] = {}
    with get_context("spawn").Pool(2) as pool:
        for function, parts, _ in arms.values():  # imports, first touches: outside the clock
            pool.map(function, [part[:1] for part in parts], chunksize=1)
        for number in range(ROUNDS):
            for name, (function, parts, factor) in arms.items():
                started = time.perf_counter()
                results = pool.map(function, parts, chunksize=1)
                seconds[name].append(factor * (time.perf_counter() - started))
                found[name] = {s.id: r for part, result in zip(parts, results, strict=True)
                               for s, r in zip(part, result, strict=True)}
            took = ", ".join(f"{name} {values[-1]:.1f} s" for name, values in seconds.items())
            print(f"round {number + 1}: {took}", flush=True)
    for spec in some:
        seeds = [found["packed"][s.id] for s in specs if s.learning_rate == spec.learning_rate]
        for what, place in (("reward", 0), ("length", 1)):
            values = [seed[place] for seed in seeds]
            away = abs(found["trl"][spec.id][place] - statistics.mean(values))
            band = WIDEST * statistics.stdev(values) * (1 + 1 / SEEDS) ** 0.5 + 0.01
            if away > band:
                raise RuntimeError(f"{what} of TRL's run at {spec.learning_rate:g} is {away:.3g} from the packed "
                                   f"seeds' mean, beyond their band of {band:.3g}: the arms do not do the same")
    ratios = [t / p for t, p in zip(seconds["trl"], seconds["packed"], strict=True)]
    metrics = {f"{name}_seconds_median": statistics.median(values) for name, values in seconds.items()}
    metrics |= {"trl_over_packed_median": statistics.median(ratios), "trl_over_packed_low": min(ratios),
                "trl_over_packed_high": max(ratios)}
    benchmark = Benchmark("packed-grpo", {"spec": base.to_json(), "points": len(specs), "processes": 2, "threads": 1})
    from lorakit.sweep.worker import device_name, versions

    provenance = {**versions(), "device": device_name("cpu"), "rounds": ROUNDS, "seconds": seconds}
    record = Record.from_run(benchmark, "ok", metrics, {}, provenance)
    if STEPS >= 20 and ROUNDS >= 3:  # a rehearsal leaves no record
        Store("book/lorabook/benchmarks/results").append("cpu", "packed-grpo", record)
    print({name: round(value, 2) for name, value in metrics.items()})


if __name__ == "__main__":
    main()
