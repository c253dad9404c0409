"""What to type with PEFT and TRL, chapter by chapter: the pages include these lines, and the tests execute them.

Each part starts from three names: `model` (an id of the hub or a folder), `data` (rows of `prompt` and `completion`,
by reward of `prompt` and `answer`) and `steps`.
"""

# [rank]
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

adapter = LoraConfig(r=32, lora_alpha=32, target_modules="all-linear")
settings = SFTConfig(learning_rate=4.7e-4, lr_scheduler_type="constant",
                     max_steps=steps, per_device_train_batch_size=8,
                     report_to="none")
trainer = SFTTrainer(model=model, args=settings, train_dataset=data,
                     peft_config=adapter)
trainer.train()
# [/rank]

# [capacity]
from math import log

from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
settings = SFTConfig(learning_rate=1e-3, lr_scheduler_type="constant",
                     num_train_epochs=1, per_device_train_batch_size=4,
                     logging_steps=1, report_to="none")
trainer = SFTTrainer(model=model, args=settings, train_dataset=data,
                     peft_config=adapter)
trainer.train()
losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
bits_a_token = sum(losses) / len(losses) / log(2)
# [/capacity]

# [cost]
import torch
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
settings = SFTConfig(learning_rate=4.1e-4, lr_scheduler_type="constant",
                     max_steps=steps, per_device_train_batch_size=4,
                     max_length=1024, gradient_checkpointing=True,
                     report_to="none")
trainer = SFTTrainer(model=model, args=settings, train_dataset=data,
                     peft_config=adapter)
trainer.train()
gigabytes = torch.cuda.max_memory_allocated() / 1e9  # of tensors, at peak
# [/cost]

# [layers]
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

attention = ["q_proj", "k_proj", "v_proj", "o_proj"]
mlp = ["gate_proj", "up_proj", "down_proj"]
alone = LoraConfig(r=26, lora_alpha=32, target_modules=attention)
other = LoraConfig(r=16, lora_alpha=32, target_modules=mlp)  # as large
both = LoraConfig(r=10, lora_alpha=32, target_modules=attention + mlp)
for adapter in (alone, other, both):
    settings = SFTConfig(learning_rate=4.1e-4, lr_scheduler_type="constant",
                         max_steps=steps, report_to="none")
    trainer = SFTTrainer(model=model, args=settings, train_dataset=data,
                         peft_config=adapter)
    trainer.train()
# [/layers]

# [experts]
from peft import LoraConfig
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

mixture = AutoModelForCausalLM.from_pretrained(model)
experts = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
share = 16 // mixture.config.num_experts_per_tok  # by active experts
adapter = LoraConfig(
    r=16, lora_alpha=32,
    target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
    target_parameters=experts, rank_pattern=dict.fromkeys(experts, share))
settings = SFTConfig(learning_rate=4.1e-4, max_steps=steps, report_to="none")
trainer = SFTTrainer(model=mixture, args=settings, train_dataset=data,
                     peft_config=adapter)
trainer.train()
# [/experts]

# [learning-rate]
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

parts, losses = data.train_test_split(0.1, seed=0), {}
adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
for rate in (1e-4, 3e-4, 1e-3):
    settings = SFTConfig(learning_rate=rate, lr_scheduler_type="constant",
                         max_steps=steps, report_to="none")
    trainer = SFTTrainer(
        model=model, args=settings, peft_config=adapter,
        train_dataset=parts["train"], eval_dataset=parts["test"])
    trainer.train()
    losses[rate] = trainer.evaluate()["eval_loss"]
best = min(losses, key=losses.get)
# [/learning-rate]

# [alpha]
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

layers = {"r": 16, "target_modules": "all-linear"}
plain = LoraConfig(lora_alpha=32, **layers)  # α / r = 2
rooted = LoraConfig(lora_alpha=8, use_rslora=True, **layers)  # α / √r = 2
losses = []
for adapter in (plain, rooted):
    settings = SFTConfig(learning_rate=4.1e-4, lr_scheduler_type="constant",
                         max_steps=steps, report_to="none", seed=0)
    trainer = SFTTrainer(model=model, args=settings,
                         train_dataset=data, peft_config=adapter)
    losses.append(trainer.train().training_loss)
assert abs(losses[0] - losses[1]) < 1e-4  # one training under two names
# [/alpha]

# [batch-size]
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

batch, rate, samples = 32, 2e-4, 8 * steps
root = (batch / 8) ** 0.5  # the rate was found at a batch of 8
settings = SFTConfig(
    learning_rate=rate * root, lr_scheduler_type="constant",
    max_steps=max(1, samples // batch), report_to="none",
    per_device_train_batch_size=8, gradient_accumulation_steps=batch // 8)
adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
trainer = SFTTrainer(model=model, args=settings,
                     train_dataset=data, peft_config=adapter)
trainer.train()
# [/batch-size]

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

# [precision]
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
before = {name: weight.clone() for name, weight in base.state_dict().items()}
adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear",
                     init_lora_weights=False)  # as if it had learnt
policy = get_peft_model(base, adapter)
policy.merge_adapter()    # here a sampler takes the weights
policy.unmerge_adapter()
policy.unload()           # the base, without its adapter
moved = max(((weight - before[name]).norm() / weight.norm()).item()
            for name, weight in base.state_dict().items())  # not 0
# [/precision]

# [disagreement]
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer

def right(completions, answer, **_):
    return [float(a.strip() == b) for a, b in zip(completions, answer)]

settings = GRPOConfig(
    learning_rate=8e-5, lr_scheduler_type="constant", max_steps=steps,
    per_device_train_batch_size=64, num_generations=8,  # 8 prompts a step
    max_completion_length=8, loss_type="dr_grpo", scale_rewards="none",
    logging_steps=1, report_to="none")
adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
trainer = GRPOTrainer(model, right, settings, data, peft_config=adapter)
trainer.train()
silent = [row["frac_reward_zero_std"]  # 1: no group teaches
          for row in trainer.state.log_history
          if "frac_reward_zero_std" in row]
# [/disagreement]

# [how-fast]
from time import perf_counter

from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

adapter = LoraConfig(r=8, lora_alpha=32, target_modules="all-linear")
seconds = {}
for rate in (3e-4, 1e-3, 3e-3, 1e-2):  # each pays the fixed cost again
    started = perf_counter()
    settings = SFTConfig(learning_rate=rate, lr_scheduler_type="constant",
                         max_steps=steps, per_device_train_batch_size=2,
                         report_to="none")
    trainer = SFTTrainer(model=model, args=settings, train_dataset=data,
                         peft_config=adapter)
    trainer.train()
    seconds[rate] = perf_counter() - started
# [/how-fast]
