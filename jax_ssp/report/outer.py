"""What was measured of a run's outer optimizer; see `ssp.outer`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class OuterReport:
    """How much the merges of a run went the same way, and how far each then went.

    Attributes:
        merges: that were measured.
        correlation: of a merge with the one before, on average.
        last_correlation: of the last merge.
        effective_rate: on average; None where the optimizer's rate is not known.
        last_effective_rate: of the last merge; likewise.
    """

    merges: int
    correlation: float
    last_correlation: float
    effective_rate: float | None = None
    last_effective_rate: float | None = None

    def facts(self) -> dict[str, Any]:
        """As JSON has it; without what is not known."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def __str__(self) -> str:
        said = f"correlation {self.correlation:.2f}, of the last merge {self.last_correlation:.2f}"
        if self.effective_rate is None:
            return said
        rates = f"{self.effective_rate:.3g}, of the last {self.last_effective_rate:.3g}"
        return f"{said}; effective rate {rates}"


def outer_report(history: Iterable[Mapping[str, Any]]) -> OuterReport | None:
    """What was measured in a run; None if nothing was.

    Args:
        history: rows of `Result.history`.

    Example:
        >>> metrics = {"outer/correlation": 0.5, "outer/effective_rate": 1.5}
        >>> print(outer_report([{"merge_version": 2, "metrics": metrics}]))
        correlation 0.50, of the last merge 0.50; effective rate 1.5, of the last 1.5
    """
    found: dict[tuple[int, float], float | None] = {}
    for row in history:
        rho = row["metrics"].get("outer/correlation")
        if rho is not None:  # one for all deltas of a merge, but for those of other fragments
            found[row["merge_version"], rho] = row["metrics"].get("outer/effective_rate")
    if not found:
        return None
    correlations = [rho for _, rho in found]
    rates = [rate for rate in found.values() if rate is not None and math.isfinite(rate)]
    known = (sum(rates) / len(rates), rates[-1]) if rates else ()
    mean = sum(correlations) / len(correlations)
    return OuterReport(len(found), mean, correlations[-1], *known)
