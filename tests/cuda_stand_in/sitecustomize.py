"""Stands in for CUDA in a worker process, on a machine without a GPU.

A process that has this folder first on its PYTHONPATH, and trains, finds GPUs in torch. Their tensors are the CPU's,
but they say that they are on `cuda`, cannot be mixed with the CPU's own, and cannot become numpy arrays, as on a GPU.

    STAND_IN_GPUS    names of the machine's GPUs, separated by commas
    STAND_IN_BYTES   the memory of each; beyond it comes an OutOfMemoryError
    STAND_IN_CARDS   where each process adds a line with CUDA_VISIBLE_DEVICES as it saw it
"""

import os
import sys
from pathlib import Path

if {"lorakit.sweep.worker_process", "lorakit.sweep.device"} & {*sys.orig_argv}:
    import torch
    from torch.multiprocessing.reductions import StorageWeakRef
    from torch.overrides import TorchFunctionMode
    from torch.utils._pytree import tree_leaves, tree_map

    CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
    MEMORY = int(float(os.environ.get("STAND_IN_BYTES", 80 * 2**30)))
    TRANSFERS = {"to", "cpu", "cuda", "pin_memory"}
    MIXING = {"copy_", "__getitem__", "__setitem__", "index_put_", "set_data", "__set__", "to", "cpu", "is_shared"}
    gpus = [name for name in os.environ.get("STAND_IN_GPUS", "").split(",") if name]
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    cards = gpus if seen is None else [gpus[int(i)] for i in seen.split(",") if i]
    peak = 0

    class StandIn(TorchFunctionMode):
        """Remembers, storage by storage, which tensors would be on a GPU."""

        def __init__(self):
            super().__init__()
            self.places, self.held = {}, 0  # bytes at the most: what was freed is taken off when it matters

        def place(self, tensor):
            with torch._C.DisableTorchFunction():
                return self.places.get(tensor.untyped_storage()._cdata, (None,))[0]

        def put(self, tensor, place):
            global peak
            with torch._C.DisableTorchFunction():
                storage = tensor.untyped_storage()
                if storage._cdata in self.places and self.places[storage._cdata][0] == place:
                    return
                # the reference keeps no memory alive, but the address: no later tensor is taken for this one
                self.places[storage._cdata] = place, StorageWeakRef(storage), storage.nbytes()
                if place == CUDA:
                    self.held += storage.nbytes()
                if self.held > min(peak, MEMORY):
                    self.places = {key: one for key, one in self.places.items() if not one[1].expired()}
                    self.held = sum(size for where, _, size in self.places.values() if where == CUDA)
                    peak = max(peak, self.held)
                    if self.held > MEMORY:
                        raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {storage.nbytes()} bytes")

        def __torch_function__(self, func, types, args=(), kwargs=None):
            kwargs = dict(kwargs or {})
            name = getattr(func, "__name__", "")
            leaves = tree_leaves((args, kwargs))
            tensors = [t for t in leaves if isinstance(t, torch.Tensor)]
            owner = getattr(func, "__self__", None)
            if name == "__get__" and owner is torch.Tensor.device:
                return self.place(args[0]) or func(*args)
            if name == "__get__" and owner is torch.Tensor.is_cuda:
                return self.place(args[0]) == CUDA
            if name in ("numpy", "__array__") and self.place(args[0]) == CUDA:
                raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
            if name == "pin_memory":
                return args[0]
            if func is torch.device or name in ("_parse_to", "_has_compatible_shallow_copy_type"):  # asked, not moved
                return func(*args, **kwargs)
            asked = any(map(_is_device, leaves))
            wanted = next(filter(_is_device, tree_leaves((args[name in TRANSFERS:], kwargs))), None) if asked else None
            wanted = CPU if name == "cpu" else CUDA if name == "cuda" else wanted and torch.device(wanted)
            places = {self.place(t) for t in tensors if t.ndim} - {None}
            if len(places) > 1 and name not in MIXING and torch._C._current_graph_task_id() == -1:
                raise RuntimeError(f"Expected all tensors to be on the same device, but {name} got cuda:0 and cpu")
            if asked:
                args, kwargs = tree_map(lambda leaf: CPU if _is_device(leaf) else leaf, (args, kwargs))
            found = {self.place(t) for t in tensors} - {None}
            result = args[0] if name == "cuda" else func(*args, **kwargs)
            if wanted is not None:
                place = CUDA if wanted.type == "cuda" else CPU
            elif name in ("__getitem__", "index_put_", "copy_") or name.endswith("_like") or name.startswith("new_"):
                place = self.place(tensors[0]) if tensors else CPU
            else:
                place = CUDA if CUDA in found else CPU if CPU in found or not tensors else None
            for tensor in tree_leaves(result):
                if isinstance(tensor, torch.Tensor) and place is not None:
                    if wanted is not None and any(tensor is t for t in tensors) and self.place(tensor) != place:
                        with torch._C.DisableTorchFunction():
                            tensor = result = tensor.clone()
                    self.put(tensor, place)
            return result

    def _is_device(leaf):
        if isinstance(leaf, torch.device):
            return True
        return isinstance(leaf, str) and leaf.partition(":")[0] in ("cuda", "cpu")

    def _reset(device=None):
        global peak
        peak = 0

    cuda = torch.cuda
    cuda.is_available = lambda: bool(cards)
    cuda.device_count = lambda: len(cards)
    cuda.current_device = lambda: 0
    cuda.get_device_name = lambda device=None: cards[device if isinstance(device, int) else 0]
    cuda.mem_get_info = lambda device=None: (MEMORY, MEMORY)
    cuda.max_memory_allocated = lambda device=None: peak
    cuda.reset_peak_memory_stats = _reset
    for name in ("synchronize", "empty_cache", "set_device", "manual_seed", "manual_seed_all", "set_rng_state"):
        setattr(cuda, name, lambda *_, **__: None)
    cuda.get_rng_state = lambda device=None: torch.get_rng_state()
    torch.Tensor.pin_memory = lambda tensor, *_: tensor
    torch.version.cuda = "13.0"
    if "STAND_IN_CARDS" in os.environ:
        with Path(os.environ["STAND_IN_CARDS"]).open("a", encoding="utf-8") as file:
            file.write(f"{seen}\n")
    StandIn().__enter__()
