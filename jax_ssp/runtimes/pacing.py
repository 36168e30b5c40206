"""Exchange on real devices that takes as long as a network would have it take.

The same flows as in virtual time run against the clock of the wall: whoever reads or pushes waits
in its own thread until its flow has arrived. Nothing of the system's network is used or changed.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax

from jax_ssp.controller.commands import Command, StartClock
from jax_ssp.controller.events import Event
from jax_ssp.delays.links import Links
from jax_ssp.runtimes.crew import TRAVELS, Stay
from jax_ssp.runtimes.faults.fates import NO_FATES, Fates
from jax_ssp.runtimes.inbox import next_in
from jax_ssp.runtimes.traffic import Traffic
from jax_ssp.runtimes.wall import WallClock
from jax_ssp.worker.outbox import Push
from jax_ssp.worker.waits import QUIET_SECONDS
from jax_ssp.worker.worker import Worker

POLL_SECONDS = 0.002  # how often to look whether steps run ahead are done, while there are any


class PacedClock(WallClock):
    """The time of the wall, which follows what travels.

    Args:
        num_workers, fates: as of a `WallClock`.
        traffic: what travels; told of each row.

    Attributes:
        traffic: as given.
        paces: whether what travels takes time: not while what has happened happens again.
    """

    def __init__(self, num_workers: int, traffic: Traffic, fates: Fates = NO_FATES) -> None:
        super().__init__(num_workers, fates)
        self.traffic = traffic
        self.paces = False

    def begin(self) -> None:
        super().begin()
        self.paces = True

    def go_on(self) -> None:
        super().go_on()
        self.paces = True

    def passed(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        self.traffic.take(now, event, commands)
        super().passed(now, event, commands)

    def answered(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        self.traffic.take(now, event, commands)
        super().answered(now, event, commands)


class _Trip:
    """What a worker's clock has to do with the network; times are of the clock of the world.

    Attributes:
        started: when it was started.
        there: when its snapshot was there.
        done: when the steps of the clock before were done; None if there is none to go on from.
        free: when what was run ahead was done.
        ahead, reading: see `DeltaReady`.
    """

    __slots__ = ("ahead", "done", "free", "reading", "started", "there")

    def __init__(self) -> None:
        self.done: float | None = None
        self.free: float | None = None
        self.started = self.there = self.ahead = self.reading = 0.0


class _Flows(NamedTuple):
    """What travels in one direction."""

    links: Links
    arrived: dict[int, float]  # by grant: when
    waiting: dict[int, Stay]  # by grant: who is woken when it may arrive sooner


class Pacing:
    """Has the threads of workers wait for what travels.

    Args:
        clock: of the world.
        over: whether nobody waits for this clock of a stay any more.
    """

    def __init__(self, clock: PacedClock, over: Callable[[Stay, StartClock], bool]) -> None:
        self._clock = clock
        self._traffic = clock.traffic
        self._over = over
        network = clock.traffic.network
        self._up, self._down = (_Flows(Links(network), {}, {}) for _ in range(2))
        self._trips: dict[Stay, _Trip] = {}
        self._lock = threading.Lock()

    def read(self, stay: Stay, start: StartClock) -> None:
        """Wait until the version of a clock is with its worker."""
        trip = self._trips.setdefault(stay, _Trip())
        trip.started = trip.there = self._clock.now()
        trip.ahead = trip.reading = 0.0
        grant = self._traffic.grants[stay.index]
        if grant.start.token == start.token and grant.ready is not None:
            size = self._traffic.sizes.down(start)
            self._travel(stay, start, self._down, max(trip.started, grant.ready), size, trip)
            trip.there = self._clock.now()

    def computes(self, stay: Stay, start: StartClock, seconds: float) -> tuple[float, float]:
        """When what is left of a clock begins (`time.perf_counter`), and how long it takes.

        Args:
            stay: whose; it has read.
            start: the clock.
            seconds: that all of it takes. What was run ahead counts from where the steps of the
                clock before were done.
        """
        trip, grant = self._trips[stay], self._traffic.grants[stay.index]
        begins, ahead = trip.there, 0.0
        if grant.ahead and trip.done is not None:
            ahead = seconds * min(1.0, grant.ahead / start.local_steps)
            free = max(trip.done + ahead, trip.there if trip.free is None else trip.free)
            begins = max(trip.there, free)
            trip.ahead = max(0.0, min(free, trip.started) - trip.done)
            trip.reading = begins - max(trip.started, free)
        else:
            trip.reading = trip.there - trip.started
        return time.perf_counter() + begins - self._clock.now(), seconds - ahead

    def push(self, stay: Stay, start: StartClock, push: Push) -> Push | None:
        """Wait until a delta is with the server, and give it with what its clock's ways took.

        None if its worker was lost meanwhile: then it never arrives.
        """
        trip = self._trips[stay]
        trip.done, trip.free = self._clock.now(), None
        size = self._traffic.sizes.up(start)
        self._travel(stay, start, self._up, trip.done, size, trip)
        if stay.gone and self._clock.paces:
            return None
        pushing = self._clock.now() - trip.done
        return push._replace(exchange=(trip.ahead, trip.reading, pushing))

    def _travel(
        self,
        stay: Stay,
        start: StartClock,
        flows: _Flows,
        begins: float,
        size: float,
        trip: _Trip,
    ) -> None:
        """Wait until so many bytes have travelled, or nobody waits for them any more."""
        if not self._clock.paces:
            return
        grant, doing = start.token.grant, stay.doing
        stay.does(TRAVELS, QUIET_SECONDS)
        with self._lock:
            now = self._happen(flows)
            flows.links.begin(max(now, begins), stay.index, grant, size)
            flows.waiting[grant] = stay
        while (left := self._left(stay, start, flows)) > 0:
            running = trip.free is None and _runs_ahead(stay.worker)
            if not running and trip.free is None:
                trip.free = self._clock.now()
            with contextlib.suppress(queue.Empty):
                next_in(stay.wake, min(left, POLL_SECONDS) if running else left)
        stay.doing = doing

    def _left(self, stay: Stay, start: StartClock, flows: _Flows) -> float:
        """For how long it may be waited before anything changes (seconds); 0: it is over."""
        grant = start.token.grant
        with self._lock:
            now = self._happen(flows)
            if flows.arrived.pop(grant, None) is None and not self._over(stay, start):
                return max(flows.links.next() - now, 1e-6)
            del flows.waiting[grant]
            flows.links.end(now, grant)
            others = [*flows.waiting.values()]
        for other in others:  # who have a larger share now
            other.wake.put(None)
        return 0.0

    def _happen(self, flows: _Flows) -> float:
        """Have all happened that has by now; under the lock."""
        now = self._clock.now()
        while flows.links.next() <= now:
            arrival = flows.links.step()
            if arrival is not None:
                flows.arrived[arrival.grant] = arrival.time
        return now


def _runs_ahead(worker: Worker | None) -> bool:
    """Whether steps that were run ahead are computed still."""
    ahead = None if worker is None else worker.replica.ahead
    return ahead is not None and not all(
        leaf.is_ready() for leaf in jax.tree.leaves(ahead.progress)
    )
