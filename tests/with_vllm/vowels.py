"""A reward that rises from 0.2 to 0.9 within twenty steps, and is 0 for whoever does not stop."""


def vowels(prompts, completions, **columns):
    """The share of vowels in a completion that its own end closes; one that was cut is paid nothing."""
    return [sum(c in "aeiou" for c in text) / len(text) if text.endswith("\n") else 0.0 for text in completions]
