"""What is pushed and not settled yet, and how it is settled: merged, dropped, or never computed.

Rule 2 of the controller. The policy decides; what it may decide is checked here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

from jax_ssp.controller.commands import (
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
from jax_ssp.controller.events import DeltaReady
from jax_ssp.controller.roster import RUNNING, WAITING, Member, Roster
from jax_ssp.controller.weight import Weight, weight_of
from jax_ssp.policies.base import Policy, merges_on_arrival
from jax_ssp.policies.decision import Decision
from jax_ssp.policies.schedules import LocalSteps
from jax_ssp.policies.view import Delta

_FAR_TOO_MANY = 64  # times what a policy usually merges, left in the buffer


class Buffer(Roster):
    """The pushed deltas of a run that are neither merged nor dropped.

    Args:
        policy: decides what becomes of them.
        ends: the counts that end the run.
        weight: the rule of weights.
        schedule: of the local steps, where the policy has no rule of its own.
        round_samples: examples of one synchronous step of all workers; 0 where nothing is computed.

    Attributes:
        policy: the run's own copy.
        buffered: the deltas, in the order in which they came.
    """

    __slots__ = (
        "_buffer",
        "_by_total",
        "_ends",
        "_full",
        "_listeners",
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
    ) -> None:
        super().__init__(merges_on_arrival(policy), ends.num_clocks)
        self.policy = policy
        self._weight: Weight = weight
        self._schedule = schedule
        self._ends = ends
        self._by_total = ends.by_total
        self._full = False  # whether the run has ended because of a total
        self._round_samples = round_samples
        self._buffer: dict[Delta, tuple[Member, DeltaReady]] = {}
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
        owners = [self._take_out(delta) for delta in deltas]
        lost = {owner for owner, _ in owners if not self._is_live(owner)}
        num_workers = len(self._workers) + len(lost)
        weight = weight_of(self._weight, num_workers, len(deltas))
        merged: list[Merged] = []
        for (worker, clock, base), (owner, push) in zip(deltas, owners, strict=True):
            lag = owner.clock - self._clocks.min if self._is_live(owner) else 0
            staleness = self.version - base
            merged.append(new_merged(worker, clock, base, staleness, lag, weight, push.token))
        self.version += 1
        commands.append(new_merge(self.version, tuple(merged), num_workers, self.round))
        for _, push in owners:
            self.updates += 1
            self.total_steps += push.steps
            if push.samples:
                self._count_samples(push.samples)
        self._end_if_full()

    def _count_samples(self, samples: int) -> None:
        """So many examples more are merged."""
        self.samples += samples
        self.round = self.round_at(self.samples)

    def _end_if_full(self) -> None:
        if self.ended is None:
            total = self._ends.reached(self.updates, self.total_steps, self.samples)
            if total is not None:
                self._full = True
                self._end(total)

    def _drop(self, deltas: Sequence[Delta], reason: str, commands: list[Command]) -> None:
        for delta in deltas:
            if not reason:
                raise PolicyError(f"{self.policy} drops {delta} without a reason.")
            owner, push = self._take_out(delta)
            owner.unread = tuple(stamp for stamp in owner.unread if stamp != delta.clock)
            commands.append(Drop(delta.worker, delta.clock, reason, push.token))

    def _cancel(self, worker: int, reason: str, commands: list[Command]) -> Member:
        """End a running clock with nothing pushed."""
        record = self._workers.get(worker)
        if record is None or record.phase is not RUNNING:
            raise PolicyError(f"{self.policy} cancels worker {worker}, which runs no clock.")
        if record.buffered:
            raise PolicyError(f"{self.policy} cancels worker {worker}, whose deltas wait still.")
        if not reason or not self.policy.cancels:
            raise PolicyError(f"{self.policy} cancels worker {worker} unannounced, or for nothing.")
        clock, token = record.clock, record.token
        assert token is not None, "who runs has a token"
        record.token = None
        record.phase = WAITING
        record.clock = clock + 1
        record.version = record.held_coverage = -1  # so that it adopts anew
        self._running -= 1
        self._clocks.advance(clock)
        if not self._on_arrival:
            self._settled.advance(clock)
        commands.append(Cancel(worker, clock, reason, token))
        return record

    def _take_out(self, delta: Delta) -> tuple[Member, DeltaReady]:
        """Take a delta out of the buffer; gives who pushed it, live or lost, and the push."""
        found = self._buffer.pop(delta, None)
        if found is None:
            raise PolicyError(f"{self.policy} settles {delta}, which is not buffered.")
        owner, _ = found
        if self._is_live(owner):
            if delta.clock != owner.clock - owner.buffered:
                raise PolicyError(f"{self.policy} settles {delta} before an earlier one.")
            owner.buffered -= 1
            if not self._on_arrival:
                self._settled.advance(delta.clock)
        return found
