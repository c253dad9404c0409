"""What records say: frames, curves, intervals, and one sweep that answers for them."""
