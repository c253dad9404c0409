"""What is wrong with a call of `run` or `plan`, found before anything is trained or started."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lorakit import MissingExtraError
from lorakit.durable import require_writable
from lorakit.grpo_spec import GRPOSpec
from lorakit.records import Store
from lorakit.specs import AnySpec, SFTSpec
from lorakit.sweep.devices import Devices
from lorakit.sweep.ray_cluster import Cluster

ENGINES = ("packed", "trl", "peft")


def check_specs(specs: Any) -> list[AnySpec]:
    """The specs, each once.

    Raises:
        ValueError: none, or supervised and RL specs in one list.
        TypeError: no list of specs.
    """
    if isinstance(specs, SFTSpec | GRPOSpec):
        raise TypeError("specs is one spec; give a list of them: run([spec])")
    listed = list(specs)
    for spec in listed:
        if not isinstance(spec, SFTSpec | GRPOSpec):
            raise TypeError(f"specs hold {spec!r}; allowed: SFTSpec or GRPOSpec, for example from vary(…)")
    if not listed:
        raise ValueError("no specs to run: the list is empty")
    if len({spec.kind for spec in listed}) > 1:
        raise ValueError("the list holds supervised and RL specs: run them in two calls")
    if len({spec.gpus for spec in listed}) > 1:
        raise ValueError("the list holds runs on different numbers of GPUs (gpus): run them in several calls")
    return list({spec.id: spec for spec in listed}.values())


def check_engine(engine: str | None, specs: Sequence[AnySpec], save_to: object = None) -> None:
    """Raise ValueError unless the engine (None: each spec's own) can run every spec, and export it where asked."""
    if engine is not None and engine not in ENGINES:
        raise ValueError(f"unknown engine {engine!r}; allowed: {', '.join(ENGINES)}, or None")
    for spec in specs:
        chosen, experts = engine or engine_of(spec), spec.lora is not None and "experts" in spec.lora.targets
        if chosen != "trl" and spec.gpus > 1:
            raise ValueError(f"gpus={spec.gpus}: only TRL trains one run on several GPUs; allowed: "
                             "engine='trl'")
        if chosen != "packed" and spec.torch_compile:
            raise ValueError(f"torch_compile=True: engine={chosen!r} compiles nothing; allowed: engine='packed', or "
                             "torch_compile=False")
        if chosen == "peft" and isinstance(spec, GRPOSpec):
            raise ValueError("engine='peft' runs no RL; allowed: packed, trl")
        if chosen == "packed" and spec.use_vllm:
            raise ValueError("use_vllm=True: the packed engine samples by itself; allowed: engine='trl'")
        if chosen == "packed" and spec.lora is not None and spec.lora.only_peft:
            other = "trl" if isinstance(spec, GRPOSpec) else "peft"
            raise ValueError(f"{', '.join(spec.lora.only_peft)}: packs train no such adapters (of the variants, "
                             f"rslora=True alone); allowed: engine={other!r}")
        if chosen == "packed" and experts:
            raise ValueError("targets name fused experts, which packs cannot hold; allowed: engine='peft'")
        if save_to is not None and spec.lora is not None and spec.lora.shared_outer:
            raise ValueError("save_to: PEFT's format has no form for adapters with shared_outer=True; leave save_to "
                             "out, or take shared_outer=False")


def engine_of(spec: AnySpec) -> str:
    """The engine of a new run where the caller names none: the packed one, or what can run this spec."""
    lora = spec.lora
    if spec.gpus > 1:
        return "trl"
    if isinstance(spec, GRPOSpec) and (spec.use_vllm or (lora is not None and lora.only_peft)):
        return "trl"
    return "peft" if lora is not None and ("experts" in lora.targets or lora.only_peft) else "packed"


def devices(executor: str, address: str | None, device: str | None, processes: int | None,
            store: Store) -> Devices | Cluster:
    """Where runs train; raises ValueError for an executor that there is not."""
    if executor not in ("local", "ray"):
        raise ValueError(f"executor={executor!r}; allowed: 'local' (processes of this machine) or 'ray' (nodes of a "
                         "Ray cluster)")
    if executor == "ray":
        return Cluster(address, device, processes, store.root)
    if address is not None:
        raise ValueError(f"ray_address={address!r} is Ray's: name executor='ray' with it, or leave it out")
    return Devices(device, processes)


def check_numbers(processes: Any, time_budget: Any) -> None:
    """Raise ValueError unless both are None or what can be worked with."""
    if processes is not None and (isinstance(processes, bool) or not isinstance(processes, int) or processes < 1):
        raise ValueError(f"processes={processes!r}; allowed: a whole number of 1 or more, or None")
    if time_budget is not None and (isinstance(time_budget, bool) or not isinstance(time_budget, int | float)
                                    or not 0 < time_budget < 1e12):
        raise ValueError(f"time_budget={time_budget!r}; allowed: seconds, a finite number above 0, or None")


def check_seconds(name: str, seconds: Any) -> None:
    """Raise ValueError unless a time is None, or seconds of 0 or more."""
    if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, int | float)
                                or not 0 <= seconds < 1e12):
        raise ValueError(f"{name}={seconds!r}; allowed: seconds, a number of 0 or more, or None")


def check_tracker(report_to: str, engine: str | None) -> None:
    """Raise unless TRL can report there; the other engines report to the store alone."""
    if report_to == "none":
        return
    if engine != "trl":
        raise ValueError(f"report_to={report_to!r} is TRL's: name engine='trl' with it, or leave it out")
    from lorakit.reference.sft import refuse_unknown_tracker

    refuse_unknown_tracker(report_to)


def tracker(name: str | None, project: str) -> Any:
    """The `Tracker` that finished runs are sent to, or None; raises as `require_tracker` does."""
    if name is None:
        return None
    from lorakit.sweep.tracking import Tracker  # pandas

    return Tracker(name, project)


def check_vllm(specs: Sequence[AnySpec], server: str | None = None) -> None:
    """Raise as `require_vllm` and `Server.settings` do where runs that are to be trained sample with vLLM."""
    if not (sampling := [spec for spec in specs if isinstance(spec, GRPOSpec) and spec.use_vllm]):
        return
    from lorakit.reference.vllm import require_vllm
    from lorakit.reference.vllm_server import Server

    for spec in sampling:
        require_vllm(spec)
    if server is not None:
        for spec in {spec.dtype: spec for spec in sampling}.values():  # the dtype is all that it is asked about
            Server(server).settings(spec)


def check_server(server: str | None, specs: Sequence[AnySpec], executor: str, processes: int | None) -> None:
    """Raise ValueError unless one process of this machine samples with the server alone."""
    if server is None:
        return
    if not all(spec.use_vllm for spec in specs):
        raise ValueError(f"vllm_server={server!r} samples for specs with use_vllm=True (and merge_to_sample=True with "
                         "an adapter): say so in each of them, or leave it out")
    if executor != "local" or processes not in (None, 1):
        raise ValueError(f"vllm_server={server!r} serves one run at a time; allowed with it: executor='local' and "
                         "processes=1 (or None)")


def check_places(store: Store, profile: str | None, experiment: str, save_to: Path | None) -> None:
    """Raise StoreError or ValueError unless records, and exports, can be written where they are wanted."""
    path = store.path(profile, experiment)
    require_writable(path.parent, path)
    if save_to is not None:
        require_writable(save_to)


def require_training_packages() -> None:
    """Raise MissingExtraError where the packages that train are not installed."""
    for package in ("torch", "transformers", "peft"):
        try:
            found = find_spec(package) is not None
        except ValueError:  # blocked by None in sys.modules
            found = False
        if not found:
            raise MissingExtraError(f"training needs the package {package!r}: run "
                                    "`pip install '.[train]'` in a clone of lorakit", name=package)
