"""What is pushed and not settled yet, and how it is settled: merged, dropped, or never computed.

Rule 2 of the controller. The policy decides; what it may decide is checked here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

from jax_ssp.controller.commands import (
    NOT_FINITE,
    Cancel,
    Command,
    Drop,
    Merged,
    SetTimer,
    new_merge,
    new_merged,
)
from jax_ssp.controller.ends import Ends
from jax_ssp.controller.errors import PolicyError
from jax_ssp.controller.events import DeltaReady, Event, WorkerLost
from jax_ssp.controller.fragments import by_fragment, pushed_in
from jax_ssp.controller.roster import Member, Roster
from jax_ssp.controller.weight import Weight, weights_of
from jax_ssp.policies.base import Policy, merges_on_arrival
from jax_ssp.policies.decision import Decision
from jax_ssp.policies.schedules import LocalSteps
from jax_ssp.policies.view import Delta, Pushed
from jax_ssp.records import is_number

_FAR_TOO_MANY = 64  # times what a policy usually merges, left in the buffer


class Buffer(Roster):
    """The pushed deltas of a run that are neither merged nor dropped.

    Args:
        policy: decides what becomes of them.
        ends: the counts that end the run.
        weight: the rule of weights.
        schedule: of the local steps, where the policy has no rule of its own.
        round_samples: examples of one synchronous step of all workers; 0 where nothing is computed.
        fragments: of the parameters; see `fragments.py`.

    Attributes:
        policy: the run's own copy.
        buffered: the deltas, in the order in which they came.
    """

    __slots__ = (
        "_at_once",
        "_buffer",
        "_by_total",
        "_ends",
        "_fragments",
        "_full",
        "_listeners",
        "_merged",
        "_round_samples",
        "_schedule",
        "_timer",
        "_weight",
        "buffered",
        "policy",
    )

    def __init__(
        self,
        policy: Policy,
        ends: Ends,
        weight: Weight,
        schedule: LocalSteps,
        round_samples: int,
        fragments: int,
    ) -> None:
        super().__init__(merges_on_arrival(policy), ends.num_clocks)
        self.policy = policy
        self._weight: Weight = weight
        self._schedule = schedule
        self._ends = ends
        self._by_total = ends.by_total
        self._full = False  # whether the run has ended because of a total
        self._round_samples = round_samples
        self._fragments = fragments
        # Whether a delta is merged as it comes, without being buffered; not once the run is full.
        self._at_once = self._on_arrival and fragments == 1
        self._merged = [0] * fragments  # how many versions have merged each
        # Who pushed it, the push, and how many versions had merged its fragment at its base.
        self._buffer: dict[Delta, tuple[Member, DeltaReady, int]] = {}
        self.buffered: Collection[Delta] = self._buffer.keys()
        self._timer: float | None = None
        self._listeners: list[Policy | LocalSteps] = []  # who wants to hear of every push
        if type(policy).pushed is not Policy.pushed:
            self._listeners.append(policy)
        if type(schedule).pushed is not LocalSteps.pushed:
            self._listeners.append(schedule)

    def scheduled_steps(self, worker: int) -> int:
        return self._schedule.steps(self, worker)

    def round_at(self, samples: int) -> int:
        """The round of a version in which so many examples are merged."""
        return samples // self._round_samples if self._round_samples else 0

    def staleness(self, delta: Delta) -> int:
        if self._fragments == 1:
            return self.version - delta.version
        return self._merged[pushed_in(delta.clock, self._fragments)] - self._buffer[delta][2]

    def report(self, delta: Delta) -> Pushed:
        owner, push, _ = self._buffer[delta]
        stay, staleness = delta.clock - owner.entered, self.staleness(delta)
        return Pushed(*delta, staleness, push.steps, push.samples, push.tokens, stay, owner.joined)

    def _measured(self, record: Member, push: DeltaReady) -> tuple[Delta, int]:
        """A delta with its base, and how many versions had merged its fragment by then."""
        worker, clock, base = push[:3]
        if self._fragments == 1:
            return Delta(worker, clock, base), 0
        assert record.bases is not None, "who has run a clock has adopted"
        base, mark = record.bases[pushed_in(clock, self._fragments)]
        return Delta(worker, clock, base), mark

    def waiting_of(self, worker: int) -> tuple[int, ...]:
        """The stamps of what a worker has pushed, here or gone, that waits to be settled."""
        return tuple([delta.clock for delta in self._buffer if delta.worker == worker])

    @property
    def ends(self) -> Ends:
        """The counts that end the run."""
        return self._ends

    @property
    def done(self) -> bool:
        """Nobody runs, nobody waits, nothing is buffered."""
        return not (self._running or self._waiting or self._buffer)

    def _settle(self, commands: list[Command]) -> Sequence[Member]:
        """Do what the policy wants done with the buffer; gives the workers that it cancels."""
        wake: float | None = None
        cancelled: list[Member] = []
        while self._buffer and not self._full:
            decision: Any = self.policy.ready(self)
            if not isinstance(decision, Decision):
                raise PolicyError(f"{self.policy} gives {decision!r}, not a `Decision`.")
            merge, drop, reason, wake, cancel = decision
            before = len(self._buffer)
            if drop:
                self._drop(drop, reason, commands)
            if merge:
                self._merge(merge, commands)
            for worker in cancel:
                cancelled.append(self._cancel(worker, reason, commands))
            if len(self._buffer) == before:
                if before > _FAR_TOO_MANY and wake is None:
                    self._check_not_stuck()
                break
        if self._full:
            self._drop(tuple(self._buffer), f"the run has ended by {self.ended}", commands)
            wake = None
        if wake != self._timer:
            if wake is not None and not math.isfinite(wake):
                raise PolicyError(f"{self.policy} wants to be woken at {wake}.")
            self._timer = None if wake is None else float(wake)
            commands.append(SetTimer(self._timer))
        return cancelled

    def _check_not_stuck(self) -> None:
        """A run that merges nothing would never come to its `max_updates`, and fill the memory."""
        usual = max(self.policy.usual_merge(self.num_workers), self.num_workers, 1)
        if len(self._buffer) > _FAR_TOO_MANY * usual:
            raise PolicyError(
                f"{self.policy} settles none of {len(self._buffer)} buffered deltas, where "
                f"{usual} are usual. If it is to merge so many, let its `usual_merge` say so."
            )

    def _merge(self, deltas: Sequence[Delta], commands: list[Command]) -> None:
        gives = self.policy.gives_weights
        reports = [self.report(delta) for delta in deltas if delta in self._buffer] if gives else []
        owners = [self._take_out(delta) for delta in deltas]
        lost = {owner for owner, _, _ in owners if not self._is_live(owner)}
        num_workers = len(self._workers) + len(lost)
        together = {pushed_in(delta.clock, self._fragments) for delta in deltas}
        weights = self._weights(reports or [push for _, push, _ in owners], num_workers)
        merged: list[Merged] = []
        each = zip(deltas, weights, owners, strict=True)
        for delta, weight, (owner, push, staleness) in each:
            worker, clock, base = delta
            lag = owner.clock - self._clocks.min if self._is_live(owner) else 0
            merged.append(new_merged(worker, clock, base, staleness, lag, weight, push.token))
        self.version += 1
        for fragment in together:
            self._merged[fragment] += 1
        commands.append(new_merge(self.version, tuple(merged), num_workers, self.round))
        for _, push, _ in owners:
            self.updates += 1
            self.total_steps += push.steps
            if push.samples:
                self._count_samples(push.samples)
        self._end_if_full()

    def _weights(self, pushes: Sequence[Pushed | DeltaReady], num_workers: int) -> Sequence[float]:
        """The factor of each delta of a merge: the policy's, if it gives them, or by the rule."""
        if self._fragments > 1:
            return by_fragment(pushes, self._fragments, lambda of: self._weighed(of, num_workers))
        return self._weighed(pushes, num_workers)

    def _weighed(self, pushes: Sequence[Any], num_workers: int) -> Sequence[float]:
        given: Any = self.policy.weights(self, pushes) if self.policy.gives_weights else None
        if given is None:
            return weights_of(self._weight, num_workers, pushes)
        if len(given) != len(pushes) or not all(map(is_number, given)):
            raise PolicyError(f"{self.policy} gives {len(pushes)} deltas the weights {given}.")
        return [float(each) for each in given]

    def _count_samples(self, samples: int) -> None:
        """So many examples more are merged."""
        self.samples += samples
        self.round = self.round_at(self.samples)

    def _end_if_full(self) -> None:
        if self.ended is None:
            total = self._ends.reached(self.updates, self.total_steps, self.samples)
            if total is not None:
                self._full, self._at_once = True, False
                self._end(total)

    def _drop(self, deltas: Sequence[Delta], reason: str, commands: list[Command]) -> None:
        for delta in deltas:
            if not reason:
                raise PolicyError(f"{self.policy} drops {delta} without a reason.")
            owner, push, _ = self._take_out(delta)
            owner.unread = tuple(stamp for stamp in owner.unread if stamp != delta.clock)
            commands.append(Drop(delta.worker, delta.clock, reason, push.token))

    def _gone(self, gone: Member, event: Event, commands: list[Command]) -> None:
        """A worker is gone; what it has pushed is dropped if the event says so."""
        self._leave(gone)
        if not (type(event) is WorkerLost and event.drops):
            return
        its = [delta for delta, (owner, _, _) in self._buffer.items() if owner is gone]
        self._drop(its, "its worker was lost", commands)

    def _cancel(self, worker: int, reason: str, commands: list[Command]) -> Member:
        """End a running clock with nothing pushed."""
        record = self._workers.get(worker)
        if record is None or record.token is None:
            raise PolicyError(f"{self.policy} cancels worker {worker}, which runs no clock.")
        if record.buffered:
            raise PolicyError(f"{self.policy} cancels worker {worker}, whose deltas wait still.")
        if not reason or not self.policy.cancels:
            raise PolicyError(f"{self.policy} cancels worker {worker} unannounced, or for nothing.")
        clock, token = record.clock, record.token
        record.token = None
        record.clock = clock + 1
        record.version = record.held_coverage = -1  # so that it adopts anew
        record.bases = None
        self._running -= 1
        self._clocks.advance(clock)
        if not self._on_arrival:
            self._settled.advance(clock)
        commands.append(Cancel(worker, clock, reason, token))
        return record

    def _take_out(self, delta: Delta) -> tuple[Member, DeltaReady, int]:
        """Take a delta out; gives who pushed it, live or lost, the push, and how stale it is."""
        if delta not in self._buffer:
            raise PolicyError(f"{self.policy} settles {delta}, which is not buffered.")
        staleness = self.staleness(delta)
        owner, push, _ = self._buffer.pop(delta)
        if self._is_live(owner):
            if delta.clock != owner.settled:
                raise PolicyError(f"{self.policy} settles {delta} before an earlier one.")
            owner.buffered -= 1
            if not self._on_arrival:
                self._settled.advance(delta.clock)
                while owner.gaps and owner.gaps[0] == owner.settled:
                    self._settled.advance(owner.gaps[0])
                    owner.gaps = owner.gaps[1:]
        return owner, push, staleness

    def _drop_bad(self, owner: Member, push: DeltaReady, commands: list[Command]) -> None:
        """Drop a delta with a number that is not finite, before the policy sees it."""
        if owner.buffered and not self._on_arrival:
            owner.gaps += (push.clock,)
        elif not self._on_arrival:
            self._settled.advance(push.clock)
        owner.version = owner.held_coverage = -1  # so that it adopts anew
        owner.bases = None
        owner.unread = ()
        commands.append(Drop(push.worker, push.clock, NOT_FINITE, push.token))
