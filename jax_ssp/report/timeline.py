"""One run at a glance: who computed when, how stale its deltas were, what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from jax_ssp.report.goodput import Goodput
from jax_ssp.report.plots import scale
from jax_ssp.report.styles import DARK, DASHED, DROPPED, LIGHT, PAPER, new_figure, plain

MAX_BARS = 40  # clocks of a worker
MAX_WORKERS = 64
TRAVELLING = "0.85"  # the colour of what travels


def run_summary(
    schedule: np.ndarray,
    evaluations: Sequence[Mapping[str, Any]],
    path: str | Path | IO[bytes],
    unit: str = "seconds",
    title: str | None = None,
    spent: Goodput | None = None,
) -> Figure:
    """Draw one run: who computed when, how stale the deltas were, what came of it.

    Args:
        schedule: one row a clock, of `jax_ssp.runtimes.schedule.SCHEDULE_DTYPE`.
        evaluations: rows with `time` and `metrics`, as observers are given them; the first two
            metrics are drawn.
        path: of the file to write; or a binary stream, which gets a PNG.
        unit: of all times.
        title: what was run.
        spent: where the workers' time went; some of it is said above the first panel.

    Returns:
        The figure, as it was saved.

    Raises:
        ValueError: if the schedule is empty.
    """
    if not len(schedule):
        raise ValueError("`schedule` is empty: no clock of this run was merged or dropped.")
    metrics = list(dict.fromkeys(name for row in evaluations for name in row["metrics"]))[:2]
    workers = np.unique(schedule["worker"])
    height = float(np.clip(0.5 + 0.13 * len(workers), 1.3, 4.5))
    with mpl.rc_context(PAPER):
        figure = new_figure(height + 2.0)
        grid = figure.add_gridspec(2, 1 + max(1, len(metrics)), height_ratios=[height, 2.0])
        above = figure.add_subplot(grid[0, :])
        _timeline(above, schedule, workers, unit)
        if spent is not None:
            above.text(0.03, 1.0, _said(spent), va="bottom", transform=above.transAxes)
        _staleness(figure.add_subplot(grid[1, 0]), schedule)
        for column, metric in enumerate(metrics, start=1):
            axis = figure.add_subplot(grid[1, column])
            rows = [
                (row["time"], row["metrics"][metric])
                for row in evaluations
                if metric in row["metrics"]
            ]
            marker = "o" if len(rows) <= 30 else None
            axis.plot(*zip(*rows, strict=True), color=DARK, marker=marker, markersize=2.5)
            axis.set(xlabel=f"time ({unit})", ylabel=plain(metric).replace("_", " "))
            scale(axis, np.array([value for _, value in rows]))
        for letter, axis in zip("abcd", figure.axes, strict=False):
            axis.set_title(f"({letter})", loc="left")
        if title:
            figure.suptitle(plain(title))
        figure.savefig(path, format=None if isinstance(path, str | Path) else "png")
    return figure


def _said(spent: Goodput) -> str:
    """Where the time went, in a line."""
    failed = f", failures: {spent.failures}, ETTR {spent.ettr:.1%}" if spent.failures else ""
    exchange = f", exchange {spent.exchange:.1%}" if spent.exchange else ""
    return plain(f"useful {spent.useful:.1%}, waiting {spent.waiting:.1%}{exchange}{failed}")


def _timeline(axis: Axes, schedule: np.ndarray, workers: np.ndarray, unit: str) -> None:
    """A bar for each clock, as far as the busiest worker's first clocks go."""
    shown = workers[:MAX_WORKERS]
    begin = schedule["start"].min()
    busiest = schedule[schedule["worker"] == np.bincount(schedule["worker"]).argmax()]
    whole = schedule["finish"].max() - begin
    travels = (schedule["computed"] < schedule["finish"]).any()
    cut = len(busiest) > MAX_BARS
    end = np.sort(busiest["finish"])[MAX_BARS - 1] if cut else begin + whole
    end = max(end, begin + 1e-9)
    for row, worker in enumerate(shown):
        bars = schedule[(schedule["worker"] == worker) & (schedule["start"] < end)]
        colours = np.where(bars["merge_version"] >= 0, LIGHT, DROPPED)
        if travels:
            _bars(axis, row, bars["start"], bars["finish"], TRAVELLING)
        _bars(axis, row, bars["computed"] - bars["computing"], bars["computed"], colours)
    axis.grid(False)
    part = f", the first {end - begin:.3g} of {whole:.3g}" if cut else ""
    axis.set(xlim=(begin, end), ylim=(len(shown) - 0.4, -0.6), xlabel=f"time ({unit}{part})")
    of = f" (first {len(shown)} of {len(workers)})" if len(shown) < len(workers) else ""
    axis.set_ylabel(f"worker{of}")
    ticks = range(0, len(shown), 1 + (len(shown) - 1) // 16)
    axis.set_yticks(ticks, [str(shown[row]) for row in ticks])
    looks = {"computing": LIGHT, **({"exchange": TRAVELLING} if travels else {})}
    if (schedule["merge_version"] < 0).any():
        looks["computing, in vain"] = DROPPED
    handles = [Patch(color=colour, label=label) for label, colour in looks.items()]
    handles.append(Patch(facecolor="w", edgecolor="0.6", linewidth=0.5, label="waiting"))
    axis.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=4, borderpad=0)


def _bars(axis: Axes, row: int, begin: np.ndarray, end: np.ndarray, colours: Any) -> None:
    spans = list(zip(begin, end - begin, strict=True))
    axis.broken_barh(spans, (row - 0.4, 0.8), facecolors=colours, edgecolor="w", linewidth=0.5)


def _staleness(axis: Axes, schedule: np.ndarray) -> None:
    values = schedule["staleness"][schedule["merge_version"] >= 0]
    if len(values):
        width = 1 + values.max() // 40
        counts = np.bincount(values // width)
        centres = np.arange(len(counts)) * width + (width - 1) / 2
        axis.bar(centres, counts / len(values), width=0.85 * width, color=LIGHT)
        axis.axvline(values.mean(), color=DARK, linewidth=1, linestyle=DASHED)
        axis.set_title(f"mean {values.mean():.1f}", loc="right")
        axis.set_xlim(-0.7 * width, max(4, values.max()) + 0.7 * width)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axis.set(xlabel="staleness (versions)", ylabel="share of merged deltas")
