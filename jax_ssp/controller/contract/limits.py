"""What a header says that the rows must keep to: workers, steps, ends, and the policy's means.

A header made by hand may be short; what it lacks is not checked.
"""

from __future__ import annotations

from collections.abc import Sequence

from jax_ssp.controller.commands import (
    Cancel,
    Command,
    Drop,
    Merge,
    SetTimer,
    StartAhead,
    StartClock,
    StopWorker,
)
from jax_ssp.controller.contract.book import violation
from jax_ssp.controller.contract.clauses import Clauses
from jax_ssp.controller.ends import Ends
from jax_ssp.controller.errors import ContractViolation
from jax_ssp.controller.events import (
    DeltaReady,
    Event,
    Resumed,
    StopRequested,
    WorkerJoined,
    WorkerLost,
)
from jax_ssp.controller.facts import Facts


class Limits:
    """Takes a tape's rows after the clauses have; raises at the first that the header excludes."""

    def __init__(self, facts: Facts, clauses: Clauses) -> None:
        self._facts = facts
        self._clauses = clauses  # asked for the time and for finished clocks
        self._ends = facts.ends  # of the term; None where nothing says them
        self._joined: set[int] = set()
        self._stopping = False  # by a request
        self._full: str | None = None  # what is merged that ends the run

    @property
    def _ended(self) -> bool:
        return self._stopping or self._full is not None

    def entry(self, event: Event, commands: Sequence[Command]) -> None:
        facts = self._facts
        if isinstance(event, WorkerJoined):
            self._join(event.worker)
        elif isinstance(event, StopRequested):
            self._stopping = self._stopping or self._full is None
        elif isinstance(event, Resumed):
            self._resume(event, commands)
        elif isinstance(event, DeltaReady) and event.norm != 0 and not facts.may_norm:
            raise self._violation(7, f"{event}, but {facts.policy} asks for no norms")
        for command in commands:
            match command:
                case StartClock() | StartAhead():
                    self._start(command)
                case Merge():
                    self._merge(command)
                case Drop():
                    free = facts.may_choose or self._full is not None
                    if not (free or _is_due(command, event)):
                        raise self._violation(4, f"{command}, but {facts.policy} drops nothing")
                case Cancel():
                    if not facts.may_cancel:
                        raise self._violation(4, f"{command}, but {facts.policy} cancels nothing")
                case SetTimer():
                    if not facts.may_choose:
                        raise self._violation(5, f"{command}, but {facts.policy} sets no timer")
                case StopWorker(worker):
                    self._stop(worker)
                case _:
                    pass

    def end(self, complete: bool) -> None:
        """The tape is over; a complete one has come to what the header says ends it."""
        if not complete or self._ends is None or self._ended:
            return
        missing = set(range(self._facts.num_workers or 0)) - self._joined
        if missing:
            raise self._violation(5, f"the run ends, but worker {min(missing)} was never there")

    def _join(self, worker: int) -> None:
        workers = self._facts.max_workers
        if workers is not None and worker >= workers and not self._clauses.term:
            raise self._violation(7, f"worker {worker} joins, but the header says {workers}")
        self._joined.add(worker)

    def _start(self, command: StartClock | StartAhead) -> None:
        facts = self._facts
        if self._full is not None:
            raise self._violation(5, f"{command}, but {self._full} are merged")
        clocks = None if self._ends is None else self._ends.num_clocks
        if clocks is not None and command.clock >= clocks:
            raise self._violation(5, f"{command}, but each has {clocks} clocks")
        if facts.local_steps not in (None, command.local_steps):
            raise self._violation(7, f"{command}, but clocks have {facts.local_steps} steps")
        if isinstance(command, StartAhead) and facts.overlap == 0:
            raise self._violation(7, f"{command}, but there is no overlap")

    def _merge(self, merge: Merge) -> None:
        if self._full is not None:
            raise self._violation(4, f"{merge}, but {self._full} are merged")
        if not self._stopping:
            self._see_full(merge.version)

    def _see_full(self, version: int) -> None:
        """Look whether what is merged in a version ends the run."""
        if self._ends is None:
            return
        updates, steps, samples, _ = self._clauses.totals[version]
        totals = {
            "deltas": (updates, self._ends.max_updates),
            "local steps": (steps, self._ends.max_steps),
            "samples": (samples, self._ends.max_samples),
        }
        for what, (merged, most) in totals.items():
            if most is not None and merged >= most:
                self._full = f"{most} {what}"

    def _resume(self, event: Resumed, commands: Sequence[Command]) -> None:
        """The run goes on, with ends that may be others."""
        try:
            ends = Ends(*event[1:])
        except (TypeError, ValueError) as error:
            raise self._violation(5, f"{event}: {error}") from error
        clauses = self._clauses  # which know of the answer already
        version = clauses.version - sum(isinstance(command, Merge) for command in commands)
        started = {command.worker for command in commands if isinstance(command, StartClock)}
        clocks = (
            clauses.finished.of[worker] + (stay.running is not None and worker not in started)
            for worker, stay in clauses.live.items()
        )
        furthest = max((*clocks, *clauses.left.values()), default=0)
        if self._ends is not None:
            lowered = ends.lowered(self._ends, furthest, clauses.totals[version])
            if lowered is not None:
                raise self._violation(5, f"{event}, but {lowered}")
        self._ends, self._stopping, self._full = ends, False, None
        self._see_full(version)

    def _stop(self, worker: int) -> None:
        if self._ended or self._ends is None:
            return
        finished, clocks = self._clauses.finished.of[worker], self._ends.num_clocks
        if clocks is None or finished < clocks:
            raise self._violation(
                5, f"worker {worker} is stopped after {finished} clocks of {clocks} for no reason"
            )

    def _violation(self, clause: int, what: str) -> ContractViolation:
        return violation(clause, self._clauses.now, what)


def _is_due(drop: Drop, event: Event) -> bool:
    """Whether an event leads to this drop, whatever the policy."""
    if isinstance(event, DeltaReady):
        return not event.finite and event.token == drop.token
    return isinstance(event, WorkerLost) and event[::2] == (drop.worker, True)
