"""What the library says while it works: the logger `lorakit`, whose lines go to standard error, beside progress bars.

`logging.getLogger("lorakit").setLevel("WARNING")` keeps it quiet. To hear it through your own handlers, clear its
`handlers` and set its `propagate`.
"""

from __future__ import annotations

import logging
import sys

from tqdm import tqdm

log = logging.getLogger("lorakit")


class _BesideBars(logging.Handler):
    """Writes lines to the standard error of the moment, above a bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stderr)
            sys.stderr.flush()
        except Exception:  # noqa: BLE001 - as every handler of logging does
            self.handleError(record)


if not log.handlers:
    log.addHandler(_BesideBars())
    log.propagate = False
    log.setLevel(log.level or logging.INFO)
