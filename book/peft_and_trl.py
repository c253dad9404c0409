"""What to type with PEFT and TRL, chapter by chapter: the pages include these lines, and the tests execute them.

Each part starts from three names: `model` (an id of the hub or a folder), `data` (rows of `prompt` and `completion`)
and `steps`.
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
