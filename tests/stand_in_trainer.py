"""A stand-in for the trainer, without torch: it appends records, until it is killed or the disk is full.

Run as `python stand_in_trainer.py WHAT ROOT ARGUMENTS…` (see the functions of those names).
"""

import fcntl
import json
import os
import random
import resource
import signal
import sys
from pathlib import Path

from waiting import wait_until

from lorakit.records import Record, Store
from lorakit.specs import SFTSpec

BYTES_PER_WRITE = 61
real_write = os.write


def small_writes():
    """As on a nearly full or a networked disk: without this, the system writes a short line in one go."""
    os.write = lambda fd, data: real_write(fd, data[:BYTES_PER_WRITE])


def die_at(system_call):
    """Kill this process in front of its n-th call of flock, lseek, write or fsync."""
    left = system_call

    def killing(call):
        def wrapped(*args):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args)
        return wrapped

    fcntl.flock = killing(fcntl.flock)
    for name in ("lseek", "write", "fsync"):
        setattr(os, name, killing(getattr(os, name)))


def result(spec):
    """A run's record, the same whenever it is run, but for its date."""
    draw = random.Random(spec.id)
    losses = [draw.uniform(0.5, 3.0) for _ in range(6)]
    return Record.from_run(spec, "ok", {"test_loss": losses[-1]}, {"step": list(range(6)), "test_loss": losses}, {})


def train(root, first, last):
    """Run what is missing of the specs with seeds first to last."""
    store = Store(root)
    specs = [SFTSpec(model="m@1", dataset="d@1", learning_rate=1e-3, seed=s) for s in range(int(first), int(last))]
    for spec in store.missing(specs):
        store.append("cpu", "rank", result(spec))


def train_beside_others(root, first, last):
    """Train in small writes, from the moment that both writers are here."""
    small_writes()
    Path(root, f"here-{first}").touch()
    wait_until(lambda: len(list(Path(root).glob("here-*"))) == 2, "the other writer")
    train(root, first, last)


def kill_often(root, first, last, kills, seed):
    """Start training again and again, each time killed in front of a random system call; print how many were."""
    small_writes()
    draw = random.Random(int(seed))
    killed = 0
    for _ in range(int(kills)):
        point = draw.randint(1, 60)
        child = os.fork()
        if child == 0:
            die_at(point)
            train(root, first, last)
            os._exit(0)
        killed += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    print(killed)


def fill_disk(root, first, last, spare_bytes):
    """Train under a limit on file size that leaves so many bytes; print the error, then train on without the limit."""
    path = Store(root).path("cpu", "rank")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = path.read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + int(spare_bytes), limits[1]))
    try:
        train(root, first, last)
    except OSError as error:
        print(json.dumps({"type": type(error).__name__, "message": str(error), "kept": path.read_bytes() == before}))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    train(root, first, last)


if __name__ == "__main__":
    {f.__name__: f for f in (train, train_beside_others, kill_often, fill_disk)}[sys.argv[1]](*sys.argv[2:])
