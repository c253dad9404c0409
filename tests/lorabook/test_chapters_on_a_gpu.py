"""The chapters' own code on a GPU that is none (`cuda_stand_in`)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HOPPER = "NVIDIA H100 80GB HBM3"
CHAPTER_CODE = """
import re, sys
from pathlib import Path
cells = re.findall(r"```{code-cell} ipython3\\n(.*?)```", Path("book/01-what-lora-is.md").read_text(), re.S)
cells = [cell for cell in cells if any(f"def {name}(" in cell for name in ("draw", "weights", "drift", "merge_once",
         "one_cycle"))]
import torch
from lorakit import LoRASpec
from lorakit.adapters.peft_layers import adapted_layers, attach
from lorakit.bases.models import load_model
base, device, spec, size = "tiny-w32-s0", sys.argv[2], LoRASpec(rank=2), "live"
dtypes = {"bf16": torch.bfloat16, "fp32": torch.float32}
for cell in cells:
    exec(re.sub(r"^:tags:.*$", "", cell, flags=re.M))
model = attach(load_model(base)[0].to(device), spec, 0)
print([point["drift"] for point in drift(model, 0, True, cycles=2)], merge_once(torch.bfloat16), full_bits,
      next(model.parameters()).device)
"""


def test_the_code_of_chapter_1_moves_to_the_device_of_its_profile(machine, tmp_path):
    machine(HOPPER)
    (tmp_path / "cells.py").write_text(CHAPTER_CODE)
    said = []
    for device in ("cpu", "cuda"):
        done = subprocess.run([sys.executable, str(tmp_path / "cells.py"), "lorakit.sweep.device", device],
                              capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
        assert done.returncode == 0, done.stderr[-3000:]
        said.append(done.stdout.split())
    assert said[0][:-1] == said[1][:-1]
    assert (said[0][-1], said[1][-1]) == ("cpu", "cuda:0")
