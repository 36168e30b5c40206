"""Figures that compare policies on both axes: a metric against updates and against time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jax_ssp.report.styles import PAPER, looks, new_figure, plain

MAX_POINTS = 500  # of a drawn curve


@dataclass(frozen=True)
class Curve:
    """A metric of one run, evaluation by evaluation.

    Args:
        label: the policy, as it shall stand in the legend; runs that differ by seed share it.
        seed: of the run.
        updates: deltas merged at each evaluation, ascending.
        seconds: time of each evaluation, ascending.
        values: the metric.
    """

    label: str
    seed: int
    updates: np.ndarray
    seconds: np.ndarray
    values: np.ndarray


def comparison(
    curves: Sequence[Curve],
    path: str | Path,
    metric: str = "test_loss",
    unit: str = "virtual seconds",
    title: str | None = None,
) -> Figure:
    """Draw a metric against updates and against time, side by side.

    Each label is a line, the median over its seeds, in a band, their range. Between evaluations
    values are interpolated; a run that ended before the others keeps its last value. A run that
    diverged (its values are not finite any more) ends its label's line.

    Args:
        curves: one for each run.
        path: of the file to write; its suffix (`.png`, `.pdf`, `.svg`) says what.
        metric: name of the values.
        unit: of `Curve.seconds`.
        title: above the panels.

    Returns:
        The figure, as it was saved.

    Raises:
        ValueError: if no curve has any value.
    """
    labels = list(dict.fromkeys(curve.label for curve in curves if len(curve.values)))
    if not labels:
        raise ValueError("`curves` holds no values: give at least one run with an evaluation.")
    with mpl.rc_context(PAPER):
        figure = new_figure(2.6 + 0.17 * math.ceil(len(labels) / _columns(labels)))
        draw_panels(figure, curves, metric, unit)
        legend_below(figure, curves)
        if title:
            figure.suptitle(title)
        figure.savefig(path)
    return figure


def draw_panels(
    figure: Figure,
    curves: Sequence[Curve],
    metric: str,
    unit: str,
    styles: Mapping[str, Mapping[str, Any]] | None = None,
) -> Sequence[Axes]:
    """Draw a metric against updates and, beside it, against seconds; gives both axes.

    Args:
        figure: an empty one.
        curves, metric, unit, styles: see `draw_curves`.
    """
    axes = figure.subplots(1, 2, sharey=True)
    draw_curves(axes[0], curves, "updates", metric, unit, styles)
    draw_curves(axes[1], curves, "seconds", metric, unit, styles)
    axes[1].set(ylabel=None)
    return axes


def draw_curves(
    axis: Axes,
    curves: Sequence[Curve],
    what: Literal["updates", "seconds"],
    metric: str,
    unit: str = "virtual seconds",
    styles: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Draw a metric against updates or seconds, for each label the median and range of its seeds.

    Args:
        axis: where.
        curves: one for each run.
        what: the horizontal axis.
        metric: name of the values.
        unit: of the seconds.
        styles: of each label, as arguments of matplotlib's `plot`; by default that of its policy.
    """
    groups = _grouped(curves)
    styles = looks(list(groups)) if styles is None else styles
    for index, (label, look) in enumerate(styles.items()):
        every = (0.14 * index / len(groups), 0.14)  # markers of different lines apart
        _draw_seeds(axis, groups[label], what, {**look, "label": plain(label), "markevery": every})
    axis.margins(x=0.02)
    scale(axis, np.concatenate([curve.values for curve in curves]))
    name = "updates (merged deltas)" if what == "updates" else f"time ({unit})"
    axis.set(xlabel=name, ylabel=plain(metric).replace("_", " "))


def legend_below(figure: Figure, curves: Sequence[Curve]) -> None:
    """One legend for all axes of a figure, whose first has these curves."""
    groups = _grouped(curves)
    seeds = max(map(len, groups.values()))
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=_columns(list(groups)),
        title=f"median and range over {seeds} seeds" if seeds > 1 else None,
        handlelength=3.2,
    )


def _grouped(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        if len(curve.values):
            groups.setdefault(curve.label, []).append(curve)
    return groups


def _columns(labels: Sequence[str]) -> int:
    return max(1, min(len(labels), 100 // (max(map(len, labels)) + 8)))


def _draw_seeds(axis: Axes, runs: Sequence[Curve], what: str, look: Mapping[str, Any]) -> None:
    points = [getattr(run, what) for run in runs]
    grid = np.unique(np.concatenate(points))
    grid = grid[grid >= max(x[0] for x in points)]
    grid = grid[np.linspace(0, len(grid) - 1, min(len(grid), MAX_POINTS)).round().astype(int)]
    finite = [np.where(np.isfinite(run.values), run.values, np.nan) for run in runs]
    values = np.array([np.interp(grid, x, y) for x, y in zip(points, finite, strict=True)])
    middle = np.median(values, axis=0)
    if not np.isfinite(middle).any():  # nothing to draw but its entry in the legend
        look = {**look, "markevery": None}
    axis.plot(grid, middle, **look)
    if len(runs) > 1:
        low, high = values.min(axis=0), values.max(axis=0)
        axis.fill_between(grid, low, high, color=look["color"], alpha=0.18, linewidth=0)


def scale(axis: Axes, values: np.ndarray) -> None:
    """A logarithmic axis for what spans more than a decade and a half."""
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() > 10**1.5 * values.min():
        axis.set_yscale("log")
