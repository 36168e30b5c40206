"""Staleness, depth and optimizers: updates to a target (Dai et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from experiments.papers import common
from experiments.papers.depth_runs import (
    ACCURACY,
    BATCH,
    EVERY,
    WIDTH,
    cells,
    labels,
    measure,
    middle,
)
from jax_ssp.report.papers import Claim, Paper, Row, Rows

MARGIN = 1.25  # of ratios: the fewest updates are some 64, known to 16


def slowdown(rows: Rows, family: str, label: str) -> float:
    """Updates at the most staleness over those at none; no number if those did not suffice."""
    own = cells(rows, family, label)
    return middle(own[-1]) / base(own)


def base(own: Sequence[Mapping[str, Any]]) -> float:
    """Updates without staleness; no number if the target was not reached."""
    without = middle(own[0])
    return without if math.isfinite(without) else math.nan


def shown(rows: Rows, family: str) -> tuple[dict[str, float], str]:
    found = {name: slowdown(rows, family, name) for name in labels(rows, family)}
    most = max(row["staleness"] for row in rows)
    each = ", ".join(f"{name}: {ratio:.1f}" for name, ratio in found.items())
    of = " by hidden layers" if family == "depth" else ""
    return found, f"times the updates at staleness {most}{of}: {each}"


def slows_all(rows: Rows, family: str) -> tuple[bool, str]:
    found, said = shown(rows, family)
    return all(ratio > MARGIN for ratio in found.values()), said


def deeper_suffers(rows: Rows) -> tuple[bool, str]:
    """Whether no ratio is below one of a shallower network, and the last is above the first."""
    found, said = shown(rows, "depth")
    ratios = list(found.values())
    ascend = all(deeper >= ratio / MARGIN for ratio, deeper in combinations(ratios, 2))
    return ascend and ratios[-1] > MARGIN * ratios[0], said


def deeper_needs_more(rows: Rows) -> tuple[bool, str]:
    own = [cells(rows, "depth", label) for label in labels(rows, "depth")]
    more = [middle(each[-1]) - base(each) for each in own]
    said = ", ".join(f"{each:g}" for each in more)
    ascend = all(deeper >= one for one, deeper in combinations(more, 2))
    holds = ascend and more[-1] > MARGIN * more[0]
    return holds, f"updates more at the most staleness, by depth: {said}"


def more_than_sgd(rows: Rows, name: str) -> tuple[bool, str]:
    found, said = shown(rows, "optimizer")
    return common.sooner(found["SGD"], found.get(name, math.nan), 1 / MARGIN), said


def adagrad_robust(rows: Rows) -> tuple[bool, str]:
    found, said = shown(rows, "optimizer")
    ours = found.get("Adagrad", math.nan)
    others = [ratio for name, ratio in found.items() if name not in ("SGD", "Adagrad")]
    return all(common.sooner(ours, other, 1 / MARGIN) for other in others), said


def table(rows: Rows) -> list[Row]:
    found: list[Row] = []
    heads = {each: column(rows, each) for each in sorted({row["staleness"] for row in rows})}
    for family in ("optimizer", "depth"):
        for label in labels(rows, family):
            row: Row = {"updates to the target, at the best rate": NAMES[family].format(label)}
            for each in cells(rows, family, label):
                row[heads[each["staleness"]]] = entry(each)
            found.append(row)
    return found


def entry(cell: Mapping[str, Any]) -> str:
    """Median and range of the updates, and the rate."""
    if all(tried["updates"] is None for tried in cell["swept"]):
        return "inf, at every rate"
    rate = common.marked(cell["rate"], (tried["rate"] for tried in cell["swept"]))
    return f"{common.spread(cell['updates'], digits=5)} at {rate}"


def column(rows: Rows, staleness: int) -> str:
    """With the mean staleness that was measured, which the first round lowers."""
    means = [row["mean_staleness"] for row in rows if row["staleness"] == staleness]
    low, high = f"{min(means):.3g}", f"{max(means):.3g}"
    return f"staleness {staleness} (measured {low if low == high else f'{low} to {high}'})"


NAMES = {"optimizer": "{}, hidden layers: 1", "depth": "SGD, hidden layers: {}"}
LOOKS = {
    "optimizer": ("#000000", "#0072b2", "#d55e00", "#2f9e8f", "#cc79a7"),
    "depth": ("#a6cbe3", "#5a9bc8", "#2f6a9f", "#12304f"),
}
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (4, 1.2, 1, 1.2)),
    (0, (1.2, 1)),
    (0, (5, 1.2, 2, 1.2)),
)


def panel(axis: Axes, rows: Rows, family: str) -> None:
    """Updates over those without staleness; an arrow up where the target was not reached.

    Nothing is drawn of a label that did not reach it without staleness.
    """
    for index, label in enumerate(labels(rows, family)):
        colour = LOOKS[family][index % len(LOOKS[family])]
        own = cells(rows, family, label)
        points = [(row["staleness"], middle(row) / base(own)) for row in own]
        reached = [point for point in points if point[1] < math.inf]
        look: dict[str, Any] = {"color": colour, "linestyle": DASHES[index % len(DASHES)]}
        across, up = [x for x, _ in reached], [y for _, y in reached]
        axis.plot(across, up, marker="os^Dv"[index % 5], label=label, **look)
        for row, point in zip(own, points, strict=True):
            if point[1] == math.inf:
                limit = row["most_updates"] / base(own)
                axis.plot(point[0], limit, color=colour, marker="$\\uparrow$", markersize=9)
    axis.set(xlabel="staleness (versions, after the first round)", yscale="log")
    axis.set_ylabel("updates to the target,\nover those at staleness 0")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_xticks(sorted({row["staleness"] for row in rows}))
    axis.legend(title=None if family == "optimizer" else "hidden layers")


def draw(figure: Figure, rows: Rows) -> None:
    titles = {"optimizer": "(a) optimizers, 1 hidden layer", "depth": "(b) depth, under SGD"}
    for axis, (family, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        panel(axis, rows, family)
        axis.set_title(title, loc="left")


PAPER = Paper(
    number=9,
    title="Staleness, depth and optimizers",
    reference="Dai, Zhou, Dong, Zhang, Xing 2019, "
    '"Toward understanding the impact of staleness in distributed machine learning", ICLR, '
    "arXiv:1810.03264",
    shows="Staleness slows convergence, by a factor that depends on the model; deeper networks "
    "suffer more from as much of it; SGD and Adagrad are more robust than Momentum, RMSProp and "
    "Adam (fully connected networks on MNIST, ResNets on CIFAR-10, delays drawn uniformly).",
    ran=f"ReLU networks of {WIDTH} units a layer on the digits, batches of {BATCH}; updates to a "
    f"test accuracy of {100 * ACCURACY:.0f} %, looked at every {EVERY} updates. s + 1 equal "
    "workers take turns, so that after the first round each gradient is exactly s versions old: "
    "constant staleness, not the paper's random one. The optimizer is the server's, one for all "
    "workers. For every cell the rate is swept anew.",
    measure=measure,
    claims=(
        Claim(
            "staleness slows the convergence of every optimizer",
            partial(slows_all, family="optimizer"),
            "paper",
        ),
        Claim(
            "staleness slows convergence at every depth",
            partial(slows_all, family="depth"),
            "paper",
        ),
        Claim(
            "the deeper the network, the more it suffers in proportion", deeper_suffers, "abstract"
        ),
        Claim(
            "the deeper, the more updates staleness costs (not normalised)",
            deeper_needs_more,
            "ours",
        ),
        *(
            Claim(f"{name} suffers more than SGD", partial(more_than_sgd, name=name), "paper")
            for name in ("Momentum", "Adam", "RMSProp")
        ),
        Claim("Adagrad suffers less than Momentum, Adam and RMSProp", adagrad_robust, "paper"),
    ),
    table=table,
    draw=draw,
    height=2.9,
    notes=f"Updates are counted in steps of {EVERY}, so that ratios are known to some 25 %; what "
    "differs by less counts as equal, in every claim of ratios. Deep networks need small rates, "
    "and more updates, without staleness, so that as many updates more are a smaller ratio. The "
    "ratios depend on the target and on the rates tried.",
)
