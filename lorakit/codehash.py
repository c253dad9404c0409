"""Which code made a record: the hash of the modules that a run used, and what to do when it has changed."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from lorakit.records import Record, Store

CERTIFIED = {"sft": ("validation_loss", "test_loss"), "grpo": ("validation_accuracy", "test_accuracy")}
HORIZON = 50  # steps

TRAINING_MODULES = {
    "packed": ("lorakit.train.packed.layers", "lorakit.train.packed.model", "lorakit.train.packed.optimizer",
               "lorakit.train.packed.cpu", "lorakit.train.packed.onednn", "lorakit.train.packed.attention",
               "lorakit.train.packed.llama", "lorakit.train.packed.engine", "lorakit.train.packed.truncation",
               "lorakit.train.tokens", "lorakit.train.adapters"),
    "trl": ("lorakit.train.sft", "lorakit.train.tokens", "lorakit.train.adapters"),
    "peft": ("lorakit.train.peft_loop", "lorakit.train.shared_outer", "lorakit.train.sft", "lorakit.train.tokens",
             "lorakit.train.adapters"),
}
EPISODES = ("lorakit.train.objective", "lorakit.train.episodes", "lorakit.train.packed.rollout",
            "lorakit.train.rewards", "lorakit.train.tokens", "lorakit.train.adapters")
RL_MODULES = {
    "packed": (*EPISODES, "lorakit.train.packed.grpo", "lorakit.train.packed.merging", "lorakit.train.packed.layers",
               "lorakit.train.packed.model", "lorakit.train.packed.optimizer"),
    "trl": (*EPISODES, "lorakit.train.grpo", "lorakit.train.sft"),
}


class CertificationError(ValueError):
    """Retrained runs do not repeat the recorded ones, or some of them are missing."""


def code_hash(modules: Sequence[str | Path]) -> str:
    """16 hex digits of the hash of what the modules do: comments, docstrings and layout do not count.

    The syntax tree is hashed, in a form of our own, because `ast.dump` differs between Python versions;
    names of files and the order of the modules do not enter.

    Args:
        modules: dotted names (a package stands for all its modules; nothing is imported), or paths of
            Python files and folders.

    Raises:
        ValueError: no modules.
        ModuleNotFoundError: a name or path with no source.

    >>> code_hash(["lorakit.specs"]) == code_hash([Path(importlib.util.find_spec("lorakit.specs").origin)])
    True
    """
    if isinstance(modules, str) or not list(modules):
        raise ValueError(f"modules={modules!r}; give a non-empty list of module names or paths")
    files = {file.resolve() for module in modules for file in _sources(module)}
    digests = sorted(_source_digest(file.read_text(encoding="utf-8"), str(file)) for file in files)
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:16]


def training_code(engine: str, kind: str = "sft") -> str:
    """Hash of the modules that decide a run's numbers, comments and docstrings left out; `kind` is the spec's."""
    return code_hash((RL_MODULES if kind == "grpo" else TRAINING_MODULES)[engine])


def stale(records: Sequence[Record], code: str) -> list[Record]:
    """The records that other code than `code` made; failed ones are left out, since they count as missing."""
    return [record for record in records if record.status != "failed" and record.provenance.get("code") != code]


def outdated(records: Sequence[Record]) -> list[Record]:
    """The records that other code than today's made, by the modules of their own engine and kind of run."""
    kinds = {(str(r.provenance.get("engine")), str(r.spec.get("kind"))) for r in records}
    return [record for engine, kind in sorted(kinds) if engine in TRAINING_MODULES
            for record in stale([r for r in records if (r.provenance.get("engine"), r.spec.get("kind")) ==
                                 (engine, kind)], training_code(engine, kind))]


def certification_sample(records: Sequence[Record], count: int = 3) -> list[Record]:
    """The runs to retrain before stale records may stand: chosen by hash, diverged ones only if others run out."""
    usable = [record for record in records if record.status != "failed"]
    return sorted(usable, key=lambda r: (r.status != "ok", hashlib.sha256(r.id.encode()).hexdigest()))[:count]


def certify(store: Store, profile: str, experiment: str, retrained: Sequence[Record], code: str,
            tolerance: float = 1e-4) -> list[Record]:
    """Let an experiment's stale records stand for `code`, if the sampled runs, trained again with it, agree.

    They agree when the status is the same and |new - old| ≤ tolerance · max(1, |old|) for the validation and test loss
    (accuracy for RL): absolute (nats per token) below a loss of 1, relative above. They are compared at every point of
    the curve up to step `HORIZON`, and no further: at high rates Adam amplifies rounding until a start that is nudged
    by 1e-7 ends as far away (0.06 nats, measured) as one that was added in another order. A run without a curve is
    compared at its end. The stale records then get the code hash, and an entry in `provenance["certified"]`; the file
    is replaced in one step.

    Args:
        retrained: new records of `certification_sample(stale(store.records(profile, experiment), code))`,
            made by `code` and not yet appended to the store; more do no harm.
        code: `code_hash` of today's modules.

    Returns:
        The records that were certified; empty when none was stale.

    Raises:
        CertificationError: a sampled run is missing, or disagrees; the file is as it was.
    """
    old = {record.id: record for record in stale(store.records(profile, experiment), code)}
    sample = certification_sample(list(old.values()))
    new = {record.id: record for record in retrained if record.provenance.get("code") == code}
    absent = [record.id for record in sample if record.id not in new]
    if absent:
        raise CertificationError(f"{profile}/{experiment}: not retrained with code {code}: {', '.join(absent)}; train "
                                 "the specs of certification_sample(stale(records, code)) and pass their records")
    differences = [line for record in sample for line in _disagreements(record, new[record.id], tolerance)]
    if differences:
        raise CertificationError(f"{profile}/{experiment} cannot be certified for code {code} within {tolerance:g}: "
                                 f"{'; '.join(differences)}; retrain the experiment")
    entry = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "sample": [record.id for record in sample]}

    def certified(record: Record) -> Record:
        if record != old.get(record.id):  # fresh, failed, or an older duplicate
            return record
        before = record.provenance
        entries = [*before.get("certified", []), entry | {"old_code": before.get("code")}]
        return replace(record, provenance=before | {"code": code, "certified": entries})

    if old:
        store.rewrite(profile, experiment, certified)
    return [certified(record) for record in old.values()]


def _disagreements(old: Record, new: Record, tolerance: float) -> list[str]:
    if old.status != new.status:
        return [f"{old.id}: status {old.status} before, {new.status} now"]
    lines = []
    after = _comparable(new)
    for name, before in _comparable(old).items():
        now = after.get(name)
        if before is None or now is None:
            agree = before is None and now is None and old.status == "diverged"
        else:
            agree = abs(now - before) <= tolerance * max(1.0, abs(before))
        if not agree:
            lines.append(f"{old.id}: {name} {before} before, {now} now")
    return lines


def _comparable(record: Record) -> dict[str, float | None]:
    """What two runs of one spec have to share: the curve up to the horizon, or the end of a run without one."""
    names = CERTIFIED.get(record.spec.get("kind", "sft"), CERTIFIED["sft"])
    steps = record.curve.get("step", [])
    if not steps or any(name not in record.curve for name in names):
        return {name: record.metrics.get(name) for name in names}
    return {f"{name} at step {step}": record.curve[name][index] for name in names
            for index, step in enumerate(steps) if (step is not None and step <= HORIZON) or index == 0}


def _sources(module: str | Path) -> list[Path]:
    path = Path(module) if isinstance(module, Path) or module.endswith(".py") else _locate(module)
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        raise ModuleNotFoundError(f"no Python source for {str(module)!r}; give a dotted module name or a path")
    return files


def _locate(name: str) -> Path:
    """The file or folder of a module, found without importing its parents (they might import torch)."""
    first, *rest = name.split(".")
    top = importlib.util.find_spec(first) if first else None
    if top is None or top.origin is None:
        raise ModuleNotFoundError(f"no Python source for {name!r}; give a dotted module name or a path")
    if top.submodule_search_locations is None:
        return Path(top.origin)
    folder = Path(top.origin).parent.joinpath(*rest)
    return folder if folder.is_dir() else folder.with_name(folder.name + ".py")


@cache
def _source_digest(source: str, file: str) -> str:
    return hashlib.sha256(_canonical(ast.parse(source, filename=file)).encode()).hexdigest()


def _canonical(node: Any) -> str:
    """A tree as text. Empty and absent fields are left out, so a field that a newer Python adds changes nothing."""
    if isinstance(node, list):
        return f"[{','.join(_canonical(item) for item in node)}]"
    if isinstance(node, ast.Constant):
        return f"{type(node.value).__name__}:{node.value!a}"
    if isinstance(node, ast.JoinedStr):
        return f"JoinedStr[{','.join(_joined(node))}]"
    if not isinstance(node, ast.AST):
        return ascii(node)
    parts = []
    for name, value in sorted(ast.iter_fields(node)):
        if isinstance(value, list):
            value = [item for item in value if not _is_text(item)]
        if name not in ("ctx", "type_comment") and value is not None and value != []:
            parts.append(f"{name}={_canonical(value)}")
    return f"{type(node).__name__}({','.join(parts)})"


def _is_text(node: Any) -> bool:
    """A docstring, or any other string that stands alone as a statement and so does nothing."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _joined(node: ast.JoinedStr) -> list[str]:
    """The parts of an f-string; Pythons differ in how they cut its plain text, so neighbours are put together."""
    parts = []
    for plain, values in groupby(node.values, key=lambda value: isinstance(value, ast.Constant)):
        if plain:
            text = "".join(str(value.value) for value in values if isinstance(value, ast.Constant))
            parts += [f"str:{text!a}"] if text else []
        else:
            parts += [_canonical(value) for value in values]
    return parts
