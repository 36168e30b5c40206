"""What the clauses keep of a run: who is here, what is under way, and the figures found.

Nothing of it is taken from the controller: minima come from heaps with lazy deletion, where the
controller counts; whether a version contains a delta, from the log of merges, where it keeps
counters.
"""

from __future__ import annotations

from bisect import bisect_right

from jax_ssp.controller.commands import Merge, StartClock
from jax_ssp.controller.contract.incarnations import Incarnation, Smallest
from jax_ssp.controller.ends import Totals
from jax_ssp.controller.errors import ContractViolation
from jax_ssp.controller.events import DeltaReady
from jax_ssp.controller.facts import Facts
from jax_ssp.controller.weight import Weight


def violation(clause: int, now: float, what: str) -> ContractViolation:
    """A breach of a clause at a time (seconds), in a line that can be read."""
    what = what if len(what) <= _LONGEST else f"{what[:_LONGEST]} ..."
    return ContractViolation(f"clause {clause} broken at {now} s: {what}.")


_LONGEST = 600  # characters


class Book:
    """What is known of a run after some rows of its tape."""

    def __init__(self, facts: Facts) -> None:
        self.bound = facts.bound
        self.staleness_bound = facts.max_staleness
        self.workers = facts.num_workers
        self.policy = facts.policy
        self.reads_own = facts.reads_own
        self.waits_for_own = facts.waits_for_own
        self.weight: Weight | None = facts.weight
        self.gives_weights = facts.gives_weights
        self.term: int = 0
        self.grants: int = 0  # tokens issued
        self.first: int = 0  # of these before this term
        self.now = float("-inf")
        self.live: dict[int, Incarnation] = {}
        self.finished = Smallest()
        self.settled = Smallest()
        self.left: dict[int, int] = {}
        self.floor: int = 0
        self.version: int = 0
        self.fragments = facts.fragments
        # The versions that have merged each fragment, where there are several.
        self.merged_in: list[list[int]] = [[] for _ in range(facts.fragments)]
        self.coverage = [0]  # of each version, when last seen as the newest
        self.round_samples = facts.round_samples
        self.totals = [Totals()]  # of each version
        # Not settled, by (worker, clock): the push, and who pushed it.
        self.pushed: dict[tuple[int, int], tuple[DeltaReady, Incarnation]] = {}
        self.running: int = 0
        self.unfinished: int = 0
        self.timer: float | None = None
        self.ending: bool = False
        self.clocks: int | None = None  # that each worker has, where a resume says it
        self.reads: int = 0
        self.ahead: int = 0
        self.dropped: int = 0
        self.cancelled: int = 0
        self.late: int = 0
        self.total_staleness: int = 0
        self.max_start_lag: int = 0
        self.max_lag: int = 0
        self.max_staleness: int = 0

    def _see_workers(self, workers: int) -> None:
        """There are so many by now, which may be more than the run was begun with."""
        if self.workers is None or workers <= self.workers:
            return
        self.workers = workers
        if self.staleness_bound is not None:
            policy = self.policy
            self.staleness_bound = None if policy is None else policy.guaranteed_staleness(workers)

    def _see_coverage(self) -> None:
        if self.live:
            self.coverage[self.version] = self.settled.value()

    def _see_round(self, command: StartClock | Merge, version: int) -> None:
        """Look at what a command says of the round of a version."""
        if self.round_samples is None:
            return
        samples = self.totals[version].samples
        found = samples // self.round_samples if self.round_samples else 0
        if command.round != found:
            raise self._violation(7, f"{command}, but version {version} is of round {found}")

    def _base_of(self, push: DeltaReady, by: Incarnation) -> tuple[int, int]:
        """The version that a delta under way is measured from, and how stale it is by now."""
        if self.fragments == 1:
            return push.version, self.version - push.version
        base = by.bases[push.clock]
        merged_in = self.merged_in[push.clock % self.fragments]
        return base, len(merged_in) - bisect_right(merged_in, base)

    def _min_clock(self) -> int:
        self.floor = max(self.floor, self.finished.value())
        return self.floor

    def _violation(self, clause: int, what: str) -> ContractViolation:
        return violation(clause, self.now, what)
