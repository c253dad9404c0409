"""Write `lorabook/data`: real text (reasoning-gym's codeio, Apache-2.0), held-out base text, and text for replay.

    python book/lorabook/pretrain/real_text.py    # needs reasoning-gym 0.1.25; the first 1,500 ASCII documents are kept
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import lzma
from pathlib import Path

from corpus import build

DATA = Path("book/lorabook/data")
STRETCHES, STRETCH = 100, 1200  # of each kind, for replay; bytes of one


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
    corpus = build(Path(".cache/corpus"))
    write_replay(corpus)
    base = []
    for data in corpus.values():
        start = len(data) - len(data) // 50 + 200_000 // 2  # the last fiftieth was kept from pre-training
        base.append(data[start : start + 8192].decode("ascii", errors="ignore").replace("\xff", "\n"))
    (DATA / "base-text.txt").write_text("\n".join(base))


def write_replay(corpus: dict[str, bytes]) -> None:
    """Stretches at even distances of the part that the embedded models were pre-trained on, English and code."""
    stretches = {}
    for kind, data in corpus.items():
        seen = len(data) - len(data) // 50  # the last fiftieth was kept from pre-training
        starts = range(seen // (2 * STRETCHES), seen - STRETCH, seen // STRETCHES)
        texts = [data[start : start + 2 * STRETCH].decode("ascii", errors="ignore")[:STRETCH] for start in starts]
        stretches[kind] = texts[:STRETCHES]
    (DATA / "replay-text.json.xz").write_bytes(lzma.compress(json.dumps(stretches).encode(), preset=9))


if __name__ == "__main__":
    main()
