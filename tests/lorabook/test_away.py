"""The command line away from a clone: it finds no records, says where they are, and leaves no trace in the folder."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from lorabook.claims.ledger import ledger
from lorabook.cli import main
from lorabook.experiments import results

CLONE = results.PACKAGE.parent
REFUSED = [["plan"], ["plan", "--no-probe"], ["plan", "rank", "--size", "live"], ["run", "rank", "--size", "live"],
           ["run", "grpo", "--time-budget", "60"], ["refresh"], ["refresh", "rank", "--profile", "gpu"]]


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """Somebody's own project, which has a folder `book` and one of results, and a lorakit that came as a wheel."""
    for name in ("results/cpu", "book/results"):
        (tmp_path / "project" / name).mkdir(parents=True)
    (tmp_path / "project" / "results" / "cpu" / "rank.jsonl").write_text("{}\n")
    monkeypatch.setattr(results, "PACKAGE", tmp_path / "site-packages" / "lorakit")
    monkeypatch.delenv("LORAKIT_RESULTS", raising=False)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def everything(folder):
    return sorted((str(path.relative_to(folder)), path.stat().st_mtime_ns) for path in folder.rglob("*"))


@pytest.mark.parametrize("inside", [".", "book"])
@pytest.mark.parametrize("command", REFUSED, ids=" ".join)
def test_a_command_says_where_the_records_are_and_touches_nothing(command, inside, stranger, monkeypatch, capsys):
    monkeypatch.chdir(inside)
    before = everything(stranger)
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "clone" in said
    assert command[0] == "refresh" or "--results" in said
    assert everything(stranger) == before


def test_verdicts_without_records_say_where_those_are(stranger):
    with pytest.raises(results.MissingRecordsError, match=r"book/results of a clone.*LORAKIT_RESULTS"):
        ledger()
    with pytest.raises(results.MissingRecordsError, match="book/results of a clone"):
        results.results("rank")


def test_a_named_folder_is_taken_as_it_is(stranger, capsys):
    assert main(["plan", "rank", "--no-probe", "--results", "mine"]) == 0
    assert re.fullmatch(r"rank: (\d+) of \1 runs missing\n", capsys.readouterr().out)
    assert not (stranger / "mine").exists()


def test_the_clone_that_lorakit_is_installed_from_is_found_from_anywhere(stranger, monkeypatch, capsys):
    monkeypatch.setattr(results, "PACKAGE", CLONE / "lorakit")
    assert main(["plan", "rank", "--no-probe"]) == 0
    assert re.fullmatch(r"rank: 0 of \d+ runs missing\n", capsys.readouterr().out)
    assert results.store().root == CLONE / "book" / "results"


def test_a_clone_that_we_are_in_goes_before_the_one_that_is_installed(tmp_path, monkeypatch):
    monkeypatch.delenv("LORAKIT_RESULTS", raising=False)
    (tmp_path / "book" / "results").mkdir(parents=True)
    shutil.copy(CLONE / "book" / "02-rank.md", tmp_path / "book")
    for inside in (tmp_path, tmp_path / "book"):
        monkeypatch.chdir(inside)
        assert results.store().root == tmp_path / "book" / "results"


@pytest.mark.slow
def test_the_ledger_prints_the_verdict_on_each_claim(capsys):
    assert main(["ledger", "--json", "--results", str(CLONE / "book" / "results")]) == 0
    outcomes = json.loads(capsys.readouterr().out)
    assert outcomes == {verdict.claim.id: verdict.outcome for verdict in ledger()}
