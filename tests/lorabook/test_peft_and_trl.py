"""The lines with PEFT and TRL that the pages show run as they stand, on a processor."""

import functools
import re
from pathlib import Path

import pytest

pytest.importorskip("trl", reason="needs the extra train")
BOOK = Path(__file__).parents[2] / "book"
SOURCE = (BOOK / "peft_and_trl.py").read_text(encoding="utf-8")
FOUND = re.findall(r"^# \[([\w-]+)\]\n(.*?)^# \[/\1\]$", SOURCE, flags=re.DOTALL | re.MULTILINE)
PARTS = dict(FOUND)


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    from datasets import Dataset

    import lorakit as lk

    folders = {}
    for name in ("tiny-w32-s0", "tiny-moe"):
        folders[name] = str(tmp_path_factory.mktemp(name))
        for part in lk.load_model(name):
            part.save_pretrained(folders[name])
    rows = [{"prompt": f"{n} + {n} =", "completion": f" {2 * n}", "answer": str(2 * n)} for n in range(8)]
    return {"model": folders["tiny-w32-s0"], "mixture": folders["tiny-moe"], "data": Dataset.from_list(rows),
            "steps": 1}


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys did not match")  # PEFT says so, and applies them
@pytest.mark.parametrize("part", PARTS)
def test_a_part_runs(part, names, tmp_path, monkeypatch):
    import trl

    monkeypatch.chdir(tmp_path)
    for name in ("SFTConfig", "GRPOConfig"):  # their default, bfloat16, asks for a GPU
        monkeypatch.setattr(trl, name, functools.partial(getattr(trl, name), use_cpu=True, bf16=False))
    given = names | ({"model": names["mixture"]} if part == "experts" else {})
    exec(compile(PARTS[part], f"peft_and_trl.py [{part}]", "exec"), given)  # noqa: S102


def test_the_pages_include_each_part_once_and_every_mark_belongs_to_a_part():
    marks = [mark for name, _ in FOUND for mark in (name, f"/{name}")]
    assert re.findall(r"^\s*#\s*\[(.*)\]", SOURCE, flags=re.MULTILINE) == marks, "a part without its end, or in another"
    shown = []
    for page in BOOK.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        includes = re.findall(r"literalinclude\}[^\n]*peft_and_trl.*?^`{3,}", text, flags=re.DOTALL | re.MULTILINE)
        for body in includes:
            (start,), (end,) = (re.findall(rf':{name}: "?# \[(/?[\w-]+)\]', body)
                                for name in ("start-after", "end-before"))
            assert end == f"/{start}", page.name
            shown.append(start)
    assert sorted(shown) == sorted(PARTS)


@pytest.mark.parametrize("part", [name for name, text in PARTS.items() if re.search(r"learning_rate=\d", text)])
def test_rates_are_those_that_the_calculator_gives_qwen3_4b(part):
    from lorabook.page.calculator import Question, advise

    task = "rl" if "GRPOConfig" in PARTS[part] else "sft"
    rank = int(re.search(r"\br\"?[=:] ?(\d+)", PARTS[part]).group(1))
    advised = advise(Question(task=task, rank=rank))
    low, _, high = advised.sweep
    rate = float(re.search(r"learning_rate=([\d.e-]+)", PARTS[part]).group(1))
    assert low <= rate <= high
    if part == "rank":
        assert rank == advise(Question()).rank
    if part != "capacity":  # it measures bits, in a first pass as fast as may be
        assert rate == pytest.approx(advised.rate, rel=0.2)
