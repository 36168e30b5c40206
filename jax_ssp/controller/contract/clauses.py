"""The clauses of the contract, checked without asking the controller.

The clauses (bound s; a delta computed in clock c is stamped c):

1. *Bounded lag.* A worker starts clock c only when every live worker has finished c - s clocks.
   Before it starts a clock granted ahead, a worker may have run a few steps of it, and no more
   than it has.
2. *Bounded staleness of reads.* The version read in clock c covers c - s: it contains every delta
   stamped below c - s of every live worker; and the version read is the one that was granted. No
   delta is merged that is staler than the policy allows.
3. *Read-my-writes.* What a worker reads contains all its own deltas but the dropped ones: those
   that the version lacks have the weight of a delta that is merged alone. Where the policy says so,
   it reads none that the version lacks, or starts no clock before all of its own are settled.
4. *Nothing lost, nothing twice.* Each pushed delta is merged once, or dropped once with a reason,
   and is merged with the staleness, the lag and the weight that it has. A clock may be cancelled,
   with a reason, while it runs and no delta of its worker waits; nothing is pushed of it. A push
   whose token is not the one that its worker runs under is late: it is fenced, and that is all. A
   clock has fewer steps than were granted only where its worker's data ends: it is the last, but
   for one of a single step (an incomplete batch).
5. *Liveness.* While a live worker has clocks to do, one runs or a timer is set. A clock granted
   ahead is the next that its worker starts; only a loss or the run's end voids a grant.

Nothing here is taken from the controller: minima come from heaps with lazy deletion (the controller
counts), membership of a delta in a version from the log of merges (the controller keeps counters).
"""

from __future__ import annotations

from collections.abc import Sequence

from jax_ssp.controller.commands import (
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
from jax_ssp.controller.contract.report import ContractReport
from jax_ssp.controller.contract.stays import Smallest, Stay
from jax_ssp.controller.errors import ContractViolation
from jax_ssp.controller.events import (
    DeltaReady,
    Event,
    StopRequested,
    TimerFired,
    Token,
    WorkerDone,
    WorkerJoined,
    WorkerLost,
)
from jax_ssp.controller.facts import Facts
from jax_ssp.controller.weight import Weight, weight_of


def violation(clause: int, now: float, what: str) -> ContractViolation:
    """A breach of a clause at a time (seconds), in a line that can be read."""
    what = what if len(what) <= _LONGEST else f"{what[:_LONGEST]} ..."
    return ContractViolation(f"clause {clause} broken at {now} s: {what}.")


_LONGEST = 600  # characters
_AGES = 1e9  # seconds, thirty years: a timer further off keeps nobody alive


class Clauses:
    """Takes a tape's rows one by one; raises at the first that breaks a clause."""

    def __init__(self, facts: Facts) -> None:
        self.bound = facts.bound
        self.staleness_bound = facts.max_staleness
        self.reads_own = facts.reads_own
        self.waits_for_own = facts.waits_for_own
        self.weight: Weight | None = facts.weight
        self.grants = 0  # tokens issued
        self.now = float("-inf")
        self.stays: dict[int, Stay] = {}
        self.finished = Smallest()
        self.settled = Smallest()
        self.left: dict[int, int] = {}
        self.floor = 0
        self.version = 0
        self.coverage = [0]  # of each version, when last seen as the newest
        # Not settled, by (worker, clock): base, stay and token.
        self.pushed: dict[tuple[int, int], tuple[int, Stay, Token]] = {}
        self.running = 0
        self.unfinished = 0
        self.timer: float | None = None
        self.ending = False
        self.reads = self.ahead = self.merged = self.dropped = self.total_staleness = 0
        self.cancelled = self.late = 0
        self.max_start_lag = self.max_lag = self.max_staleness = 0

    def entry(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        if not now >= self.now:
            raise self._violation(4, f"time runs backwards from {self.now}")
        self.now = now
        match event:
            case WorkerJoined(worker):
                self._joined(worker)
            case DeltaReady() | WorkerDone():
                if self._is_late(event):
                    self._fenced(event, commands)
                    return
                if isinstance(event, WorkerDone):
                    self._done(event)
                else:
                    self._pushed(event)
            case WorkerLost(worker):
                self._lost(worker)
            case TimerFired(at):
                if at != self.timer or now < at:
                    raise self._violation(5, f"{event}, but the timer is set to {self.timer}")
                self.timer = None
            case StopRequested():
                self.ending = True
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
        comes = self.timer is not None and self.timer - now <= _AGES
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
        return ContractReport(
            bound=self.bound,
            reads=self.reads,
            ahead=self.ahead,
            max_start_lag=self.max_start_lag,
            max_lag=self.max_lag,
            max_staleness=self.max_staleness,
            mean_staleness=self.total_staleness / max(1, self.merged),
            staleness_bound=self.staleness_bound,
            merged=self.merged,
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
        if worker in self.stays or worker < 0:
            raise self._violation(4, f"worker {worker} joins twice, or is nobody")
        at = max(self._min_clock(), self.left.get(worker, 0))
        self.stays[worker] = Stay()
        self.finished.put(worker, at)
        self.settled.put(worker, at)
        self.unfinished += 1

    def _lost(self, worker: int) -> None:
        if worker not in self.stays:
            raise self._violation(4, f"worker {worker} is lost but not here")
        self.floor = self._min_clock()
        stay = self.stays.pop(worker)
        self.running -= stay.running is not None
        self.unfinished -= not stay.stopped
        self.left[worker] = self.finished.of.pop(worker)
        del self.settled.of[worker]

    def _done(self, event: WorkerDone) -> None:
        start = self.stays[event.worker].running
        assert start is not None
        if start.clock != event.clock:
            raise self._violation(4, f"{event}, but that clock was not started")
        self._lost(event.worker)

    def _is_late(self, event: DeltaReady | WorkerDone) -> bool:
        stay = self.stays.get(event.worker)
        return stay is None or stay.running is None or stay.running.token != event.token

    def _fenced(self, event: DeltaReady | WorkerDone, commands: Sequence[Command]) -> None:
        """What is late, of which nothing may follow."""
        token = event.token
        if token.term != 0 or not 0 <= token.grant < self.grants:
            raise self._violation(4, f"{event}, but that clock was not started")
        if isinstance(event, DeltaReady) and min(event.version, event.steps, event.samples) < 0:
            raise self._violation(4, f"{event} reports what cannot be")
        if list(commands) != [Fence(event.worker, event.clock, event.token)]:
            raise self._violation(4, f"{event} is late, but not fenced: {commands}")
        self.late += isinstance(event, DeltaReady)

    def _pushed(self, event: DeltaReady) -> None:
        worker, clock, version = event.worker, event.clock, event.version
        stay = self.stays[worker]
        start = stay.running
        assert start is not None
        if stay.short > 1 or (stay.short and event.steps > 1):
            raise self._violation(4, f"{event}, but its worker's data had ended before")
        if start.clock != clock:
            raise self._violation(4, f"{event}, but that clock was not started")
        if version != start.version:
            raise self._violation(2, f"{event}, but it was granted {start.version}")
        stay.short += event.steps < start.local_steps
        if not 1 <= event.steps <= start.local_steps or event.samples < 0:
            raise self._violation(4, f"{event}, but it was to make {start.local_steps} steps")
        stay.running = None
        self.running -= 1
        self.pushed[worker, clock] = (version, stay, event.token)
        stay.log.append((clock, None))
        self.finished.put(worker, clock + 1)
        self.max_lag = max(self.max_lag, clock + 1 - self._min_clock())

    def _started(self, start: StartClock) -> None:
        worker, clock, version = start.worker, start.clock, start.version
        stay = self.stays.get(worker)
        if stay is None or stay.running is not None or stay.stopped:
            raise self._violation(1, f"{start}, but the worker is not waiting")
        finished = self.finished.of[worker]
        if clock != finished:
            raise self._violation(1, f"{start}, but it has finished {finished} clocks")
        if stay.ahead is not None and stay.ahead.local_steps > start.local_steps:
            raise self._violation(1, f"{start}, but it was granted {stay.ahead}")
        if start.num_workers != len(self.stays) or start.local_steps < 1:
            raise self._violation(3, f"{start}: there are {len(self.stays)} workers")
        if not 0 <= version <= self.version:
            raise self._violation(2, f"{start}: no such version")
        self._gate(start)
        unread: list[int] = []
        for stamp, merged_in in reversed(stay.log if self.reads_own else ()):
            if merged_in is not None and merged_in <= version:
                break
            unread.append(stamp)
        own = tuple(reversed(unread))
        if self.waits_for_own and stay.log and stay.log[-1][1] is None:
            raise self._violation(3, f"{start}, but its own delta {stay.log[-1][0]} waits still")
        if start.pending != own:
            raise self._violation(3, f"{start}, but it is to have its own deltas {own}")
        if self.weight is not None and start.weight != weight_of(self.weight, start.num_workers):
            weight = weight_of(self.weight, start.num_workers)
            raise self._violation(3, f"{start}, but a delta merged alone has the weight {weight}")
        if version not in (self.version, stay.held):
            raise self._violation(2, f"{start}: neither the newest, {self.version}, nor held")
        if start.token != Token(0, self.grants):
            raise self._violation(4, f"{start}, but the token is number {self.grants} of term 0")
        self.grants += 1
        stay.held = version
        stay.running = start
        stay.ahead = None
        self.running += 1
        self.reads += 1

    def _granted(self, ahead: StartAhead) -> None:
        worker, clock, local_steps = ahead.worker, ahead.clock, ahead.local_steps
        stay = self.stays.get(worker)
        if stay is None or stay.running is None or stay.running.clock != clock - 1:
            raise self._violation(1, f"{ahead}, but the worker does not run clock {clock - 1}")
        if stay.ahead is not None:
            raise self._violation(1, f"{ahead}, but it was granted {stay.ahead}")
        if local_steps < 1:
            raise self._violation(3, f"{ahead}: there are no steps")
        self._not_ending(ahead)
        stay.ahead = ahead
        self.ahead += 1

    def _not_ending(self, command: StartClock | StartAhead) -> None:
        if self.ending:
            raise self._violation(5, f"{command}, but the run is ending")

    def _gate(self, start: StartClock) -> None:
        """What has to be so when a clock is started."""
        self._not_ending(start)
        low = self._min_clock()
        self.max_start_lag = max(self.max_start_lag, start.clock - low)
        if self.bound is None:
            return
        needed = start.clock - self.bound
        if low < needed:
            raise self._violation(1, f"{start}, but a live worker has finished only {low}")
        covers = self.coverage[start.version]
        if covers < needed:
            raise self._violation(2, f"{start}: version {start.version} covers {covers} < {needed}")

    def _stopped(self, worker: int, command: StopWorker) -> None:
        stay = self.stays.get(worker)
        if stay is None or stay.running is not None or stay.stopped:
            raise self._violation(5, f"{command}, but the worker is not waiting")
        if stay.ahead is not None:  # that it is void says that the run ends: nobody starts after it
            self.ending = True
            stay.ahead = None
        self.unfinished -= 1
        stay.stopped = True

    def _merge(self, merge: Merge) -> None:
        if merge.version != self.version + 1:
            raise self._violation(4, f"{merge} after {self.version}")
        if not merge.deltas:
            raise self._violation(4, f"{merge} of nothing")
        settled = [
            self._settle(delta.worker, delta.clock, delta.token, merge) for delta in merge.deltas
        ]
        lost = {id(stay) for worker, _, stay in settled if self.stays.get(worker) is not stay}
        workers = len(self.stays) + len(lost)
        if merge.num_workers != workers:
            raise self._violation(4, f"{merge}: there are {workers} workers")
        weight = None
        if self.weight is not None:
            weight = weight_of(self.weight, workers, len(settled))
        for delta, (worker, base, stay) in zip(merge.deltas, settled, strict=True):
            staleness = self.version - base
            here = self.stays.get(worker) is stay
            lag = self.finished.of[worker] - self._min_clock() if here else 0
            told = (delta.base, delta.staleness, delta.lag, delta.weight)
            found = (base, staleness, lag, delta.weight if weight is None else weight)
            if told != found:
                raise self._violation(4, f"{delta}: base, staleness, lag, weight are {found}")
            if self.staleness_bound is not None and staleness > self.staleness_bound:
                raise self._violation(2, f"{delta}: allowed are {self.staleness_bound}")
            self.merged += 1
            self.total_staleness += staleness
            self.max_staleness = max(self.max_staleness, staleness)
        self.version += 1
        self.coverage.append(0)
        self._see_coverage()

    def _drop(self, drop: Drop) -> None:
        if not drop.reason:
            raise self._violation(4, f"{drop} has no reason")
        self._settle(drop.worker, drop.clock, drop.token, drop)
        self._see_coverage()
        self.dropped += 1

    def _cancel(self, cancel: Cancel) -> None:
        worker, clock = cancel.worker, cancel.clock
        stay = self.stays.get(worker)
        running = stay and stay.running
        told = (clock, cancel.token)
        if stay is None or running is None or told != (running.clock, running.token) or stay.ahead:
            raise self._violation(4, f"{cancel}, but the worker does not run that clock alone")
        if not cancel.reason:
            raise self._violation(4, f"{cancel} has no reason")
        if stay.log and stay.log[-1][1] is None:
            raise self._violation(4, f"{cancel}, but an earlier delta waits")
        stay.running = None
        stay.held = -1
        self.running -= 1
        self.finished.put(worker, clock + 1)
        self.settled.put(worker, clock + 1)
        self.max_lag = max(self.max_lag, clock + 1 - self._min_clock())
        self._see_coverage()
        self.cancelled += 1

    def _settle(
        self, worker: int, clock: int, token: Token, command: Merge | Drop
    ) -> tuple[int, int, Stay]:
        """Take a delta off the list of those under way; gives its worker, its base and the stay."""
        found = self.pushed.pop((worker, clock), None)
        if found is None or found[2] != token:
            raise self._violation(4, f"{command}: ({worker}, {clock}) is not under way")
        base, stay, _ = found
        if self.stays.get(worker) is stay:
            log = stay.log
            at = len(log) - 1
            while log[at][0] != clock:
                at -= 1
            if at > 0 and log[at - 1][1] is None:
                raise self._violation(4, f"{command}: ({worker}, {clock}) overtakes its own")
            if isinstance(command, Merge):
                log[at] = (clock, command.version)
            else:
                del log[at]
            self.settled.put(worker, clock + 1)
        return worker, base, stay

    def _see_coverage(self) -> None:
        if self.stays:
            self.coverage[self.version] = self.settled.value()

    def _min_clock(self) -> int:
        self.floor = max(self.floor, self.finished.value())
        return self.floor

    def _violation(self, clause: int, what: str) -> ContractViolation:
        return violation(clause, self.now, what)
