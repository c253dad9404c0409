"""A rehearsal of the profiles `gpu` and `paper`: every class of their specs runs for two steps on a small machine."""
