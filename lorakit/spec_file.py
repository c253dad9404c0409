"""Specs in a file: YAML or JSON, one entry or a list of them, each with a grid if it is to be varied."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lorakit.specs import GRPOSpec, SFTSpec, SpecError, read_spec, vary


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-4 is a number, as in JSON and Python; YAML 1.1 wants 1.0e-4."""


EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, [*"-+0123456789"])


def read_specs(path: str | Path) -> list[SFTSpec | GRPOSpec]:
    """The specs of a file, each once, in its order.

    An entry holds the fields of a spec; `kind` is `sft`, or `grpo` for reinforcement learning, and may be left out.
    Under `grid` stand lists of values, all combinations of which are run; `rank`, `alpha`, … reach into the adapter,
    and a rank of null means full fine-tuning.

    Args:
        path: ends in `.yaml`, `.yml` or `.json`.

    Raises:
        SpecError: what in which entry cannot be meant.
        OSError: the file cannot be read.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "sweep.yaml"
    >>> _ = path.write_text("model: tiny\\ngrid: {rank: [4, 16], learning_rate: [1e-3, 3e-3]}")
    >>> [(spec.lora.rank, spec.learning_rate) for spec in read_specs(path)]
    [(4, 0.001), (4, 0.003), (16, 0.001), (16, 0.003)]
    """
    path = Path(path)
    if path.suffix not in (".yaml", ".yml", ".json"):
        raise SpecError(f"{path} is no file of specs; allowed: names that end in .yaml, .yml or .json")
    text = path.read_text(encoding="utf-8")
    try:
        data = json.loads(text) if path.suffix == ".json" else yaml.load(text, _Loader)
    except (ValueError, yaml.YAMLError) as error:
        raise SpecError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    entries = data if isinstance(data, list) else [data]
    specs: dict[str, SFTSpec | GRPOSpec] = {}
    for number, entry in enumerate(entries, 1):
        try:
            specs |= {spec.id: spec for spec in _expanded(entry)}
        except (ValueError, KeyError) as error:
            raise SpecError(f"{path}, entry {number} of {len(entries)}: {error}") from error
    if not specs:
        raise SpecError(f"{path} holds no spec; write the fields of one, such as learning_rate: 1e-3")
    return list(specs.values())


def _expanded(entry: Any) -> list[SFTSpec | GRPOSpec]:
    if not isinstance(entry, Mapping):
        raise SpecError(f"{entry!r} is no spec; write its fields, such as learning_rate: 1e-3")
    fields = {str(name): value for name, value in entry.items()}
    grid = fields.pop("grid", None) or {}
    if not isinstance(grid, Mapping):
        raise SpecError(f"grid={grid!r}; allowed: names of fields, each with a list of values")
    if isinstance(rates := grid.get("learning_rate"), list) and rates:
        fields.setdefault("learning_rate", rates[0])
    return vary(read_spec({"kind": "grpo" if "task" in fields else "sft"} | fields), **grid)
