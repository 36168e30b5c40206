"""SSP against BSP, asynchrony and a single worker, with the reads of the paper (Ho et al. 2013)."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.papers import common
from experiments.papers.ssp_runs import (
    LEVELS,
    PROBLEMS,
    SINGLE,
    SIZES,
    bounds,
    focus,
    measure,
    needed,
    of,
    plot_reached,
    relative,
    speed,
    step,
    waits,
)
from jax_ssp.report.papers import Claim, Paper, Row, Rows
from jax_ssp.report.plots import draw_curves, legend_below, style


def sooner(
    rows: Rows, first: str, second: str, levels: Sequence[float] = LEVELS
) -> tuple[bool, str]:
    """Whether the first method is at the levels of every workload before the second."""
    said: list[str] = []
    holds = True
    for workload in PROBLEMS:
        pairs = [
            tuple(needed(rows, workload, label, share, "seconds") for label in (first, second))
            for share in levels
        ]
        holds &= all(common.sooner(one, other) for one, other in pairs)
        said.append(
            f"{workload} " + ", ".join(f"{one:.3g} / {other:.3g} s" for one, other in pairs)
        )
    return holds, "; ".join(said)


def better_per_update(rows: Rows) -> tuple[bool, str]:
    """Whether BSP needs no more updates than any bound, for every level and workload."""
    said: list[str] = []
    holds = True
    for workload in PROBLEMS:
        for share in LEVELS:
            bulk = needed(rows, workload, "BSP", share, "updates")
            others = [
                needed(rows, workload, f"SSP({bound})", share, "updates") for bound in bounds(rows)
            ]
            holds &= all(common.at_most(bulk, other) for other in others)
            each = ", ".join(f"{other:g}" for other in others)
            said.append(f"{workload} to {share:.0%} BSP {bulk:g}, SSP {each}")
    return holds, "; ".join(said)


def quantity_and_quality(rows: Rows) -> tuple[bool, str]:
    """Whether updates a second grow with the bound, and the updates needed, but for a step."""
    said: list[str] = []
    holds = True
    for workload in PROBLEMS:
        labels = [f"SSP({bound})" for bound in bounds(rows)]
        fast = [speed(rows, workload, label) for label in labels]
        holds &= fast == sorted(fast) and fast[-1] > fast[0]
        said.append(f"{workload} {fast[0]:.3g} to {fast[-1]:.3g} updates a second")
        slack = step(rows, workload)
        for share in LEVELS:
            counts = [needed(rows, workload, label, share, "updates") for label in labels]
            ascend = all(later >= one - slack for one, later in itertools.combinations(counts, 2))
            holds &= ascend and common.sooner(counts[0] + slack, counts[-1])
            said[-1] += f", to {share:.0%} {', '.join(f'{count:g}' for count in counts)}"
    return holds, "; ".join(said)


def sweet_spot(rows: Rows) -> tuple[bool, str]:
    """Whether some bound is sooner in seconds than both 0 and the largest, at every level."""
    tried = ["BSP", *(f"SSP({bound})" for bound in bounds(rows))]
    said: list[str] = []
    holds = True
    for workload in PROBLEMS:
        for share in LEVELS:
            times = {label: needed(rows, workload, label, share, "seconds") for label in tried}
            best = min(times, key=times.__getitem__)
            holds &= common.sooner(times[best], min(times[tried[0]], times[tried[-1]]))
            said.append(f"{workload} to {share:.0%} {best}")
    return holds, "; ".join(said)


def waiting_grows(rows: Rows) -> tuple[bool, str]:
    """Whether the share of waiting grows for BSP, and to less than half of that under SSP(3)."""
    bulk = [waits(rows, "BSP", workers) for workers in SIZES]
    stale = waits(rows, "SSP(3)", SIZES[-1])
    said = (
        f"BSP {100 * bulk[0]:.0f} to {100 * bulk[-1]:.0f} % at {SIZES[0]} to {SIZES[-1]} workers, "
        f"SSP(3) {100 * stale:.0f} % at {SIZES[-1]}"
    )
    return bulk == sorted(bulk) and stale < bulk[-1] / 2, said


def waiting_saturates(rows: Rows) -> tuple[bool, str]:
    """Whether most of what waiting there is to be saved is saved by the first bounds."""
    first, small, large = (waits(rows, label, 32) for label in ("BSP", "SSP(3)", "SSP(31)"))
    said = f"{100 * first:.0f}, {100 * small:.0f} and {100 * large:.1f} % at bounds 0, 3 and 31"
    return small - large < (first - small) / 2, said


def beats_single(rows: Rows) -> tuple[bool, str]:
    """Whether SSP(3) on all workers is at the levels before a single worker."""
    return sooner(rows, "SSP(3)", SINGLE)


def table(rows: Rows) -> list[Row]:
    found: list[Row] = []
    for workload in PROBLEMS:
        own = of(rows, workload)
        for row in common.table(own, "objective"):
            label = row["method"]
            to = {
                f"{axis} to {share:.0%}": needed(rows, workload, label, share, axis)
                for axis in ("updates", "seconds")
                for share in LEVELS[1:]
            }
            dropped = ("updates", "virtual seconds", "max staleness")
            kept = {name: value for name, value in row.items() if name not in dropped}
            found.append({"workload": workload, **kept, **to})
    return found


def draw(figure: Figure, rows: Rows) -> None:
    axes = figure.subplots(len(PROBLEMS), 3, width_ratios=(1, 1, 0.9))
    every: list[Any] = []
    for row, workload in zip(axes, PROBLEMS, strict=True):
        own = of(rows, workload)
        every = common.curves(own)
        for axis, what in zip(row[:2], ("updates", "seconds"), strict=True):
            draw_curves(axis, every, what, "objective")
            top = common.runs(own, "BSP")[0]["values"][0]
            low = min(common.last(own, label) for label in ("BSP", "SSP(3)", "ASP"))
            focus(axis, top, low)
        row[1].set(ylabel=None)
        row[1].set_xlim(0, max(run["total_seconds"] for run in common.runs(own, "BSP")))
        row[0].set_title(workload, loc="left")
    draw_waiting(axes[0, 2], rows)
    for axis, what in ((axes[1, 2], "seconds"), (axes[2, 2], "updates")):
        draw_needed(axis, rows, what)
    legend_below(figure, every)


def draw_waiting(axis: Axes, rows: Rows) -> None:
    for label in ("BSP", *(f"SSP({bound})" for bound in bounds(rows))):
        look = style(label)
        shares = [100 * waits(rows, label, workers) for workers in SIZES]
        axis.plot(SIZES, shares, color=look.color, ls=look.linestyle, marker=look.marker)
    axis.set_xscale("log", base=2)
    axis.set_xticks(SIZES, [str(workers) for workers in SIZES])
    axis.set(xlabel="workers", ylabel="time waited (%)", ylim=(-2, None))


def draw_needed(axis: Axes, rows: Rows, what: str) -> None:
    """What each bound needs, against BSP."""
    labels = ["BSP", *(f"SSP({bound})" for bound in bounds(rows))]
    looks = zip(("o", "^", "s"), ("-", "--", ":"), ("0", "0.3", "0.55"), strict=True)
    for number, (workload, (marker, dashes, grey)) in enumerate(zip(PROBLEMS, looks, strict=True)):
        ratios = [relative(rows, workload, label, what) for label in labels]
        look = {"marker": marker, "ls": dashes, "color": grey, "label": workload}
        plot_reached(axis, ratios, shift=0.12 * (number - 1), **look)
    axis.axhline(1, color="0.7", lw=0.8, zorder=0)
    axis.set_xticks(range(len(labels)), ["0", *(str(bound) for bound in bounds(rows))])
    axis.set(xlabel="bound (clocks)", ylabel=f"{what} to the level,\nagainst BSP")
    axis.set_title("at the edge: never", loc="left")
    if what == "seconds":
        axis.set_ylim(bottom=0)
        axis.legend(fontsize="x-small", loc="lower left")


PAPER = Paper(
    number=1,
    title="SSP: a bound between bulk-synchronous and asynchronous",
    reference='Ho, Cipar, Cui, Lee, Kim, Gibbons, Gibson, Ganger, Xing 2013, "More effective '
    'distributed ML via a stale synchronous parallel parameter server", NeurIPS',
    shows="With a bound on staleness the workers of a cluster wait far less than at barriers; each "
    "update is worth a little less, but there are so many more that the objective comes down "
    "sooner than under BSP and than without any bound (topic models, matrix factorization of "
    "Netflix, and Lasso by coordinate descent, on up to 32 machines).",
    ran="Synthetic ratings of rank 8 (240 by 160), Lasso by coordinate descent (128 by 512), and, "
    "in place of topic models, logistic regression on the digits; 16 workers (32 at size `paper`) "
    "in virtual time, clocks of 0.5 s + an exponential of mean 0.5 s. SSP reads as in the paper, "
    'from a cache kept until the bound forbids it (`adopt="lazy"`). A network takes no time here, '
    "so that lazy reads save nothing, and asynchronous workers read what is newest. As many "
    "updates of the same weight for all; rates swept for each, on one seed, by the last "
    "objective. Levels: 90 and 99 % of what BSP gains in its run.",
    measure=measure,
    claims=(
        *(
            Claim(
                f"SSP(3) comes to the level of {share:.0%} sooner, in seconds, than {name}",
                functools.partial(sooner, first="SSP(3)", second=label, levels=(share,)),
                "abstract",
            )
            for label, name in (("BSP", "BSP"), ("ASP", "asynchronous workers"))
            for share in LEVELS
        ),
        Claim(
            "update for update BSP is at least as good as any bound, to both levels",
            better_per_update,
            "paper",
        ),
        Claim(
            "a larger bound gives more updates a second, each worth less (more are needed to both "
            "levels, but for one step between evaluations)",
            quantity_and_quality,
            "paper",
        ),
        Claim("the best bound is neither 0 nor the largest, to both levels", sweet_spot, "paper"),
        Claim(
            "waiting grows with the workers under BSP, much less under SSP", waiting_grows, "ours"
        ),
        Claim("what a bound saves in waiting saturates", waiting_saturates, "ours"),
        Claim(
            "many workers under SSP(3) are sooner than a single one, to both levels",
            beats_single,
            "paper",
        ),
    ),
    table=table,
    draw=draw,
    height=6.2,
    notes="Asynchronous workers are equally fast here, there is no network, and they read what is "
    "newest at every clock, so that their updates are less stale than those of lazy reads from "
    "bound 3 on: nothing holds them back that a bound would help against. A rate is the one with "
    "the best last value, which need not be the one that is soonest at 90 %. Coordinate "
    "descent, of Lasso, cannot bear a rate of 2, nor one so high if several steps are at once. "
    "Counts of updates come in steps between evaluations, so that small ones say little of an "
    "order. At the largest bound a worker refreshes its cache a few times in its run only.",
)
