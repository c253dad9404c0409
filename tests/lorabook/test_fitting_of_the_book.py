"""What the book makes of `fitting`."""

import re

from lorabook.cli import main


def test_the_command_line_asks_of_a_card_that_is_not_here(capsys):
    assert main(["plan", "rank", "--profile", "gpu", "--gpu", "L4"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^rank: (\d+) of \1 runs missing; about [\d,.]+ minutes, one after another, [\d,.]+ dollars, "
                     r"up to [\d.]+ GB; all of them fit on one L4$", said, flags=re.MULTILINE)
    assert main(["plan", "rank", "--profile", "paper", "--gpu", "H100"]) == 1
    told = capsys.readouterr()
    assert "runs missing" in told.out
    assert re.search(r"[1-9]\d* of \d+ runs cannot fit on one H100", told.err)
