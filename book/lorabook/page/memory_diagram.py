"""The picture of what a training step holds in memory: full fine-tuning, LoRA, LoRA with recompute, on one scale."""

from __future__ import annotations

from lorakit.specs import LoRASpec, SFTSpec
from lorakit.theory.estimate import Estimate, estimate
from lorakit.theory.hardware import GPUS

MODEL, NAME, BATCH, LENGTH = "qwen3-4b", "Qwen3-4B", 4, 1024
ARMS = {"full fine-tuning": (None, False), "LoRA, rank 16": (LoRASpec(rank=16), False),
        "LoRA with recompute": (LoRASpec(rank=16), True)}
GROUPS = {"weights": ("weights", "masters", "adapter", "dequantised"), "AdamW": ("optimizer", "foreach"),
          "gradients": ("gradients", "tied"), "activations": ("activations", "logits", "recomputed")}
CLASSES = {"weights": "frozen", "AdamW": "data", "gradients": "grad", "activations": "train"}
CARDS = {"RTX 4090": "24 GB card", "H100": "80 GB card"}
WIDTH, LEFT, BAR, APART, TOP = 480, 4, 34, 66, 58


def needs(lora: LoRASpec | None, recompute: bool) -> Estimate:
    """What one arm needs."""
    spec = SFTSpec(learning_rate=1e-4, lora=lora, steps=1, batch_size=BATCH, max_length=LENGTH, dtype="bfloat16")
    return estimate(MODEL, spec, recompute=recompute)


def at_the_peak(found: Estimate) -> dict[str, int]:
    """Bytes by group when most is held: while the loss is differentiated, or while weights are updated."""
    of = {group: sum(found.memory.get(part, 0) for part in parts) for group, parts in GROUPS.items()}
    standing = of["weights"] + found.memory["optimizer"]
    if standing + of["activations"] >= found.peak:
        return {"weights": of["weights"], "AdamW": found.memory["optimizer"], "gradients": 0,
                "activations": found.peak - standing}
    return {"weights": of["weights"], "AdamW": found.peak - of["weights"] - found.memory["gradients"],
            "gradients": found.memory["gradients"], "activations": 0}


def drawing() -> str:
    """The picture as SVG in the classes of the page."""
    found = {arm: needs(*how) for arm, how in ARMS.items()}
    largest = max(one.peak for one in found.values())
    scale = (WIDTH - LEFT - 62) / largest
    parts, said = [], []
    for place, (arm, one) in enumerate(found.items()):
        y = TOP + place * APART
        parts.append(f'<text x="{LEFT}" y="{y - 8}" class="bold halo">{arm}</text>')
        x = float(LEFT)
        for group, size in at_the_peak(one).items():
            if size:
                parts.append(f'<rect class="{CLASSES[group]}" x="{x:.1f}" y="{y}" width="{size * scale:.1f}" '
                             f'height="{BAR}"/>')
            x += size * scale
        parts.append(f'<text x="{x + 8:.1f}" y="{y + 23}" class="bold halo">{one.peak / 1e9:.0f} GB</text>')
        held = ", ".join(f"{group} {size / 1e9:.1f}" for group, size in at_the_peak(one).items() if size)
        said.append(f"{arm} {one.peak / 1e9:.0f} gigabytes ({held})")
    bottom = TOP + (len(found) - 1) * APART + BAR
    for card, words in CARDS.items():
        x = LEFT + GPUS[card].bytes * scale
        parts.insert(0, f'<path class="line dash" d="M{x:.1f} 24V{bottom + 8}"/>'
                     f'<text x="{x:.1f}" y="16" class="mid">{words}</text>')
    x = LEFT
    for group, width in zip(GROUPS, (100, 94, 112, 0), strict=True):
        parts.append(f'<rect class="{CLASSES[group]}" x="{x}" y="{bottom + 26}" width="16" height="16"/>'
                     f'<text x="{x + 22}" y="{bottom + 39}">{group}</text>')
        x += width
    parts.append(f'<text x="{LEFT}" y="{bottom + 66}" class="muted">{NAME}, bfloat16, {BATCH} × {LENGTH:,} tokens, '
                 'at the fullest moment</text>')
    words = f"Memory of one training step of {NAME}, in bars: {'; '.join(said)}."
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 76}" class="dg">\n'
            f"<desc>{words}</desc>\n" + "\n".join(parts) + "\n</svg>\n")
