"""Says whom a run waits for, when nothing happens for long, or when it is asked to end.

A thread looks now and then when the last event came. What has gone on for longer than it may, is
said, and again after twice as long: a hung iterator of batches is named, with its worker and since
when, while compilation and evaluation take as long as they take.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence

from jax_ssp.runtimes.inbox import next_in
from jax_ssp.runtimes.observer import Observer
from jax_ssp.runtimes.observing import overrides
from jax_ssp.worker.waits import QUIET_SECONDS, Waiting

GRACE_SECONDS = 1.0  # for a run to end by itself, once it is asked to
CLOSE_SECONDS = 1.0  # for an observer to be told
LOOK_SECONDS = 1.0  # between two looks
GAP_LOOKS = 5  # looks: where none came for so long, nobody could do anything
MOST_NAMED = 4


class Watch:
    """Watches a run from its first event to its end.

    Args:
        waits: gives what is waited for now.
        observers: told by `on_wait`; where none overrides it, a line goes to standard error.
        clock: gives real time (seconds); for tests.
    """

    def __init__(
        self,
        waits: Callable[[], Sequence[Waiting]],
        observers: Sequence[Observer] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._waits = waits
        self._listeners = [each for each in observers if overrides(each, "on_wait")]
        self._clock = clock
        self._last = clock()  # when something happened
        self._patience = 1.0  # how many times the limits
        self._asked: float | None = None  # when the run was asked to end
        self._again = GRACE_SECONDS  # after which to say what its end waits for
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()  # fit for signal handlers
        self._over = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look."""
        self._thread = threading.Thread(target=self._run, name="ssp-watch", daemon=True)
        self._thread.start()

    def happened(self) -> None:
        """Something happened: nobody hangs."""
        self._last = self._clock()
        self._patience = 1.0

    def asked_to_end(self) -> None:
        """The run is to end; if it does not soon, say what it waits for."""
        if self._asked is None:
            self._asked = self._clock()
            self._wake.put(None)

    def slept(self, seconds: float) -> None:
        """So long after the last look it looks again; it meant to sleep for `LOOK_SECONDS`."""
        if seconds > GAP_LOOKS * LOOK_SECONDS:
            self._last += seconds - LOOK_SECONDS

    def close(self) -> None:
        """Look no more."""
        self._over = True
        self._wake.put(None)
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)

    def look(self) -> list[Waiting]:
        """What is to be said now; it counts as said."""
        now = self._clock()
        if self._asked is not None:
            if now - self._asked < self._again:
                return []
            self._again = 2 * (now - self._asked) + QUIET_SECONDS
            return list(self._waits())
        quiet = now - self._last
        if quiet < QUIET_SECONDS * self._patience:
            return []
        stuck = [
            each
            for each in self._waits()
            if min(each.seconds, quiet) >= each.limit * self._patience
        ]
        if stuck:
            self._patience *= 2
        return stuck

    def say(self, waits: Sequence[Waiting]) -> None:
        """Tell those observers that want to know, or whoever reads standard error."""
        for observer in self._listeners:
            try:
                observer.on_wait(waits)
            except Exception as error:
                _print(f"jax_ssp: {type(observer).__name__}.on_wait raised {error!r}")
        if not self._listeners:
            _print(f"jax_ssp: {describe(waits, self._asked is not None)}")

    def _run(self) -> None:
        while not self._over:
            before = self._clock()
            with contextlib.suppress(queue.Empty):
                next_in(self._wake, LOOK_SECONDS)
            self.slept(self._clock() - before)
            waits = [] if self._over else self.look()
            if waits and not self._over:
                self.say(waits)


def describe(waits: Sequence[Waiting], ending: bool = False) -> str:
    """One line for people.

    Example:
        >>> describe([Waiting(2, "waits for batch 3 of its data", 9.2, 8.0)])
        'all wait: worker 2 waits for batch 3 of its data (9 s)'
    """
    longest = sorted(waits, key=lambda each: -each.seconds)
    named = "; ".join(map(str, longest[:MOST_NAMED]))
    more = f"; and {len(waits) - MOST_NAMED} more" if len(waits) > MOST_NAMED else ""
    head = "to end, the run waits (interrupt again to end at once)" if ending else "all wait"
    return f"{head}: {named}{more}"


def _print(line: str) -> None:
    # Nobody may be there to read it.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(line, file=sys.stderr, flush=True)
