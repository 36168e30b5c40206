"""What a tape proves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, repr=False)
class ContractReport:
    """What a tape proves, and the figures found on the way.

    Attributes:
        bound: the bound it was checked against (clocks); None where the policy declares none.
        reads: reads checked (clocks started).
        ahead: clocks granted ahead.
        max_start_lag: largest lag at the start of a clock (clocks); at most `bound`.
        max_lag: largest lag at any moment (clocks); at most `bound` + 1.
        max_staleness, mean_staleness: of the merged deltas (versions).
        staleness_bound: the largest staleness allowed (versions); None where the policy has none.
        merged, dropped: deltas.
        steps, samples: local steps and examples of the merged deltas.
        cancelled: clocks.
        late: pushes that were fenced.
        in_flight: deltas pushed but neither merged nor dropped when the tape breaks off; 0 in a
            complete tape.
        versions: merges.
        complete: whether the tape reaches the end of its run.
        policy: of the run, where it is one of ours: then bound, staleness and reads follow from it.
        recomputed: whether every answer was compared with what a controller gives here.
    """

    bound: int | None
    reads: int
    ahead: int
    max_start_lag: int
    max_lag: int
    max_staleness: int
    mean_staleness: float
    staleness_bound: int | None
    merged: int
    steps: int
    samples: int
    dropped: int
    cancelled: int
    late: int
    in_flight: int
    versions: int
    complete: bool
    policy: str | None
    recomputed: bool

    def __repr__(self) -> str:
        bound = "none declared" if self.bound is None else f"{self.bound} clocks"
        by = "the header" if self.policy is None else self.policy
        return (
            f"ContractReport(kept, by what {by} promises: {self.reads} reads, bound {bound}, lag "
            f"at most {self.max_lag}, staleness at most {self.max_staleness})"
        )

    def __str__(self) -> str:
        bound = "none declared" if self.bound is None else f"{self.bound} clocks"
        ahead = f", {self.ahead} clocks granted ahead" if self.ahead else ""
        allowed = "" if self.staleness_bound is None else f" (allowed: {self.staleness_bound})"
        cancelled = f", {self.cancelled} clocks cancelled" if self.cancelled else ""
        late = f", {self.late} pushes were late" if self.late else ""
        samples = f" on {self.samples} samples" if self.samples else ""
        tape = "complete" if self.complete else f"breaks off, {self.in_flight} deltas in flight"
        by = "as the header declares it" if self.policy is None else f"of {self.policy}"
        answers = ", every answer recomputed" if self.recomputed else ""
        return (
            f"contract kept: {self.reads} reads checked, bound {bound}{ahead}\n"
            f"lag:       at most {self.max_start_lag} at a start, {self.max_lag} at any moment\n"
            f"staleness: mean {self.mean_staleness:.2f}, at most {self.max_staleness}{allowed}\n"
            f"deltas:    {self.merged} merged in {self.versions} versions, {self.dropped} dropped"
            f"{cancelled}{late}\n"
            f"merged:    {self.steps} local steps{samples}\n"
            f"tape:      {tape}\n"
            f"proof:     against what is promised {by}{answers}"
        )
