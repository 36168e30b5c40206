"""The account of a run's time: each moment of each worker is booked once.

A worker is away, waits, runs a clock, or has finished. At each change the time since the last one
is booked: as what the worker did, or, of a clock, under its token, until it is known what became of
that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from jax_ssp.controller.clocks import ClockVector
from jax_ssp.controller.commands import (
    Cancel,
    Command,
    Drop,
    Merge,
    StartClock,
    StopWorker,
    is_fenced,
)
from jax_ssp.controller.events import (
    DeltaReady,
    Event,
    Token,
    WorkerDone,
    WorkerJoined,
    WorkerLost,
)
from jax_ssp.controller.tape import Tape
from jax_ssp.runtimes.members import NOT_RESUMED

KINDS = (
    *("useful", "gate", "merge", "exchange", "dropped", "cancelled", "not finite", "late", "lost"),
    *("unsettled", "finished", "away", "down", "restoring"),
)
"""The kinds of time, which together are all of it."""

NO_REASON = "lost"
_OUT = "out"  # what a worker does without which the run goes on: its time is nobody's
RESUMED = "resumed"


class _Worker:
    """What a worker does at the moment.

    Attributes:
        doing: "away", "merge" (it waits), "finished", or the token of the clock that it runs.
        since: when it began that (seconds).
        clock: the clocks that it has finished.
        cause: of its loss, until it has recovered.
        lost_at: when that was (seconds).
        waited: the waits since its last push began to travel, in their order: kind and seconds.
            Steps that it has run ahead meanwhile are taken off them once they are told of.
    """

    __slots__ = ("cause", "clock", "doing", "lost_at", "since", "waited")

    def __init__(self, since: float) -> None:
        self.doing: str | Token = "merge"
        self.since = since
        self.clock = 0
        self.cause: str | None = None
        self.lost_at = since
        self.waited: list[tuple[str, float]] = []


class Spending:
    """Takes the rows of a tape one by one.

    Args:
        begin: the time of the first row (seconds).
        bound: of the policy (clocks); None without one.
    """

    def __init__(self, begin: float, bound: int | None) -> None:
        self._begin = self._now = begin
        self._bound = bound
        self._workers: dict[int, _Worker] = {}
        self._spent: dict[int, dict[str, float]] = defaultdict(lambda: dict.fromkeys(KINDS, 0.0))
        self._clocks: dict[Token, tuple[int, float, bool]] = {}  # pushed: worker, seconds, finite
        self._lost: dict[Token, tuple[int, float]] = {}  # lost in it, and not pushed late
        self._slowest = ClockVector()  # of those that are here
        self._reached: list[float] = [begin]  # when the slowest had finished so many clocks
        self._recoveries: dict[str, list[float]] = defaultdict(list)
        self._late = self._recomputed = 0
        self._down = self._restoring = 0.0

    @classmethod
    def of(cls, tape: Tape) -> Spending:
        """The account of a whole tape."""
        header = tape.header
        first = next(iter(tape), None)
        begin = 0.0 if first is None else first.now
        spending = cls(begin, header.get("bound"))
        times: dict[int, float] = {}
        rows = {term["row"] for term in header.get("terms", ())}
        for row, (now, event, commands) in enumerate(tape):
            if row in rows:
                times[row] = now
            spending.take(now, event, commands)
        if header.get("time") == "wall":
            spending.take_terms(header.get("terms", ()), times)
        return spending

    def take(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        """A row of the tape."""
        self._now = now
        if is_fenced(commands):
            self._is_late(event)
            return
        match event:
            case WorkerJoined(worker):
                self._join(worker)
            case DeltaReady(worker, clock, _, token):
                seconds = self._exchanged(event, self._ends(worker, "merge"))
                self._clocks[token] = worker, seconds, event.finite
                self._finishes(worker, clock)
            case WorkerLost(worker, reason):
                self._leave(worker, reason.partition(": ")[0] or NO_REASON)
            case WorkerDone(worker):
                self._leave(worker, None)
            case _:
                pass
        for command in commands:
            dropped = "lost" if isinstance(event, WorkerLost) else "dropped"
            self._command(command, dropped)

    def take_terms(self, terms: Sequence[dict[str, Any]], times: dict[int, float]) -> None:
        """What is known of the resumes besides.

        Args:
            terms: of the header: when each began (seconds of the world outside), and how long it
                took to restore.
            times: of the rows at which they began (seconds).
        """
        for before, term in zip((None, *terms), terms, strict=False):
            self._recomputed += term.get("rows_replayed", 0)
            restoring = float(term.get("restore_seconds", 0.0))
            down = 0.0
            if before is not None and {before["row"], term["row"]} <= times.keys():
                ran = times[term["row"]] - times[before["row"]]
                over = before["began"] + float(before.get("restore_seconds", 0.0)) + ran
                down = max(0.0, term["began"] - over)
            if term["row"] > 0:
                self._down += down
                self._restoring += restoring
                self._recoveries[RESUMED].append(down + restoring)

    def divided(self) -> dict[str, Any]:
        """All of it, with what nobody knows any more at the end; see `Goodput`."""
        for worker, state in self._workers.items():
            if isinstance(state.doing, Token):
                self._spent[worker]["unsettled"] += self._now - state.since
            else:
                self._wait(worker, self._now)
        for worker, seconds, _ in self._clocks.values():
            self._spent[worker]["unsettled"] += seconds
        for worker, seconds in self._lost.values():
            self._spent[worker]["lost"] += seconds
        for_good: dict[str, int] = defaultdict(int)
        for worker, state in self._workers.items():
            if state.cause is not None:
                for_good[state.cause] += 1
            if state.doing != _OUT:
                self._spent[worker]["down"] += self._down
                self._spent[worker]["restoring"] += self._restoring
        return {
            "seconds": self._now - self._begin + self._down + self._restoring,
            "by_worker": {worker: self._spent[worker] for worker in sorted(self._workers)},
            "recoveries": dict(self._recoveries),
            "for_good": dict(for_good),
            "late": self._late,
            "recomputed": self._recomputed,
        }

    # What happens.

    def _is_late(self, event: Event) -> None:
        if isinstance(event, DeltaReady):
            self._late += 1
            lost = self._lost.pop(event.token, None)
            if lost is not None:
                self._spent[lost[0]]["late"] += lost[1]

    def _join(self, worker: int) -> None:
        state = self._workers.get(worker)
        if state is None:
            state = self._workers[worker] = _Worker(self._now)
        state.clock = max(state.clock, self._slowest.min)
        self._slowest.join(state.clock)
        self._see_slowest()

    def _leave(self, worker: int, cause: str | None) -> None:
        state = self._workers[worker]
        token = state.doing
        over = cause is None or token == "finished"
        then = _OUT if cause == NOT_RESUMED else "finished" if over else "away"
        seconds = self._ends(worker, then)
        if isinstance(token, Token):
            self._lost[token] = worker, seconds
        state.waited.clear()
        self._slowest.leave(state.clock)
        self._see_slowest()
        if cause is not None and state.cause is None and state.doing == "away":
            state.cause, state.lost_at = cause, self._now

    def _command(self, command: Command, dropped: str) -> None:
        match command:
            case StartClock(worker):
                state = self._workers[worker]
                self._wait(worker, self._now)
                state.doing, state.since, state.clock = command.token, self._now, command.clock
                if state.cause is not None:
                    self._recoveries[state.cause].append(self._now - state.lost_at)
                    state.cause = None
            case StopWorker(worker):
                self._ends(worker, "finished")
            case Merge():
                for delta in command.deltas:
                    worker, seconds, finite = self._clocks.pop(delta.token)
                    self._spent[worker]["useful" if finite else "not finite"] += seconds
            case Drop():
                worker, seconds, finite = self._clocks.pop(command.token)
                self._spent[worker][dropped if finite else "not finite"] += seconds
            case Cancel(worker, clock):
                self._spent[worker]["cancelled"] += self._ends(worker, "merge")
                self._finishes(worker, clock)
            case _:
                pass

    def _ends(self, worker: int, then: str) -> float:
        """What a worker does ends; gives the seconds of the clock that it ran, if it ran one."""
        state = self._workers[worker]
        seconds = 0.0
        if isinstance(state.doing, Token):
            seconds = self._now - state.since
        else:
            self._wait(worker, self._now)
        state.doing, state.since = then, self._now
        return seconds

    def _wait(self, worker: int, until: float) -> None:
        """Book what a worker did that runs no clock."""
        state = self._workers[worker]
        kind = str(state.doing)
        if kind == _OUT:
            return
        spent, seconds = self._spent[worker], until - state.since
        if kind == "merge" and self._bound is not None:
            needed = max(0, state.clock - self._bound)
            open_at = self._reached[needed] if needed < len(self._reached) else until
            gate = min(max(open_at - state.since, 0.0), seconds)
            spent["gate"] += gate
            state.waited.append(("gate", gate))
            seconds -= gate
        spent[kind] += seconds
        state.waited.append((kind, seconds))

    def _exchanged(self, push: DeltaReady, seconds: float) -> float:
        """Book what a pushed clock's exchange took; gives the seconds that it was computed.

        Args:
            push: of it.
            seconds: from its start to its push.
        """
        state, spent = self._workers[push.worker], self._spent[push.worker]
        reading = min(push.reading, seconds)
        pushing = min(push.pushing, seconds - reading)
        spent["exchange"] += reading + pushing
        seconds -= reading + pushing
        ahead = push.ahead
        for kind, waited in state.waited:  # but it was computed meanwhile
            hidden = min(ahead, waited)
            spent[kind] -= hidden
            seconds += hidden
            ahead -= hidden
        state.waited = [("exchange", pushing)]
        return seconds

    def _finishes(self, worker: int, clock: int) -> None:
        """A worker has finished this clock."""
        self._workers[worker].clock = clock + 1
        self._slowest.advance(clock)
        self._see_slowest()

    def _see_slowest(self) -> None:
        while len(self._reached) <= self._slowest.min:
            self._reached.append(self._now)
