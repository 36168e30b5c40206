"""What became of the samples of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jax_ssp.data.settled import Epoch


@dataclass(frozen=True)
class DataReport:
    """What became of the samples of a run.

    Attributes:
        merged: samples in deltas that were merged.
        dropped: samples in clocks that were dropped or cancelled: nobody is given them again. Where
            the data is not dealt to the workers (see `Epochs`) a cancelled clock counts with as
            many batches as it was to have steps, of the size of the first ones, and nothing is
            known of what follows: it is None.
        seen: samples that were merged, each counted once an epoch.
        whole: how many epochs there are of which each sample was merged, and once.
        epochs: all other epochs that were begun.

    Example:
        >>> second = Epoch(1, seen=50, twice=0, dropped=10, never=40)
        >>> report = DataReport(150, 10, seen=150, whole=1, epochs=(second,))
        >>> report.twice, report.never
        (0, 40)
        >>> print(report)
        150 samples seen, 0 twice, 40 never, 10 dropped; 1 epoch whole, 1 begun
    """

    merged: int
    dropped: int
    seen: int | None = None
    whole: int | None = None
    epochs: tuple[Epoch, ...] | None = None

    @property
    def twice(self) -> int | None:
        """Samples that were merged more than once in an epoch."""
        return None if self.epochs is None else sum(each.twice for each in self.epochs)

    @property
    def never(self) -> int | None:
        """Samples of the epochs that were begun that were neither merged nor dropped."""
        return None if self.epochs is None else sum(each.never for each in self.epochs)

    def facts(self) -> dict[str, Any]:
        """The report for JSON: what is known."""
        counts = {
            name: getattr(self, name)
            for name in ("merged", "dropped", "seen", "twice", "never", "whole")
        }
        known = {name: count for name, count in counts.items() if count is not None}
        if self.epochs is not None:
            known["epochs"] = [each._asdict() for each in self.epochs]
        return known

    def __str__(self) -> str:
        if self.epochs is None:
            return f"{self.merged} samples merged, {self.dropped} dropped"
        return (
            f"{self.seen} samples seen, {self.twice} twice, {self.never} never, {self.dropped} "
            f"dropped; {self.whole} epoch{'s' * (self.whole != 1)} whole, {len(self.epochs)} begun"
        )
