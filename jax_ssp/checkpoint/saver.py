"""Saves a run's cuts in a thread of its own, so that training goes on; no failure ends the run.

One cut is written at a time. One that comes meanwhile waits, in place of one that waits already:
only the newest matters. One that could not be saved is tried again after a while, unless there is
a newer one by then.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jax_ssp.checkpoint.steps import Steps
from jax_ssp.failures import in_words
from jax_ssp.files import say

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds after a failure; each is twice the one before


class _Job(NamedTuple):
    rows: int
    facts: Mapping[str, Any]
    arrays: Mapping[str, Any]
    metric: float | None
    version: int | None


@dataclasses.dataclass
class Counts:
    """What the saves of a run have come to.

    Attributes:
        saved: cuts that were saved.
        failed: attempts to save one that failed.
        passed_over: cuts that were not saved, as a newer one took their place.
        seconds: of wall time spent on both kinds of attempt.
        cpu_seconds: of the thread that saves; what Orbax's own threads take is not in it.
        bytes: of the arrays that were saved.
    """

    saved: int = 0
    failed: int = 0
    passed_over: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    bytes: int = 0


class Saver:
    """Has cuts saved while the run goes on.

    Args:
        steps: where they go.
        durable: brings the tape and the metrics up to so many rows onto the disk. It is called in
            the saver's thread before a cut is saved: a cut is worth nothing without them.
        wait: how long to wait after the first failure (seconds).

    Attributes:
        rows: of the newest cut that is saved; None before the first.

    Example:
        >>> import numpy as np, tempfile
        >>> from pathlib import Path
        >>> steps = Steps(Path(tempfile.mkdtemp(), "checkpoints"), keep=2)
        >>> saver = Saver(steps, durable=lambda rows: None)
        >>> saver.save(10, {"version": 4}, {"w": np.ones(3)})
        >>> saver.flush(seconds=60), saver.rows, saver.counts.saved
        (True, 10, 1)
        >>> saver.close(seconds=60)
        True
    """

    def __init__(
        self, steps: Steps, durable: Callable[[int], object], wait: float = FIRST_WAIT
    ) -> None:
        import jax_ssp.checkpoint.arrays  # noqa: F401 - now: it takes a second, and holds others up

        self.rows: int | None = None
        self._steps = steps
        self._durable = durable
        self._first_wait = self._wait = wait
        self._counts = Counts()
        self._warned: set[tuple[Any, ...]] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        # All of these under the condition's lock.
        self._waiting: _Job | None = None
        self._not_before = 0.0  # when the one that waits may be tried; one that is new, at once
        self._under_way = False
        self._closed = False

    @property
    def counts(self) -> Counts:
        """What has been saved up to now; any thread may ask."""
        with self._changed:
            return dataclasses.replace(self._counts)

    def save(
        self,
        rows: int,
        facts: Mapping[str, Any],
        arrays: Mapping[str, Any],
        metric: float | None = None,
        version: int | None = None,
    ) -> None:
        """Have a cut saved, and return at once; see `Steps.save`.

        Args:
            rows: of the tape, before it.
            facts: for JSON, which nobody changes any more.
            arrays: by name, which nobody changes or gives away any more.
            metric: what it may be kept by as one of the best.
            version: of the parameters in it.
        """
        with self._changed:
            assert not self._closed, "a closed saver is given nothing"
            self._counts.passed_over += self._waiting is not None
            self._waiting = _Job(rows, facts, arrays, metric, version)
            self._not_before = 0.0
            self._start()
            self._changed.notify_all()

    def failed(self, rows: int, error: OSError) -> None:
        """A cut cannot be given to it, as what belongs to it cannot be written: that counts too."""
        with self._changed:
            self._fail(error, rows)

    def flush(self, seconds: float) -> bool:
        """Wait until what was given is saved, or was tried once more in vain, or time is up.

        Returns:
            Whether all that was given is saved, or something newer.
        """
        with self._changed:
            self._not_before = 0.0
            self._changed.notify_all()
            self._changed.wait_for(self._is_idle, seconds)
            return self._waiting is None and not self._under_way

    def close(self, seconds: float) -> bool:
        """Wait as `flush` does, and be given nothing more.

        A save that is under way still goes on, and leaves a whole step or none.
        """
        done = self.flush(seconds)
        with self._changed:
            self._closed = True
            self._waiting = None
            self._changed.notify_all()
        if self._thread is not None and done:
            self._thread.join(seconds)
        return done

    def _is_idle(self) -> bool:
        """Whether nothing is under way, and what waits has been tried since it was asked for."""
        return not self._under_way and (self._waiting is None or self._not_before > 0)

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="saver", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the system has none left; the next cut asks again
                self._fail(error)
            else:
                self._thread = thread

    def _run(self) -> None:
        while (job := self._next()) is not None:
            saved = self._attempt(job)
            with self._changed:
                self._under_way = False
                if saved:
                    self._wait = self._first_wait
                elif self._waiting is not None or self._closed:
                    self._counts.passed_over += 1
                else:
                    self._waiting, self._not_before = job, time.monotonic() + self._wait
                    self._wait = min(2 * self._wait, LONGEST_WAIT)
                del job  # its arrays may take much memory
                self._changed.notify_all()

    def _next(self) -> _Job | None:
        """The next to be saved, once there is one and its time has come; None if it is over."""
        with self._changed:
            while not (self._closed and self._waiting is None):
                left = None if self._waiting is None else self._not_before - time.monotonic()
                if left is not None and left <= 0:
                    job, self._waiting, self._under_way = self._waiting, None, True
                    return job
                self._changed.wait(left)
            return None

    def _attempt(self, job: _Job) -> bool:
        """Try to save a cut; gives whether it is saved."""
        began, cpu = time.monotonic(), time.thread_time()
        saved = False
        try:
            self._durable(job.rows)
            self._steps.save(*job)
            saved = True
        except BaseException as error:
            with self._changed:
                self._fail(error, job.rows)
        with self._changed:
            counts = self._counts
            counts.seconds += time.monotonic() - began
            counts.cpu_seconds += time.thread_time() - cpu
            if saved:
                counts.saved += 1
                counts.bytes += sum(int(array.nbytes) for array in job.arrays.values())
                self.rows = job.rows
        return saved

    def _fail(self, error: BaseException, rows: int | None = None) -> None:
        """Count a failure, and say the first of its kind."""
        self._counts.failed += 1
        kind = (type(error), getattr(error, "errno", None))
        if kind not in self._warned:
            self._warned.add(kind)
            where = "" if rows is None else f" at row {rows}"
            say(
                f"a checkpoint{where} cannot be saved: {in_words(error)}; the run goes on, and it "
                "is tried again"
            )
