"""LoRA, measured: packed sweeps, capacity and claims with verdicts. Importing this imports no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lorakit.adapters.export import export as export
    from lorakit.adapters.inspector import inspect_targets as inspect_targets
    from lorakit.analysis import plots as plots
    from lorakit.analysis.frames import tidy as tidy
    from lorakit.analysis.sweep import Sweep as Sweep
    from lorakit.bases.models import load_model as load_model
    from lorakit.bases.models import register_model as register_model
    from lorakit.data.rl_tasks import register_task as register_task
    from lorakit.data.tasks import register_dataset as register_dataset
    from lorakit.grpo_spec import GRPOSpec as GRPOSpec
    from lorakit.packed.dataset_bits import measure_dataset_bits as measure_dataset_bits
    from lorakit.records import Record as Record
    from lorakit.records import Store as Store
    from lorakit.reference.configs import peft_config as peft_config
    from lorakit.reference.configs import trl_config as trl_config
    from lorakit.rewards import register_reward as register_reward
    from lorakit.specs import LoRASpec as LoRASpec
    from lorakit.specs import SFTSpec as SFTSpec
    from lorakit.specs import vary as vary
    from lorakit.sweep.recorder import Recorder as Recorder
    from lorakit.sweep.sweeps import plan as plan
    from lorakit.sweep.sweeps import run as run
    from lorakit.theory.capacity import recommend_rank as recommend_rank
    from lorakit.theory.estimate import estimate as estimate
    from lorakit.theory.learning_rate import recommend_learning_rate as recommend_learning_rate
    from lorakit.theory.learning_rate import translate as translate
    from lorakit.theory.shapes import ModelShape as ModelShape

_HOME = {
    "Record": "lorakit.records:Record",
    "Store": "lorakit.records:Store",
    "Sweep": "lorakit.analysis.sweep:Sweep",
    "LoRASpec": "lorakit.specs:LoRASpec",
    "SFTSpec": "lorakit.specs:SFTSpec",
    "GRPOSpec": "lorakit.grpo_spec:GRPOSpec",
    "vary": "lorakit.specs:vary",
    "tidy": "lorakit.analysis.frames:tidy",
    "plan": "lorakit.sweep.sweeps:plan",
    "run": "lorakit.sweep.sweeps:run",
    "recommend_learning_rate": "lorakit.theory.learning_rate:recommend_learning_rate",
    "translate": "lorakit.theory.learning_rate:translate",
    "estimate": "lorakit.theory.estimate:estimate",
    "ModelShape": "lorakit.theory.shapes:ModelShape",
    "recommend_rank": "lorakit.theory.capacity:recommend_rank",
    "measure_dataset_bits": "lorakit.packed.dataset_bits:measure_dataset_bits",
    "inspect_targets": "lorakit.adapters.inspector:inspect_targets",
    "load_model": "lorakit.bases.models:load_model",
    "register_model": "lorakit.bases.models:register_model",
    "export": "lorakit.adapters.export:export",
    "register_dataset": "lorakit.data.tasks:register_dataset",
    "register_task": "lorakit.data.rl_tasks:register_task",
    "register_reward": "lorakit.rewards:register_reward",
    "peft_config": "lorakit.reference.configs:peft_config",
    "trl_config": "lorakit.reference.configs:trl_config",
    "Recorder": "lorakit.sweep.recorder:Recorder",
    "plots": "lorakit.analysis.plots",
}
__version__ = "0.2.0"
__all__ = [*_HOME, "__version__"]

TRAINING_PACKAGES = ("torch", "transformers", "peft", "trl", "datasets", "safetensors", "tokenizers")


class MissingExtraError(ImportError):
    """Something was used that needs the packages of the extra `train`."""


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"lorakit has no {name!r}; it has: {', '.join(_HOME)}")
    module, _, attribute = _HOME[name].partition(":")
    try:
        return getattr(import_module(module), attribute) if attribute else import_module(module)
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] in TRAINING_PACKAGES:
            raise MissingExtraError(f"lorakit.{name} trains models and needs the package {error.name!r}: "
                                    "run `pip install '.[train]'` in a clone of lorakit", name=error.name) from error
        raise


def __dir__() -> list[str]:
    return sorted([*__all__, *globals()])
