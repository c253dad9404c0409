"""The lock with hashes agrees with the pins, and names no index."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / ".ci" / "lock.txt").read_text(encoding="utf-8")
CUDA = re.compile(r"cuda|nvidia|triton")  # what torch alone pins
ELSEWHERE = {"cffi", "pycparser"}  # asked for on other platforms
HASHED = re.compile(r"[\w.-]+==\S+(?: ; [^\\]*)? \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\\n|$))+")


def pins(text):
    return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", text, flags=re.MULTILINE))


def test_every_pin_is_locked_and_nothing_else_but_what_torch_pins():
    """After a change of pins: `make lock`."""
    wanted, locked = pins((ROOT / "constraints.txt").read_text(encoding="utf-8")), pins(LOCK)
    assert {name: locked.get(name) for name in wanted} == wanted
    assert {name for name in locked if not CUDA.search(name)} - wanted.keys() <= ELSEWHERE


def test_every_locked_package_has_a_hash_and_no_line_an_address():
    for package in re.split(r"\n(?=\S)", LOCK.strip()):
        assert HASHED.match(package), package
    assert not re.search(r"https?:|--(?:extra-)?index|find-links", LOCK)
