"""LoRA, measured: packed sweeps, capacity, calculators and records. Importing this imports no torch."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path
from typing import Any

_STUB = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
_IMPORTS = [node for node in _STUB.body if isinstance(node, ast.ImportFrom)]
_HOME = {alias.name: str(node.module) for node in _IMPORTS for alias in node.names}
__version__ = "0.2.0"
__all__ = [*_HOME, "__version__"]

TRAINING_PACKAGES = ("torch", "transformers", "peft", "trl", "datasets", "safetensors", "tokenizers")


class MissingExtraError(ImportError):
    """Something was used that needs the packages of the extra `train`."""


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"lorakit has no {name!r}; it has: {', '.join(_HOME)}")
    try:
        home = import_module(_HOME[name])
        return getattr(home, name) if hasattr(home, name) else import_module(f"{_HOME[name]}.{name}")
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] in TRAINING_PACKAGES:
            raise MissingExtraError(f"lorakit.{name} trains models and needs the package {error.name!r}: "
                                    "run `pip install '.[train]'` in a clone of lorakit", name=error.name) from error
        raise


def __dir__() -> list[str]:
    return sorted([*__all__, *globals()])
