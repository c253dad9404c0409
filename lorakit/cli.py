"""The command line: every command is one call of a public function."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

import typer

import lorakit as lk
from lorakit.spec_file import read_specs
from lorakit.sweep.bundle import bundle as write_bundle
from lorakit.sweep.job_scripts import Job
from lorakit.sweep.job_scripts import script as write_script
from lorakit.sweep.shards import read_shard, shard_of
from lorakit.theory.estimate import MFU

T = TypeVar("T")
INCOMPLETE = 3  # exit status of a run that its time budget ended

app = typer.Typer(help="Calculators, sweeps and adapters for LoRA and full fine-tuning.", no_args_is_help=True,
                  rich_markup_mode=None, pretty_exceptions_enable=False, context_settings={"max_content_width": 100})
Model = Annotated[str, typer.Argument(help="A known name such as llama-3.1-8b, or a config.json.")]
SpecFile = Annotated[Path, typer.Argument(help="Specs with grids, as YAML or JSON.", exists=True, dir_okay=False)]
StoreFolder = Annotated[Path, typer.Option("--store", help="Folder of the records.")]
Engine = Annotated[Literal["packed", "trl", "peft"] | None, typer.Option(help="Default: the one that can run it.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda (all visible GPUs) or one such as cuda:1.")]
Processes = Annotated[int | None, typer.Option(help="Default: up to two on a CPU, one a GPU.")]
Shard = Annotated[str | None, typer.Option(help="Only the I-th of N parts, I/N, into a file of its own.")]
Ray = Annotated[str | None, typer.Option(help="Train on a Ray cluster: HOST:PORT of its head, or auto.")]
VLLMServer = Annotated[str | None, typer.Option(help="HOST:PORT that samples for RL with vLLM.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command: 0 if it succeeded, 1 with one clear line on standard error, 2 for a call that cannot be meant."""
    return run_command(app, "lorakit", arguments)


def run_command(app: typer.Typer, name: str, arguments: Sequence[str] | None) -> int:
    """The exit status of a command of an application; an error of ours is one line on standard error."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        app(arguments, prog_name=name)
    except (ValueError, KeyError, RuntimeError, OSError, ImportError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def _version(asked: bool) -> None:
    if asked:
        print(f"lorakit {lk.__version__}")
        raise typer.Exit


@app.callback()
def _options(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True,
                                                   help="Print the version.")] = False) -> None:
    pass


@app.command()
def estimate(
    model: Model,
    rank: Annotated[int, typer.Option(help="Of the adapters; 0 for full fine-tuning.")] = 16,
    steps: int = 1000,
    batch_size: int = 8,
    max_length: int = 1024,
    dtype: Annotated[Literal["bfloat16", "float32"], typer.Option(help="Of weights and activations.")] = "bfloat16",
    gpu: str = "H100",
    mfu: Annotated[float, typer.Option(help="Share of the GPU's dense FLOP/s that is reached.")] = MFU,
    recompute: Annotated[bool, typer.Option("--recompute", help="Gradient checkpointing.")] = False,
    master_weights: Annotated[bool, typer.Option(help="With --rank 0: without them, all is in bfloat16.")] = True,
    price_per_hour: Annotated[float | None, typer.Option(help="Dollars for one GPU; default: a list price.")] = None,
    as_json: Json = False,
) -> None:
    """Price a supervised run: FLOPs, hours, memory, dollars; trains nothing."""
    spec = lk.SFTSpec(learning_rate=1e-4, lora=lk.LoRASpec(rank=rank) if rank else None, steps=steps,
                      batch_size=batch_size, max_length=max_length, dtype=dtype)
    priced = lk.estimate(_config(model), spec, gpu, mfu=mfu, recompute=recompute,
                         master_weights=master_weights, price_per_hour=price_per_hour)
    say(as_json, asdict(priced), str(priced))


@app.command()
def recommend(
    model: Model,
    rank: Annotated[int, typer.Option(help="Of the adapters; 0 for full fine-tuning.")] = 16,
    alpha: float = 32.0,
    steps: int = 1000,
    tokens: Annotated[int | None, typer.Option(help="Label tokens of a supervised run: recommends a rank.")] = None,
    episodes: Annotated[int | None, typer.Option(help="Graded completions of RL: recommends a rank.")] = None,
    bits: Annotated[float | None, typer.Option(help="Information of the data, in bits: recommends a rank.")] = None,
    as_json: Json = False,
) -> None:
    """Recommend a learning rate for a rank or, with --tokens, --episodes or --bits, the rank as well."""
    advice = None
    if tokens is not None or episodes is not None or bits is not None:
        advice = lk.recommend_rank(_config(model), tokens=tokens, episodes=episodes, bits=bits)
        rank = advice.advised[0]
    rate = lk.recommend_learning_rate(_config(model), rank or None, alpha, steps)
    words = f"learning rate {rate.learning_rate:.3g}, to be swept with {rate.sweep[0]:.3g} and {rate.sweep[2]:.3g}\n" \
            f"{rate.reason}\n{rate.caveat}"
    say(as_json, {"rank": advice and asdict(advice), "learning_rate": asdict(rate)},
         f"{advice}\nat rank {rank}: {words}" if advice else words)


@app.command()
def translate(
    framework: Annotated[str, typer.Argument(help="Where the settings come from, such as unsloth or peft; or a file of "
                                                  "specs, of which RL goes to verl and async-grpo.")],
    to: Annotated[str, typer.Option(help="Where they are to go.")],
    rank: int | None = None,
    learning_rate: float | None = None,
    alpha: Annotated[float | None, typer.Option(help="None where the framework fixes it.")] = None,
    as_json: Json = False,
) -> None:
    """Translate a LoRA learning rate and alpha from one framework to another, or runs of RL to another trainer."""
    if framework.endswith((".yaml", ".yml", ".json")):
        runs = [lk.translate(cast(lk.GRPOSpec, spec), to=to) for spec in read_specs(framework)]
        say(as_json, [asdict(run) for run in runs], "\n".join(map(str, runs)))
        return
    if rank is None or learning_rate is None:
        raise ValueError("translate needs --rank and --learning-rate, or a file of specs")
    there = lk.translate(framework, to=to, rank=rank, learning_rate=learning_rate, alpha=alpha)
    words = f"{to}: alpha {there.alpha:g}, learning rate {there.learning_rate:.3g}" \
            f", LR_B / LR_A {there.learning_rate_b_ratio:g}"
    say(as_json, asdict(there), f"{words}\n{there.lost}" if there.lost else words)


@app.command()
def plan(file: SpecFile, store: StoreFolder = Path("lorakit-runs"), engine: Engine = None, device: Device = None,
         processes: Processes = None, as_json: Json = False) -> None:
    """Say what is missing of a file of specs, and how long it would take."""
    specs = read_specs(file)
    todo = lk.plan(specs, lk.Store(store), engine=engine, device=device, processes=processes)
    say(as_json, {"runs": len(specs), "missing": len(todo.missing), "stale": len(todo.stale),
                   "packs": len(todo.packs), "processes": todo.processes, "seconds": todo.seconds},
         f"{len(todo.missing)} of {len(specs)} runs missing, {len(todo.stale)} stale; {len(todo.packs)} packs on "
         f"{todo.processes} processes, about {timedelta(seconds=round(todo.seconds))} predicted")


@app.command()
def run(
    file: SpecFile,
    store: StoreFolder = Path("lorakit-runs"),
    experiment: Annotated[str, typer.Option(help="Names the file of the records in the store.")] = "runs",
    engine: Engine = None,
    device: Device = None,
    processes: Processes = None,
    time_budget: Annotated[float | None, typer.Option(help="Seconds; what would end later is left.")] = None,
    report_to: Annotated[str, typer.Option(help="A tracker such as trackio.")] = "none",
    save_to: Annotated[Path | None, typer.Option(help="Folder for the trained adapters.")] = None,
    stale: Annotated[Literal["keep", "retrain"], typer.Option(help="Records of older numbers.")] = "keep",
    shard: Shard = None,
    ray: Ray = None,
    vllm_server: VLLMServer = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress: warnings and results alone.")] = False,
    as_json: Json = False,
) -> None:
    """Train what the store lacks of a file of specs; stops cleanly, and goes on where it was stopped or killed.

    Ends with status 3 where the time budget left runs over.
    """
    specs, experiment = part_of(read_specs(file), experiment, shard)
    if not specs:
        say(as_json, [], f"shard {shard} holds no run: there are fewer parts than shards")
        return
    records = until_stopped(lambda: lk.run(
        specs, store, experiment=experiment, engine=engine, device=device, processes=processes,
        time_budget=time_budget, report_to=report_to, save_to=save_to, stale=stale, progress=False if quiet else None,
        executor="local" if ray is None else "ray", ray_address=ray, vllm_server=vllm_server))
    lines = [f"{record.id}  {record.status}  test_loss {record.metrics.get('test_loss')}" for record in records]
    left = len(specs) - len(records)
    lines.append(f"{len(records)} of {len(specs)} runs recorded in {store}"
                 + (f"; {left} are left, and the same command goes on with them" if left else ""))
    say(as_json, [record.to_json() for record in records], "\n".join(lines))
    if left:
        raise typer.Exit(INCOMPLETE)


@app.command()
def script(
    kind: Annotated[Literal["slurm", "hf-jobs", "skypilot"], typer.Argument(help="Where the shards are to run.")],
    file: SpecFile,
    gpu: Annotated[str, typer.Option(help="Of each shard.")] = "H100",
    shards: Annotated[int, typer.Option(min=1, help="Machines, or tasks of the array.")] = 1,
    hours: Annotated[float | None, typer.Option(help="Of the longest shard; default: predicted.")] = None,
    store: StoreFolder = Path("lorakit-runs"),
    experiment: Annotated[str, typer.Option(help="Names the files of the records in the store.")] = "runs",
    package: Annotated[str | None, typer.Option(help="What pip installs there; not for slurm.")] = None,
    repo: Annotated[str | None, typer.Option(help="OWNER/NAME on the Hub for the records; not for slurm.")] = None,
) -> None:
    """Print a script that trains a file of specs in shards, with the resources, time and price that it needs."""
    job = Job(file, read_specs(file), gpu, shards, hours, str(store), experiment)
    print(write_script(kind, job, package, repo), end="")


@app.command()
def bundle(
    folder: Annotated[Path, typer.Argument(help="A new folder for the parts.")],
    file: Annotated[Path | None, typer.Option(help="Specs whose models and data are packed.", exists=True)] = None,
    python: Annotated[str, typer.Option(help="Of the host.")] = f"3.{sys.version_info.minor}",
    platform: Annotated[str, typer.Option(help="Of the host: 2.28 is its glibc.")] = "manylinux_2_28_x86_64",
    part_mb: Annotated[int, typer.Option(help="Size of a part.")] = 60,
    extra: Annotated[list[str], typer.Option(help="Of lorakit; may be repeated.")] = ["train"],  # noqa: B006
    project: Annotated[list[Path], typer.Option(help="Another package to build; may be repeated.")] = [],  # noqa: B006
) -> None:
    """Pack wheels, models, data, checksums and a set-up script for a host without a network."""
    specs = [] if file is None else read_specs(file)
    made = write_bundle(folder, specs, [] if file is None else [file], python=python, platform=platform,
                        part_mb=part_mb, extras=extra, projects=project)
    size = sum(path.stat().st_size for path in made)
    print(f"{len(made)} files, {size / 1e6:,.0f} MB, in {folder}; on the host: bash {folder.name}/set-up.sh")


@app.command()
def export(
    run_id: Annotated[str, typer.Argument(help="Of a recorded run, as `lorakit run` prints it.")],
    folder: Annotated[Path, typer.Argument(help="Gets the adapter in PEFT's format, or the whole model.")],
    store: StoreFolder = Path("lorakit-runs"),
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Write the adapter of a recorded run into FOLDER/ID; trains it again, since records hold no weights."""
    found = lk.Store(store).find([run_id])
    if not found:
        raise ValueError(f"no run {run_id!r} in {store}; allowed: an id of its records, as `lorakit run` prints them")
    from lorakit.specs import read_spec

    until_stopped(lambda: lk.run([read_spec(found[run_id].spec)], store, save_to=folder, device=device))
    say(as_json, {"id": run_id, "folder": str(folder / run_id)}, str(folder / run_id))


def _config(model: str) -> Any:
    return json.loads(Path(model).read_text(encoding="utf-8")) if model.endswith(".json") else model


def part_of(specs: list[Any], experiment: str, shard: str | None) -> tuple[list[Any], str]:
    """The specs of a shard such as `3/8`, and the name of its file of records; all of them without one."""
    if shard is None:
        return specs, experiment
    number, count = read_shard(shard)
    return shard_of(specs, number, count), f"{experiment}-{number}of{count}"


def until_stopped(train: Callable[[], T]) -> T:
    """What training returns; Ctrl-C ends the command with a word of what is kept."""
    try:
        return train()
    except KeyboardInterrupt:
        print("stopped; what was finished is recorded, the same command goes on from there", file=sys.stderr)
        raise typer.Exit(130) from None


def say(as_json: bool, data: Any, words: str) -> None:
    """Print words, or the same as JSON."""
    print(json.dumps(data, indent=2, default=str) if as_json else words)


if __name__ == "__main__":
    sys.exit(main())
