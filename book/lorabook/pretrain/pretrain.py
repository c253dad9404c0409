"""Pre-train one embedded base model on CPU: the script behind every file of embedded weights.

    python book/lorabook/pretrain/pretrain.py --width 128 --seed 0           # about half an hour on one core

Half of the bytes are procedural questions (`lorakit.data.skills`, three of four wordings, train split only), a
quarter English documentation, a quarter code. Every width sees the same bytes. The peak rate follows one rule stated
beforehand: 5e-3 · sqrt(128 / width). Weights are stored as bfloat16; `<name>.json` beside them records what was done.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch
from corpus import build
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from lorakit.data.skills import SKILLS, draw_question, generator

ROWS, LENGTH = 32, 128
END = 255


def config(width: int) -> LlamaConfig:
    """Two layers, heads of 32, no grouped queries, feed-forward twice the width, 256 bytes, untied head."""
    return LlamaConfig(vocab_size=256, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
                       num_attention_heads=width // 32, num_key_value_heads=width // 32, head_dim=32,
                       max_position_embeddings=512, tie_word_embeddings=False, attention_bias=False,
                       rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
                       pad_token_id=253, bos_token_id=254, eos_token_id=END)


def batches(text: dict[str, numpy.ndarray], steps: int, seed: int):
    """Yield `steps` arrays (ROWS, LENGTH) of bytes; the same for every width, different for every seed."""
    rng = generator("pretraining", seed)
    held_in = len(SKILLS[0].wordings) - 1
    for _ in range(steps):
        rows = numpy.empty((ROWS, LENGTH), dtype=numpy.int64)
        for row in range(ROWS):
            if row % 4 < 2:
                stream = bytearray()
                while len(stream) < LENGTH:
                    question = draw_question(rng.choice(SKILLS), rng.randrange(held_in), "train", rng)
                    stream += (question.prompt + question.completion).encode()
                rows[row] = numpy.frombuffer(bytes(stream[:LENGTH]), dtype=numpy.uint8)
            else:
                source = text["english" if row % 4 == 2 else "code"]
                start = rng.randrange(len(source) - LENGTH)
                rows[row] = source[start : start + LENGTH]
        yield torch.from_numpy(rows)


@torch.no_grad()
def bits_per_byte(model: LlamaForCausalLM, rows: torch.Tensor) -> float:
    """Mean code length of `rows` (N, LENGTH) after the first byte of each row, in bits per byte."""
    return model(input_ids=rows, labels=rows).loss.item() / math.log(2)


@torch.no_grad()
def accuracy(model: LlamaForCausalLM, wording: int, count: int = 100) -> dict[str, float]:
    """Share of test questions of each skill that greedy decoding answers exactly."""
    result = {}
    for skill in SKILLS:
        rng, right = generator("pretraining accuracy", skill.name), 0
        for _ in range(count):
            question = draw_question(skill, wording, "test", rng)
            ids, answer = list(question.prompt.encode()), b""
            while len(answer) < len(question.completion):
                answer += bytes([int(model(input_ids=torch.tensor([ids + list(answer)])).logits[0, -1].argmax())])
            right += answer == question.completion.encode()
        result[skill.name] = right / count
    return result


def arguments(text: str | None) -> argparse.ArgumentParser:
    """What every script of this kind is asked."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--megabytes", type=float, default=32.0)
    parser.add_argument("--out", type=Path, default=Path("book/lorabook/bases/weights"))
    parser.add_argument("--corpus", type=Path, default=Path(".cache/corpus"))
    parser.add_argument("--compile", action="store_true")
    return parser


def pretrain(name: str, make: Callable[[], Any], width: int, args: argparse.Namespace,
             more: Callable[[Any, torch.Tensor], tuple[dict, dict]] = lambda *_: ({}, {}), **options: Any) -> None:
    """Train the model that `make` draws, and write its weights and what was done.

    Args:
        width: that the rule of the peak rate takes.
        args: of `arguments`.
        more: facts on the trained model and its measures on the held-out text, to be recorded too.
        **options: of the model's forward pass in training.
    """
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    corpus = build(args.corpus)
    text, held_out = {}, {}
    for kind, data in corpus.items():
        array = numpy.frombuffer(data, dtype=numpy.uint8)
        cut = len(array) - len(array) // 50
        text[kind] = array[:cut]
        held_out[kind] = torch.from_numpy(array[cut : cut + 128 * LENGTH].astype(numpy.int64).reshape(128, LENGTH))
    steps = round(args.megabytes * 1e6 / (ROWS * LENGTH))
    peak = 5e-3 * math.sqrt(128 / width)
    torch.manual_seed(args.seed)
    model = make()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
                                  lr=peak, betas=(0.9, 0.95), fused=True)
    warmup = steps // 50
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (1 + math.cos(math.pi * step / steps)) / 2 + 0.01))
    forward = torch.compile(model) if args.compile else model

    started, losses = time.perf_counter(), []
    for step, rows in enumerate(batches(text, steps, args.seed)):
        loss = forward(input_ids=rows, labels=rows, use_cache=False, **options).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if step % 200 == 0:
            rate = (step + 1) / (time.perf_counter() - started)
            print(f"{step}/{steps} loss {numpy.mean(losses[-200:]):.4f} left {(steps - step) / rate:.0f} s", flush=True)

    weights = {k: v.to(torch.bfloat16).contiguous() for k, v in model.state_dict().items()}
    model.load_state_dict(weights)
    model.eval()
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(weights, args.out / f"{name}.safetensors", metadata={"format": "pt"})
    model.config.architectures = [type(model).__name__]
    facts, measures = more(model, torch.cat(list(held_out.values())))
    record = {
        "config": model.config.to_diff_dict(),
        "parameters": sum(p.numel() for p in model.parameters()), **facts,
        "sha256": hashlib.sha256((args.out / f"{name}.safetensors").read_bytes()).hexdigest(),
        "pretraining": {
            "seed": args.seed, "steps": steps, "bytes_seen": steps * ROWS * LENGTH, "peak_learning_rate": peak,
            "corpus_sha256": {kind: hashlib.sha256(data).hexdigest() for kind, data in corpus.items()},
            "bits_per_byte": {kind: round(bits_per_byte(model, rows), 4) for kind, rows in held_out.items()},
            "accuracy": accuracy(model, 0), "accuracy_held_out_wording": accuracy(model, 3),
            **measures,
            "seconds": round(time.perf_counter() - started), "torch": torch.__version__,
        },
    }
    (args.out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["pretraining"], indent=1))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--width", type=int, default=128)
    args = parser.parse_args()
    name = "tiny" if (args.width, args.seed) == (128, 0) else f"tiny-w{args.width}-s{args.seed}"
    pretrain(name, lambda: LlamaForCausalLM(config(args.width)), args.width, args)


if __name__ == "__main__":
    main()
