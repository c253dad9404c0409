"""The book's command line: train what an experiment lacks, say what that is, execute chapters, print the ledger."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

import typer

from lorabook import experiments
from lorabook.experiments import results
from lorabook.experiments.left_out import SIZES, left_out
from lorabook.experiments.planning import Needs, needs, seconds_for, together
from lorabook.probes import functions, lacking
from lorakit.cli import (
    INCOMPLETE,
    Device,
    Engine,
    Json,
    Processes,
    Ray,
    Shard,
    VLLMServer,
    part_of,
    run_command,
    say,
    until_stopped,
)
from lorakit.records import Store
from lorakit.theory.fitting import require_fit

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
    shard: Shard = None,
    ray: Ray = None,
    vllm_server: VLLMServer = None,
) -> None:
    """Train what an experiment still lacks; stops cleanly, resumes."""
    from lorakit.sweep import sweeps

    specs = experiments.get(experiment).specs(profile, size)
    if not specs:
        raise ValueError(f"{experiment} is {_absence(experiment, profile, size)}")
    specs, file = part_of(specs, experiment if size == "record" else f"{experiment}-live", shard)
    if not specs:
        print(f"{experiment}: shard {shard} holds no run")
        return
    records = until_stopped(lambda: sweeps.run(
        specs, _store(folder), profile=profile, experiment=file,
        engine=engine or experiments.get(experiment).engine_for(specs), device=device, processes=processes,
        time_budget=time_budget, report_to=report_to, probes=functions(experiments.get(experiment).probes, profile),
        stale="retrain", executor="local" if ray is None else "ray", ray_address=ray,
        vllm_server=vllm_server))
    diverged = sum(record.status == "diverged" for record in records)
    print(f"{experiment}: {len(records)} of {len(specs)} runs recorded, {diverged} diverged")
    if len(records) < len(specs):
        print(f"{len(specs) - len(records)} are left; the same command goes on with them")
        raise typer.Exit(INCOMPLETE)


@app.command()
def plan(
    experiment: Annotated[str | None, typer.Argument(help="All without it, chapter by chapter.")] = None,
    profile: Annotated[Literal["cpu", "gpu", "paper", "all"], typer.Option()] = "cpu",
    size: Size = "record",
    folder: Results = None,
    device: Device = None,
    processes: Processes = None,
    gpu: Annotated[str | None, typer.Option(help="Price the runs on this card, such as H100, that need not be here, "
                                                 "and see that they fit.")] = None,
    probe: Annotated[bool, typer.Option(help="Train a probe step of each shape here, to predict the time.")] = False,
    as_json: Json = False,
) -> None:
    """Say what is missing or of another numerical epoch, how long it would take, and what it would cost.

    Minutes are those that the records took, or an estimate for the card that --gpu names.
    """
    from lorakit.sweep.call import check_numbers

    check_numbers(processes, None)
    store, data = _store(folder), []
    for chosen in experiments.PROFILES if profile == "all" else [profile]:
        for chapter, names in _by_chapter(experiment).items():
            parts = [needs(name, chosen, size, store, gpu) for name in names]
            whole = together(chapter, parts)
            data.append(asdict(whole) | {"experiments": [asdict(part) for part in parts if part.defined]})
            if as_json:
                continue
            if experiment is None:
                print(f"\nchapter {chapter}, {chosen}: {whole}")
            for part in parts:
                _say_plan(part, store)
                if probe and part.missing:
                    _forecast(part, store, device, processes)
    if as_json:
        print(json.dumps(data, indent=2))
    for problem in () if as_json else store.problems:
        print(f"problem: {problem}")
    if experiment and gpu:
        require_fit(experiments.get(experiment).specs(profile, size), gpu)


def _by_chapter(experiment: str | None) -> dict[str, list[str]]:
    """Chapters with the names of their experiments; of one experiment, its own alone."""
    wanted = None if experiment is None else experiments.get(experiment).name
    listed = {topic: [one.name for one in experiments.of_chapter(topic) if wanted in (None, one.name)]
              for topic in dict.fromkeys(experiments.CHAPTERS.values())}
    return {topic: names for topic, names in listed.items() if names}


def _say_plan(part: Needs, store: Store) -> None:
    absent = "" if part.defined else _absence(part.name, part.profile, part.size)
    print(f"{part.name}: {absent or part}")
    found = store.find(spec.id for spec in experiments.get(part.name).specs(part.profile, part.size))
    for measure in experiments.get(part.name).probes:
        if count := len(lacking(measure, found.values())):
            print(f"{part.name}: {count} records lack the measurements of {measure!r}, and are runs all the same")


def _forecast(part: Needs, store: Store, device: str | None, processes: int | None) -> None:
    from lorakit.sweep import sweeps

    specs = experiments.get(part.name).specs(part.profile, part.size)
    engine = experiments.get(part.name).engine_for(specs)
    todo = sweeps.plan(specs, store, engine=engine, device=device, processes=processes)
    print(f"{part.name}: {len(todo.packs)} packs on {todo.processes} processes, about "
          f"{timedelta(seconds=round(todo.seconds))} predicted by probes")


@app.command()
def refresh(
    chapters: Annotated[list[str] | None, typer.Argument(help="Such as 02-rank or rank; all without it.")] = None,
    profile: Profile = "cpu",
    size: Size = "record",
    parameters: Annotated[list[str] | None, typer.Option("-p", metavar="NAME=VALUE",
                                                         help="Of the chapters' parameters cell.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Also what is up to date.")] = False,
    time_budget: Annotated[float | None, typer.Option(help="Seconds; what would end later is left.")] = None,
    dollars: Annotated[float | None, typer.Option(help="The same for the list price of the GPUs here.")] = None,
    vllm_server: VLLMServer = None,
) -> None:
    """Train what chapters lack, and execute those whose inputs changed; never touches sources.

    Killed or out of time (it then ends with status 3), the same command goes on.
    """
    from lorabook.refresh import parse_parameters
    from lorabook.refresh import refresh as execute
    from lorakit.sweep.call import check_numbers

    check_numbers(None, time_budget)
    if dollars is not None:
        paid = seconds_for(dollars)
        time_budget = paid if time_budget is None else min(time_budget, paid)
        print(f"{time_budget / 3600:.2f} hours at most")
    os.environ.setdefault("LORAKIT_MISSING", "train")  # a refresh makes what its chapters lack; a build never does
    found = execute(chapters or (), profile, size, parse_parameters(parameters or []), force=force,
                    time_budget=time_budget, vllm_server=vllm_server)
    for chapter in found:
        what = f"executed ({', '.join(chapter.changed)})" if chapter.changed else "up to date"
        words = f", {chapter.trained} runs trained" * (chapter.trained > 0)
        words += f", {chapter.missing} runs still missing" * (chapter.missing > 0)
        print(f"{chapter.chapter}: {'left' if chapter.left else what}{words}")
    if any(chapter.left or chapter.missing for chapter in found):
        print("the same command goes on with what is left")
        raise typer.Exit(INCOMPLETE)


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
def bench(
    only: Annotated[list[str] | None, typer.Option(help="Such as P7, once or more; all without it.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Sizes that take seconds, to see that all runs; no record of "
                                                        "the book is written.")] = False,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Of P1 to P6.")] = "cpu",
    folder: Annotated[Path | None, typer.Option("--results", help="Of the records; default: the book's.")] = None,
    as_json: Json = False,
) -> None:
    """Time packs against what one would use without them, P1 to P8, and Ray, on a quiet machine; writes records.

    Bases are embedded or random, so nothing is fetched. On two cores Ray takes ten minutes, and all else ten
    more.
    """
    from lorabook.benchmarks.bench import bench as time_all
    from lorabook.benchmarks.benchmark import Setting, words

    setting = Setting(device, quick, lambda line: print(line, file=sys.stderr, flush=True))
    records = until_stopped(lambda: list(time_all(only or (), setting, folder)))
    say(as_json, [record.to_json() for record in records], "\n".join(map(words, records)))


@app.command()
def ledger(folder: Results = None, as_json: Json = False) -> None:
    """Print every claim with the verdict of the records."""
    from lorabook.claims.ledger import ledger as judged
    from lorabook.page.verdict_words import outcome_words

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
