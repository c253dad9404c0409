"""The tests of the book: what it gives to lorakit is known to each of them."""

import lorabook  # noqa: F401 - announces its names
