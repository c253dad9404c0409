"""Marks as slow what `make test-fast` leaves out: files that import torch or what stands on it, and those in `LONG`.

A test of another file that trains in a process of its own says so: `@pytest.mark.slow`. Files that take longest come
first, so that at the end no core waits for the other's last file (`--dist loadfile --no-loadscope-reorder`).

And the machine with GPUs that is none.
"""

import os

# before anything imports torch: two processes of as many threads as cores would wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")

import re
from functools import cache
from pathlib import Path

import pytest

TRAINS = re.compile(r"^(?:from|import) (?:torch|transformers|peft|trl|golden|plain_training|toy_rl|test_rl_tasks|"
                    r"test_rollout|lorakit\.(?:packed|reference|rl|sweep|bases|adapters))\b", flags=re.MULTILINE)

LONG = {"test_browser", "test_distribution", "test_gpu_machine", "test_peft_and_trl", "test_readme", "test_recomputed",
        "test_rules_real_base", "test_store_kill"}


# the longest foremost: a quarter of a minute of a core and more
FIRST = ("test_ray", "test_bench", "test_refresh", "test_cuda", "test_browser", "test_golden", "test_checkpoints",
         "test_rl_sweep", "test_gpu_machine", "test_readme", "test_sharded", "test_sweeps", "test_recomputed",
         "test_compiling", "test_rehearsal")


@cache
def slow(path: Path) -> bool:
    return path.stem in LONG or TRAINS.search(path.read_text(encoding="utf-8")) is not None


def pytest_ignore_collect(collection_path, config):
    """Where they are left out, files that are slow are not even imported."""
    fast = config.option.markexpr == "not slow"
    return True if fast and collection_path.suffix == ".py" and slow(collection_path) else None


def pytest_collection_modifyitems(items):
    for item in items:
        if slow(item.path):
            item.add_marker(pytest.mark.slow)
    places = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """`machine("NVIDIA A", …)`: a machine with these GPUs; returns the file where workers note what they see."""
    patch, folder = pytest.MonkeyPatch(), tmp_path_factory.mktemp("machine")
    (folder / "nvidia-smi").write_text("#!/bin/sh\necho 'GPU 0: an NVIDIA GPU'\n")
    (folder / "nvidia-smi").chmod(0o755)
    patch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    for name in ("CUDA_VISIBLE_DEVICES", "LORAKIT_DEVICE"):
        patch.delenv(name, raising=False)

    def of(*gpus: str, stand_in: bool = True, memory: float = 80e9) -> Path:
        paths = [str(Path(__file__).parent / "cuda_stand_in")] * stand_in + [str(Path(__file__).parents[1])]
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        patch.setenv("STAND_IN_GPUS", ",".join(gpus))
        patch.setenv("STAND_IN_BYTES", str(memory))
        patch.setenv("STAND_IN_CARDS", str(folder / "seen"))
        (folder / "seen").write_text("")
        return folder / "seen"

    yield of
    patch.undo()


@pytest.fixture
def two_parts(monkeypatch):
    """The name of a reward scheme of two components."""
    from lorakit import sources

    monkeypatch.setattr(sources, "_added", [*sources._added])
    sources.add_source("toy_rl:SOURCE")
    yield "two-parts"
    monkeypatch.undo()
    for cached in (sources.sources, sources.pins, sources.rewards):
        cached.cache_clear()
