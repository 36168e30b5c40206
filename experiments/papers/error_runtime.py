"""Error-runtime trade-offs of K-sync, K-async and their batch variants (Dutta et al. 2018)."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.papers import common
from experiments.papers.error_runtime_runs import (
    DELAYS,
    KINDS,
    PROBLEMS,
    TRAINED,
    WORKERS,
    expected,
    measure,
)
from jax_ssp.report.papers import Claim, Paper, Row, Rows
from jax_ssp.report.plots import draw_curves, legend_below, looks, style

FAST, SLOW = "KAsync(1)", "KSync(8)"


def at_one_rate(rows: Rows, problem: str) -> list[Mapping[str, Any]]:
    """The runs of a problem at the rate that is common to all methods."""
    return [row for row in common.runs(rows) if row["problem"] == problem and row["common"]]


def seconds(rows: Rows, delay: str, kind: str, k: int) -> float:
    (row,) = [
        row
        for row in rows
        if row["kind"] == "runtime" and (row["delay"], row["policy"], row["k"]) == (delay, kind, k)
    ]
    return float(np.mean(row["seconds"]))


def formulas_hold(rows: Rows, kinds: tuple[str, ...]) -> tuple[bool, str]:
    errors = [
        abs(seconds(rows, "exponential", kind, k) / expected(kind, k) - 1)
        for kind in kinds
        for k in range(1, WORKERS + 1)
    ]
    return max(errors) < 0.05, f"off by {100 * max(errors):.1f} % at most"


def never_slower(rows: Rows, pairs: tuple[tuple[str, str], ...]) -> tuple[bool, str]:
    """Whether the first of each pair takes no less time than the second."""
    ratios = [
        seconds(rows, delay, slow, k) / seconds(rows, delay, fast, k)
        for delay in DELAYS
        for slow, fast in pairs
        for k in range(1, WORKERS + 1)
    ]
    said = f"the others take {min(ratios):.2f} to {max(ratios):.2f} times as long"
    return min(ratios) > 0.97, said  # as near as the draws are


def floor(rows: Rows, problem: str, label: str) -> float:
    """The mean loss over the last quarter of a run: the median over the seeds."""
    return statistics.median(
        float(np.mean([common.finite(each) for each in row["values"]][-len(row["values"]) // 4 :]))
        for row in common.runs(at_one_rate(rows, problem), label)
    )


def curves_cross(rows: Rows, problem: str) -> tuple[bool, str]:
    """Whether asynchronous comes to half of the way first, and synchronous lower in the end."""
    own = at_one_rate(rows, problem)
    ends = [floor(rows, problem, label) for label in (FAST, SLOW)]
    level = (own[0]["values"][0] + max(ends)) / 2
    times = [common.time_to(own, label, level) for label in (FAST, SLOW)]
    said = (
        f"rate {own[0]['rate']:g}: loss {level:.2f} after {times[0]:.3g} and {times[1]:.3g} s; in "
        f"the last quarter {ends[0]:.3g} and {ends[1]:.3g}"
    )
    return times[0] < times[1] and ends[1] < ends[0], said


def ends_lower(rows: Rows, problem: str, pairs: tuple[tuple[str, str], ...]) -> tuple[bool, str]:
    """Whether the first of each pair is lower than the second once both have come down."""
    ends = {label: floor(rows, problem, label) for pair in pairs for label in pair}
    said = ", ".join(f"{label} {end:.4g}" for label, end in ends.items())
    lower = all(common.sooner(ends[one], ends[other]) for one, other in pairs)
    return lower, f"in the last quarter {said}"


def table(rows: Rows) -> list[Row]:
    found: list[Row] = []
    for problem in PROBLEMS:
        for label in TRAINED:
            own = common.runs(at_one_rate(rows, problem), label)
            swept = [
                row
                for row in common.runs(rows, label)
                if row["problem"] == problem and row["seed"] == 0
            ]
            best = min(swept, key=lambda row: common.finite(row["last"]))
            found.append(
                {
                    "problem": problem,
                    "method": label,
                    "common rate": own[0]["rate"],
                    "last loss, median (range)": common.spread(row["last"] for row in own),
                    "last quarter": floor(rows, problem, label),
                    "best rate (seed 0)": common.marked(best["rate"], [r["rate"] for r in swept]),
                    "last loss at it": best["last"],
                    "updates": statistics.fmean(row["total_updates"] for row in own),
                    "mean staleness": statistics.fmean(row["mean_staleness"] for row in own),
                }
            )
    return found


def draw(figure: Figure, rows: Rows) -> None:
    axes = figure.subplots(2, 3)
    for (left, middle, _), problem in zip(axes, PROBLEMS, strict=True):
        own = at_one_rate(rows, problem)
        every, metric = common.curves(own), PROBLEMS[problem].metric
        draw_curves(left, every, "updates", metric)
        draw_curves(middle, every, "seconds", metric)
        middle.set(ylabel=None)
        left.set_title(f"{problem}, learning rate {own[0]['rate']:g}", loc="left")
        for axis in (left, middle):
            axis.set(yscale="log")
    _draw_runtimes(axes[0][2], rows)
    _draw_rates(axes[1][2], rows, "logistic regression")
    legend_below(figure, every)


def _draw_runtimes(axis: Axes, rows: Rows) -> None:
    ks = range(1, WORKERS + 1)
    for kind in KINDS:
        look = style(kind)
        measured = [seconds(rows, "exponential", kind, k) for k in ks]
        # Those that cancel take as long as those that do not: rings around dots.
        ring = {"markersize": 8, "markerfacecolor": "none"} if kind.endswith("Sync") else {}
        axis.plot(ks, measured, color=look.color, marker="o", ls="none", label=kind, **ring)
        axis.plot(ks, [expected(kind, k) for k in ks], color=look.color, lw=0.8)
    axis.set(xlabel="K (deltas a merge)", ylabel="virtual seconds an iteration")
    axis.set_title("lines: the formulas", loc="left")
    axis.legend()


def _draw_rates(axis: Axes, rows: Rows, problem: str) -> None:
    own = [row for row in common.runs(rows) if row["problem"] == problem and row["seed"] == 0]
    for label, look in looks(list(TRAINED)).items():
        dots = sorted((row["rate"], common.finite(row["last"])) for row in common.runs(own, label))
        axis.plot(*zip(*dots, strict=True), **look)
    axis.set(xscale="log", yscale="log", xlabel="learning rate")
    axis.set(ylabel=f"last {PROBLEMS[problem].metric}")
    axis.set_title(f"{problem}, seed 0", loc="left")


PAPER = Paper(
    number=6,
    title="Error-runtime trade-offs of K-sync and K-async SGD",
    reference='Dutta, Joshi, Ghosh, Dube, Nagpurkar 2018, "Slow and stale gradients can win the '
    'race", arXiv:1803.01113',
    shows="The time of an iteration has closed forms, by which waiting for fewer, and not waiting "
    "at all, is faster; at one learning rate asynchronous SGD is ahead first and ends at a higher "
    "error than synchronous SGD, so that the curves cross (CIFAR-10, 8 workers).",
    ran="The clockwork alone for the iterations' times; then regularized logistic regression "
    "(training objective) and an MLP (test loss) on the digits, batches of 4, 8 workers with "
    "exponential clocks, 2,400 virtual seconds for each and 800 with the MLP. All rates for all "
    "methods on seed 0; the methods are compared at one rate on all seeds, as in the paper; that "
    "it is the largest at which all of them at least halve the loss is our rule.",
    measure=measure,
    claims=(
        Claim(
            "K-sync takes the K-th order statistic of P exponentials, (H_P - H_{P-K}) / mu",
            functools.partial(formulas_hold, kinds=("KSync",)),
            "paper",
        ),
        Claim(
            "K-async takes the same, since exponential delays have no memory",
            functools.partial(formulas_hold, kinds=("KAsync",)),
            "paper",
        ),
        Claim(
            "both batch variants take K / (P mu)",
            functools.partial(formulas_hold, kinds=("KBatchAsync", "KBatchSync")),
            "paper",
        ),
        Claim(
            "K-async is never slower than K-sync, for either kind of delays",
            functools.partial(never_slower, pairs=(("KSync", "KAsync"),)),
            "paper",
        ),
        Claim(
            "the batch variants are never slower than those without",
            functools.partial(
                never_slower, pairs=(("KSync", "KBatchSync"), ("KAsync", "KBatchAsync"))
            ),
            "paper",
        ),
        *(
            Claim(
                f"asynchronous is ahead first, synchronous in the end: they cross ({problem})",
                functools.partial(curves_cross, problem=problem),
                "paper",
            )
            for problem in PROBLEMS
        ),
        Claim(
            "the more deltas an iteration has, the lower it ends (logistic regression)",
            functools.partial(
                ends_lower,
                problem="logistic regression",
                pairs=(("KAsync(4)", "KAsync(1)"), ("KSync(8)", "KSync(4)")),
            ),
            "paper",
        ),
        Claim(
            "with as many deltas K-sync ends lower than K-async (logistic regression)",
            functools.partial(
                ends_lower, problem="logistic regression", pairs=(("KSync(4)", "KAsync(4)"),)
            ),
            "paper",
        ),
    ),
    table=table,
    draw=draw,
    height=4.8,
    notes="A floor needs gradients that are noisy at the minimum. Those of the regularized "
    "logistic regression are, and there the curves cross; the MLP can fit its data, and on a test "
    "loss small noisy batches end lower: in these seconds more updates are all that counts. That "
    "K-sync ends below K-async at equal K does not show at K = 4, where a delta is "
    "one version stale: what counts is how many are averaged. With a smaller rate of its own "
    "K-async with K = 1 comes near the others (last columns).",
)
