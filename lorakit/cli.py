"""The command line: every command is one call of a public function."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorabook.experiments import Experiment
    from lorakit.records import Store
    from lorakit.specs import SFTSpec


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 if it succeeded, 1 with one clear line on standard error if not."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return int(options.do(options) or 0)
    except (ValueError, KeyError, RuntimeError, OSError, ImportError) as error:
        print(f"lorakit {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what was finished is recorded, the same command goes on from there", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    from lorabook.experiments import EXPERIMENTS, PROFILES, SIZES
    from lorakit.theory.estimate import MFU

    parser = argparse.ArgumentParser(prog="lorakit", description="LoRA, measured: run, plan and refresh experiments.")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, do: object, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(do=do)
        sub.add_argument("--profile", choices=PROFILES, default="cpu")
        sub.add_argument("--size", choices=SIZES, default="record")
        return sub

    for name, do, text in (("run", _run, "Train what an experiment still lacks; stops cleanly, resumes."),
                           ("plan", _plan, "Say what is missing or stale, and how long it would take.")):
        sub = command(name, do, text)
        sub.add_argument("experiment", nargs="?" if name == "plan" else None,
                         help=f"one of {', '.join(EXPERIMENTS)}" + ("; all without it" if name == "plan" else ""))
        sub.add_argument("--results", type=Path, help="folder of the records (default: book/results of the clone)")
        sub.add_argument("--processes", type=int, help="worker processes (default: up to two on a CPU, one a GPU)")
        sub.add_argument("--device", help="cpu, cuda (all visible GPUs), or one such as cuda:1; default: GPUs if any")
        if name == "run":
            sub.add_argument("--time-budget", type=float, metavar="SECONDS",
                             help="start no pack that is predicted to end later")
            sub.add_argument("--engine", choices=("packed", "trl", "peft"), help="default: the experiment's own")
            sub.add_argument("--report-to", default="none", help="for --engine trl: none, trackio, …")
        else:
            sub.add_argument("--gpu", help="ask whether the runs fit on this card, such as H100, that need not be here")
            sub.add_argument("--no-probe", action="store_true", help="count only; train no probe step")
    sub = command("estimate", _estimate, "Price a run or an experiment: FLOPs, hours, memory, dollars; trains nothing.")
    sub.add_argument("model", nargs="?", help="a known name such as llama-3.1-8b, or a config.json")
    sub.add_argument("--experiment", help="price all runs of this experiment (with --profile and --size)")
    sub.add_argument("--rank", type=int, default=16, help="0: full fine-tuning")
    for field, value in (("steps", 1000), ("batch-size", 8), ("max-length", 1024)):
        sub.add_argument(f"--{field}", type=int, default=value)
    sub.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of weights and activations")
    sub.add_argument("--gpu", default="H100")
    sub.add_argument("--mfu", type=float, default=MFU, help="share of the GPU's dense FLOP/s that is reached")
    sub.add_argument("--recompute", action="store_true", help="gradient checkpointing")
    sub.add_argument("--no-master-weights", action="store_true",
                     help="with --rank 0: weights, gradients and moments in bfloat16 alone")
    sub.add_argument("--price-per-hour", type=float, metavar="DOLLARS", help="of one GPU (default: a dated list price)")
    sub = command("refresh", _refresh, "Execute chapters anew where their inputs changed; never touches sources.")
    sub.add_argument("chapters", nargs="*", help="such as 02-rank; all without it")
    sub.add_argument("-p", dest="parameters", action="append", default=[], metavar="NAME=VALUE",
                     help="a parameter of the chapters' parameters cell")
    sub.add_argument("--force", action="store_true", help="execute chapters that are up to date, too")
    return parser


def _run(options: argparse.Namespace) -> int:
    from lorabook import experiments
    from lorakit.sweep import sweeps

    specs = _specs(options.experiment, options)
    if not specs:
        raise ValueError(f"{options.experiment} is not defined for profile {options.profile!r}, size {options.size!r}; "
                         f"defined: {_defined(experiments.get(options.experiment))}")
    engine = options.engine or experiments.get(options.experiment).engine_for(specs)
    records = sweeps.run(specs, _store(options), profile=options.profile, experiment=_file(options.experiment, options),
                         engine=engine, device=options.device, processes=options.processes,
                         time_budget=options.time_budget, report_to=options.report_to, stale="retrain", progress=True)
    diverged = sum(record.status == "diverged" for record in records)
    print(f"{options.experiment}: {len(records)} of {len(specs)} runs recorded, {diverged} diverged")
    if len(records) < len(specs):
        print(f"{len(specs) - len(records)} are left; the same command goes on with them")
    return 0


def _plan(options: argparse.Namespace) -> int:
    from lorabook import experiments
    from lorakit.sweep import call, sweeps
    from lorakit.theory.fitting import require_fit

    store = _store(options)
    names = [options.experiment] if options.experiment else list(experiments.EXPERIMENTS)
    for name in names:
        specs = _specs(name, options)
        if not specs:
            print(f"{name}: not defined for profile {options.profile}, size {options.size}; "
                  f"defined: {_defined(experiments.get(name))}")
            continue
        engine = experiments.get(name).engine_for(specs)
        if options.no_probe or options.gpu:
            call.check_numbers(options.processes, None)
            missing = store.missing(specs, engine)
            print(f"{name}: {len(missing)} of {len(specs)} runs missing")
            if options.gpu:
                require_fit(missing, options.gpu)
                print(f"{name}: all of them fit on one {options.gpu}, with micro-batches or recompute where they must")
            continue
        todo = sweeps.plan(specs, store, engine=engine, device=options.device,
                           processes=options.processes)
        took = timedelta(seconds=round(todo.seconds))
        print(f"{name}: {len(todo.missing)} of {len(specs)} runs missing, {len(todo.stale)} stale; "
              f"{len(todo.packs)} packs on {todo.processes} processes, about {took} predicted")
    for problem in store.problems:
        print(f"problem: {problem}")
    return 0


def _estimate(options: argparse.Namespace) -> int:
    import json

    from lorakit.specs import LoRASpec, SFTSpec
    from lorakit.theory.estimate import estimate

    if bool(options.model) == bool(options.experiment):
        raise ValueError("name a model, or an experiment with --experiment NAME")
    model: object = options.model
    if options.experiment:
        specs = _specs(options.experiment, options)
    else:
        specs = [SFTSpec(learning_rate=1e-4, lora=LoRASpec(rank=options.rank) if options.rank else None,
                         steps=options.steps, batch_size=options.batch_size, max_length=options.max_length,
                         dtype=options.dtype)]
        if options.model.endswith(".json"):
            model = json.loads(Path(options.model).read_text(encoding="utf-8"))
    print(estimate(model, specs, options.gpu, mfu=options.mfu, recompute=options.recompute,
                   master_weights=not options.no_master_weights, price_per_hour=options.price_per_hour))
    return 0


def _refresh(options: argparse.Namespace) -> int:
    from lorabook import refresh

    os.environ.setdefault("LORAKIT_MISSING", "train")  # a refresh makes what its chapters lack; a build never does
    parameters = refresh.parse_parameters(options.parameters)
    done = refresh.refresh(options.chapters, options.profile, options.size, parameters, force=options.force)
    for chapter in done:
        what = f"executed ({', '.join(chapter.changed)})" if chapter.changed else "up to date"
        print(f"{chapter.chapter}: {what}")
    return 0


def _store(options: argparse.Namespace) -> Store:
    from lorabook.experiments import results
    from lorakit.records import Store

    return results.store() if options.results is None else Store(options.results)


def _specs(name: str, options: argparse.Namespace) -> list[SFTSpec]:
    from lorabook import experiments

    return experiments.get(name).specs(options.profile, options.size)


def _file(name: str, options: argparse.Namespace) -> str:
    return name if options.size == "record" else f"{name}-live"


def _defined(experiment: Experiment) -> str:
    return ", ".join(f"{profile}/{size}" for profile, size in experiment.runs)


if __name__ == "__main__":
    sys.exit(main())
