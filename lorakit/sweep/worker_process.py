"""The process around `lorakit.sweep.worker`: requests in, events out, and no life without its parent.

Requests come as lines of JSON on standard input, events leave on standard output. The parent's end ends this process
at once, even while it imports torch or trains: Linux sends SIGKILL, and elsewhere, or if that fails, a thread sees the
end of standard input.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import time
from typing import Any, TextIO

PATIENCE = 5  # seconds
PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal that the end of the parent's thread sends


def end_with(parent: int) -> queue.Queue[str]:
    """End this process as soon as `parent` has ended; until then the queue gets the lines of standard input."""
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    together = "RANK" in os.environ  # a launcher stands between
    if sys.platform != "win32" and not together and os.getppid() != parent:  # it ended before the line above
        os._exit(1)
    lines: queue.Queue[str] = queue.Queue()

    if together and os.environ["RANK"] != "0":  # the first process tells it of requests
        return lines

    def listen() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(int(together))  # a launcher ends the others when one of them fails

    threading.Thread(target=listen, daemon=True).start()
    return lines


def serve_together(lines: queue.Queue[str], events: TextIO) -> None:
    """Answer requests as one of several processes that train a run together; never returns.

    The first process hears and speaks. Any other that fails ends itself, and so all of them, since the others would
    wait for it for ever; it leaves the first some time to say why.
    """
    import torch.distributed
    from accelerate import PartialState

    from lorakit.sweep.worker import answer

    state = PartialState(cpu=os.environ.get("LORAKIT_SHARDS_ON") == "cpu")

    def emit(event: dict[str, Any]) -> None:
        if state.process_index == 0:
            events.write(json.dumps(event) + "\n")
            events.flush()
        elif "error" in event:
            time.sleep(PATIENCE)
            os._exit(1)

    while True:
        request: list[Any] = [json.loads(lines.get())] if state.process_index == 0 else [None]
        torch.distributed.broadcast_object_list(request, 0)
        answer({**request[0], "device": str(state.device)}, emit)


def serve(parent: int) -> None:
    """Serve requests for ever, or until `parent` ends. Whatever libraries print goes to standard error."""
    lines = end_with(parent)
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    import torch

    from lorakit.sweep.worker import answer

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.set_flush_denormal(True)

    if "RANK" in os.environ:
        serve_together(lines, events)

    def emit(event: dict[str, Any]) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    while True:
        answer(json.loads(lines.get()), emit)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
