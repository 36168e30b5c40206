"""Figures for papers: policies compared on both axes, and one run at a glance.

A policy looks the same in every figure (`style`). Colours go from dark to light as the staleness
allowed grows, from BSP over SSP's bounds to ASP, so that figures are readable in grey and by the
colourblind; dashes and markers differ too. Nothing here touches pyplot or its global state.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

WIDTH = 6.8  # inches: the text of a page
MAX_POINTS = 500  # of a drawn curve
MAX_BARS = 40  # clocks of a worker in a timeline
MAX_WORKERS = 64
DARK, LIGHT, DROPPED = "#1f3b57", "#7ba6cf", "#9e3303"

PAPER: dict[Any, Any] = {
    "font.family": ["STIXGeneral", "DejaVu Sans"],  # the second for what the first lacks
    "mathtext.fontset": "stix",
    "font.size": 9,
    "figure.titlesize": 10,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8.5,
    "legend.title_fontsize": 8.5,
    "legend.frameon": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
    "svg.hashsalt": "jax_ssp",
}


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


class Style(NamedTuple):
    """How a policy is drawn, in matplotlib's terms."""

    color: str
    linestyle: Any
    marker: str


_SOLID = "-"
_DASHED = (0, (5, 1.5))
_DASHDOT = (0, (4, 1.2, 1, 1.2))
_DOTTED = (0, (1.2, 1))
_DASHDOTDOT = (0, (4, 1.2, 1, 1.2, 1, 1.2))
_LONG_SHORT = (0, (5, 1.2, 2, 1.2))

# Of two policies with the same dashes, one is much darker.
STYLES: dict[str, Style] = {
    "BSP": Style("#000000", _SOLID, "o"),
    "SSP(1)": Style("#332288", _DASHED, "s"),
    "SSP(3)": Style("#0072b2", _DASHDOT, "^"),
    "SSP(7)": Style("#2f9e8f", _DOTTED, "D"),
    "ASP": Style("#f0a30a", _DASHDOTDOT, "v"),
    "DSSP": Style("#882255", _DOTTED, "P"),
    "PSP": Style("#88ccee", _SOLID, "X"),
    "KSync": Style("#117733", _SOLID, "<"),
    "KAsync": Style("#999933", _SOLID, ">"),
    "KBatchAsync": Style("#c9b458", _DASHED, "p"),
    "Softsync": Style("#cc6677", _DASHED, "h"),
    "BackupWorkers": Style("#aa4499", _LONG_SHORT, "d"),
    "Ringmaster": Style("#d55e00", _DASHDOTDOT, "*"),
    "Rennala": Style("#661100", _DASHDOT, "8"),
    "Quorum": Style("#6699cc", _LONG_SHORT, "H"),
    "VAP": Style("#a3d5c8", _DOTTED, "1"),
    "KBatchSync": Style("#54a46d", _DASHDOT, "2"),
    "FedBuff": Style("#d9b8cf", _DASHDOT, "3"),
}
_MARKERS = "os^DvPX<>phd*8H123"


def style(label: str) -> Style:
    """The look of a policy; it depends on the label's policy alone.

    The bounds of SSP that have no entry of their own lie between their neighbours in colour. A
    policy unknown here gets a grey look that is its own as far as that is possible.

    Args:
        label: begins with the policy, such as `SSP(3)`, `SSP(bound=3) + momentum`, `ASP`.

    Example:
        >>> style("SSP(bound=3), H=8") == style("SSP(3)")
        True
    """
    match = re.match(r"\s*(\w*)(?:\(\D*(\d+))?", label)
    name, number = match.groups() if match else ("", None)
    if name == "SSP":
        bound = int(number or 3)
        return STYLES.get(f"SSP({bound})") or _between_bounds(bound)
    if name in STYLES:
        return STYLES[name]
    code = zlib.crc32(name.encode())
    grey = f"{0.25 + code % 5 / 10:.2f}"
    return Style(grey, (_DASHED, _DOTTED, _LONG_SHORT)[code // 5 % 3], _MARKERS[code // 15 % 15])


def _between_bounds(bound: int) -> Style:
    anchors = [to_rgb(STYLES[name].color) for name in ("BSP", "SSP(1)", "SSP(3)", "SSP(7)", "ASP")]
    at = math.log2(1 + bound) if bound <= 7 else 3 + (bound - 7) / (bound + 7)
    red, green, blue = (
        float(np.interp(at, range(5), channel)) for channel in zip(*anchors, strict=True)
    )
    return Style(to_hex((red, green, blue)), _LONG_SHORT, _MARKERS[bound % len(_MARKERS)])


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
        axes = figure.subplots(1, 2, sharey=True)
        draw_curves(axes[0], curves, "updates", metric)
        draw_curves(axes[1], curves, "seconds", metric, unit)
        axes[1].set(ylabel=None)
        legend_below(figure, curves)
        if title:
            figure.suptitle(title)
        figure.savefig(path)
    return figure


def draw_curves(
    axis: Axes,
    curves: Sequence[Curve],
    what: Literal["updates", "seconds"],
    metric: str,
    unit: str = "virtual seconds",
) -> None:
    """Draw a metric against updates or seconds, for each label the median and range of its seeds.

    Args:
        axis: where.
        curves: one for each run.
        what: the horizontal axis.
        metric: name of the values.
        unit: of the seconds.
    """
    groups = _grouped(curves)
    for index, (label, look) in enumerate(looks(list(groups)).items()):
        every = (0.14 * index / len(groups), 0.14)  # markers of different lines apart
        _draw_seeds(axis, groups[label], what, {**look, "label": label, "markevery": every})
    axis.margins(x=0.02)
    _scale(axis, np.concatenate([curve.values for curve in curves]))
    name = "updates (merged deltas)" if what == "updates" else f"time ({unit})"
    axis.set(xlabel=name, ylabel=metric.replace("_", " "))


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


def new_figure(height: float) -> Figure:
    """An empty figure of a page's width and this height (inches)."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def looks(labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Each label's style as arguments of `plot`; labels of the same policy differ in marker."""
    looks: dict[str, dict[str, Any]] = {}
    policies = [style(label) for label in labels]
    for index, (label, look) in enumerate(zip(labels, policies, strict=True)):
        again = policies[:index].count(look)
        marker = _MARKERS[(_MARKERS.index(look.marker) + again) % len(_MARKERS)]
        looks[label] = {**look._asdict(), "marker": marker}
        looks[label]["markerfacecolor"] = "white" if again else look.color
    return looks


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


def _scale(axis: Axes, values: np.ndarray) -> None:
    """A logarithmic axis for what spans more than a decade and a half."""
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() > 10**1.5 * values.min():
        axis.set_yscale("log")


def run_summary(
    schedule: np.ndarray,
    evaluations: Sequence[Mapping[str, Any]],
    path: str | Path,
    unit: str = "seconds",
) -> Figure:
    """Draw one run: who computed when, how stale the deltas were, what came of it.

    Args:
        schedule: one row a clock, of `jax_ssp.controller.tape.SCHEDULE_DTYPE`.
        evaluations: rows with `time` and `metrics`, as observers are given them; the first two
            metrics are drawn.
        path: of the file to write.
        unit: of all times.

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
        _timeline(figure.add_subplot(grid[0, :]), schedule, workers, unit)
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
            axis.set(xlabel=f"time ({unit})", ylabel=metric.replace("_", " "))
            _scale(axis, np.array([value for _, value in rows]))
        for letter, axis in zip("abcd", figure.axes, strict=False):
            axis.set_title(f"({letter})", loc="left")
        figure.savefig(path)
    return figure


def _timeline(axis: Axes, schedule: np.ndarray, workers: np.ndarray, unit: str) -> None:
    """A bar for each clock, as far as the busiest worker's first clocks go."""
    shown = workers[:MAX_WORKERS]
    begin = schedule["start"].min()
    busiest = schedule[schedule["worker"] == np.bincount(schedule["worker"]).argmax()]
    whole = schedule["finish"].max() - begin
    cut = len(busiest) > MAX_BARS
    end = np.sort(busiest["finish"])[MAX_BARS - 1] if cut else max(begin + whole, begin + 1e-9)
    for row, worker in enumerate(shown):
        bars = schedule[(schedule["worker"] == worker) & (schedule["start"] < end)]
        spans = list(zip(bars["start"], bars["finish"] - bars["start"], strict=True))
        colours = np.where(bars["merge_version"] >= 0, LIGHT, DROPPED)
        axis.broken_barh(spans, (row - 0.4, 0.8), facecolors=colours, edgecolor="w", linewidth=0.5)
    axis.grid(False)
    part = f", the first {end - begin:.3g} of {whole:.3g}" if cut else ""
    axis.set(xlim=(begin, end), ylim=(len(shown) - 0.4, -0.6), xlabel=f"time ({unit}{part})")
    of = f" (first {len(shown)} of {len(workers)})" if len(shown) < len(workers) else ""
    axis.set_ylabel(f"worker{of}")
    ticks = range(0, len(shown), 1 + (len(shown) - 1) // 16)
    axis.set_yticks(ticks, [str(shown[row]) for row in ticks])
    looks = {"computing": LIGHT}
    if (schedule["merge_version"] < 0).any():
        looks["computing, in vain"] = DROPPED
    handles = [Patch(color=colour, label=label) for label, colour in looks.items()]
    handles.append(Patch(facecolor="w", edgecolor="0.6", linewidth=0.5, label="waiting"))
    axis.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderpad=0)


def _staleness(axis: Axes, schedule: np.ndarray) -> None:
    values = schedule["staleness"][schedule["merge_version"] >= 0]
    if len(values):
        width = 1 + values.max() // 40
        counts = np.bincount(values // width)
        centres = np.arange(len(counts)) * width + (width - 1) / 2
        axis.bar(centres, counts / len(values), width=0.85 * width, color=LIGHT)
        axis.axvline(values.mean(), color=DARK, linewidth=1, linestyle=_DASHED)
        axis.set_title(f"mean {values.mean():.1f}", loc="right")
        axis.set_xlim(-0.7 * width, max(4, values.max()) + 0.7 * width)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axis.set(xlabel="staleness (versions)", ylabel="share of merged deltas")
