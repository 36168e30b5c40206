"""Virtual time: any number of workers on one device, real gradients, delays from a model.

Clocks take as long as the delay model says and merging takes no time, so what a schedule does to
training can be studied, seeded, on a laptop. With `compute=False` the clockwork runs alone.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jax_ssp.checks import MOST_WORKERS, flag, function, integer, number, put, seed, shown
from jax_ssp.controller import Controller
from jax_ssp.controller.commands import Cancel, Merge, SetTimer, StartAhead, StartClock
from jax_ssp.controller.events import (
    DeltaReady,
    Event,
    StopRequested,
    TimerFired,
    Token,
    WorkerDone,
    WorkerJoined,
)
from jax_ssp.controller.tape import Tape
from jax_ssp.delays import CALL, LONGEST, Constant, DelayModel, check_delay
from jax_ssp.runtimes.base import Message, Runtime, World
from jax_ssp.server.server import Snapshot
from jax_ssp.worker.lazy import Lazy
from jax_ssp.worker.waits import Waiting
from jax_ssp.worker.worker import Worker


@dataclass(frozen=True)
class Virtual(Runtime):
    """A deterministic virtual clock.

    Args:
        num_workers: all on the first device.
        delay: how long a clock takes (virtual seconds); any callable `(worker, clock, steps, rng)
            -> seconds`.
        seed: of the delays. Each worker draws from a stream of its own, so its draws do not depend
            on the schedule.
        compute: False runs the clockwork alone: no gradients, no server, no step needed.
        batch: up to so many clocks that are under way together are computed in one program
            (`jax.vmap`). Small models then take less time, since a program costs about as much to
            start as to run; large ones, and convolutions on a CPU, more. The results agree with
            those of `batch=1` to float tolerance, not to the bit.

    Raises:
        ValueError: if `num_workers` or `batch` is less than 1.

    Example:
        >>> Virtual(num_workers=64).count()
        64
    """

    num_workers: int = 4
    delay: DelayModel = field(default_factory=Constant)
    seed: int = 0
    compute: bool = True
    batch: int = 1

    def __post_init__(self) -> None:
        put(self, "num_workers", integer, least=1, most=MOST_WORKERS)
        put(self, "delay", function, CALL)
        put(self, "seed", seed)
        put(self, "compute", flag)
        put(self, "batch", integer, least=1)

    @property
    def computes(self) -> bool:
        return self.compute

    def count(self) -> int:
        check_delay(self.delay, self.num_workers)
        return self.num_workers

    def place(self) -> list[jax.Device]:
        return [jax.local_devices()[0]] * self.num_workers

    def home(self, devices: Sequence[jax.Device]) -> list[jax.Device]:
        return [devices[0]]  # with the workers, so that nothing travels

    def open(self, num_workers: int, workers: Sequence[Worker]) -> World:
        return _VirtualWorld(num_workers, workers, self.delay, self.seed, self.batch)


class DelayDraws:
    """Delays of the workers of a run, each from a random stream of its own."""

    BLOCK = 32  # delays drawn at once, where the model can

    def __init__(self, delay: DelayModel, seed: int, num_workers: int) -> None:
        self._delay = delay
        self._streams = [np.random.default_rng([seed, worker]) for worker in range(num_workers)]
        self._ready: list[list[float]] = [[] for _ in self._streams]
        # A subclass that changes what a clock takes has to say anew how to draw ahead.
        self._draws_ahead = {"ahead", "__call__"} <= vars(type(delay)).keys()

    def draw(self, start: StartClock) -> float:
        """How long this clock takes (seconds).

        Raises:
            ValueError: if the delay model gives something negative or not finite.
        """
        worker, clock, steps = start.worker, start.clock, start.local_steps
        if steps == 1 and self._draws_ahead:
            ready = self._ready[worker]
            if ready:
                return ready.pop()
            drawn = self._delay.ahead(self._streams[worker], self.BLOCK)
            ready += [self._checked(seconds, worker, clock) for seconds in reversed(drawn)]
            return ready.pop()
        seconds = self._delay(worker, clock, steps, self._streams[worker])
        return self._checked(seconds, worker, clock)

    def _checked(self, seconds: Any, worker: int, clock: int) -> float:
        if type(seconds) is float and 0 <= seconds <= LONGEST:
            return seconds
        field = f"delay(worker={worker}, clock={clock}, ...) of {shown(self._delay)}"
        return float(number(field, seconds, least=0, most=LONGEST))


class _VirtualWorld(World):
    def __init__(
        self, num_workers: int, workers: Sequence[Worker], delay: DelayModel, seed: int, batch: int
    ) -> None:
        self._computing = Lazy(workers, batch) if workers else None
        self._delays = DelayDraws(delay, seed, num_workers)
        self._now = 0.0
        self._timer: float | None = None
        self._at_once: deque[Event] = deque(WorkerJoined(worker) for worker in range(num_workers))
        # Finishing clocks: (when, tie-breaker: who started first, start).
        self._finishing: list[tuple[float, int, StartClock]] = []
        self._cancelled: set[Token] = set()  # of those among these
        self._count = 0

    def now(self) -> float:
        return self._now

    def start(self, start: StartClock, snapshot: Snapshot | None) -> None:
        if self._computing is not None:
            if not self._computing.has_data(start.worker):
                self._at_once.append(WorkerDone(start.worker, start.clock, start.token))
                return
            self._computing.start(start, snapshot)
        self._count += 1
        finish = self._now + self._delays.draw(start)
        heapq.heappush(self._finishing, (finish, self._count, start))

    def go_ahead(self, grant: StartAhead) -> None:
        if self._computing is not None:
            self._computing.go_ahead(grant)

    def cancel(self, cancel: Cancel) -> None:
        self._cancelled.add(cancel.token)
        if self._computing is not None:
            self._computing.cancel(cancel.worker)

    def receive(self) -> Message | None:
        if self._at_once:
            return Message(self._at_once.popleft())
        while self._cancelled and self._finishing and self._passed_over(self._finishing[0][2]):
            heapq.heappop(self._finishing)
        timer = self._timer
        if timer is not None and not (self._finishing and self._finishing[0][0] <= timer):
            self._now, self._timer = max(self._now, timer), None
            return Message(TimerFired(timer))
        if not self._finishing:
            return None
        self._now, _, start = heapq.heappop(self._finishing)
        if self._computing is None:
            return Message(start.finished())
        push = self._computing.push(start.worker)
        return Message(push.event(start), push)

    def _passed_over(self, start: StartClock) -> bool:
        """Whether this clock was cancelled; asked once, when it would have finished."""
        cancelled = start.token in self._cancelled
        self._cancelled.discard(start.token)
        return cancelled

    def run_clockwork(self, controller: Controller, tape: Tape) -> tuple[float, int]:
        # What `Loop` and `receive` do, without all that is only for payloads and observers.
        handle, append, draw = controller.handle, tape.append, self._delays.draw
        heappush, heappop = heapq.heappush, heapq.heappop
        finishing, count = self._finishing, self._count
        new = tuple.__new__  # at half the cost of a named tuple's own
        seconds, updates = 0.0, 0
        while finishing or self._at_once or not controller.done:
            if self._at_once or self._timer is not None or not finishing:
                message = self.receive()
                if message is None:
                    return seconds, updates
                event, now = message.what, self._now
            else:
                now, _, start = heappop(finishing)
                if self._cancelled and self._passed_over(start):
                    continue
                self._now = now
                worker, clock, steps, version, _, _, _, token = start
                event = new(DeltaReady, (worker, clock, version, token, steps, 0, True, 0.0))
            commands = handle(event, now)
            append(now, event, commands)
            for command in commands:
                kind = type(command)
                if kind is StartClock:
                    count += 1
                    heappush(finishing, (now + draw(command), count, command))
                elif kind is Merge:
                    seconds = now
                    updates += len(command.deltas)
                elif kind is SetTimer:
                    self._timer = command.at
                elif kind is Cancel:
                    self._cancelled.add(command.token)
        tape.complete = True
        return seconds, updates

    def request_stop(self, reason: str) -> None:
        self._at_once.appendleft(StopRequested(reason))

    def waits(self) -> list[Waiting]:
        return [] if self._computing is None else self._computing.waits()

    def set_timer(self, at: float | None) -> None:
        self._timer = at
