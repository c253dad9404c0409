"""Pre-train the embedded mixture-of-experts base: Qwen3-MoE architecture, the bytes and the rate rule of `pretrain.py`.

    python book/lorabook/pretrain/pretrain_moe.py            # about a quarter of an hour on one core

Width 64, two layers, eight experts of width 64 of which two are active, so that a token meets the matrices of the dense
`tiny-w64`: two experts of 64 beside one feed-forward of 128. The load-balancing loss (weight 0.01) is on in
pre-training only; fine-tuning sees the log loss alone, as Qwen3's own configuration has it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from pathlib import Path

import numpy
import torch
from corpus import build
from pretrain import END, LENGTH, ROWS, accuracy, batches, bits_per_byte
from safetensors.torch import save_file
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM


def config() -> Qwen3MoeConfig:
    """Two layers, two heads of 32, eight experts of width 64 with two active, 256 bytes, untied head."""
    return Qwen3MoeConfig(vocab_size=256, hidden_size=64, intermediate_size=128, moe_intermediate_size=64,
                          num_experts=8, num_experts_per_tok=2, norm_topk_prob=True, num_hidden_layers=2,
                          num_attention_heads=2, num_key_value_heads=2, head_dim=32, max_position_embeddings=512,
                          tie_word_embeddings=False, rms_norm_eps=1e-5, router_aux_loss_coef=0.01,
                          rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
                          pad_token_id=253, bos_token_id=254, eos_token_id=END)


@torch.no_grad()
def expert_shares(model: Qwen3MoeForCausalLM, rows: torch.Tensor) -> list[list[float]]:
    """Share of the routed tokens that each expert of each layer receives on `rows` (N, LENGTH); even is 1/8."""
    logits = model(input_ids=rows, output_router_logits=True).router_logits
    chosen = [layer.topk(model.config.num_experts_per_tok, dim=-1).indices.flatten() for layer in logits]
    counts = [torch.bincount(layer, minlength=model.config.num_experts) for layer in chosen]
    return [[round(share, 4) for share in (layer / layer.sum()).tolist()] for layer in counts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--megabytes", type=float, default=32.0)
    parser.add_argument("--out", type=Path, default=Path("book/lorabook/bases/weights"))
    parser.add_argument("--corpus", type=Path, default=Path(".cache/corpus"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)

    corpus = build(args.corpus)
    arrays = {kind: numpy.frombuffer(data, dtype=numpy.uint8) for kind, data in corpus.items()}
    cuts = {kind: len(array) - len(array) // 50 for kind, array in arrays.items()}
    text = {kind: array[: cuts[kind]] for kind, array in arrays.items()}
    held_out = {kind: torch.from_numpy(array[cuts[kind] :][: 128 * LENGTH].astype(numpy.int64).reshape(128, LENGTH))
                for kind, array in arrays.items()}

    steps = round(args.megabytes * 1e6 / (ROWS * LENGTH))
    peak = 5e-3 * math.sqrt(128 / 64)
    torch.manual_seed(args.seed)
    model = Qwen3MoeForCausalLM(config())
    model.set_experts_implementation("eager")  # the fastest of the three on a CPU
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
                                  lr=peak, betas=(0.9, 0.95), fused=True)
    warmup = steps // 50
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (1 + math.cos(math.pi * step / steps)) / 2 + 0.01))

    started, losses = time.perf_counter(), []
    for step, rows in enumerate(batches(text, steps, args.seed)):
        loss = model(input_ids=rows, labels=rows, use_cache=False, output_router_logits=True).loss
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
    name = "tiny-moe" if args.seed == 0 else f"tiny-moe-s{args.seed}"
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(weights, args.out / f"{name}.safetensors", metadata={"format": "pt"})
    model.config.architectures = ["Qwen3MoeForCausalLM"]
    experts = sum(p.numel() for key, p in model.named_parameters() if ".experts." in key)
    parameters = sum(p.numel() for p in model.parameters())
    active = parameters - experts + experts * model.config.num_experts_per_tok // model.config.num_experts
    record = {
        "config": model.config.to_diff_dict(),
        "parameters": parameters,
        "active_parameters": active,
        "sha256": hashlib.sha256((args.out / f"{name}.safetensors").read_bytes()).hexdigest(),
        "pretraining": {
            "seed": args.seed, "steps": steps, "bytes_seen": steps * ROWS * LENGTH, "peak_learning_rate": peak,
            "corpus_sha256": {kind: hashlib.sha256(data).hexdigest() for kind, data in corpus.items()},
            "bits_per_byte": {kind: round(bits_per_byte(model, rows), 4) for kind, rows in held_out.items()},
            "accuracy": accuracy(model, 0), "accuracy_held_out_wording": accuracy(model, 3),
            "expert_shares": expert_shares(model, torch.cat(list(held_out.values()))),
            "seconds": round(time.perf_counter() - started), "torch": torch.__version__,
        },
    }
    (args.out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["pretraining"], indent=1))


if __name__ == "__main__":
    main()
