"""The metric that something goes by: which one, and which of two values is better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from jax_ssp import checks

Mode: TypeAlias = Literal["max", "min"] | None
MODES = ("max", "min")
_TO_LESSEN = ("loss", "error", "perplexity", "nll")  # in a metric's name


def check_mode(field: str, mode: Any) -> Mode:
    """What a mode may be."""
    return checks.optional(field, mode, lambda name, value: checks.choice(name, value, MODES))


def mode_of(metric: str, mode: Mode) -> Literal["max", "min"]:
    """What is better: what is said, or else what the metric's name says."""
    if mode is None:
        return "min" if any(word in metric.lower() for word in _TO_LESSEN) else "max"
    return mode


def is_better(metric: str, mode: Mode, value: float, than: float, by: float = 0.0) -> bool:
    """Whether a value is better than another one by more than so much; NaN never is.

    Args:
        metric: its name says what is better, where `mode` does not: less of a loss or an error.
        mode: "max" or "min"; None goes by the name.
        value, than: the two.
        by: how much.

    Example:
        >>> is_better("accuracy", None, 0.9, 0.8), is_better("test_loss", None, 0.9, 0.8)
        (True, False)
    """
    return value > than + by if mode_of(metric, mode) == "max" else value < than - by


def value_of(field: str, metric: str, metrics: Mapping[str, float]) -> float:
    """The metric's value among those of an evaluation.

    Raises:
        ValueError: if it is not there, naming what there is.
    """
    if metric not in metrics:
        raise ValueError(
            f"`{field}` asks for {metric!r}, which is not among what `evaluate` gives: "
            f"{sorted(metrics)}."
        )
    return metrics[metric]
