"""Rewards that depend on where completions stop."""

STOP = "e "  # a stop of two tokens that an English text soon meets


def vowels(prompts, completions, **columns):
    """The share of vowels in a completion that its line closes, 0 for one that was cut; learnt in twenty steps."""
    return [sum(c in "aeiou" for c in text) / len(text) if text.endswith("\n") else 0.0 for text in completions]


def ends_once(prompts, completions, **columns):
    """1 where the stop stands at the end alone, or nowhere."""
    return [float(STOP not in text[:-1]) for text in completions]
