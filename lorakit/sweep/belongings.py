"""What specs name that lies on this machine alone: registered models, data, tasks, rewards, and files of functions."""

from __future__ import annotations

import contextlib
import importlib.machinery
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from lorakit.codehash import code_hash
from lorakit.grpo_spec import GRPOSpec
from lorakit.local_models import cache_folder, checkpoint_folder, model_files
from lorakit.specs import SFTSpec

MODULES = "modules"  # folder of the cache: sent files that are imported by their names, each in a folder of its own


def belongings(specs: Iterable[SFTSpec | GRPOSpec], probes: Iterable[str] = ()) -> dict[str, list[Path]]:
    """The files that specs and probes need and that another machine cannot get by their names.

    Of a function in a file of its own, that file is one; what it imports is not, and what lies in a package is not.

    Returns:
        For each thing its place below the cache, a file's or a folder's, and its files here.
    """
    cache, found = cache_folder(), dict[str, list[Path]]()
    for spec in specs:
        model = spec.model.partition("@")[2]
        if (folder := checkpoint_folder(model)) is not None and folder.is_dir():
            found[f"models/{model}"] = model_files(folder)
        for folder in cache.glob(f"models/*-{model}"):  # what a source has fetched and converted
            found[f"models/{folder.name}"] = model_files(folder)
        functions = [*probes]
        if isinstance(spec, GRPOSpec):
            place = f"tasks/{spec.task.partition('@')[2]}.json"
            functions += [one for one in (spec.reward, _grader(cache / place)) if one is not None]
        else:
            place = f"datasets/{spec.dataset.partition('@')[2]}.json"
        kept = [place, *(f"rewards/{one.partition('@')[2]}.py" for one in functions if "@" in one)]
        found |= {name: [cache / name] for name in kept if (cache / name).is_file()}
        for file in filter(None, (_file_of(one.partition(":")[0]) for one in functions if ":" in one)):
            found[f"{MODULES}/{code_hash([file])}"] = [file]
    return found


def _grader(task: Path) -> str | None:
    with contextlib.suppress(OSError, ValueError, KeyError):  # a task that is none fails where it is trained
        return str(json.loads(task.read_text(encoding="utf-8"))["grader"])
    return None


def _file_of(module: str) -> Path | None:
    """The file of a module that is no part of a package, nor installed."""
    if "." in module or module == "__main__" or module in sys.stdlib_module_names:
        return None
    spec = importlib.machinery.PathFinder.find_spec(module)
    if spec is None or spec.origin is None or spec.submodule_search_locations or not spec.origin.endswith(".py"):
        return None
    path = Path(spec.origin)
    return None if {"site-packages", "dist-packages"} & set(path.parts) else path


def lacking(places: Iterable[str]) -> list[str]:
    """Those of another machine's belongings that this one does not have."""
    def there(place: str) -> bool:
        folder = checkpoint_folder(Path(place).name) if place.startswith("models/") else None
        return (cache_folder() / place).exists() or (folder is not None and folder.is_dir())

    return [place for place in places if not there(place)]


def take(place: str, files: Iterable[tuple[str, Iterator[bytes]]]) -> None:
    """Put what another machine sent into the cache, whole or not at all.

    Args:
        place: below the cache; with a suffix it is that of the only file.
        files: the name of each and its parts.
    """
    target = cache_folder() / place
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".partial-", ignore_cleanup_errors=True) as partial:
        for name, parts in files:
            with Path(partial, name).open("wb") as out:
                out.writelines(parts)
        whole = Path(partial, target.name) if target.suffix else Path(partial)
        with contextlib.suppress(OSError):  # another process has put it there meanwhile
            whole.rename(target)
