"""What the book makes of `sweeps`."""

from __future__ import annotations

import re

import pytest
from test_sweeps import specs

from lorabook.cli import main
from lorakit.sweep import sweeps


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A store with four finished runs."""
    root = tmp_path_factory.mktemp("store")
    records = sweeps.run(specs(), root, experiment="x", processes=1)
    assert [r.id for r in records] == [s.id for s in specs()]
    return root


@pytest.fixture
def copy(trained, tmp_path):
    """A store of its own with the four runs, in a profile's folder as an older version wrote them."""
    target = tmp_path / "cpu" / "x.jsonl"
    target.parent.mkdir()
    target.write_bytes((trained / "x.jsonl").read_bytes())
    return tmp_path


def test_the_command_line_says_what_to_do(tmp_path, capsys, copy):
    assert main(["run", "rnak", "--results", str(tmp_path)]) == 1
    assert "did you mean 'rank'" in capsys.readouterr().err
    assert main(["run", "rank-smollm2", "--size", "live", "--results", str(tmp_path)]) == 1
    assert "defined: cpu/record" in capsys.readouterr().err
    for mistake in (["run", "rank", "--time-budget", "nan"], ["run", "rank", "--time-budget", "-5"],
                    ["run", "rank", "--processes", "-1"], ["plan", "--processes", "0"],
                    ["plan", "--no-probe", "--processes", "-1"]):
        assert main([*mistake, "--results", str(tmp_path)]) == 1
        assert "allowed: " in capsys.readouterr().err
    (tmp_path / "README.md").touch()
    assert main(["plan", "--no-probe", "--results", str(tmp_path / "README.md")]) == 1
    assert "a store of records is a folder" in capsys.readouterr().err
    assert main(["plan", "--no-probe", "--results", str(tmp_path)]) == 0
    assert re.search(r"^rank: (\d+) of \1 runs missing$", capsys.readouterr().out, flags=re.MULTILINE)
