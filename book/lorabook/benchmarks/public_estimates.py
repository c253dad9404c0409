"""What `estimate` says of runs that others measured on GPUs, beside what they measured; keeps the ratios' summary.

    LORAKIT_DATA=DIR python book/lorabook/benchmarks/public_estimates.py    # seconds; trains nothing

DIR holds `peers_memory.csv` and `peers_time.csv`, made from public tables that are not in this repository. Two
constants of memory and two of time were chosen on these rows: 2 GB beside the tensors, and that the half-precision
logits stay; 45 % of the dense FLOP/s, and 1.3 ms of the host a layer and pass. All else is counted from parts.
"""

from __future__ import annotations

import csv
import os
import re
import statistics
from dataclasses import replace
from pathlib import Path

from lorakit.specs import LoRASpec, SFTSpec
from lorakit.theory.estimate import estimate
from lorakit.theory.hardware import GPUS
from lorakit.theory.shapes import ModelShape

REPOSITORY = Path(__file__).parents[3]
DATA = Path(os.environ.get("LORAKIT_DATA", REPOSITORY.parent / "shared" / "data"))


def table(name):
    with (DATA / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def llama(hidden, inner, layers, heads, key_values, vocabulary, tied=False):
    return ModelShape.of({"model_type": "llama", "tie_word_embeddings": tied, "hidden_size": hidden,
                          "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
                          "num_key_value_heads": key_values, "vocab_size": vocabulary})


SHAPES = {  # Qwen's first models and PowerLM are Llama-like in all that is counted
    "Qwen-1.8B": llama(2048, 5504, 24, 16, 16, 151936), "Qwen-7B": llama(4096, 11008, 32, 32, 32, 151936),
    "Qwen-14B": llama(5120, 13696, 40, 40, 40, 152064), "PowerLM-3b": llama(2304, 9216, 40, 36, 36, 49152, tied=True),
    "Llama-2-7B": llama(4096, 11008, 32, 32, 32, 32000), "Llama-3.2-3B": ModelShape.of("llama-3.2-3b"),
    "Mistral-7B-v0.1": ModelShape.of("mistral-7b-v0.1"),
}


def run(row):
    """Shape, spec and checkpointing of a row: 'Qwen-7B LoRA r64 all-linear GC b1 len 512', …"""
    words, source = row["setting"], row["source"]
    rank = int(found[1]) if (found := re.search(r"\br(\d+)", words)) else 16
    targets = "mlp" if "MLP" in words else ("q_proj", "v_proj") if "q,v" in words or "PEFT" in source else "all-linear"
    if "fms" in source:
        targets = "attention"
    lora = None if "full" in words.lower().split() else LoRASpec(rank=rank, targets=targets)
    size = re.search(r"\bb(\d+)x(\d+)", words) or re.search(r"\bb(\d+) len ?(?:<=)?(\d+)", words)
    batch, length = map(int, size.groups()) if size else (4, 210)  # PEFT's mean: 840 tokens a step
    spec = SFTSpec(learning_rate=1e-4, lora=lora, batch_size=batch, max_length=length, dtype="bfloat16")
    return SHAPES[words.split()[0]], spec, ("GC" in words and "no GC" not in words) or "LLaMA-Factory" in source


def memory_rows():
    """Each comparable row with the bytes that it counts, in GB, and its estimate on a card 5 % smaller than it needed.

    Tensors stand against what the allocator counted, all that is needed against the rest.
    """
    found = []
    for row in table("peers_memory.csv"):
        if row["comparable"] == "yes":
            shape, spec, recompute = run(row)
            card = replace(GPUS["H100"], name="5 % too small", bytes=0.95e9 * float(row["measured_gb"]))
            it = estimate(shape, spec, card, recompute=recompute, master_weights=False)
            found.append((row, (it.peak if "allocated" in row["source"] else it.needed) / 1e9, it))
    return found


def time_ratios():
    """Estimated over measured seconds of each row."""
    ratios = {}
    for row in table("peers_time.csv"):
        card = GPUS["L40S"] if "L40S" in row["source"] else GPUS["A100 80GB"]
        row["setting"] = re.sub(r"b2 LoRA|LoRA compile GC", "LoRA r16 GC", row["setting"])
        if "torchtune" in row["source"] and "b2x" not in row["setting"]:
            row["setting"] += " b2x4096"
        shape, spec, recompute = run(row)
        accumulation, steps = (8, 1) if "Qwen" in row["source"] else (1, 5000 if "PEFT" in row["source"] else 1)
        spec = replace(spec, accumulation=accumulation, steps=steps, evaluations=2, evaluation_tokens=1)
        took = estimate(shape, spec, card, recompute=recompute, master_weights=False).seconds
        ratios[row["source"], row["setting"]] = took / float(row["measured_s"])
    return ratios


def summary(ratios):
    """How many there are, their median, and the range."""
    return {"rows": len(ratios), "median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}


def kept():
    """What the chapter on cost prints."""
    return {"memory": summary([size / float(row["measured_gb"]) for row, size, _ in memory_rows()]),
            "time": summary(list(time_ratios().values()))}


def main() -> None:
    from lorabook.page.public import keep

    found = kept()
    keep(REPOSITORY / "book" / "results", estimates=found)
    print(found)


if __name__ == "__main__":
    main()
