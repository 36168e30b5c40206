"""The clauses of the contract, checked without asking the controller.

The clauses (bound s; a delta computed in clock c is stamped c):

1. *Bounded lag.* A worker starts clock c only when every live worker has finished c - s clocks.
   Before it starts a clock granted ahead, a worker may have run a few steps of it, and no more
   than it has.
2. *Bounded staleness of reads.* The version read in clock c covers c - s: it contains every delta
   stamped below c - s of every live worker; and the version read is the one that was granted. No
   delta is merged that is staler than the policy allows. Where the parameters are in fragments,
   this holds of each as it is adopted: all of them, or the one that the worker pushed last.
3. *Read-my-writes.* What a worker reads contains all its own deltas but the dropped ones: those
   that the version lacks have the weight of a delta that is merged alone. Where the policy says so,
   it reads none that the version lacks, or starts no clock before all of its own are settled.
4. *Nothing lost, nothing twice.* Each pushed delta is merged once, or dropped once with a reason,
   and is merged with the staleness, the lag and the weight that it has. A clock may be cancelled,
   with a reason, while it runs and no delta of its worker waits; nothing is pushed of it. A push
   whose token is not the one that its worker runs under is late: it is fenced, and that is all. A
   clock has fewer steps than were granted only where its worker's data ends: it is the last, but
   for one of a single step (an incomplete batch). A term follows the one before it, grants count
   on over all of them, and a push of an older term is late whatever its number, unless its worker
   runs under it. A delta that is not finite is dropped at once, and its worker adopts anew.
5. *Liveness.* While a live worker has clocks to do, one runs or a timer is set. A clock granted
   ahead is the next that its worker starts; only a loss or the run's end voids a grant. Nobody
   starts after the end of a run, but where it is resumed.

Nothing here is taken from the controller.
"""

from __future__ import annotations

from collections.abc import Sequence

from jax_ssp.controller.commands import (
    NOT_FINITE,
    Cancel,
    Command,
    Drop,
    Fence,
    Merge,
    SetTimer,
    StartAhead,
    StartClock,
    StopWorker,
)
from jax_ssp.controller.contract.incarnations import Incarnation
from jax_ssp.controller.contract.report import ContractReport
from jax_ssp.controller.contract.settling import Settling
from jax_ssp.controller.contract.starts import Starts
from jax_ssp.controller.events import (
    DeltaReady,
    Event,
    Resumed,
    StopRequested,
    TimerFired,
    WorkerDone,
    WorkerJoined,
    WorkerLost,
)
from jax_ssp.controller.facts import Facts

_AGES = 1e9  # seconds, thirty years: a timer further off keeps nobody alive


class Clauses(Starts, Settling):
    """Takes a tape's rows one by one; raises at the first that breaks a clause."""

    def entry(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        if not now >= self.now:
            raise self._violation(4, f"time runs backwards from {self.now}")
        self.now = now
        match event:
            case WorkerJoined(worker, donor):
                self._see_donor(event, donor)
                self._joined(worker)
            case DeltaReady() | WorkerDone():
                if self._is_late(event):
                    self._fenced(event, commands)
                    return
                if isinstance(event, WorkerDone):
                    self._done(event)
                else:
                    self._pushed(event, commands)
            case WorkerLost(worker):
                gone = self._lost(worker)
                self._see_dropped(event, gone, commands)
            case TimerFired(at):
                if at != self.timer or now < at:
                    raise self._violation(5, f"{event}, but the timer is set to {self.timer}")
                self.timer = None
            case StopRequested():
                self.ending = True
            case Resumed():
                self._resumed(event)
        self._see_coverage()
        for command in commands:
            match command:
                case StartClock():
                    self._started(command)
                case StartAhead():
                    self._granted(command)
                case Merge():
                    self._merge(command)
                case Drop():
                    self._drop(command)
                case Cancel():
                    self._cancel(command)
                case Fence():
                    raise self._violation(4, f"{command}, but {event} is not late")
                case SetTimer(at):
                    self.timer = at
                case StopWorker(worker):
                    self._stopped(worker, command)
        self._see_alive(event)

    def _see_alive(self, event: Event) -> None:
        """Somebody runs, or a timer comes; or all have done what there is to do."""
        comes = self.timer is not None and self.timer - self.now <= _AGES
        if not (self.running or comes or self.unfinished == 0):
            timer = "no timer is set" if self.timer is None else f"the timer is at {self.timer}"
            raise self._violation(5, f"nobody runs and {timer} after {event}")
        if self.pushed and self.running == self.unfinished == 0:
            raise self._violation(4, f"{min(self.pushed)} was never settled, and all are done")

    def end(self, complete: bool) -> None:
        """The tape is over; a complete one leaves nobody at work, and nothing under way."""
        if not complete:
            return
        if self.unfinished:
            raise self._violation(5, f"the run ends, but {self.unfinished} workers have not")
        lost = next(iter(self.pushed), None)
        if lost is not None:
            raise self._violation(4, f"delta (worker, clock) {lost} was never settled")

    def report(self, facts: Facts, complete: bool, recomputed: bool) -> ContractReport:
        """The figures found."""
        merged = self.totals[self.version]
        return ContractReport(
            bound=self.bound,
            reads=self.reads,
            ahead=self.ahead,
            max_start_lag=self.max_start_lag,
            max_lag=self.max_lag,
            max_staleness=self.max_staleness,
            mean_staleness=self.total_staleness / max(1, merged.updates),
            staleness_bound=self.staleness_bound,
            merged=merged.updates,
            steps=merged.steps,
            samples=merged.samples,
            dropped=self.dropped,
            cancelled=self.cancelled,
            late=self.late,
            in_flight=len(self.pushed),
            versions=self.version,
            complete=complete,
            policy=None if facts.policy is None else repr(facts.policy),
            recomputed=recomputed,
        )

    def _joined(self, worker: int) -> None:
        if worker in self.live or worker < 0:
            raise self._violation(4, f"worker {worker} joins twice, or is nobody")
        at = max(self._min_clock(), self.left.get(worker, 0))
        self.live[worker] = Incarnation(at)
        self._see_workers(worker + 1)
        self.finished.put(worker, at)
        self.settled.put(worker, at)
        self.unfinished += 1

    def _see_donor(self, event: WorkerJoined, donor: int | None) -> None:
        """Who gives its state is here, and has one: it has finished a clock since it joined."""
        if donor is None:
            return
        giver = self.live.get(donor)
        if giver is None or self.finished.of[donor] == giver.entered:
            raise self._violation(4, f"{event}, but the donor has finished no clock, or is gone")

    def _lost(self, worker: int) -> Incarnation:
        if worker not in self.live:
            raise self._violation(4, f"worker {worker} is lost but not here")
        self.floor = self._min_clock()
        incarnation = self.live.pop(worker)
        self.running -= incarnation.running is not None
        self.unfinished -= not incarnation.stopped
        self.left[worker] = self.finished.of.pop(worker)
        del self.settled.of[worker]
        return incarnation

    def _see_dropped(
        self, event: WorkerLost, gone: Incarnation, commands: Sequence[Command]
    ) -> None:
        """What a worker has pushed that is lost with it is dropped at once."""
        dropped = {(each.worker, each.clock) for each in commands if isinstance(each, Drop)}
        its = (key for key, (_, by) in self.pushed.items() if by is gone)
        kept = next((key for key in its if key not in dropped), None)
        if event.drops and kept is not None:
            raise self._violation(4, f"{event}, but {kept} is not dropped")

    def _done(self, event: WorkerDone) -> None:
        start = self.live[event.worker].running
        assert start is not None
        if start.clock != event.clock:
            raise self._violation(4, f"{event}, but that clock was not started")
        self._lost(event.worker)

    def _resumed(self, event: Resumed) -> None:
        """A term begins: the run goes on, unless its ends leave it nothing to do."""
        term, clocks, *totals = event
        if term != self.term + 1:
            raise self._violation(4, f"{event} in term {self.term}")
        self.term, self.first, self.clocks = term, self.grants, clocks
        found = zip(self.totals[self.version][:3], totals, strict=True)
        self.ending = any(most is not None and merged >= most for merged, most in found)
        for worker, incarnation in self.live.items():
            left = clocks is None or self.finished.of[worker] < clocks
            if incarnation.stopped and left and not self.ending:
                incarnation.stopped = False
                incarnation.held = -1
                incarnation.adopted = None
                self.unfinished += 1

    def _is_late(self, event: DeltaReady | WorkerDone) -> bool:
        incarnation = self.live.get(event.worker)
        return (
            incarnation is None
            or incarnation.running is None
            or incarnation.running.token != event.token
        )

    def _fenced(self, event: DeltaReady | WorkerDone, commands: Sequence[Command]) -> None:
        """What is late, of which nothing may follow."""
        token = event.token
        issued = range(self.first, self.grants)
        of_before = 0 <= token.term < self.term and token.grant >= 0
        if not (of_before or (token.term == self.term and token.grant in issued)):
            raise self._violation(4, f"{event}, but that clock was not started")
        if isinstance(event, DeltaReady) and min(event.version, *_counts(event)) < 0:
            raise self._violation(4, f"{event} reports what cannot be")
        if list(commands) != [Fence(event.worker, event.clock, event.token)]:
            raise self._violation(4, f"{event} is late, but not fenced: {commands}")
        self.late += isinstance(event, DeltaReady)

    def _pushed(self, event: DeltaReady, commands: Sequence[Command]) -> None:
        worker, clock, version = event.worker, event.clock, event.version
        incarnation = self.live[worker]
        start = incarnation.running
        assert start is not None
        if incarnation.short > 1 or (incarnation.short and event.steps > 1):
            raise self._violation(4, f"{event}, but its worker's data had ended before")
        if start.clock != clock:
            raise self._violation(4, f"{event}, but that clock was not started")
        if version != start.version:
            raise self._violation(2, f"{event}, but it was granted {start.version}")
        incarnation.short += event.steps < start.local_steps
        if not 1 <= event.steps <= start.local_steps or min(_counts(event)) < 0:
            raise self._violation(4, f"{event}, but it was to make {start.local_steps} steps")
        incarnation.running = None
        self.running -= 1
        self.pushed[worker, clock] = (event, incarnation)
        incarnation.log.append((clock, None))
        if incarnation.adopted is not None:
            incarnation.bases[clock] = incarnation.adopted[clock % self.fragments]
        self.finished.put(worker, clock + 1)
        self.max_lag = max(self.max_lag, clock + 1 - self._min_clock())
        if not event.finite:
            drop = Drop(worker, clock, NOT_FINITE, event.token)
            if list(commands[:1]) != [drop]:
                raise self._violation(4, f"{event} is not finite, but not dropped at once")
            incarnation.held = -1
            incarnation.adopted = None


def _counts(push: DeltaReady) -> tuple[int, int, int]:
    """What a push reports that cannot be below zero."""
    return push.steps, push.samples, push.tokens
