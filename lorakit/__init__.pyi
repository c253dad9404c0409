"""The public names and where they live; `__init__.py` reads this list, and type checkers do."""

from lorakit.adapters.export import export as export
from lorakit.adapters.inspector import inspect_targets as inspect_targets
from lorakit.analysis import plots as plots
from lorakit.analysis.frames import tidy as tidy
from lorakit.analysis.sweep import Sweep as Sweep
from lorakit.bases.models import load_model as load_model
from lorakit.bases.models import register_model as register_model
from lorakit.data.datasets import register_dataset as register_dataset
from lorakit.data.rl_tasks import register_task as register_task
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
from lorakit.sweep.sharing import pull as pull
from lorakit.sweep.sharing import push as push
from lorakit.sweep.sweeps import plan as plan
from lorakit.sweep.sweeps import run as run
from lorakit.sweep.tracking import track as track
from lorakit.theory.capacity import recommend_rank as recommend_rank
from lorakit.theory.estimate import estimate as estimate
from lorakit.theory.learning_rate import recommend_learning_rate as recommend_learning_rate
from lorakit.theory.learning_rate import translate as translate
from lorakit.theory.shapes import ModelShape as ModelShape

__version__: str
__all__: list[str]

class MissingExtraError(ImportError): ...
