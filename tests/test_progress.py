"""What a sweep says: a bar on a terminal, lines elsewhere, through a logger that its owner can turn down."""

import io
import logging
import re

import pytest

from lorakit.log import log
from lorakit.sweep import progress
from lorakit.sweep.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def event(step, steps=100, value=2.5):
    return {"step": step, "steps": steps, "value": value, "what": "loss"}


def clock(*times):
    return iter(times).__next__


def test_a_line_holds_runs_steps_loss_tokens_a_second_and_the_time_left():
    found = Progress("runs", 4, 40.0, clock=clock(0.5, 100.5, 200.5))
    found.step(0, event(0), 20.0, 1e6)
    found.step(0, event(50), 20.0, 1e6)
    assert found.line() == "0 of 4 runs done; step 50 of 100, loss 2.5; 5,000 tokens/s; about 5 min left"
    found.leave(0, 2, 20.0)
    assert found.line() == "2 of 4 runs done; 5,000 tokens/s; about 3 min left"


def test_what_a_checkpoint_gave_is_done_but_says_nothing_about_the_pace():
    found = Progress("runs", 2, 20.0, clock=clock(0.5, 100.5))
    found.step(0, event(60), 20.0, 1e6)
    found.step(0, event(80), 20.0, 1e6)  # a fifth in 100 seconds; a fifth is left
    assert found.line() == "0 of 2 runs done; step 80 of 100, loss 2.5; 2,000 tokens/s; about 2 min left"
    more = Progress("runs", 4, 40.0, clock=clock(0.5, 100.5))
    more.step(0, event(60), 20.0, 1e6)
    more.leave(0, 2, 20.0)  # two fifths of a pack in 100 seconds; a whole pack is left
    assert more.line() == "2 of 4 runs done; 4,000 tokens/s; about 4 min left"


def test_a_terminal_shows_a_bar_and_lines_stand_above_it(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    with Progress("runs", 2, 20.0) as found:
        found.step(0, event(50), 20.0, 1e6)
        found.say("models are read")
        found.leave(0, 2, 20.0)
    text = terminal.getvalue()
    assert "runs: models are read\n" in text
    assert re.search(r"runs: 2 of 2 runs done[^\n]*\|.+\|", text)


@pytest.mark.parametrize("disabled", [None, "1"])
def test_elsewhere_there_are_lines_alone(monkeypatch, capsys, disabled):
    if disabled:
        monkeypatch.setattr("sys.stderr", terminal := Terminal())
        monkeypatch.setenv("TQDM_DISABLE", disabled)
    with Progress("runs", 2, 20.0) as found:
        found.leave(0, 2, 20.0)
    text = terminal.getvalue() if disabled else capsys.readouterr().err
    assert text == "runs: 2 of 2 runs done\n"


def test_notebooks_show_bars(monkeypatch):
    class ZMQInteractiveShell:
        pass

    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    assert not progress._shows_bars()
    monkeypatch.setitem(progress.sys.modules, "IPython", type("IPython", (), {"get_ipython": ZMQInteractiveShell}))
    assert progress._shows_bars()


def test_a_quiet_sweep_says_its_warnings_alone(capsys):
    with Progress("runs", 2, 20.0, visible=False) as found:
        found.step(0, event(50), 20.0)
        found.say("nothing")
        found.warn("a process was lost")
    assert capsys.readouterr().err == "runs: a process was lost\n"


def test_the_logger_obeys_its_owner(capsys, caplog):
    log.setLevel("WARNING")
    try:
        Progress("runs", 2, 20.0).say("turned down")
        assert capsys.readouterr().err == ""
    finally:
        log.setLevel(logging.INFO)
    log.addHandler(caplog.handler)
    try:
        Progress("runs", 2, 20.0).say("heard elsewhere")
    finally:
        log.removeHandler(caplog.handler)
    assert caplog.messages == ["runs: heard elsewhere"]
