"""The processor that a run computes on: its name, whether torch can use it, and how much memory was held.

As a program it prints one line of JSON, {"gpus": [names]} or {"error": why torch can use none}.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

import torch


def device_name(device: str) -> str:
    """The GPU's or the processor's own name for itself."""
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    model = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")] if Path("/proc/cpuinfo").exists() else []
    return model[0] if model else "CPU"


def usable_gpus() -> list[str]:
    """The names of the GPUs that torch sees here, each of them tried with one sum.

    Raises:
        RuntimeError: there is none that torch can use; the message says why, and the way out.
    """
    way_out = "or train on the CPU: device='cpu', --device cpu or LORAKIT_DEVICE=cpu"
    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        raise RuntimeError(f"a GPU was found or asked for, but torch {torch.__version__} is built without CUDA: "
                           f"install a build with it, {way_out}")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not torch.cuda.is_available() or torch.cuda.device_count() == 0:
        why = f"sees none, since CUDA_VISIBLE_DEVICES={hidden!r}: unset it"
        if hidden is None:
            why = f"finds none: does the driver answer (nvidia-smi), and is it new enough for CUDA {torch.version.cuda}"
        raise RuntimeError(f"a GPU was found or asked for, but torch {torch.__version__} {why}, {way_out}")
    names = [str(torch.cuda.get_device_name(i)) for i in range(torch.cuda.device_count())]
    for i, name in enumerate(names):
        try:
            torch.ones(1, device=f"cuda:{i}").add(1).item()
        except RuntimeError as error:
            raise RuntimeError(f"torch {torch.__version__} cannot compute on cuda:{i} ({name}): {error}; leave it out "
                               f"with CUDA_VISIBLE_DEVICES, install a torch built for it, {way_out}") from error
    return names


def reset_peak(device: str) -> None:
    """Forget the largest use of memory so far, so that `peak_bytes` speaks of what comes."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # Linux only; elsewhere the peak is that of the process so far
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes(device: str) -> int | None:
    """Most bytes held since `reset_peak`: of tensors on a GPU, else of this whole process; None where nobody counts."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:
        return None
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, in any of the words of torch, CUDA and Python."""
    words = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc", "alloc_failed",
             "unable to allocate")
    while not isinstance(error, MemoryError | torch.OutOfMemoryError):
        if isinstance(error, RuntimeError | OSError) and any(word in str(error).lower() for word in words):
            return True
        if (cause := error.__cause__ or error.__context__) is None:
            return False
        error = cause
    return True


def main() -> None:
    """Answer in a process of its own, so that the one that asks need not import torch and holds no GPU."""
    try:
        print(json.dumps({"gpus": usable_gpus()}))
    except RuntimeError as error:
        print(json.dumps({"error": str(error)}))


if __name__ == "__main__":
    main()
