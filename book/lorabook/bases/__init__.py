"""The book's bases: a ladder of widths and seeds, a mixture of experts, SmolLM2-135M."""
