"""Golden curves: what a few dozen short runs in double precision give, stored so that code may move under the records.

`python tests/lorabook/golden.py` writes them anew, which belongs to a commit that opens an epoch in `lorakit/epochs.py`
and no other. Losses are stored with all their digits, before a record rounds them. The model's own norms compute in
single precision, so that another processor's vector width moves a loss by up to 8e-8; the bound of the test is 1e-6.
"""

import contextlib
import importlib.util
import json
from functools import cache
from pathlib import Path

import torch

from lorakit.bases.models import load_model
from lorakit.data.datasets import load_dataset
from lorakit.data.tokens import tokenize
from lorakit.grpo_spec import GRPO_OBJECTIVE
from lorakit.packed.engine import train_pack
from lorakit.packed.grpo import Batch, accumulate
from lorakit.packed.model import PackedModel
from lorakit.result import evaluation_steps
from lorakit.rl.rollout import Rollout, log_probs
from lorakit.specs import GRPOSpec, LoRASpec, SFTSpec, read_spec

with contextlib.suppress(ModuleNotFoundError):
    import lorabook  # noqa: F401 - some cases are over its bases and its text

FILE = Path(__file__).parents[1] / "data" / "golden.json"
STEPS = 50
COLUMNS = ("train_loss", "validation_loss", "test_loss")
PROBLEMS, GROUP, LENGTH, BATCHES = 2, 4, 8, 3  # of the given completions


def sft(rank=8, lora=None, **fields):
    """A supervised run of `tiny`, or of what `fields` name, in double precision at a stable rate."""
    chosen = None if rank is None else LoRASpec(rank=rank, **(lora or {}))
    fields = {"learning_rate": 1e-3 if rank else 1e-4, "steps": STEPS, "batch_size": 2, "max_length": 48,
              "dtype": "float64", "evaluations": 8, "evaluation_tokens": 200} | fields
    return SFTSpec(lora=chosen, **fields)


def rl(rank=8, **fields):
    """A run on given completions: sampling is left out, since one flipped token changes all that comes after it."""
    chosen = None if rank is None else LoRASpec(rank=rank)
    fields = {"learning_rate": 1e-3 if rank else 1e-4, "steps": STEPS, "prompts_per_step": PROBLEMS,
              "group_size": GROUP, "max_completion_length": LENGTH, "dtype": "float64", "evaluations": 8} | fields
    return GRPOSpec(lora=chosen, **fields)


CASES = {
    "packed rank 1": ("packed", sft(1)),
    "packed rank 8, alpha 16, seed 3": ("packed", sft(8, {"alpha": 16.0}, seed=3)),
    "packed rank 16, decay": ("packed", sft(16, weight_decay=0.1)),
    "packed rank 16, clipped": ("packed", sft(16, max_grad_norm=0.3)),
    "packed rank 64, merged": ("packed", sft(64, batch_size=8)),
    "packed attention": ("packed", sft(4, {"targets": "attention"})),
    "packed mlp": ("packed", sft(4, {"targets": "mlp"})),
    "packed all-linear+head": ("packed", sft(4, {"targets": "all-linear+head"})),
    "packed v_proj": ("packed", sft(4, {"targets": ("v_proj",)}, learning_rate=3e-3)),
    "packed B alone": ("packed", sft(8, {"train_a": False, "init_a_scale": 0.5})),
    "packed B faster": ("packed", sft(8, {"learning_rate_b_ratio": 8.0}, learning_rate=2e-4)),
    "packed accumulated": ("packed", sft(8, accumulation=3, max_grad_norm=0.5)),
    "packed running text": ("packed", sft(8, dataset="real-text@f98f8651995c")),
    "packed other AdamW": ("packed", sft(8, beta1=0.8, beta2=0.95, epsilon=1e-6)),
    "packed full": ("packed", sft(None)),
    "packed full, decay, clipped": ("packed", sft(None, weight_decay=0.1, max_grad_norm=0.5, seed=1)),
    "packed full, accumulated": ("packed", sft(None, accumulation=2)),
    "packed narrow base": ("packed", sft(2, model="tiny-w32-s0")),
    "peft rank 8": ("peft", sft(8, max_grad_norm=0.5)),
    "peft full": ("peft", sft(None, weight_decay=0.1)),
    "peft experts": ("peft", sft(4, {"targets": "experts", "expert_rank": 2}, model="tiny-moe@ec672d75ddbd")),
    "peft shared outer": ("peft", sft(4, {"targets": "attention+experts", "shared_outer": True},
                                      model="tiny-moe@ec672d75ddbd")),
    "trl rank 8": ("trl", sft(8, weight_decay=0.1, max_grad_norm=0.5)),
    "trl full": ("trl", sft(None, accumulation=2)),
    "rl policy gradient": ("packed", rl(8)),
    "rl full, per token": ("packed", rl(None, loss="dapo", max_grad_norm=0.5)),
    "rl clipped, KL": ("packed", rl(4, **GRPO_OBJECTIVE, kl_coefficient=0.1, iterations=2, weight_decay=0.1)),
}
OF_THE_BOOK = ("packed running text", "peft experts", "peft shared outer")
HERE = [name for name in CASES if name not in OF_THE_BOOK or importlib.util.find_spec("lorabook")]


@cache
def _model(name):
    model, tokenizer = load_model(name, dtype=torch.float64)
    if hasattr(model.config, "num_experts"):
        model.set_experts_implementation("eager")  # torch's grouped product knows no double precision
    return model, tokenizer


@cache
def _splits(model, dataset, max_length):
    return tokenize(load_dataset(dataset), _model(model)[1], max_length)


def supervised(engine, spec):
    """The curve of one supervised run."""
    model, tokenizer = _model(spec.model)
    splits = _splits(spec.model, spec.dataset, spec.max_length)
    if engine == "packed":
        result = train_pack([spec], model, splits)[0]
    elif engine == "peft":
        from lorakit.reference.peft_loop import train_peft

        result = train_peft(spec, model, splits)
    else:
        from lorakit.reference.sft import train_sft

        result = train_sft(spec, model, tokenizer, splits)
    return {"step": result.curve["step"]} | {name: result.curve[name] for name in COLUMNS}


def given_batch(spec, number, vocabulary, model):
    """Completions and advantages drawn once, from the batch's number alone; the sampler is the base."""
    rng = torch.Generator().manual_seed(100 + number)
    lengths = torch.randint(3, 7, (PROBLEMS,), generator=rng)
    prompts = torch.randint(1, vocabulary, (PROBLEMS, 6), generator=rng)
    tokens = torch.randint(1, vocabulary, (PROBLEMS * GROUP, LENGTH), generator=rng)
    ends = torch.randint(2, LENGTH + 1, (PROBLEMS * GROUP, 1), generator=rng)
    mask = torch.arange(LENGTH) < ends
    gains = torch.randn(1, PROBLEMS * GROUP, generator=rng, dtype=torch.float64)
    temperature = torch.full((PROBLEMS * GROUP, 1), spec.temperature, dtype=torch.float64)
    empty = torch.zeros(tokens.shape, dtype=torch.float64)
    with torch.no_grad():
        sampled = log_probs(model, Rollout(prompts, lengths, GROUP, tokens, mask, empty, ends < LENGTH), temperature)
    rollout = Rollout(prompts, lengths, GROUP, tokens, mask, sampled.where(mask, 0.0), (ends < LENGTH).flatten())
    weight = mask.double().unsqueeze(0) / mask.sum()
    return Batch(rollout, temperature, gains, weight, reference=rollout.log_probs.unsqueeze(0).clone())


def reinforced(spec):
    """Losses and gradient norms of one policy that learns from given completions, the same batches again and again."""
    model, _ = _model(spec.model)
    vocabulary = model.config.vocab_size
    batches = [given_batch(spec, number, vocabulary, model) for number in range(BATCHES)]
    points = evaluation_steps(spec.steps, spec.evaluations)
    curve = {"step": [], "loss": [], "norm": []}
    tokens = PROBLEMS * (6 + GROUP * LENGTH)
    with PackedModel(model, [spec], tokens) as packed:
        for step in range(1, spec.steps + 1):
            batch = batches[(step - 1) // spec.iterations % BATCHES]
            batch.old = None if (step - 1) % spec.iterations == 0 else batch.old
            loss = accumulate(packed, [spec], batch)
            norm = packed.optimizer.step()
            if step in points:
                for column, value in zip(curve.values(), (step, loss.item(), norm.item()), strict=True):
                    column.append(value)
    return curve


def measure(name):
    """The curve of a case, as today's code gives it."""
    engine, spec = CASES[name]
    return reinforced(spec) if isinstance(spec, GRPOSpec) else supervised(engine, spec)


def stored():
    """Name to engine, spec and curve, as they were written."""
    return {name: (entry["engine"], read_spec(entry["spec"]), entry["curve"])
            for name, entry in json.loads(FILE.read_text()).items()}


def main():
    """Write the file."""
    entries = {name: {"engine": engine, "spec": spec.to_json(), "curve": measure(name)}
               for name, (engine, spec) in CASES.items()}
    FILE.write_text("{\n" + ",\n".join(f"{json.dumps(n)}: {json.dumps(e)}" for n, e in entries.items()) + "\n}\n")


if __name__ == "__main__":
    main()
