"""The book's command line: train what an experiment lacks, say what that is, execute chapters, print the ledger."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lorabook import experiments
from lorabook.experiments import results
from lorabook.experiments.left_out import SIZES, left_out
from lorabook.probes import functions, lacking
from lorakit.cli import INCOMPLETE, Device, Engine, Json, Processes, run_command, say, until_stopped
from lorakit.records import Store
from lorakit.specs import SFTSpec

app = typer.Typer(help="LoRA, measured: the experiments, chapters and claims of the book.", no_args_is_help=True,
                  rich_markup_mode=None, pretty_exceptions_enable=False)
Profile = Annotated[Literal["cpu", "gpu", "paper"], typer.Option()]
Size = Annotated[Literal["live", "record"], typer.Option()]
Results = Annotated[Path | None, typer.Option("--results", help="Folder of the records; default: that of the clone.")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command: 0 if it succeeded, 1 with one clear line on standard error, 2 for a call that cannot be meant."""
    return run_command(app, "lorabook", arguments)


@app.command()
def run(
    experiment: Annotated[str, typer.Argument(help="A name that `lorabook plan` lists.")],
    profile: Profile = "cpu",
    size: Size = "record",
    folder: Results = None,
    engine: Engine = None,
    device: Device = None,
    processes: Processes = None,
    time_budget: Annotated[float | None, typer.Option(help="Seconds; what would end later is left.")] = None,
    report_to: Annotated[str, typer.Option(help="A tracker such as trackio.")] = "none",
) -> None:
    """Train what an experiment still lacks; stops cleanly, resumes."""
    from lorakit.sweep import sweeps

    specs = experiments.get(experiment).specs(profile, size)
    if not specs:
        raise ValueError(f"{experiment} is {_absence(experiment, profile, size)}")
    records = until_stopped(lambda: sweeps.run(
        specs, _store(folder), profile=profile, experiment=experiment if size == "record" else f"{experiment}-live",
        engine=engine or experiments.get(experiment).engine_for(specs), device=device, processes=processes,
        time_budget=time_budget, report_to=report_to, probes=functions(experiments.get(experiment).probes, profile),
        stale="retrain"))
    diverged = sum(record.status == "diverged" for record in records)
    print(f"{experiment}: {len(records)} of {len(specs)} runs recorded, {diverged} diverged")
    if len(records) < len(specs):
        print(f"{len(specs) - len(records)} are left; the same command goes on with them")
        raise typer.Exit(INCOMPLETE)


@app.command()
def plan(
    experiment: Annotated[str | None, typer.Argument(help="All without it.")] = None,
    profile: Profile = "cpu",
    size: Size = "record",
    folder: Results = None,
    device: Device = None,
    processes: Processes = None,
    gpu: Annotated[str | None, typer.Option(help="Price the runs on this card, such as H100, that need not be here, "
                                                 "and see that they fit.")] = None,
    probe: Annotated[bool, typer.Option(help="Without it, runs are counted and no probe step is trained.")] = True,
) -> None:
    """Say what is missing or stale, and how long it would take."""
    store = _store(folder)
    for name in [experiment] if experiment else experiments.EXPERIMENTS:
        specs = experiments.get(name).specs(profile, size)
        if not specs:
            print(f"{name}: {_absence(name, profile, size)}")
        elif gpu or not probe:
            _count(name, specs, store, processes, gpu)
        else:
            _forecast(name, specs, store, device, processes)
        for measure in experiments.get(name).probes:
            if count := len(lacking(measure, store.find(spec.id for spec in specs).values())):
                print(f"{name}: {count} records lack the measurements of {measure!r}, and are runs all the same")
    for problem in store.problems:
        print(f"problem: {problem}")


def _count(name: str, specs: list[Any], store: Store, processes: int | None, gpu: str | None) -> None:
    from lorakit.sweep.call import check_numbers
    from lorakit.theory.estimate import estimate
    from lorakit.theory.fitting import require_fit

    check_numbers(processes, None)
    missing = store.missing(specs, experiments.get(name).engine_for(specs))
    print(f"{name}: {len(missing)} of {len(specs)} runs missing")
    if gpu:
        require_fit(missing, gpu)
        print(f"{name}: all of them fit on one {gpu}, with micro-batches or recompute where they must")
        if supervised := [spec for spec in specs if isinstance(spec, SFTSpec)]:
            print(f"{name}, one after another: {estimate(None, supervised, gpu)}")


def _forecast(name: str, specs: list[Any], store: Store, device: str | None, processes: int | None) -> None:
    from lorakit.sweep import sweeps

    engine = experiments.get(name).engine_for(specs)
    todo = sweeps.plan(specs, store, engine=engine, device=device, processes=processes)
    print(f"{name}: {len(todo.missing)} of {len(specs)} runs missing, {len(todo.stale)} stale; {len(todo.packs)} packs "
          f"on {todo.processes} processes, about {timedelta(seconds=round(todo.seconds))} predicted")


@app.command()
def refresh(
    chapters: Annotated[list[str] | None, typer.Argument(help="Such as 02-rank or rank; all without it.")] = None,
    profile: Profile = "cpu",
    size: Size = "record",
    parameters: Annotated[list[str] | None, typer.Option("-p", metavar="NAME=VALUE",
                                                         help="Of the chapters' parameters cell.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Also what is up to date.")] = False,
) -> None:
    """Execute chapters anew where their inputs changed; never touches sources."""
    from lorabook.refresh import parse_parameters
    from lorabook.refresh import refresh as execute

    os.environ.setdefault("LORAKIT_MISSING", "train")  # a refresh makes what its chapters lack; a build never does
    for chapter in execute(chapters or (), profile, size, parse_parameters(parameters or []), force=force):
        what = f"executed ({', '.join(chapter.changed)})" if chapter.changed else "up to date"
        print(f"{chapter.chapter}: {what}")


@app.command()
def rehearse(
    profile: Annotated[Literal["gpu", "paper"] | None, typer.Option(help="Both without it.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Keeps stand-ins and records; default: a temporary one.")] = None,
    processes: Processes = None,
    vllm: Annotated[bool | None, typer.Option("--vllm/--no-vllm", help="vLLM's classes alone, or all others.")] = None,
    note: Annotated[bool, typer.Option("--note", help="Note what ran, for the book's status page.")] = False,
    as_json: Json = False,
) -> None:
    """Run every class of a profile's specs for two steps on this CPU, before anyone pays for it.

    Random small bases of the same architecture and tokenizer type, rows of the same columns; vLLM's classes where it
    is installed. Ends with status 3 where it is not, with 1 where a class failed.
    """
    from lorabook.rehearsal.classes import count, spec_classes
    from lorabook.rehearsal.rehearse import note as write_note
    from lorabook.rehearsal.rehearse import rehearse as run_all
    from lorabook.rehearsal.report import path_of

    classes = [one for name in ([profile] if profile else ["gpu", "paper"]) for one in spec_classes(name)
               if vllm is None or one.vllm == vllm]
    done = until_stopped(lambda: run_all(classes, folder, lambda line: print(line, file=sys.stderr), processes))
    if note:
        write_note(done, path_of(results.store().root))
    lines = [f"{count(classes)}: {len(done.ran)} classes ran, {len(done.failed)} failed, {len(done.not_run)} not run"]
    lines += [f"failed: {', '.join(one.experiments)} ({one.profile}): {done.failed[one.key]}" for one in classes
              if one.key in done.failed]
    lines += [f"not run: {', '.join(one.experiments)} ({one.profile}): vLLM is not installed" for one in done.not_run]
    say(as_json, {"ran": done.ran, "failed": done.failed, "not_run": [one.key for one in done.not_run]},
        "\n".join(lines))
    if done.failed or done.not_run:
        raise typer.Exit(1 if done.failed else INCOMPLETE)


@app.command()
def ledger(folder: Results = None, as_json: Json = False) -> None:
    """Print every claim with the verdict of the records."""
    from lorabook.claims.ledger import ledger as judged
    from lorabook.page.claims_page import outcome_words

    verdicts = judged(None if folder is None else Store(folder))
    lines = [f"{verdict.claim.id:4} {outcome_words(verdict):28} {verdict.claim.statement}" for verdict in verdicts]
    say(as_json, {verdict.claim.id: verdict.outcome for verdict in verdicts}, "\n".join(lines))


def _absence(name: str, profile: str, size: str) -> str:
    there = ", ".join(f"{profile}/{size}" for profile, size in experiments.get(name).runs)
    reasons = {SIZES[kind]: f" ({reason})" for kind, reason in left_out(name).items()}
    return f"not defined for profile {profile}, size {size}{reasons.get((profile, size), '')}; defined: {there}"


def _store(folder: Path | None) -> Store:
    return results.store() if folder is None else Store(folder)


if __name__ == "__main__":
    sys.exit(main())
