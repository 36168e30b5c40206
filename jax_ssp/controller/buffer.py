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
    Merge,
    Merged,
    SetTimer,
    new_merged,
)
from jax_ssp.controller.errors import PolicyError
from jax_ssp.controller.events import Token
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
        num_clocks: see `Roster`.
        max_updates: merged deltas that end the run; None for no end by them.
        weight: the rule of weights.
        schedule: of the local steps, where the policy has no rule of its own.

    Attributes:
        policy: the run's own copy.
        buffered: the deltas, in the order in which they came.
    """

    def __init__(
        self,
        policy: Policy,
        num_clocks: int | None,
        max_updates: int | None,
        weight: Weight,
        schedule: LocalSteps,
    ) -> None:
        super().__init__(merges_on_arrival(policy), num_clocks)
        self.policy = policy
        self._weight: Weight = weight
        self._schedule = schedule
        self._max_updates = max_updates
        self._full = False  # whether the run has ended because of max_updates
        self._buffer: dict[Delta, tuple[Member, Token]] = {}
        self.buffered: Collection[Delta] = self._buffer.keys()
        self._timer: float | None = None

    def scheduled_steps(self, worker: int) -> int:
        return self._schedule.steps(self, worker)

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
            self._drop(tuple(self._buffer), "the run has ended by max_updates", commands)
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
        for (worker, clock, base), (owner, token) in zip(deltas, owners, strict=True):
            lag = owner.clock - self._clocks.min if self._is_live(owner) else 0
            staleness = self.version - base
            merged.append(new_merged(worker, clock, base, staleness, lag, weight, token))
        self.version += 1
        self.updates += len(merged)
        commands.append(Merge(self.version, tuple(merged), num_workers))
        self._end_if_full()

    def _end_if_full(self) -> None:
        full = self._max_updates is not None and self.updates >= self._max_updates
        if full and self.ended is None:
            self._full = True
            self._end("max_updates")

    def _drop(self, deltas: Sequence[Delta], reason: str, commands: list[Command]) -> None:
        for delta in deltas:
            if not reason:
                raise PolicyError(f"{self.policy} drops {delta} without a reason.")
            owner, token = self._take_out(delta)
            owner.unread = tuple(stamp for stamp in owner.unread if stamp != delta.clock)
            commands.append(Drop(delta.worker, delta.clock, reason, token))

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

    def _take_out(self, delta: Delta) -> tuple[Member, Token]:
        """Take a delta out of the buffer; gives who pushed it, live or lost, and its token."""
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
