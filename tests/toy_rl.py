"""A toy of RL: a random model of 40 words, problems of three words, and rewards that it can learn in a few steps."""

from pathlib import Path

import torch
from plain_training import VOCABULARY, tiny
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding

from lorakit import sources
from lorakit.data.rl_tasks import Task
from lorakit.grpo_spec import GRPOSpec
from lorakit.packed.layers import PackedRMSNorm
from lorakit.rewards import register_reward
from lorakit.specs import LoRASpec

STOP, PAD = "t2", "<pad>"


def words():
    """Word number i is token number i; `t2` ends a completion, and is kept when decoding."""
    vocabulary = {PAD: 0} | {f"t{i}": i for i in range(1, VOCABULARY)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="t1"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token=PAD, eos_token="t3")


def model(dtype=torch.float32, **fields):
    found = tiny(dtype=dtype, **fields)
    found.generation_config.eos_token_id = None
    return found


def keep_float64(monkeypatch):
    """RMS norms and rotations that stay in float64: those of transformers round to float32 in any model, and then sums
    in another order (a prompt met once for its whole group) and places shifted by padding differ by 1e-8, not 1e-15."""
    def forward(self, x):
        normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * normed

    def packed(self, x):
        normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.epsilon)
        count, width = self.weight.shape
        return (normed.view(count, -1, width) * self.weight.unsqueeze(1)).view(x.shape)

    def rotate(self, x, position_ids):
        turns = position_ids.double().unsqueeze(-1) * self.inv_freq.double()
        turns = torch.cat([turns, turns], -1)
        return turns.cos() * self.attention_scaling, turns.sin() * self.attention_scaling

    monkeypatch.setattr(LlamaRotaryEmbedding, "forward", rotate)
    monkeypatch.setattr(LlamaRMSNorm, "forward", forward)
    monkeypatch.setattr(PackedRMSNorm, "forward", packed)


def even_words(prompts, completions, **columns):
    """The share of words with an even number: rewards of many values, that a random policy often earns."""
    numbers = [[int(w) for w in c.replace("t", " ").split()] for c in completions]
    return [sum(n % 2 == 0 for n in row) / max(1, len(row)) for row in numbers]


def names_the_goal(prompts, completions, goal, **columns):
    """1 for a completion that holds the problem's own goal: a binary reward that uses a column."""
    return [float(g in c) for c, g in zip(completions, goal, strict=True)]


def long_ones(prompts, completions, **columns):
    """0.3 a word: what a policy that is paid against it learns to shorten."""
    return [0.3 * c.count("t") for c in completions]


TWO_PARTS = {"two-parts": (even_words, long_ones)}  # a scheme of two components that the toy can earn
SOURCE = sources.Source(Path(__file__).parent / "data" / "no_fingerprints.json", {"rewards": "toy_rl:TWO_PARTS"},
                        rewards={"two-parts": 2})


def silent(prompts, completions, **columns):
    return [0.0] * len(completions)


def broken(prompts, completions, **columns):
    return [1 / len(c[:0]) for c in completions]


def not_a_number(prompts, completions, **columns):
    return [float("nan")] * len(completions)


def task(reward=even_words, prompts=24):
    """Problems of two to five words; the grader is the reward."""
    rows = [{"prompt": " ".join(f"t{4 + (7 * i + j) % 35}" for j in range(2 + i % 4)), "goal": f"t{4 + i % 3}"}
            for i in range(prompts)]
    splits = {"train": rows[: prompts - 12], "validation": rows[-12:-6], "test": rows[-6:]}
    return Task("toy", splits, register_reward(reward), STOP)


def spec(rank=4, lora=None, **fields):
    """A small spec; full fine-tuning with rank=None."""
    chosen = None if rank is None else LoRASpec(rank=rank, **(lora or {}))
    fields = {"steps": 4, "prompts_per_step": 3, "group_size": 4, "max_completion_length": 6, "evaluations": 3,
              "evaluation_problems": 5, "learning_rate": 1e-2, "temperature": 0.9} | fields
    return GRPOSpec(model="random@1", task="toy@1", lora=chosen, **fields)
