"""The figure of a sweep: with few curves that of policies, with many one that shows what varies.

Names such as "SSP, bound=3, learning_rate=0.1" are read as a grid: what varies most has a colour,
what varies next the dashes, and the third the markers, so that the legend has a line for each
value and not for each curve. Names that make no grid are told apart one by one, the best first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jax_ssp.report.labels import parts_of, shortened
from jax_ssp.report.plots import Curve, comparison, draw_panels
from jax_ssp.report.styles import DASHED, PAPER, new_figure, plain

FEW = 8  # curves that are each told from the others by a look of their own
_DASHES = ("-", DASHED, (0, (1.2, 1)), (0, (4, 1.2, 1, 1.2)), (0, (8, 1.5)), (0, (2, 2.5)))
_MARKERS = ("o", "s", "^", "D", "v", "X", "P", "<", ">", "*")
_LINE = 0.155  # inches that an entry of the legend takes
_LONG = 34  # letters of a label that fits beside the panels


class Grid(NamedTuple):
    """What the labels of a sweep have in common, and what varies.

    Attributes:
        factors: of each thing that varies its values, those that vary most first.
        cells: of each label, the place of its value in each factor.
    """

    factors: list[list[str]]
    cells: dict[str, tuple[int, ...]]


def sweep_figure(
    curves: Sequence[Curve],
    path: str | Path,
    metric: str,
    unit: str,
    title: str | None = None,
    order: Sequence[str] = (),
) -> Figure:
    """Draw the curves of a sweep, however many, against updates and against time.

    Args:
        curves: one for each run; runs of one label are seeds.
        path: of the file to write.
        metric: name of the values.
        unit: of the time.
        title: above the panels.
        order: the labels, the best first.

    Returns:
        The figure, as it was saved.
    """
    curves = [curve for curve in curves if len(curve.values)]
    short = shortened([curve.label for curve in curves])
    curves = [replace(curve, label=short[curve.label]) for curve in curves]
    order = [short[label] for label in order if label in short]
    known = list(dict.fromkeys(curve.label for curve in curves))
    labels = sorted(known, key=lambda label: order.index(label) if label in order else 0)
    if len(labels) <= FEW:
        return comparison(curves, path, metric, unit, title)
    best = labels[0]
    grid = grid_of(known)
    looks = _looks_of_grid(grid) if grid is not None else _looks_of_many(labels)
    looks = {label: {**look, "alpha": 0.9} for label, look in looks.items()}
    looks[best] |= {"linewidth": 2.4, "zorder": 3, "alpha": 1.0}
    with mpl.rc_context({**PAPER, "lines.linewidth": 0.9, "legend.fontsize": 7.5}):
        handles = _legend_of_grid(grid) if grid is not None else _entries(looks)
        longest = max(len(str(handle.get_label())) for handle in handles)
        beside, columns = longest <= _LONG, 2 if _LONG < longest <= 1.5 * _LONG else 1
        rows = -(-len(handles) // columns)
        figure = new_figure(max(3.0, 0.7 + _LINE * rows) if beside else 3.0 + _LINE * rows)
        by_label = sorted(curves, key=lambda curve: known.index(curve.label))
        axes = draw_panels(figure, by_label, metric, unit, looks)
        _limit(axes, by_label)
        axes[0].set_title(f"thick, the best: {plain(best)}", loc="left", fontsize=8)
        where = "outside right upper" if beside else "outside lower center"
        seeds = max(sum(curve.label == label for curve in curves) for label in labels)
        figure.legend(
            handles=handles,
            loc=where,
            ncols=columns,
            handlelength=3,
            title=f"median and range of {seeds} seeds" if seeds > 1 else None,
            title_fontsize=7.5,
        )
        if title:
            figure.suptitle(title)
        figure.savefig(path)
    return figure


def _limit(axes: Sequence[Axes], curves: Sequence[Curve]) -> None:
    """Have a curve that runs away not hide the others; the axes share their heights."""
    axis = axes[0]
    finite = np.concatenate([curve.values[np.isfinite(curve.values)] for curve in curves])
    if len(finite) and axis.get_yscale() == "linear":
        low, high = np.percentile(finite, [0, 98])
        if finite.max() > high + 2 * (high - low):
            axis.set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low))


def grid_of(labels: Sequence[str]) -> Grid | None:
    """How labels are made from at most three things that vary; None if they are not.

    Example:
        >>> grid_of(["line, k=2, lr=0.1", "line, k=10, lr=0.1", "line, k=1, lr=0.1"]).factors
        [['k=1', 'k=2', 'k=10']]
        >>> grid_of(["one", "other thing, k=1"]) is None
        True
    """
    split = [parts_of(label) for label in labels]
    if len({len(parts) for parts in split}) != 1:
        return None
    columns = [list(dict.fromkeys(column)) for column in zip(*split, strict=True)]
    varying = [place for place, column in enumerate(columns) if len(column) > 1]
    sizes = [len(columns[place]) for place in varying]
    if not 1 <= len(varying) <= 3 or (len(sizes) > 1 and np.prod(sizes) > 2 * len(labels)):
        return None
    varying.sort(key=lambda place: -len(columns[place]))
    if any(len(columns[place]) > len(_DASHES) for place in varying[1:]):
        return None
    if len(varying) == 1 and len({_by_number(each)[0] for each in columns[varying[0]]}) > 1:
        return None  # names, not values of one thing: they have no order
    factors = [sorted(columns[place], key=_by_number) for place in varying]
    cells = {
        label: tuple(
            factor.index(parts[place]) for factor, place in zip(factors, varying, strict=True)
        )
        for label, parts in zip(labels, split, strict=True)
    }
    return Grid(factors, cells)


def _number(part: str) -> float | None:
    found = re.search(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?\)?$", part)
    return None if found is None else float(found[0].rstrip(")"))


def _by_number(part: str) -> tuple[str, float]:
    number = _number(part)
    if number is None:
        return (part, 0.0)
    return (re.sub(r"[-+\d.e]+\)?$", "", part), number)


def _colours(number: int) -> list[str]:
    """From dark to light; none so light that it is lost on white."""
    return [to_hex(each) for each in mpl.colormaps["viridis"](np.linspace(0, 0.87, number))]


def _looks_of_grid(grid: Grid) -> dict[str, dict[str, Any]]:
    colours = _colours(len(grid.factors[0]))
    looks: dict[str, dict[str, Any]] = {}
    for label, cell in grid.cells.items():
        marker = cell[2] if len(cell) > 2 else None
        looks[label] = {
            "color": colours[cell[0]],
            "linestyle": _DASHES[cell[1] if len(cell) > 1 else _alone(grid, cell[0])],
            "marker": None if marker is None else _MARKERS[marker],
            "markersize": 3,
        }
    return looks


def _alone(grid: Grid, place: int) -> int:
    """The dashes of a value where nothing else varies: neighbours in colour differ in them."""
    return place % 3 if len(grid.factors) == 1 else 0


def _looks_of_many(labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Looks of labels, the best first: neighbours in colour differ in dashes and marker."""
    colours = _colours(len(labels))
    return {
        label: {
            "color": colours[index],
            "linestyle": _DASHES[index % 4],
            "marker": _MARKERS[index % len(_MARKERS)],
            "markersize": 3,
        }
        for index, label in enumerate(labels)
    }


def _legend_of_grid(grid: Grid) -> list[Line2D]:
    """An entry for each value; it shows only what that value decides."""
    handles: list[Line2D] = []
    colours = _colours(len(grid.factors[0]))
    for number, factor in enumerate(grid.factors):
        if number:
            handles.append(Line2D([], [], linestyle="none", label=" "))
        for index, value in enumerate(factor):
            look: dict[str, Any] = {"color": "0.3", "linestyle": "-"}
            if number == 0:
                dashes = _DASHES[_alone(grid, index)]
                look = {"color": colours[index], "linestyle": dashes, "linewidth": 2}
            elif number == 1:
                look["linestyle"] = _DASHES[index]
            else:
                look |= {"linestyle": "none", "marker": _MARKERS[index], "markersize": 4}
            handles.append(Line2D([], [], label=plain(value), **look))
    return handles


def _entries(looks: Mapping[str, Mapping[str, Any]]) -> list[Line2D]:
    """An entry for each curve, the best first."""
    kept = ("color", "linestyle", "marker", "markersize", "linewidth")
    return [
        Line2D([], [], label=plain(label), **{key: look[key] for key in kept if key in look})
        for label, look in looks.items()
    ]
