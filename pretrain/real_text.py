"""Write `lorakit/data`: the shipped real text (reasoning-gym's codeio, Apache-2.0) and held-out base text.

    python pretrain/real_text.py      # needs reasoning-gym 0.1.25; the first 1,500 ASCII documents are kept
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import lzma
from pathlib import Path

from corpus import build

DATA = Path("lorakit/data")


def main() -> None:
    spec = importlib.util.find_spec("reasoning_gym")
    source = Path(spec.submodule_search_locations[0]) / "data" / "codeio.jsonl.gz"
    with gzip.open(source, "rt", encoding="utf-8") as handle:
        problems = [json.loads(line) for line in handle]
    lines = []
    for problem in problems:
        text = "\n\n".join(problem[k].strip() for k in ("task_description", "input_output_spec", "code_sample")) + "\n"
        bucket = hashlib.sha256(problem["task_description"].encode()).digest()[0] % 10
        split = {0: "test", 1: "validation"}.get(bucket, "train")
        if text.isascii() and len(lines) < 1500:
            lines.append(json.dumps({"split": split, "text": text}))
    DATA.mkdir(exist_ok=True)
    (DATA / "real-text.jsonl.xz").write_bytes(lzma.compress("\n".join(lines).encode() + b"\n", preset=9))
    base = []
    for data in build(Path(".cache/corpus")).values():
        start = len(data) - len(data) // 50 + 200_000 // 2  # the last fiftieth was kept from pre-training
        base.append(data[start : start + 8192].decode("ascii", errors="ignore").replace("\xff", "\n"))
    (DATA / "base-text.txt").write_text("\n".join(base))


if __name__ == "__main__":
    main()
