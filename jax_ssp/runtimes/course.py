"""What clocks do until their deltas have arrived, where exchange takes virtual time.

A clock that was started reads its version, unless its worker holds that; then it is computed, and
its delta travels. Steps that were granted ahead are run from where the steps of the worker's clock
before were done. So sending is hidden behind them, and they behind sending.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from jax_ssp.controller.commands import Cancel, Command, StartClock
from jax_ssp.controller.events import Event, WorkerLost
from jax_ssp.delays.draws import DelayDraws
from jax_ssp.delays.links import Links
from jax_ssp.runtimes.faults.base import JOIN, PUSH
from jax_ssp.runtimes.faults.fates import Fates
from jax_ssp.runtimes.traffic import Grant, Traffic


class Way:
    """A clock under way.

    Attributes:
        start: which.
        began: when it was started (seconds, like all that follows).
        ready: from when on its version can be read; None if that is not to be read.
        steps_ahead: of its steps may be run before it is started.
        seconds: that computing it takes; None until that is drawn.
        slow: that a fault adds to it.
        ahead: for which it was computed before it was started.
        reading: for which its worker waited for the snapshot after that.
        computed: when its steps are done.
        arrived: when its delta has arrived.
    """

    __slots__ = (
        *("ahead", "arrived", "began", "computed", "reading", "ready", "seconds", "slow"),
        *("start", "steps_ahead"),
    )

    def __init__(self, grant: Grant, began: float) -> None:
        self.start, self.ready, self.steps_ahead = grant
        self.began = began
        self.seconds: float | None = None
        self.slow = self.ahead = self.reading = self.computed = self.arrived = 0.0

    @property
    def exchange(self) -> tuple[float, float, float]:
        """What its push says of that; see `DeltaReady`."""
        return self.ahead, self.reading, self.arrived - self.computed


class Course:
    """The clocks under way, one of each worker at most.

    Args:
        traffic: what travels; told of each row.
        delays: how long computing takes.
        fates: what goes wrong.
    """

    def __init__(self, traffic: Traffic, delays: DelayDraws, fates: Fates) -> None:
        self._traffic = traffic
        self._delays = delays
        self._fates = fates
        self._up, self._down = Links(traffic.network), Links(traffic.network)
        self._ways: dict[int, Way] = {}  # by worker
        self._done: dict[int, float] = {}  # by worker: when the steps of its last clock were done
        # (when, worker, grant, way); who is gone stays in until it would be due.
        self._computing: list[tuple[float, int, int, Way]] = []
        self._arrived: list[tuple[float, int, int, Way]] = []

    # What it is told.

    def take(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        """A row of the tape, before the clocks in it are started."""
        self._traffic.take(now, event, commands)
        if isinstance(event, WorkerLost):
            self.end(now, event.worker)
        for command in commands:
            if type(command) is Cancel:
                self.end(now, command.worker)

    def start(self, now: float, start: StartClock, drawn: bool = True) -> None:
        """A clock is started.

        Args:
            now: when (seconds).
            start: of the last row.
            drawn: whether its delay is drawn now, or once that is needed.
        """
        way = self._ways[start.worker] = Way(self._traffic.grants[start.worker], now)
        if drawn:
            self._seconds(way)
        fate = self._fates.of(start)
        if fate.lost == JOIN:
            self._arrives(now, way)
        elif fate.hangs in ("", PUSH):
            if way.ready is None:
                self._compute(now, way)
            else:
                size = self._traffic.sizes.down(start)
                self._down.begin(way.ready, start.worker, start.token.grant, size)

    def draw(self) -> None:
        """Draw what was not needed yet."""
        for way in self._ways.values():
            self._seconds(way)

    def end(self, now: float, worker: int, drawn: bool = True) -> None:
        """The clock of this worker is over, as is all that it has under way.

        Args:
            now: when (seconds).
            worker: whose.
            drawn: whether a delay was drawn for it.
        """
        self._done.pop(worker, None)
        way = self._ways.pop(worker, None)
        if way is not None:
            if drawn:
                self._seconds(way)
            for links in (self._up, self._down):
                links.end(now, way.start.token.grant)

    def pushed(self, now: float, worker: int) -> None:
        """The delta of this worker's clock has arrived, whatever is known of that here."""
        way = self._ways.get(worker)
        done = min(way.computed, now) if way is not None and way.computed else now
        self.end(now, worker)
        self._done[worker] = done

    def pass_by(self, now: float) -> None:
        """All that happens until then has happened; a tape says which clocks have arrived."""
        while (due := self._due()) <= now:
            self._step(due)

    # What it says.

    def next(self, until: float) -> float:
        """When the first clock arrives (seconds), if that is by then; else infinity."""
        while (due := self._due()) < math.inf and due <= until:
            if self._first(self._arrived) < due:
                break
            self._step(due)
        first = self._first(self._arrived)
        return first if first <= until else math.inf

    def pop(self) -> Way:
        """The clock that arrives first; it is not under way any more."""
        _, worker, _, way = heapq.heappop(self._arrived)
        del self._ways[worker]
        return way

    @property
    def running(self) -> list[StartClock]:
        """The clocks under way, in the order of their grants."""
        starts = [way.start for way in self._ways.values()]
        return sorted(starts, key=lambda start: start.token.grant)

    # What happens.

    def _first(self, heap: list[tuple[float, int, int, Way]]) -> float:
        while heap and self._ways.get(heap[0][1]) is not heap[0][3]:
            heapq.heappop(heap)
        return heap[0][0] if heap else math.inf

    def _due(self) -> float:
        """When the next thing happens before a clock arrives (seconds)."""
        return min(self._first(self._computing), self._up.next(), self._down.next())

    def _step(self, due: float) -> None:
        """What is due happens; at one time, what comes first in a clock."""
        if self._down.next() == due:
            self._step_down()
        elif self._first(self._computing) == due:
            self._computed(heapq.heappop(self._computing)[3])
        else:
            self._step_up()

    def _seconds(self, way: Way) -> float:
        if way.seconds is None:
            way.seconds = self._delays.draw(way.start)
        return way.seconds

    def _step_down(self) -> None:
        arrival = self._down.step()
        if arrival is not None:
            self._compute(arrival.time, self._ways[arrival.worker])

    def _step_up(self) -> None:
        arrival = self._up.step()
        if arrival is not None:
            way = self._ways[arrival.worker]
            self._arrives(self._struck(way, arrival.time), way)

    def _compute(self, now: float, way: Way) -> None:
        """The snapshot is there, or none is needed: when are all steps done?"""
        worker, seconds = way.start.worker, self._seconds(way)
        ahead, since = 0.0, way.began
        if way.steps_ahead and worker in self._done:
            since = self._done[worker]
            ahead = seconds * min(1.0, way.steps_ahead / way.start.local_steps)
            way.ahead = min(ahead, way.began - since)
        free = since + ahead  # for what is left
        begins = max(now, free)
        way.reading = begins - max(way.began, free)
        way.computed = self._struck(way, begins + (seconds - ahead))
        if math.isfinite(way.computed):
            entry = way.computed, worker, way.start.token.grant, way
            heapq.heappush(self._computing, entry)

    def _struck(self, way: Way, ends: float) -> float:
        """When it ends, with what strikes it until then; infinity if it hangs."""
        if not self._fates:
            return ends
        known, fate, before = way.slow, self._fates.of(way.start), -1.0
        while before < ends + fate.seconds - known:  # what strikes it may have it take longer
            before = ends + fate.seconds - known
            fate = self._fates.of(way.start, before)
        way.slow = fate.seconds
        return math.inf if fate.hangs else before

    def _computed(self, way: Way) -> None:
        worker, grant = way.start.worker, way.start.token.grant
        self._done[worker] = way.computed
        lost = self._fates.of(way.start).lost if self._fates else ""
        if lost and lost != PUSH:
            self._arrives(way.computed, way)
        else:
            self._up.begin(way.computed, worker, grant, self._traffic.sizes.up(way.start))

    def _arrives(self, now: float, way: Way) -> None:
        if math.isfinite(now):
            way.arrived = now
            heapq.heappush(self._arrived, (now, way.start.worker, way.start.token.grant, way))
