"""The reference arms: one run after another with TRL or PEFT."""
