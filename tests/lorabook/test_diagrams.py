"""The drawings: their numbers are those of the library, their letters are readable on a phone."""

import re
from pathlib import Path

import pytest

from lorabook.page import memory_diagram
from lorakit.theory.capacity import recommend_rank

FOLDER = Path(__file__).parents[2] / "book" / "_static" / "diagrams"
NAMES = {"lora", "layers", "grpo", "merge", "alpha", "first-step", "batch", "capacity", "step", "pack"}
PHONE, LEAST = 358, 11  # the column of a phone of 390 pixels, and how high a letter is at least


def drawings():
    return {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.svg")} | {
        "memory": memory_diagram.drawing()}


def test_all_are_there():
    assert set(drawings()) == NAMES | {"memory"}


@pytest.mark.parametrize("name", sorted(NAMES | {"memory"}))
def test_a_drawing_describes_itself_and_is_readable_on_a_phone(name):
    text = drawings()[name]
    assert len(re.search(r"<desc>(.*?)</desc>", text, re.S).group(1)) > 100
    width = float(re.search(r'viewBox="0 0 ([\d.]+) ', text).group(1))
    css = (FOLDER.parent / "book.css").read_text(encoding="utf-8")
    letters = float(re.search(r"\.dg text \{[^}]*font: ([\d.]+)px", css).group(1))
    assert letters * PHONE / width >= LEAST
    assert "style=" not in text, "colours are the page's"
    assert not re.search(r"#[0-9a-f]{3,6}\b", text), "colours are the page's"


def test_the_bars_are_the_estimates():
    for arm, how in memory_diagram.ARMS.items():
        found = memory_diagram.needs(*how)
        assert sum(memory_diagram.at_the_peak(found).values()) == found.peak
        assert f">{found.peak / 1e9:.0f} GB<" in memory_diagram.drawing(), arm


def test_the_weights_of_the_first_drawing_are_counted():
    text = drawings()["lora"]
    weights, trained = 4096 * 4096, 16 * (4096 + 4096)
    assert f"{weights / 1e6:.1f} million" in text
    assert f"{trained / 1e3:.0f} thousand" in text
    assert f"{trained / weights:.1%}".replace("%", " %") in text


def test_the_bars_of_capacity_are_the_calculators():
    advice = recommend_rank("qwen3-4b", tokens=20_000_000)
    unit = recommend_rank("qwen3-4b", bits=1).bits_held
    text = drawings()["capacity"]
    assert "rank {} is the floor; take {} to {}".format(advice.rank, *advice.advised) in text
    assert f"{unit / 2e6:.2f} million weights" in text
    assert f"{unit / 1e6:.2f} million bits" in text
    one, need = (float(re.search(rf'class="{kind}" x="4" y="\d+" width="([\d.]+)"', text).group(1))
                 for kind in ("train", "data"))
    assert need / one == pytest.approx(20e6 / unit, rel=1e-3)


def test_a_pack_has_the_work_of_its_runs_and_one_fixed_cost():
    alone, pack = (re.findall(rf'class="(grad|train)" x="\d+" y="{y}" width="(\d+)"', drawings()["pack"])
                   for y in (30, 120))
    width = {kind: int(next(size for one, size in alone if one == kind)) for kind in ("grad", "train")}
    assert sorted(alone) == sorted(4 * [(kind, str(size)) for kind, size in width.items()])
    assert sorted(pack) == [("grad", str(width["grad"])), *4 * [("train", str(width["train"]))]]
