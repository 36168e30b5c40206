"""Who starts: the policy is asked, and who may not start waits until it can have changed.

Rules 3 and 5 of the controller.
"""

from __future__ import annotations

import sys
from typing import Any

from jax_ssp.controller.buffer import Buffer
from jax_ssp.controller.commands import (
    Command,
    SetTimer,
    StartClock,
    StopWorker,
    new_start_ahead,
)
from jax_ssp.controller.constructors import NEW
from jax_ssp.controller.ends import Ends
from jax_ssp.controller.errors import PolicyError
from jax_ssp.controller.events import DeltaReady, Token
from jax_ssp.controller.fragments import adopted_in
from jax_ssp.controller.roster import Member
from jax_ssp.controller.weight import Weight
from jax_ssp.policies.base import Policy
from jax_ssp.policies.decision import Wait
from jax_ssp.policies.rules import in_order
from jax_ssp.policies.schedules import Fixed, LocalSteps


class Starts(Buffer):
    """Starts, stops and lets wait the workers of a run.

    Args:
        policy, ends, weight, schedule, round_samples, fragments: see `Buffer`.
        grant_ahead: whether who is started may go on with its next clock.
        reads_own: whether workers read their own deltas while these wait, where the policy does not
            say that they do not.

    Attributes:
        term: how often the run has been resumed.
    """

    __slots__ = (
        "_admits",
        "_alone",
        "_always_adopts",
        "_bound",
        "_fixed_steps",
        "_grant_ahead",
        "_grants",
        "_keeps_own",
        "_own_steps",
        "_reads_own",
        "term",
    )

    def __init__(
        self,
        policy: Policy,
        ends: Ends,
        weight: Weight,
        schedule: LocalSteps,
        round_samples: int,
        fragments: int,
        grant_ahead: bool,
        reads_own: bool,
    ) -> None:
        super().__init__(policy, ends, weight, schedule, round_samples, fragments)
        self.term = 0
        self._grants = 0  # given so far
        self._alone = 1.0  # the weight of a delta that is merged alone
        self._grant_ahead = grant_ahead and not policy.cancels
        self._reads_own = reads_own and policy.reads_own
        # Hooks that a policy leaves as they are need not be asked: their answers are known.
        self._admits = type(policy).admit is not Policy.admit
        bound = None if self._admits else policy.admits_within
        self._bound = sys.maxsize if bound is None else bound
        self._always_adopts = policy.always_adopts
        # Whether what a worker has not read of its own must be known from clock to clock.
        self._keeps_own = self._reads_own and not self._always_adopts
        self._own_steps = type(policy).local_steps is not Policy.local_steps
        self._fixed_steps = schedule.h if type(schedule) is Fixed and not self._own_steps else 0

    @property
    def weight_alone(self) -> float:
        """The factor of a delta that is merged alone now; see `StartClock.weight`."""
        return self._alone

    def _ask_released(self, commands: list[Command]) -> None:
        for worker in self._waiting.leave_reached(self._settled.min, self.version):
            self._ask(self._workers[worker], commands)

    def _ask(self, record: Member, commands: list[Command]) -> None:
        """Start a worker's next clock if the policy lets it have it; if not, it waits."""
        if record.clock >= self._limit:
            record.finished = True
            commands.append(StopWorker(record.id))
        elif self._admits:
            answer = self.policy.admit(self, record.id)
            if answer:  # which no `Wait` is
                self._start(record, commands)
            else:
                self._wait(record, answer)
        elif (needed := record.clock - self._bound) <= self._settled.min:
            self._start(record, commands)
        else:
            self._waiting.enter(record.id, needed)

    def _wait(self, record: Member, answer: Wait | bool) -> None:
        coverage, version = answer if isinstance(answer, Wait) else (None, None)
        if coverage is not None and coverage <= self._settled.min:
            raise PolicyError(f"{self.policy} waits for coverage {coverage}, which is there.")
        if version is not None and version <= self.version:
            raise PolicyError(f"{self.policy} waits for version {version}, which is there.")
        self._waiting.enter(record.id, coverage, version)

    def _start(self, record: Member, commands: list[Command]) -> None:
        worker, clock = record.id, record.clock
        if self._always_adopts or record.version < 0 or self.policy.adopts(self, worker):
            record.version = self.version
            record.held_coverage = self._settled.min
            record.round = self.round
            record.unread = self._unread(record) if record.buffered else ()
            if self._fragments > 1:
                record.merged = tuple(self._merged)
        whole = self._fragments == 1 or self._adopts_whole(record)
        record.steps = steps = self._fixed_steps or self._steps(record)
        record.started = self.now
        self._running += 1
        # Made without their classes or a function of ours being called: this is for every clock.
        record.token = token = NEW(Token, (self.term, self._grants))
        self._grants += 1
        version, unread, here = record.version, record.unread, len(self._workers)
        about = worker, clock, steps, version, unread, here, self._alone, token, record.round, whole
        commands.append(NEW(StartClock, about))
        if self._grant_ahead and clock + 1 < self._limit:
            commands.append(new_start_ahead(worker, clock + 1, self._sure_steps(clock + 1)))

    def _adopts_whole(self, record: Member) -> bool:
        """Note what the deltas of a clock to come are measured from; gives whether that is new."""
        version, merged = record.version, record.merged
        if record.bases is None:
            record.bases = [(version, count) for count in merged]
            return True
        fragment = adopted_in(record.clock, self._fragments)
        record.bases[fragment] = version, merged[fragment]
        return False

    def _unread(self, record: Member) -> tuple[int, ...]:
        """Its own deltas that the newest version does not contain."""
        if not self._reads_own:
            return ()
        stamps = range(record.settled, record.clock)
        return tuple([stamp for stamp in stamps if stamp not in record.gaps])

    def _steps(self, record: Member) -> int:
        steps: Any = self.policy.local_steps(self, record.id)
        if not isinstance(steps, int) or steps < 1:
            who = self.policy if self._own_steps else self._schedule
            raise PolicyError(f"{who} gives worker {record.id} {steps!r} local steps.")
        return steps

    def _sure_steps(self, clock: int) -> int:
        """So many local steps at least a clock will have, whatever is decided when it starts."""
        return self._fixed_steps or (not self._own_steps and self._schedule.at(clock)) or 1

    def _tell(self, record: Member, push: DeltaReady) -> None:
        """Who wants to hear of pushes hears of this one."""
        delta, _ = self._measured(record, push)
        computed = self.now - push.pushing
        record.computing = computed - record.started - push.reading + push.ahead
        norm = push.norm if push.finite else 0.0
        for listener in self._listeners:
            listener.pushed(self, delta, norm)

    # That somebody runs.

    def _when_nobody_runs(self, commands: list[Command]) -> None:
        if self._waiting and self._timer is not None:
            return
        if self._buffer:
            self._merge(in_order(self._buffer), commands)
            if self._timer is not None:
                self._timer = None
                commands.append(SetTimer(None))
            self._ask_released(commands)
        if self._waiting and not self._running:
            waiting = sorted(self._waiting)
            raise PolicyError(f"{self.policy} lets nobody run; waiting: {waiting[:8]}.")
