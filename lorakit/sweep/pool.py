"""Threads that serve one worker each from a common list of jobs, until nothing is left or they are stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from lorakit.sweep.workers import Worker

Job = TypeVar("Job")
AGAIN = 1.0  # seconds until a job that waits for another process is tried again


class Pool(Generic[Job]):
    """A list of jobs and the threads that take them; a job may push new ones, and wait for another process.

    A thread lives as long as its worker is needed, since the end of the thread that started it ends the worker.

    Args:
        workers: one a thread.
        do: a job, by a worker.
    """

    def __init__(self, workers: Sequence[Worker], do: Callable[[Worker, Job], None]) -> None:
        self.workers, self._do = workers, do
        self.stopped = False
        self._jobs: list[Job] = []
        self._waiting: list[Job] = []
        self._busy = 0
        self._errors: list[BaseException] = []
        self._changed = threading.Condition()

    def push(self, jobs: Iterable[Job]) -> None:
        """Put jobs before all others."""
        with self._changed:
            self._jobs[:0] = jobs
            self._changed.notify_all()

    def wait_for(self, job: Job) -> None:
        """Put a job aside for a moment: another process is at it."""
        with self._changed:
            self._waiting.append(job)

    def run(self, jobs: Iterable[Job], seconds: float | None = None) -> None:
        """Do all jobs, or stop after so many seconds; raises what a job raised."""
        self._jobs += jobs
        threads = [threading.Thread(target=self._serve, args=(worker,), daemon=True) for worker in self.workers]
        timer = None if seconds is None else threading.Timer(max(0.0, seconds), self._stop, [threads])
        for thread in threads:
            thread.start()
        try:
            if timer is not None:
                timer.daemon = True
                timer.start()
            for thread in threads:
                thread.join()
        except BaseException:  # Ctrl-C: what is finished is recorded, the rest stays missing
            self._stop(threads)
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if self._errors:
            raise self._errors[0]

    def _stop(self, threads: Sequence[threading.Thread]) -> None:
        with self._changed:
            self.stopped = True
            self._changed.notify_all()
        while any(thread.is_alive() for thread in threads):
            for worker in self.workers:  # more than once: one may just have been started
                worker.kill()
            for thread in threads:
                thread.join(0.2)

    def _next(self, worker: Worker) -> Job | None:
        with self._changed:
            if not self._jobs:
                worker.rest()
            while not (self.stopped or self._errors):
                if self._jobs:
                    self._busy += 1
                    return self._jobs.pop(0)
                if not self._busy and not self._waiting:
                    return None
                self._changed.wait(AGAIN if self._waiting else None)
                if not self._jobs:
                    self._jobs, self._waiting = self._waiting, []
        return None

    def _serve(self, worker: Worker) -> None:
        while (job := self._next(worker)) is not None:
            try:
                self._do(worker, job)
            except BaseException as error:  # noqa: BLE001 - raised again by the calling thread
                self._errors.append(error)
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()
