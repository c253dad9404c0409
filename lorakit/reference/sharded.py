"""One run on several processors: each holds a share of weights, gradients and moments (torch's fully_shard, FSDP2).

The model is cut before a trainer sees it, by the same code on GPUs (nccl) and on a CPU (gloo), so that float32 masters,
as `lorakit.reference.adamw` keeps them, are shares too. A trainer's accelerate starts the processes and deals out the
rows; it must not wrap the model once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed
from torch import nn

from lorakit.specs import SFTSpec


class ShardError(RuntimeError):
    """A run asked for several processors, and its weights do not lie in shares on that many."""


def shard(model: nn.Module, count: int) -> nn.Module:
    """Cut a model's weights into shares, layer by layer, and move each to the device of its process.

    Args:
        model: on the CPU, as it was loaded (with its adapter).
        count: processes, all of which call this.

    Raises:
        ShardError: this process is not one of so many.
    """
    from torch.distributed.fsdp import fully_shard

    world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    if world != count:
        raise ShardError(f"the run asked for shards on {count} processors (gpus={count}) and was started on {world}: "
                         "start it with lorakit.run, which starts that many processes, or take gpus=1")
    cuda = torch.distributed.get_backend() == "nccl"
    mesh = torch.distributed.init_device_mesh("cuda" if cuda else "cpu", (count,))
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = set(base._no_split_modules or ())
    for layer in [module for module in model.modules() if type(module).__name__ in names]:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)  # else embedding and head stay whole after a forward pass
    require_shards(model, count)
    return model


def require_shards(model: nn.Module, count: int) -> None:
    """Raise ShardError unless every weight lies in shares on `count` processors.

    A trainer that finds no GPU falls back to whole copies without a word.
    """
    from torch.distributed.tensor import DTensor

    whole = [name for name, p in model.named_parameters()
             if not isinstance(p, DTensor) or p.device_mesh.size() != count or not p.placements[0].is_shard()]
    if whole:
        raise ShardError(f"the run asked for shards on {count} processors, and {len(whole)} weights are whole on each, "
                         f"such as {whole[0]}: nothing was trained. Take gpus=1, or find out why they were not cut")


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that may lie in shares, whole; every process has to ask."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def gathered(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Weights, or tuples of factors, by name, whole and on the CPU."""
    return {name: tuple(whole(part).cpu() for part in value) if isinstance(value, tuple) else whole(value).cpu()
            for name, value in weights.items()}


def over_processes(values: Iterable[float], count: int) -> list[float]:
    """Each value, summed over all processes of a run on `count` of them."""
    if count == 1:
        return list(values)
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    summed = torch.tensor(list(values), dtype=torch.float64, device=device)
    torch.distributed.all_reduce(summed)
    return summed.tolist()


def base_of(model: nn.Module, spec: SFTSpec) -> Any:
    """The base as it was, for the change that training makes: the shares of what trains are copied, never the whole."""
    frozen = spec.lora is not None
    kept = {name: p.detach() if frozen else p.detach().clone() for name, p in model.named_parameters()
            if not (frozen and p.requires_grad)}
    return SimpleNamespace(named_parameters=kept.items)
