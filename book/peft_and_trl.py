"""What to type with PEFT and TRL, chapter by chapter: the pages include these lines, and the tests execute them.

Each part starts from three names: `model` (an id of the hub or a folder), `data` (rows of `prompt` and `completion`,
by reward of `prompt` and `answer`) and `steps`.
"""

# [rank]
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
settings = SFTConfig(learning_rate=2e-4, lr_scheduler_type="constant",
                     max_steps=steps, per_device_train_batch_size=8,
                     report_to="none")
trainer = SFTTrainer(model=model, args=settings, train_dataset=data,
                     peft_config=adapter)
trainer.train()
# [/rank]

# [reward]
from math import log2

from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer

def right(completions, answer, **_):
    return [float(a.strip() == b) for a, b in zip(completions, answer)]

adapter = LoraConfig(r=8, lora_alpha=32, target_modules="all-linear")
settings = GRPOConfig(
    learning_rate=8e-5, lr_scheduler_type="constant", max_steps=steps,
    per_device_train_batch_size=16, num_generations=8,
    max_completion_length=8, logging_steps=1, report_to="none")
trainer = GRPOTrainer(model, right, settings, data, peft_config=adapter)
trainer.train()
rewards = [row.get("reward", 0) for row in trainer.state.log_history]
bits = sum(-16 * (p * log2(p) + (1 - p) * log2(1 - p))
           for p in rewards if 0 < p < 1)
# [/reward]
