"""What the packed engine is held against: single runs with PEFT's layers and torch's AdamW."""

import torch
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_
from transformers import AutoConfig, AutoModelForCausalLM, Trainer

from lorakit.adapters.peft_layers import attach
from lorakit.data.tokens import TokenSplit, order
from lorakit.result import evaluation_steps
from lorakit.specs import LoRASpec, SFTSpec

VOCABULARY, PAD, WIDTH, LENGTH = 40, 0, 32, 16
LOSSES = ("train_loss", "validation_loss", "test_loss")


def tiny(kind="llama", dtype=torch.float32, layers=1, tied=False, **config):
    """A random model; biases and norms are drawn as well, since zeros and ones would hide a layer that drops them.

    `config` are more fields of its configuration.
    """
    torch.manual_seed(1)
    fields = {"vocab_size": VOCABULARY, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
              "max_position_embeddings": 64} | config
    settings = AutoConfig.for_model(
        kind, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=layers,
        pad_token_id=PAD, tie_word_embeddings=tied, initializer_range=0.15, **fields)
    model = AutoModelForCausalLM.from_config(settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.to(dtype)


def split(seed, sequences):
    """Sequences of 6 to 16 tokens, padded on the right; the loss counts a different stretch of each."""
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCABULARY, (sequences, LENGTH), generator=rng)
    lengths = torch.randint(6, LENGTH + 1, (sequences, 1), generator=rng)
    prompts = torch.randint(0, 5, (sequences, 1), generator=rng)
    place = torch.arange(LENGTH)
    ids[place >= lengths] = PAD
    counts = (place >= prompts) & (place < lengths) & (torch.rand(ids.shape, generator=rng) > 0.1)
    counts[torch.arange(sequences), lengths.flatten() - 1] = True
    return TokenSplit(ids, ids.where(counts, -100))


def data():
    """Train, validation and test; 23 training sequences, so that epochs end in the middle of a batch."""
    return {"train": split(0, 23), "validation": split(1, 9), "test": split(2, 8)}


def spec(learning_rate=3e-3, rank=4, dtype="float32", lora=None, **fields):
    """A small spec: LoRA with `lora`'s fields, or full fine-tuning with rank=None."""
    chosen = None if rank is None else LoRASpec(rank=rank, **(lora or {}))
    fields = {"steps": 20, "batch_size": 3, "max_length": LENGTH, "evaluations": 12, "evaluation_tokens": 60} | fields
    return SFTSpec(model="random@1", dataset="random@1", learning_rate=learning_rate, lora=chosen, dtype=dtype,
                   **fields)


def mean_loss(model, part):
    """Mean cross entropy over all label tokens of a split, from Hugging Face's logits."""
    return loss_sum(model, part.input_ids, part.labels) / (part.labels[:, 1:] != -100).sum()


def loss_sum(model, ids, labels):
    logits = model(input_ids=ids, attention_mask=(ids != PAD).long(), use_cache=False).logits[:, :-1].flatten(0, 1)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return functional.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")


def parameter_groups(model, run):
    """torch's groups: A and B for LoRA; for full fine-tuning whatever transformers' Trainer decays, and the rest."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    if run.lora is None:
        decayed = set(Trainer.get_decay_parameter_names(None, model))
        return [{"params": [p for n, p in named if n in decayed], "weight_decay": run.weight_decay},
                {"params": [p for n, p in named if n not in decayed], "weight_decay": 0.0}]
    fast = run.learning_rate * run.lora.learning_rate_b_ratio
    return [{"params": [p for n, p in named if "lora_A" in n]},
            {"params": [p for n, p in named if "lora_B" in n], "lr": fast}]


def plain_run(model, run, splits):
    """Train `model` as `run` says, alone, in place; its curve, and the trained model."""
    model = model.requires_grad_(True) if run.lora is None else attach(model, run.lora, run.seed)
    parameters = [p for p in model.parameters() if p.requires_grad]
    # 16-bit weights follow float32 copies of themselves, which AdamW updates
    copies = {p: p if p.dtype != torch.bfloat16 else p.detach().float() for p in parameters}
    groups = [{**group, "params": [copies[p] for p in group["params"]]} for group in parameter_groups(model, run)]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=run.learning_rate,
        betas=(run.beta1, run.beta2), eps=run.epsilon, weight_decay=run.weight_decay, foreach=False)
    train, per_step = splits["train"], run.batch_size * run.accumulation
    points, recent = evaluation_steps(run.steps, run.evaluations), []
    curve = {"step": [], **{name: [] for name in LOSSES}}
    held_out = [splits[name].head(run.evaluation_tokens) for name in ("validation", "test")]
    chosen = order(run.seed, len(train), run.steps * per_step).view(run.steps, run.accumulation, run.batch_size)
    for step in range(1, run.steps + 1):
        labels = train.labels[chosen[step - 1]]
        tokens, total = (labels[..., 1:] != -100).sum(), 0.0
        for micro, rows in zip(labels, chosen[step - 1], strict=True):
            loss = loss_sum(model, train.input_ids[rows], micro) / tokens
            loss.backward()
            total += loss.item()
        recent.append(total)
        if run.max_grad_norm is not None:
            clip_grad_norm_(parameters, run.max_grad_norm)
        for weight, copied in copies.items():
            copied.grad = weight.grad.to(copied.dtype)
        optimizer.step()
        for weight, copied in copies.items():
            weight.data.copy_(copied.data)
            weight.grad = None
        if step in points:
            with torch.no_grad():
                row = [step, sum(recent) / len(recent), *(mean_loss(model, part).item() for part in held_out)]
            recent = []
            for column, value in zip(curve.values(), row, strict=True):
                column.append(value)
    return curve, model


def largest_difference(curve, expected):
    """The largest absolute difference between two curves, over training, validation and test losses, in nats."""
    assert curve["step"] == expected["step"]
    return max(abs(a - b) for name in LOSSES for a, b in zip(curve[name], expected[name], strict=True))


def on_validation(subject):
    """A probe: the loss on the whole validation split, before and after."""
    when = "after" if subject.trained else "before"
    return [{f"validation_{when}": loss} for loss in subject.losses(data()["validation"])]
