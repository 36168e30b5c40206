"""What became of every clock: the one fold of a run's events and answers into settled clocks.

A clock is settled when its delta is merged or dropped, or when it is cancelled; each is one `Row`.
Whoever wants to know what a run did (its history, its schedule, a display) takes it from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jax_ssp.controller.commands import Cancel, Command, Drop, Merge, StartClock
from jax_ssp.controller.constructors import NEW
from jax_ssp.controller.events import DeltaReady, Event, Token, WorkerDone, WorkerLost


class Row(NamedTuple):
    """A settled clock.

    Attributes:
        worker: who ran it.
        clock: its stamp.
        steps: local steps that were made; 0 if it was cancelled.
        start, finish: when it was started, and pushed or cancelled (seconds).
        base_version: the version that its delta is measured from; if it was not merged, the one
            that was read.
        merge_version: the version that its merge made; -1 if it was dropped or cancelled.
        staleness: of the delta at its merge (versions); 0 if it was not merged, like the two below.
        lag: of its worker at the merge (clocks).
        weight: the delta's factor in the merge.
        samples: examples in its batches.
        tokens: in these, where they are counted; else 0.
        finite: whether every number of the delta was.
        computed: when its steps were done (seconds); `finish`, where exchange takes no time.
        computing: for how long it was computed, steps run ahead included (seconds).
        token: that its push quoted.
        reason: why it was dropped or cancelled; empty if it was merged.
    """

    worker: int
    clock: int
    steps: int
    start: float
    finish: float
    base_version: int
    merge_version: int
    staleness: int
    lag: int
    weight: float
    samples: int
    tokens: int
    finite: bool
    computed: float
    computing: float
    token: Token
    reason: str


class Fold:
    """Takes what happened, row by row of a tape, and says what was settled by it.

    Example:
        >>> from jax_ssp.controller import Controller, WorkerJoined
        >>> from jax_ssp.policies import SSP
        >>> controller, fold = Controller(SSP(bound=1)), Fold()
        >>> (start,) = commands = controller.handle(WorkerJoined(0), now=0.0)
        >>> fold.take(0.0, WorkerJoined(0), commands)
        []
        >>> push = start.finished()
        >>> (row,) = fold.take(2.5, push, controller.handle(push, now=2.5))
        >>> row.clock, row.start, row.finish, row.merge_version
        (0, 0.0, 2.5, 1)
    """

    def __init__(self) -> None:
        self._running: dict[int, tuple[float, StartClock]] = {}  # by worker
        self._pushed: dict[Token, tuple[float, float, DeltaReady]] = {}  # start, finish; unsettled

    @property
    def running(self) -> dict[int, StartClock]:
        """Who runs which clock, in the order of their starts."""
        return {worker: start for worker, (_, start) in self._running.items()}

    def take(self, now: float, event: Event, commands: Sequence[Command]) -> list[Row]:
        """The clocks that are settled by an event's answer, in the order of its commands.

        Args:
            now: when the event came (seconds).
            event: what happened.
            commands: what the controller answered.
        """
        if type(event) is DeltaReady or type(event) is WorkerDone:
            worker, token = event.worker, event.token
            running = self._running.get(worker)
            if running is not None and running[1].token == token:  # else it is late
                del self._running[worker]
                if type(event) is DeltaReady:
                    self._pushed[token] = running[0], now, event
        elif type(event) is WorkerLost:
            self._running.pop(event.worker, None)
        rows: list[Row] = []
        for command in commands:
            if type(command) is StartClock:
                self._running[command.worker] = now, command
            elif type(command) is Merge:
                version = command.version
                for delta in command.deltas:
                    base, staleness, lag, weight, token = delta[2:7]  # quicker than by name
                    rows.append(self._settled(token, base, version, staleness, lag, weight))
            elif type(command) is Drop:
                rows.append(self._settled(command.token, reason=command.reason))
            elif type(command) is Cancel:
                start, clock = self._running.pop(command.worker)
                self._pushed[command.token] = start, now, clock.finished(steps=0)
                rows.append(self._settled(command.token, reason=command.reason))
        return rows

    def _settled(
        self,
        token: Token,
        base: int | None = None,
        version: int = -1,
        staleness: int = 0,
        lag: int = 0,
        weight: float = 0.0,
        reason: str = "",
    ) -> Row:
        start, finish, push = self._pushed.pop(token)
        worker, clock, read, _, steps, samples, finite, _, exchange, tokens = push[:10]
        if base is None:
            base = read
        # Exactly `finish`, and `finish - start`, where exchange takes no time.
        computed, computing = finish, finish - start
        if exchange:
            computed = finish - push.pushing
            computing = computed - start - push.reading + push.ahead
        about = worker, clock, steps, start, finish, base, version, staleness, lag, weight
        report = samples, tokens, finite, computed, computing, token, reason
        return NEW(Row, about + report)
