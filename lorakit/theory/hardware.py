"""GPUs: dense FLOP/s, bytes per second, bytes of memory, and a few dated list prices.

Rates are the vendor's data-sheet maxima without structured sparsity; no training run reaches them. Memory is what the
driver reports, where error correction takes its part (L4, L40S, A10, T4). Prices move every month: each carries the
list it stands on and the day on which it was read there (by those who transcribe such lists, not by us). Give your own
with `price_per_hour=`.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from lorakit.specs import UnknownNameError

GIB, MIB = 2**30, 2**20


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
        tf32: whether it multiplies float32 matrices in TensorFloat32, at half of `flops`: from Ampere on.
    """

    name: str
    flops: float
    flops_float32: float
    bytes_per_second: float
    bytes: float
    price_per_hour: float | None = None
    price_source: str | None = None
    tf32: bool = True


LAMBDA, RUNPOD, MODAL = "Lambda, 2026-09-20", "RunPod, 2026-10-07", "Modal, 2026-05-07"

GPUS = {gpu.name: gpu for gpu in (
    GPU("B200", 2250e12, 75e12, 8.0e12, 180e9, 6.99, LAMBDA),
    GPU("H200", 989e12, 67e12, 4.8e12, 141e9, 4.59, RUNPOD),
    GPU("H100", 989e12, 67e12, 3.35e12, 81_559 * MIB, 4.29, LAMBDA),  # the SXM module
    GPU("H100 PCIe", 756e12, 51e12, 2.0e12, 81_559 * MIB),
    GPU("A100 80GB", 312e12, 19.5e12, 2.039e12, 80 * GIB, 2.79, LAMBDA),  # the SXM module
    GPU("A100 80GB PCIe", 312e12, 19.5e12, 1.935e12, 80 * GIB),
    GPU("A100 40GB", 312e12, 19.5e12, 1.555e12, 40 * GIB),
    GPU("L40S", 362e12, 91.6e12, 0.864e12, 46_068 * MIB, 1.95, MODAL),
    GPU("RTX A6000", 154.8e12, 38.7e12, 0.768e12, 48 * GIB),
    GPU("RTX 5090", 209.5e12, 104.8e12, 1.792e12, 32_607 * MIB),
    GPU("RTX 4090", 165e12, 82.6e12, 1.008e12, 24 * GIB),
    GPU("RTX 3090", 71e12, 35.6e12, 0.936e12, 24 * GIB),
    GPU("A10", 125e12, 31.2e12, 0.6e12, 23_028 * MIB),
    GPU("L4", 121e12, 30.3e12, 0.3e12, 23_034 * MIB, 0.80, MODAL),
    GPU("T4", 65e12, 8.1e12, 0.32e12, 15_360 * MIB, 0.59, MODAL, tf32=False),
)}
# What else may stand in a card's name, such as the driver's, without making it another card.
_VENDOR = {"nvidia", "tesla", "geforce", "gpu"}
_ALSO = {"B200": {"sxm", "180gb", "192gb"}, "H200": {"sxm", "sxm5", "141gb"}, "H100": {"sxm", "sxm5", "80gb", "hbm3"},
         "H100 PCIe": {"80gb"}, "A100 80GB": {"sxm", "sxm4"}, "A100 40GB": {"sxm", "sxm4", "pcie"}, "L40S": {"48gb"},
         "RTX A6000": {"48gb"}, "RTX 5090": {"32gb"}, "RTX 4090": {"24gb"}, "RTX 3090": {"24gb"}, "A10": {"24gb"},
         "L4": {"24gb"}, "T4": {"16gb"}}


def find_gpu(name: str | GPU) -> GPU:
    """The one card that a name means, every word of it understood; case, spaces and hyphens do not matter.

    Args:
        name: such as `H100`, `NVIDIA A100-SXM4-40GB`, `rtx4090`; a `GPU` of your own is returned as it is.

    Raises:
        UnknownGPUError: not in `GPUS`, or a name of several (`A100` is sold with 40 and with 80 GB), or a word that
            may make it another card (`MIG`, `Laptop`, another size); the message names the known ones.

    >>> find_gpu("h100").bytes_per_second
    3350000000000.0
    >>> find_gpu("NVIDIA A100-SXM4-40GB").name
    'A100 40GB'
    """
    if isinstance(name, GPU):
        return name
    words = _words(str(name)) - _VENDOR
    for known, card in GPUS.items():
        needed = _words(known)
        if needed <= words <= needed | _ALSO.get(known, set()):
            return card
    several = [known for known in GPUS if words and words < _words(known)]
    close = several or difflib.get_close_matches(str(name).upper(), GPUS, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    raise UnknownGPUError(f"unknown GPU {name!r}; {hint}known: {', '.join(GPUS)}; any other: pass "
                          "lorakit.theory.hardware.GPU(name, flops, flops_float32, bytes_per_second, bytes)")


def _words(name: str) -> set[str]:
    """Its words in small letters; a size and its unit are one (`80 GB`), a series and its number two (`rtx4090`)."""
    plain = re.sub(r"(\d+)\s*(gb|gib)\b", r"\1gb", name.lower())
    return set(re.split(r"[^a-z0-9.]+", re.sub(r"\brtx(?=\w)", "rtx ", plain))) - {""}


def is_known_gpu(name: str) -> bool:
    """Whether `find_gpu` knows exactly one card of this name.

    >>> is_known_gpu("H100"), is_known_gpu("a card of tomorrow")
    (True, False)
    """
    try:
        find_gpu(name)
    except UnknownGPUError:
        return False
    return True
