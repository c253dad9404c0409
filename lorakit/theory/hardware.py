"""GPUs: dense FLOP/s, bytes per second, bytes of memory, and a few dated list prices.

Rates are the vendor's data-sheet maxima without structured sparsity; no training run reaches them. Prices move every
month: each carries the list it stands on and the day on which it was read there (by those who transcribe such lists,
not by us). Give your own with `price_per_hour=`.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from itertools import pairwise

from lorakit.specs import UnknownNameError

GIB = 2**30


class UnknownGPUError(UnknownNameError):
    """A GPU was named that is not in `GPUS`."""


@dataclass(frozen=True)
class GPU:
    """One GPU.

    Args:
        name: as people write it.
        flops: dense FLOP/s of a matrix product in bfloat16 with float32 sums (T4: float16, it has no bfloat16).
        flops_float32: FLOP/s in float32, without TF32.
        bytes_per_second: of its memory.
        bytes: of its memory.
        price_per_hour: US dollars for one hour of one GPU, without tax, or None where none is listed here.
        price_source: whose list, and the day it was read.
    """

    name: str
    flops: float
    flops_float32: float
    bytes_per_second: float
    bytes: float
    price_per_hour: float | None = None
    price_source: str | None = None


LAMBDA, RUNPOD, MODAL = "Lambda, 2026-09-20", "RunPod, 2026-10-07", "Modal, 2026-05-07"

GPUS = {gpu.name: gpu for gpu in (
    GPU("B200", 2250e12, 75e12, 8.0e12, 180e9, 6.99, LAMBDA),
    GPU("H200", 989e12, 67e12, 4.8e12, 141e9, 4.59, RUNPOD),
    GPU("H100", 989e12, 67e12, 3.35e12, 80 * GIB, 4.29, LAMBDA),  # the SXM module
    GPU("A100", 312e12, 19.5e12, 2.039e12, 80 * GIB, 2.79, LAMBDA),  # SXM, 80 GB
    GPU("L40S", 362e12, 91.6e12, 0.864e12, 48 * GIB, 1.95, MODAL),
    GPU("L4", 121e12, 30.3e12, 0.3e12, 24 * GIB, 0.80, MODAL),
    GPU("RTX 4090", 165e12, 82.6e12, 1.008e12, 24 * GIB),
    GPU("T4", 65e12, 8.1e12, 0.32e12, 16 * GIB, 0.59, MODAL),
)}


def find_gpu(name: str | GPU) -> GPU:
    """The GPU of this name; case, spaces, hyphens and the words around it do not matter.

    Args:
        name: such as `H100`, `NVIDIA H100 80GB`, `rtx4090`; a `GPU` of your own is returned as it is.

    Raises:
        UnknownGPUError: not in `GPUS`; the message names the nearest ones and how to describe your own.

    >>> find_gpu("h100").bytes_per_second
    3350000000000.0
    >>> find_gpu("NVIDIA GeForce RTX 4090").name
    'RTX 4090'
    """
    if isinstance(name, GPU):
        return name
    plain = {re.sub(r"\s", "", known.lower()): known for known in GPUS}
    words = re.split(r"[\s_-]+", str(name).lower())
    for word in [*words, *map("".join, pairwise(words))]:
        if word in plain:
            return GPUS[plain[word]]
    close = [plain[near] for near in difflib.get_close_matches("".join(words), plain, n=3, cutoff=0.4)]
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    raise UnknownGPUError(f"unknown GPU {name!r}; {hint}known: {', '.join(GPUS)}; any other: pass "
                          "lorakit.theory.hardware.GPU(name, flops, flops_float32, bytes_per_second, bytes)")

