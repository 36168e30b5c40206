"""A thread that does what it is given, in order, and a queue that never holds up who gives."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import TypeAlias

from jax_ssp.failures import in_words
from jax_ssp.runtimes.interrupts import SIGNAL_SECONDS

Job: TypeAlias = Callable[[], object]


class Sender:
    """Does jobs in a thread of its own, up to the first that fails.

    Python does not wait for the thread when it ends: a job that hangs holds nobody up.

    Args:
        name: of the thread.
        most: jobs that may wait; of more, those that may be dropped are.
        fails: called once, in the thread, with the first error in words.
    """

    def __init__(self, name: str, most: int, fails: Callable[[str], object]) -> None:
        self._refused = self._lost = 0  # each counted by one thread
        self._most = most
        self._fails = fails
        self._failed = False
        self._jobs: queue.SimpleQueue[tuple[Job, bool] | None] = queue.SimpleQueue()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Jobs that were not done, since too many waited, or one before them failed."""
        return self._refused + self._lost

    def put(self, job: Job, *, always: bool = False) -> None:
        """Have a job done.

        Args:
            job: to do.
            always: whether it is done though many wait, and though one before it has failed.
        """
        if not always and self._jobs.qsize() >= self._most:
            self._refused += 1
        else:
            self._jobs.put((job, always))

    def close(self, seconds: float) -> int:
        """Wait until all is done, but no longer than that; gives how many jobs wait still."""
        self._jobs.put(None)
        until = time.monotonic() + seconds
        while not self._done.is_set() and (left := until - time.monotonic()) > 0:
            self._done.wait(min(left, SIGNAL_SECONDS))
        return 0 if self._done.is_set() else max(1, self._jobs.qsize() - 1)

    def _run(self) -> None:
        while (given := self._jobs.get()) is not None:
            job, always = given
            if self._failed and not always:
                self._lost += 1
                continue
            try:
                job()
            except BaseException as error:  # said: no tracker ends a run
                self._lost += 1
                if not self._failed:
                    self._failed = True
                    self._fails(in_words(error))
        self._done.set()
