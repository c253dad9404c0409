"""The lines of *Start to finish* that serve an adapter with vLLM; the page shows what they gave on its own adapter."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lorakit.local_models import cache_folder
from lorakit.sweep.device import device_name

BOOK = Path(__file__).parents[2] / "book"
LINES = (BOOK / "serve_with_vllm.py").read_text(encoding="utf-8")
RECORDS = BOOK / "do-it" / "cpu" / "start-to-finish"


def test_the_served_adapter_answers_as_pefts_does(vllm_loads):
    """Needs what `lorabook refresh start-to-finish` leaves in the cache: the base and the adapter."""
    adapter = cache_folder() / "do-it" / "cpu" / "start-to-finish" / "both"
    bases = sorted((cache_folder() / "models").glob("smollm2-135m-instruct-q4-*"))
    if not adapter.exists() or not bases:
        pytest.skip("the page's runs were not made on this machine: lorabook refresh start-to-finish")
    answers = json.loads((RECORDS / "answers.json").read_text(encoding="utf-8"))["value"]
    names = {"base": str(bases[0]), "adapter": str(adapter), "longest": 10,
             "prompts": [row["prompt"] for row in answers]}
    import vllm

    exec(compile(LINES, "serve_with_vllm.py", "exec"), names)  # noqa: S102
    equal = sum(text == row["GRPO"] for text, row in zip(names["texts"], answers, strict=True))
    value = {"version": vllm.__version__, "device": device_name("cpu"),
             "date": datetime.now(UTC).date().isoformat(), "equal": equal, "asked": len(answers),
             "texts": names["texts"][:4]}
    text = json.dumps({"date": value["date"], "value": value}, indent=1)
    (RECORDS / "vllm.json").write_text(text + "\n", encoding="utf-8")
    assert equal >= 0.99 * len(answers)  # greedy: a tie of two tokens may fall otherwise
