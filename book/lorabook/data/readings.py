"""Meter readings as they are read out, and as a table wants them: the data of *Start to finish*."""

from __future__ import annotations

from lorabook.data.shown_tasks import in_words
from lorakit.data.skills import generator

METERS = ("gas", "water", "power", "heat")
SAID = ("The {meter} meter says {number}.", "{meter}: {number}", "It is {number} on the {meter} meter.",
        "Here comes {meter}, {number}.")
DEMONSTRATIONS, PROBLEMS = 120, 2400


def readings(part: str) -> list[dict[str, str]]:
    """Rows of `demonstrations` (prompt, completion) or of `problems` (prompt, answer); no number is in both.

    >>> readings("demonstrations")[0]
    {'prompt': 'The water meter says six thousand one hundred sixty.\\n', 'completion': 'water,6160'}
    """
    draw = generator("readings", "meters")
    numbers = draw.sample(range(1000, 10_000), DEMONSTRATIONS + PROBLEMS)
    rows = []
    for number in numbers:
        meter, said = draw.choice(METERS), draw.choice(SAID)
        rows.append((said.format(meter=meter, number=in_words(number)) + "\n", f"{meter},{number}"))
    if part == "demonstrations":
        return [{"prompt": prompt, "completion": answer} for prompt, answer in rows[:DEMONSTRATIONS]]
    return [{"prompt": prompt, "answer": answer} for prompt, answer in rows[DEMONSTRATIONS:]]
