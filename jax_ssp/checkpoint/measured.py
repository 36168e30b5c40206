"""Which checkpoint an evaluation is of: the best ones are kept by it."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from jax_ssp.checkpoint.step import Step
from jax_ssp.runtimes.metric import value_of
from jax_ssp.runtimes.observer import Observer


class Measured(Observer):
    """Remembers the metric by which checkpoints are kept, of each version that was evaluated.

    A checkpoint is measured by the evaluation of its own version, or of the nearest one before it;
    an evaluation measures one checkpoint alone, that of its version or the first one after it. An
    evaluation aside may come after the checkpoint is saved: it counts from then on.

    Args:
        metric: its name.

    Example:
        >>> from pathlib import Path
        >>> measured = Measured("accuracy")
        >>> measured.told([{"version": 4, "metrics": {"accuracy": 0.5}}])
        >>> steps = [Step(rows, Path(), version=rows // 10) for rows in (30, 40, 50)]
        >>> measured.by_rows(steps)
        {30: None, 40: 0.5, 50: None}
    """

    needs_evaluation = True

    def __init__(self, metric: str) -> None:
        self._metric = metric
        self._values: dict[int, float] = {}  # by version; they come in order

    def check_evaluation(self, metrics: Mapping[str, float]) -> None:
        value_of("Checkpoints(best=...)", self._metric, metrics)

    def told(self, evaluations: Sequence[Mapping[str, Any]]) -> None:
        """These rows were told before the checkpoint that the run goes on from."""
        for row in evaluations:
            if self._metric in row["metrics"]:  # else another metric was kept by then
                self.on_eval(row)

    def on_eval(self, row: Mapping[str, Any]) -> None:
        self._values[row["version"]] = float(row["metrics"][self._metric])

    def value(self, version: int) -> float | None:
        """What is known by now of this version, or of the nearest one before it."""
        at = self._nearest(version)
        return None if at is None else self._values[at]

    def by_rows(self, steps: Sequence[Step]) -> dict[int, float | None]:
        """The value of each checkpoint whose version is known, by its rows; None of the others.

        Args:
            steps: in their order.
        """
        found: dict[int, float | None] = {}
        taken: set[int] = set()
        for step in steps:
            if step.version is None:
                continue
            at = self._nearest(step.version)
            free = at is not None and at not in taken and math.isfinite(self._values[at])
            found[step.rows] = self._values[at] if free and at is not None else None
            taken |= set() if at is None else {at}
        return found

    def _nearest(self, version: int) -> int | None:
        """The version, or the nearest before it, that was evaluated."""
        versions = list(self._values)
        at = bisect_right(versions, version)
        return versions[at - 1] if at else None
