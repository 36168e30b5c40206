"""The life of the threads of a world: who works in which, what it is to do, and how it ends."""

from __future__ import annotations

import atexit
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, TypeAlias

from jax_ssp.controller.commands import StartAhead, StartClock
from jax_ssp.controller.events import DeltaReady, WorkerDone
from jax_ssp.data.feed import Feed
from jax_ssp.runtimes.settings import Settings
from jax_ssp.worker.replica import Replica
from jax_ssp.worker.waits import Waiting, for_data
from jax_ssp.worker.worker import Worker

CLOSE_SECONDS = 2.0  # for threads to end; they do at once unless the user's code holds them

Job: TypeAlias = StartClock | StartAhead | None

COMPILES = "compiles"
TRAVELS = "waits for the network"


Doing: TypeAlias = tuple[str | StartClock, float, float]
"""What a worker is doing that others may wait for (or a clock that it computes), since when (of
`time.perf_counter`), and how long it may take (seconds)."""


class Stay:
    """A worker from its start or its join to its loss or the run's end, in a thread of its own.

    Args:
        index: number of the worker.
        worker: who computes; None for one that comes again, until its first clock.
        starts_at: when that one is to start, of the clock `time.perf_counter` (seconds).
        joined: whether that one counts as a worker of the run already.
        awaited: whether a run with nobody there waits for it.

    Attributes:
        index, worker, starts_at, awaited: as given.
        jobs: what it is to do, in this order; None is the end.
        wake: has it look whether still to wait.
        doing: what others may wait for; None if that is nothing.
        feed: the data of one that comes again, until its first clock.
        inherits: the state that it takes over from another, until it has it.
        joined: whether it counts as a worker of the run.
        gone: whether it is lost, and nothing is heard any more of what it does.
        tells: whether what it has reported is being taken, which is not its own doing.
        given, done: how many jobs it has got, and has done.
        runs: the clock that it runs; None between two.
        pushes: whether it has computed that, and pushes what came of it.
        began: when it began that (`time.perf_counter`); None if it compiles for it.
        thread: its own.
    """

    def __init__(
        self,
        index: int,
        worker: Worker | None,
        starts_at: float = 0.0,
        joined: bool = False,
        awaited: bool = False,
    ) -> None:
        self.index = index
        self.worker = worker
        self.starts_at = starts_at
        self.jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self.wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.doing: Doing | None = None
        self.feed: Feed | None = None
        self.inherits: Replica | None = None
        self.joined = joined or worker is not None
        self.awaited = awaited
        self.gone = False
        self.tells = False
        self.given = self.done = 0
        self.runs: StartClock | None = None
        self.began: float | None = None
        self.pushes = False
        self.thread: threading.Thread

    @contextmanager
    def telling(self) -> Iterator[None]:
        """What is raised in here is no fault of its worker."""
        self.tells = True
        yield
        self.tells = False  # else whoever hears of the error sees that it was

    def does(self, what: str, limit: float) -> None:
        """From now on it is doing this, which may take so long (seconds)."""
        self.doing = what, time.perf_counter(), limit

    def compiles(self) -> None:
        """From now on it compiles, which takes as long as it takes."""
        self.does(COMPILES, math.inf)

    def waits(self) -> Waiting | None:
        """What others may wait for; any thread may ask."""
        feed, doing = self.feed, self.doing
        waits = None if self.worker is None else self.worker.waits()
        if waits is None and feed is not None:
            waits = for_data(self.index, feed.waiting())
        if waits is None and doing is not None:
            what, since, limit = doing
            text = what if isinstance(what, str) else f"computes clock {what.clock}"
            waits = Waiting(self.index, text, time.perf_counter() - since, limit)
        return waits

    def leave(self) -> None:
        """Its worker is lost."""
        self.gone = True
        self.end()

    def end(self) -> None:
        """Let its thread come to its end, if nothing holds it."""
        self.jobs.put(None)
        self.wake.put(None)


class Listener(Protocol):
    """Who hears of what comes of a clock; in the thread that runs it."""

    def tell(
        self,
        stay: Stay,
        event: DeltaReady | WorkerDone,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """It has come to its end."""
        ...

    def begun(self, stay: Stay) -> None:
        """It is begun, by a worker that is armed."""
        ...

    def crashed(self, stay: Stay, comes_again: bool) -> None:
        """Its worker is lost, as a fault has it, which may say that it `comes_again`."""
        ...


class Crew:
    """The threads, all under the settings of the thread that makes this.

    Args:
        work: what a thread does with its stay; it takes care of what is raised in it.
        failed: told of what is raised outside of that: a setting cannot be entered in a thread.

    Attributes:
        stays: by number of the worker, the present one.
    """

    def __init__(
        self, work: Callable[[Stay], object], failed: Callable[[BaseException], object]
    ) -> None:
        self.stays: list[Stay] = []
        self._work, self._failed = work, failed
        self._settings = Settings()
        self._all: list[Stay] = []  # that may have a thread still

    def enter(self, stay: Stay) -> None:
        """This is the present stay of its worker; it has a thread, which is not started yet."""
        name = f"ssp-worker-{stay.index}"
        stay.thread = threading.Thread(target=self._run, args=(stay,), name=name, daemon=True)
        self.stays[stay.index : stay.index + 1] = [stay]
        self._all = [each for each in self._all if not each.gone or each.thread.is_alive()]
        self._all.append(stay)

    def _run(self, stay: Stay) -> None:
        try:
            self._settings.run(self._work, stay)
        except BaseException as error:
            self._failed(error)

    def start(self) -> None:
        """Start the threads of all who are there."""
        for stay in self.stays:
            if stay.joined:
                stay.thread.start()

    def close(self) -> None:
        """Have all end; one that is stuck is left behind, and one that is lost not waited for."""
        for stay in self._all:
            stay.end()
        deadline = time.monotonic() + CLOSE_SECONDS
        for stay in self._all:
            if stay.thread.ident is not None:
                if not stay.gone:
                    stay.thread.join(max(0.0, deadline - time.monotonic()))
                doing = stay.doing
                if stay.thread.is_alive() and doing is not None and doing[0] == COMPILES:
                    atexit.register(stay.thread.join)  # the interpreter's end would crash in it
