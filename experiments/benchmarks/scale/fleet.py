"""Many workers that fail, in virtual time, under the real controller.

Only what carries parameters is left out. What became of the workers' time is accounted row by row,
as `jax_ssp.report.goodput` does from a tape: the tape of a million rows would fill the memory.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from experiments.benchmarks.scale.clocks import Clocks, Failing
from jax_ssp.controller import Controller, StartClock, WorkerJoined, WorkerLost
from jax_ssp.controller.commands import Cancel, SetTimer
from jax_ssp.controller.events import Event, TimerFired
from jax_ssp.policies import Policy
from jax_ssp.report.goodput import Goodput
from jax_ssp.report.spending import Spending

NEVER = math.inf
FAILS, LOST, BACK = "fails", "lost", "back"


class Exchange(NamedTuple):
    """What stands between a worker and the controller (seconds a push).

    Attributes:
        reading: the snapshot's way to the worker, before it computes.
        sending: the delta's way over the worker's own link.
        shard: what a shard is busy for with its share of a delta. All shards have the same to do,
            one push after the other, so that one stands for all.
        controller: what an event takes of the controller.
    """

    reading: float = 0.0
    sending: float = 0.0
    shard: float = 0.0
    controller: float = 0.0


FREE = Exchange()


class Fleet:
    """Workers, a controller, and the account of their time.

    Args:
        policy: of the run.
        workers: that begin.
        seconds: of clocks, in the order in which they are started.
        exchange: what a push takes.
    """

    def __init__(
        self, policy: Policy, workers: int, seconds: Iterator[float], exchange: Exchange = FREE
    ) -> None:
        self._controller = Controller(policy)
        self._account = Spending(0.0, policy.guaranteed_bound)
        self._seconds = seconds
        self._exchange = exchange
        self._running: dict[int, StartClock] = {}
        self._finishing: list[tuple[float, int, StartClock]] = []
        self._coming: list[tuple[float, int, str, int]] = []  # when, number, what, worker
        self._count = 0
        self._gone: set[int] = set()
        self._timer = self._shard_free = NEVER
        self._shard_free = self._controller_free = 0.0
        self.failures = 0
        for worker in range(workers):
            self._handle(0.0, WorkerJoined(worker))

    def run(self, until: float, failing: Failing, fails: Iterator[tuple[float, int]]) -> Goodput:
        """Let it run for so many seconds; `fails` are times and workers."""
        for at, worker in fails:
            self._comes(at, FAILS, worker)
        while (at := self._next()) <= until:
            if at == self._timer:
                self._timer = NEVER
                self._handle(at, TimerFired(at))
            elif self._coming and at == self._coming[0][0]:
                _, _, what, worker = heapq.heappop(self._coming)
                self._happens(at, what, worker, failing)
            else:
                self._arrives(at)
        return Goodput(**self._account.divided())

    def _next(self) -> float:
        """When something happens."""
        incident = self._coming[0][0] if self._coming else NEVER
        return min(self._timer, incident, self._arrival())

    def _arrival(self) -> float:
        """When the controller is through with the next push; infinity if nobody runs."""
        finishing, running = self._finishing, self._running
        while finishing and running.get(finishing[0][2].worker) is not finishing[0][2]:
            heapq.heappop(finishing)
        if not finishing:
            return NEVER
        exchange = self._exchange
        whole = max(finishing[0][0] + exchange.sending, self._shard_free) + exchange.shard
        return max(whole, self._controller_free) + exchange.controller

    def _arrives(self, now: float) -> None:
        """A push is there whole, and the controller takes it."""
        finished, _, start = heapq.heappop(self._finishing)
        exchange = self._exchange
        del self._running[start.worker]
        if exchange is FREE:
            self._handle(now, start.finished())
            return
        self._shard_free = max(finished + exchange.sending, self._shard_free) + exchange.shard
        self._controller_free = now
        took = (0.0, exchange.reading, now - finished)
        self._handle(now, start.finished(exchange=took))

    def _happens(self, now: float, what: str, worker: int, failing: Failing) -> None:
        if what == FAILS and worker not in self._gone:
            self.failures += 1
            self._gone.add(worker)
            self._running.pop(worker, None)
            self._comes(now + failing.detect, LOST, worker)
            self._comes(now + failing.detect + failing.back, BACK, worker)
        elif what == LOST:
            self._handle(now, WorkerLost(worker, "failed"))
        elif what == BACK:
            self._gone.remove(worker)
            self._handle(now, WorkerJoined(worker))

    def _comes(self, at: float, what: str, worker: int) -> None:
        self._count += 1
        heapq.heappush(self._coming, (at, self._count, what, worker))

    def _handle(self, now: float, event: Event) -> None:
        commands = self._controller.handle(event, now)
        self._account.take(now, event, commands)
        for command in commands:
            if type(command) is StartClock:
                self._starts(now, command)
            elif type(command) is SetTimer:
                self._timer = NEVER if command.at is None else command.at
            elif type(command) is Cancel:
                self._running.pop(command.worker, None)

    def _starts(self, now: float, start: StartClock) -> None:
        if start.worker in self._gone:  # it has failed, and nobody knows yet
            return
        self._count += 1
        self._running[start.worker] = start
        finish = now + self._exchange.reading + next(self._seconds)
        heapq.heappush(self._finishing, (finish, self._count, start))


def failures_within(
    seconds: float, workers: int, failing: Failing, rng: np.random.Generator
) -> list[tuple[float, int]]:
    """As many failures as are expected within so many seconds, at any times, of any workers.

    Of a Poisson process these are the times, given the number; that it is the expected one takes
    away the noise of the number.
    """
    count = round(seconds / failing.among(workers))
    times = np.sort(rng.uniform(0.0, seconds, count)).tolist()
    return list(zip(times, rng.integers(workers, size=count).tolist(), strict=True))


def spent(
    policy: Policy, workers: int, clocks: Clocks, failing: Failing, failures: int, seed: int
) -> Goodput:
    """Where the time goes until so many failures are expected."""
    rng = np.random.default_rng(seed)
    seconds = failures * failing.among(workers)
    fails = failures_within(seconds, workers, failing, rng)
    return Fleet(policy, workers, clocks.stream(rng)).run(seconds, failing, iter(fails))


def settled(time: Goodput) -> dict[str, float]:
    """Shares of the time whose outcome is known: without clocks that run at the end."""
    shares = time.shares
    known = 1.0 - shares.pop("unsettled")
    return {kind: share / known for kind, share in shares.items()}
