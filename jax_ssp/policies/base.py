"""What a policy is: who may start, what is merged, who adopts, how many local steps.

Each is a function of the controller's view. A policy is a frozen dataclass. To write one, subclass
`Policy` and override what differs from its defaults; the fields of the dataclass appear in configs,
on the command line and in run folders by themselves. What a policy has to remember during a run is
in `remembered` fields, which are no part of the config: every run begins with a copy of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

from jax_ssp.policies.decision import Decision, Wait
from jax_ssp.policies.rules import merge_at_barrier, until_covered
from jax_ssp.policies.view import Delta, Pushed, View


@dataclass(frozen=True)
class Policy:
    """Base of all policies: admits whom its bound lets, merges on arrival, adopts the newest.

    Subclass it as a frozen dataclass; `ssp.testing.check_policy` says whether it can stand.

    Example:
        >>> import jax_ssp as ssp
        >>> @dataclass(frozen=True)
        ... class Together(ssp.Policy):
        ...     size: int = 2
        ...
        ...     def ready(self, view: View) -> Decision:
        ...         waiting = tuple(view.buffered)[: self.size]
        ...         return Decision(merge=waiting) if len(waiting) == self.size else Decision()
        >>> clockwork = ssp.Virtual(num_workers=4, compute=False)
        >>> run = ssp.train(policy=Together(), runtime=clockwork, num_clocks=3)
        >>> run.updates, run.version
        (12, 6)
    """

    def begin(self) -> Self:
        """The copy of this policy that decides a run, with nothing remembered yet."""
        return begun(self)

    def check(self, num_workers: int) -> None:
        """Raise ValueError, naming the remedy, if so many workers cannot be run by this policy."""

    # What it promises, and what it needs.

    @property
    def guaranteed_bound(self) -> int | None:
        """The bound `s` of the contract that this policy keeps (clocks), or None for no bound."""
        return None

    def guaranteed_staleness(self, num_workers: int) -> int | None:
        """The largest staleness it merges, with so many workers ever (versions), or None."""
        bound = self.guaranteed_bound
        if bound is None or bound == 0:
            return bound
        # While a worker runs clock c on a version that covers c - s, each other one can add the
        # clocks c - s to c + s, and merging on arrival makes a version of each.
        return (num_workers - 1) * (2 * bound + 1)

    @property
    def cancels(self) -> bool:
        """Whether it may cancel running clocks."""
        return False

    @property
    def reads_own(self) -> bool:
        """Whether a worker reads its own deltas while they wait in the buffer (read-my-writes)."""
        return True

    @property
    def waits_for_own(self) -> bool:
        """Whether a worker starts no clock before its own deltas are settled.

        Then `admit` must see to it, as `until_merged` does, and `check_contract` that it did.
        """
        return False

    @property
    def admits_within(self) -> int | None:
        """The bound that `admit` keeps by default (clocks), or None: the same in all of a run.

        It is the one that is guaranteed; a subclass that promises another one still admits so.
        """
        return self.guaranteed_bound

    @property
    def always_adopts(self) -> bool:
        """Whether `adopts` always says yes, so that it need not be asked."""
        return type(self).adopts is Policy.adopts

    @property
    def takes_fragments(self) -> bool:
        """Whether it goes with parameters in fragments (see `jax_ssp.controller.fragments`).

        By default unless it cancels clocks: with a clock all progress would go that is not pushed
        yet. Neither does one whose deltas have to be of one version, which those of fragments that
        a worker adopted at different times are not.
        """
        return not self.cancels

    @property
    def gives_weights(self) -> bool:
        """Whether it says the weights of a merge itself: whether it has `weights` of its own.

        Then no delta is merged without it being asked, and a run's `weight` stays "mean": so much
        has what workers read of their own deltas before these are merged.
        """
        return type(self).weights is not Policy.weights

    @property
    def needs_norms(self) -> bool:
        """Whether `pushed` is to be told the norms of the deltas, which cost a pass over each."""
        return False

    def usual_merge(self, num_workers: int) -> int:
        """How many deltas most merges have; the merge of so many is compiled before the start."""
        return num_workers if self.guaranteed_bound == 0 else 1

    # What it decides.

    def pushed(self, view: View, delta: Delta, norm: float) -> None:
        """Hear of a delta as it comes, before anything is decided.

        Its worker's clock is counted already; `started`, `steps` and `computing` are of the clock
        just finished. `norm` is the delta's l2 norm if the policy `needs_norms`, else 0.
        """

    def admit(self, view: View, worker: int) -> bool | Wait:
        """May this worker start its next clock, number `view.clock(worker)`, now?

        By default it may if the bound of `admits_within` is kept so: clock c, once the newest
        version covers c - bound.
        """
        bound = self.admits_within
        return True if bound is None else until_covered(view, view.clock(worker) - bound)

    def ready(self, view: View) -> Decision:
        """Which buffered deltas to merge or drop now. A worker's own go in the order of stamps.

        By default each is merged on arrival; but at bound 0, where nobody may read what is merged
        before the barrier, those of a clock are merged there as one version.
        """
        if self.guaranteed_bound == 0:
            return merge_at_barrier(view)
        return Decision(tuple(view.buffered))

    def weights(self, view: View, merged: Sequence[Pushed]) -> Sequence[float] | None:
        """The factor of each delta of a merge; None, the default, leaves it to the run's `weight`.

        Called once a merge, before it is counted as a version. A delta of weight 0 is merged like
        the others, and moves nothing.

        Args:
            view: in which the deltas are not buffered any more.
            merged: what is known of each delta of the merge, in its order.
        """
        return None

    def adopts(self, view: View, worker: int) -> bool:
        """Does a worker about to start take the newest version (or keep the one it holds)?"""
        return True

    def local_steps(self, view: View, worker: int) -> int:
        """H for the clock about to start (steps)."""
        return view.scheduled_steps(worker)


def remembered(make: Callable[[], Any]) -> Any:
    """A field for what a policy or schedule remembers during a run; `make` gives it, empty."""
    return field(init=False, repr=False, compare=False, metadata={"make": make})


def begun(config: Any) -> Any:
    """A copy of a policy or schedule with nothing remembered yet."""
    copy = replace(config)
    for column in fields(copy):
        if "make" in column.metadata:
            object.__setattr__(copy, column.name, column.metadata["make"]())
    return copy


def merges_on_arrival(policy: Policy) -> bool:
    """Whether every delta is merged as it comes, by the default `ready` and the run's `weight`."""
    ready = type(policy).ready is Policy.ready
    return ready and policy.guaranteed_bound != 0 and not policy.gives_weights


def no_more_than(policy: Policy, field: str, num_workers: int) -> None:
    """Raise ValueError if a policy's field asks for more deltas than there are workers."""
    value, name = getattr(policy, field), type(policy).__name__
    if value > num_workers:
        raise ValueError(
            f"`{name}({field}={value})` waits for more deltas than {num_workers} workers have at "
            f"one time; make `{field}` at most {num_workers}, or add workers."
        )
