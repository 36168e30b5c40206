"""What the controller tells a runtime to do: eight commands, to be carried out in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from jax_ssp.controller.constructors import constructor
from jax_ssp.controller.events import DeltaReady, Token, new_delta_ready


class StartClock(NamedTuple):
    """Let a worker run one clock.

    Attributes:
        worker: who.
        clock: which clock; its delta will carry this stamp.
        local_steps: H, the optimizer steps in it.
        version: the snapshot to run on. It is either the newest version, to be adopted now, or the
            version the worker already holds.
        pending: stamps of the worker's own deltas that `version` does not contain. The worker adds
            them to the snapshot, each times `weight`, so that it reads its own writes.
        num_workers: live workers now.
        weight: the factor of a delta that is merged alone now (see `jax_ssp.controller.weight`).
        token: what the push of this clock is to quote.
        round: of `version`: the examples merged in it, over those of one synchronous step of all
            workers, rounded down. It is what schedules count; 0 where nothing is computed.
        whole: whether all of `version` is adopted; else the one fragment that the worker pushed
            last (see `jax_ssp.controller.fragments`), and it goes on with what it has of the
            others.
    """

    worker: int
    clock: int
    local_steps: int
    version: int
    pending: tuple[int, ...]
    num_workers: int
    weight: float
    token: Token
    round: int = 0
    whole: bool = True

    def finished(
        self,
        *,
        version: int | None = None,
        steps: int | None = None,
        **report: Any,
    ) -> DeltaReady:
        """The event that this clock is finished.

        Args:
            version: that was read; by default the one granted.
            steps: that were made; by default all.
            **report: what else it reports, such as `samples`; see `DeltaReady`.
        """
        version = self.version if version is None else version
        steps = self.local_steps if steps is None else steps
        if not report:  # which costs half as much
            return new_delta_ready(self.worker, self.clock, version, self.token, steps)
        return new_delta_ready(self.worker, self.clock, version, self.token, steps, **report)


class StartAhead(NamedTuple):
    """Let a worker that runs a clock go on with the next one at once when it has finished.

    It does so on the parameters it then has, for a few steps, while its delta travels and while it
    waits. Whether and when that clock is started is decided once the delta is there: its
    `StartClock` then tells the worker what to adopt. A `StopWorker` in its place makes the grant
    void: what the worker has run ahead is thrown away.

    Attributes:
        worker: who.
        clock: which clock: the one after that which it runs.
        local_steps: the clock will have at least so many optimizer steps, and no more of them may
            be run ahead. It is H where that is known before the clock starts.
    """

    worker: int
    clock: int
    local_steps: int


new_start_ahead = constructor(StartAhead)


class Merged(NamedTuple):
    """One delta of a merge.

    Attributes:
        worker: whose delta.
        clock: its stamp.
        base: the version it is measured from.
        staleness: versions that came between `base` and the merge; where the parameters are in
            fragments, those that merged its fragment.
        lag: the worker's clock minus the smallest clock of any live worker (clocks); 0 for the
            delta of a worker that is gone.
        weight: the factor of the delta in the merge (see `jax_ssp.controller.weight`).
        token: that its push quoted.
    """

    worker: int
    clock: int
    base: int
    staleness: int
    lag: int
    weight: float
    token: Token


new_merged = constructor(Merged)


class Merge(NamedTuple):
    """Apply these deltas, in this order, as one new version.

    Attributes:
        version: the number of the version that this merge makes.
        deltas: what it is made of.
        num_workers: live workers, plus lost ones that have a delta in this merge (one that was lost
            and is back counts as two).
        round: of the version that the deltas are applied to; see `StartClock`.
    """

    version: int
    deltas: tuple[Merged, ...]
    num_workers: int
    round: int = 0


new_merge = constructor(Merge)


class Drop(NamedTuple):
    """Forget a pushed delta. Always a decision with a reason, never an accident."""

    worker: int
    clock: int
    reason: str
    token: Token


NOT_FINITE = "not finite"
"""The reason of a `Drop` that is the controller's own: a number of the delta is not finite."""


class Cancel(NamedTuple):
    """End a running clock now, with nothing pushed: it counts as finished, and leaves no trace.

    The worker's state is what it was before the clock, the clock's batches are passed over, and the
    next `StartClock` brings a snapshot. Like a drop, always a decision with a reason.
    """

    worker: int
    clock: int
    reason: str
    token: Token


class Fence(NamedTuple):
    """A push was late, and is forgotten: its token is not the one that its worker runs under.

    The worker was lost meanwhile, or the clock cancelled; or the push came before. Nothing else
    follows from it.
    """

    worker: int
    clock: int
    token: Token


class SetTimer(NamedTuple):
    """Send `TimerFired(at)` at this time (seconds); replaces the timer before; None cancels it."""

    at: float | None


class StopWorker(NamedTuple):
    """This worker gets no more work."""

    worker: int


Command: TypeAlias = StartClock | StartAhead | Merge | Drop | Cancel | Fence | SetTimer | StopWorker
COMMANDS: tuple[type[Command], ...] = (
    StartClock,
    StartAhead,
    Merge,
    Drop,
    Cancel,
    Fence,
    SetTimer,
    StopWorker,
)


def is_fenced(commands: Sequence[Command]) -> bool:
    """Whether an event that was answered with these commands was late: nothing else follows then.

    Example:
        >>> is_fenced([Fence(0, 3, Token(0, 7))]), is_fenced([])
        (True, False)
    """
    return len(commands) == 1 and type(commands[0]) is Fence
