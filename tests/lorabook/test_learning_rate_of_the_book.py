"""What the book makes of `learning_rate`."""

import json
from pathlib import Path

import pytest

from lorabook.page import public
from lorakit.theory import learning_rate as theory
from lorakit.theory.learning_rate import recommend_learning_rate


def test_what_the_docstring_says_of_public_cells_is_what_they_say(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "book" / "lorabook" / "benchmarks")
    fit = pytest.importorskip("learning_rate_fit")
    if not (fit.DATA / "peers_tinker_sft_sweep.csv").is_file():
        pytest.skip(f"{fit.DATA} does not hold the public sweep (LORAKIT_DATA names its folder)")
    cells = fit.public_cells()
    assert len(cells) == 110
    law = fit.power_law(theory.LORA_AT_2000, theory.WIDTH_POWER, theory.RANK_POWER)
    text = recommend_learning_rate.__doc__
    for words, rule in (("this one  ", law), ("3e-4 for all  ", lambda cell: 3e-4), ("`get_lr`  ", fit.tinker)):
        line = next(line for line in text.splitlines() if words in line)
        assert [float(number) for number in line.split()[-3:]] == [round(cost, 2) for cost in fit.costs(cells, rule)]
    known = [cell for cell in cells if cell.family != "other"]
    costs = [fit.costs(known, rule)[0] for rule in (law, fit.tinker, lambda cell: 3e-4)]
    assert [round(cost, 2) for cost in costs] == [0.19, 0.45, 0.33]
    mine = public.kept(Path(__file__).parents[2] / "book" / "results")["learning_rate"]
    same, again = (json.loads(json.dumps(one), parse_float=lambda text: round(float(text), 12))
                   for one in (mine, fit.kept(cells)))
    assert same == again
    config = {"model_type": "llama", "hidden_size": cells[0].hidden}
    assert recommend_learning_rate(config, cells[0].rank).learning_rate == pytest.approx(law(cells[0]))
