"""What becomes of which clock, as a run unfolds: a function of faults and of the tape so far.

Everything that is to happen later follows from rows that are on the tape, too: that a push is
reported again, arrives late, or a worker joins again. So a run that is taken up anew from its tape
goes on with the same faults.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from jax_ssp.controller.commands import Cancel, Command, Merge, StartClock
from jax_ssp.controller.events import (
    DeltaReady,
    Event,
    Resumed,
    Token,
    WorkerDone,
    WorkerJoined,
    WorkerLost,
)
from jax_ssp.runtimes.faults.base import FINE, JOIN, MERGE, SAVE, STEP, Act, Fate, Fault
from jax_ssp.runtimes.faults.saves import SaveFails
from jax_ssp.runtimes.faults.schedule import Schedule, expanded
from jax_ssp.runtimes.faults.system import Kill


class Fates:
    """Says what becomes of each clock.

    Args:
        faults: all of the run.

    Attributes:
        life: how often the run has been resumed.
        plays: whether faults do what they do: from where the run begins, or goes on; what is on
            the tape by then is only computed again.

    Example:
        >>> from jax_ssp.controller import Controller
        >>> from jax_ssp.policies import SSP
        >>> from jax_ssp.runtimes.faults import NaN, Slow
        >>> fates, controller = Fates([Slow(0, 0), NaN(0, 0)]), Controller(SSP(bound=1))
        >>> (start,) = commands = controller.handle(WorkerJoined(0), now=0.0)
        >>> fates.take(0.0, WorkerJoined(0), commands)
        >>> fates.of(start).seconds, fates.of(start).nan
        (1.0, True)
    """

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self.life = 0
        self.plays = False
        self._faults = list(faults)
        self._in_clock: dict[tuple[int, int, int], list[Fault]] = defaultdict(list)
        self._at_join: dict[tuple[int, int], list[Fault]] = defaultdict(list)
        # In order of their times: by worker, and those of no worker.
        self._timed: dict[int, list[Fault]] = defaultdict(list)
        self._of_process: list[Fault] = []
        self._phases: dict[str, list[Act]] = {MERGE: [], SAVE: []}
        for fault in sorted(self._faults, key=_when):
            self._place(fault)
        self._fates: dict[Token, Fate] = {}  # of the clocks that run, but for those that are fine
        # What strikes these at a time, and their fates without.
        self._struck: dict[Token, tuple[list[Fault], Fate]] = {}
        self._running: dict[int, StartClock] = {}  # by worker
        self._hung: set[int] = set()
        self._joined: Counter[int] = Counter()  # how often who has joined
        self._entering: set[int] = set()  # who has joined, and run nothing yet
        self._times: Counter[tuple[int, int]] = Counter()  # how often which clock was started
        self._saves = 0
        self._coming: list[tuple[float, int, Event]] = []
        self._count = 0

    def _place(self, fault: Fault) -> None:
        worker, clock = fault.worker, fault.clock
        if fault.phase in self._phases:
            assert isinstance(fault, Act)
            self._phases[fault.phase].append(fault)
        elif fault.at is not None:
            (self._of_process if worker is None else self._timed[worker]).append(fault)
        elif fault.phase == JOIN:
            assert worker is not None
            self._at_join[worker, fault.nth].append(fault)
        else:
            assert worker is not None
            assert clock is not None
            self._in_clock[worker, clock, fault.nth].append(fault)

    def __bool__(self) -> bool:
        return bool(self._faults)

    # What it is told.

    def take(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        """A row of the tape: what happened, and what was answered."""
        if type(event) is DeltaReady or type(event) is WorkerDone:
            self._finished(now, event)
        elif type(event) is WorkerLost:
            self._lost(now, event.worker)
        elif type(event) is Resumed:
            self.life = event.term
        elif type(event) is WorkerJoined:
            worker = event.worker
            self._arrived(lambda each: each == WorkerJoined(worker))
            if self._joined[worker]:
                _until(now, self._timed.get(worker, []))  # it was away
            self._joined[worker] += 1
            self._entering.add(worker)
        for command in commands:
            if type(command) is StartClock:
                self._start(command)
            elif type(command) is Cancel:
                self._cancelled(now, command)

    def happened(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        """Take a row of the tape as it comes, before it is carried out; what strikes is played.

        Raises:
            BaseException: what a fault raises.
        """
        self.take(now, event, commands)
        if self._phases[MERGE]:
            for command in commands:
                if type(command) is Merge:
                    self._strike(MERGE, command.version)

    def play(self, acts: Iterable[Act]) -> None:
        """Have done what is to be done now, in this thread.

        Raises:
            BaseException: what a fault raises.
        """
        for each in acts:
            if self.plays and not (isinstance(each, Kill) and each.life != self.life):
                each.act()

    def save(self) -> None:
        """A save is half-way; what strikes it there does so now.

        Raises:
            BaseException: what a fault raises.
        """
        self._saves += 1
        self._strike(SAVE, self._saves)

    def _strike(self, phase: str, number: int) -> None:
        for fault in self._phases[phase]:
            times = fault.times if isinstance(fault, SaveFails) else 1
            if fault.nth <= number < fault.nth + times:
                self.play([fault])

    def _finished(self, now: float, event: DeltaReady | WorkerDone) -> None:
        start = self._running.get(event.worker)
        if start is None or start.token != event.token:
            self._arrived(lambda each: each == event or _is_push(each, event.token))
            return
        del self._running[event.worker]
        fate = self._over(start, now)
        for seconds in fate.again:
            self._comes(now + seconds, event)

    def _lost(self, now: float, worker: int) -> None:
        start = self._running.pop(worker, None)
        self._entering.discard(worker)
        fate = FINE if start is None else self._over(start, now)
        self._hung.discard(worker)
        if start is not None and fate.lost:
            if fate.late is not None:
                self._comes(now + fate.late, start.finished())
            if fate.back_after is not None:
                self._comes(now + fate.back_after, WorkerJoined(worker))

    def _over(self, start: StartClock, now: float) -> Fate:
        """What became of a clock that is over."""
        # Who asks while it plays has been told already what struck it at a time.
        fate = self._fates.get(start.token, FINE) if self.plays else self.of(start, now)
        self._fates.pop(start.token, None)
        self._struck.pop(start.token, None)
        return fate

    def _cancelled(self, now: float, cancel: Cancel) -> None:
        start = self._running.pop(cancel.worker)
        fate = self._fates.pop(start.token, FINE)
        if start.token in self._struck:  # which it is not any more: the next clock is
            struck, before = self._struck.pop(start.token)
            self._timed[cancel.worker][:0] = [each for each in struck if each.worker is not None]
            self._of_process += [each for each in struck if each.worker is None]
            self._of_process.sort(key=_when)
            if fate.hangs and not before.hangs:
                self._hung.discard(cancel.worker)
            fate = before
        if fate.late is not None:
            self._comes(now + fate.late, start.finished())

    def _start(self, start: StartClock) -> None:
        worker, where = start.worker, (start.worker, start.clock)
        self._running[worker] = start
        self._times[where] += 1
        faults = self._in_clock.get((*where, self._times[where]), ())
        if worker in self._entering:
            self._entering.remove(worker)
            faults = (*self._at_join.get((worker, self._joined[worker]), ()), *faults)
        fate = Fate(hangs=STEP) if worker in self._hung else FINE
        fate = self._changed(fate, faults)
        if fate.hangs:
            self._hung.add(worker)
        if fate is not FINE:
            self._fates[start.token] = fate

    def _changed(self, fate: Fate, faults: Iterable[Fault]) -> Fate:
        for fault in faults:
            fate = fault.change(fate)
        return fate

    # What it says.

    def of(self, start: StartClock, until: float | None = None) -> Fate:
        """What becomes of a clock that is started; any thread may ask.

        Args:
            start: which.
            until: when it ends (seconds), to know of what strikes at a time, too; None if that is
                not known.
        """
        fate = self._fates.get(start.token, FINE)
        if until is None or fate.lost or fate.hangs:
            return fate
        mine = _until(until, self._timed.get(start.worker, []))
        struck = [*mine, *_until(until, self._of_process)]
        if struck:
            self._struck.setdefault(start.token, ([], fate))[0].extend(struck)
            fate = self._fates[start.token] = self._changed(fate, struck)
            if fate.hangs:
                self._hung.add(start.worker)
        return fate

    def coming(self) -> tuple[float, Event] | None:
        """What happens next of itself, and when (seconds); it stays until it has been taken."""
        coming = self._coming
        return (coming[0][0], coming[0][2]) if coming else None

    @property
    def awaits(self) -> bool:
        """Whether a worker that is lost is to come again."""
        return any(type(event) is WorkerJoined for _, _, event in self._coming)

    # What is to come.

    def _comes(self, when: float, event: Event) -> None:
        self._count += 1
        heapq.heappush(self._coming, (when, self._count, event))

    def _arrived(self, is_it: Any) -> None:
        """What was to come has come, or will not any more."""
        for number, (_, _, event) in enumerate(self._coming):
            if is_it(event):
                del self._coming[number]
                heapq.heapify(self._coming)
                return


def _when(fault: Fault) -> float:
    """When it strikes (seconds); 0 where it strikes no moment."""
    return fault.at or 0.0


def _until(when: float, timed: list[Fault]) -> list[Fault]:
    """Take those out that strike until then; they are in the order of their times."""
    found: list[Fault] = []
    while timed and timed[0].at is not None and timed[0].at <= when:
        found.append(timed.pop(0))
    return found


def _is_push(event: Event, token: Token) -> bool:
    return type(event) is DeltaReady and event.token == token


NO_FATES = Fates()


def fates_of(faults: Iterable[Fault | Schedule], num_workers: int) -> Fates:
    """What faults make of the clocks of a run with so many workers."""
    return Fates(expanded(faults, num_workers))
