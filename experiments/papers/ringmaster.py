"""Ringmaster ASGD (2025) and Rennala SGD (2023): a quadratic on many workers of unequal speed."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.papers import common
from experiments.papers.ringmaster_runs import (
    ADAPTIVE,
    ASGD,
    BSP,
    CANCELS,
    DELAYS,
    LABELS,
    PLAIN,
    RENNALA,
    STOPS,
    measure,
)
from jax_ssp.report.papers import Claim, Paper, Row, Rows
from jax_ssp.report.plots import draw_curves, legend_below, style

NEAR = 1.05  # as near as three draws of the workers' speeds tell times apart


def of(rows: Rows, kind: str, workers: int | None = None) -> list[Mapping[str, Any]]:
    """The runs at a kind of delays, on so many workers or on the number that all methods had."""
    own = [row for row in common.runs(rows) if row["delay"] == kind]
    workers = workers or next(row["workers"] for row in own if row["label"] == BSP)
    return [row for row in own if row["workers"] == workers]


def level(rows: Rows, kind: str) -> float:
    """The gap that all but BSP came to at the end (or 2 % above it); infinite if one diverged."""
    return 1.02 * max(common.last(of(rows, kind), label) for label in LABELS if label != BSP)


def seconds(rows: Rows, kind: str, label: str) -> float:
    return common.time_to(of(rows, kind), label, level(rows, kind))


def no_slower(label: str, other: str, text: str, source: str) -> Claim:
    """That a method takes no longer than another to the level, at either kind of delays."""

    def check(rows: Rows) -> tuple[bool, str]:
        said: list[str] = []
        holds = True
        for kind in DELAYS:
            gap = level(rows, kind)
            one, two = seconds(rows, kind, label), seconds(rows, kind, other)
            holds &= common.at_most(one, two, NEAR)
            reached = f"gap {gap:.3f} after {one:.3g} and {two:.3g} s"
            said.append(f"{kind}: {reached if math.isfinite(gap) else 'no gap that all came to'}")
        return holds, "; ".join(said)

    return Claim(text, check, source)


def stops_never_hurt(rows: Rows) -> tuple[bool, str]:
    """By the last gap, where without stops it became smaller than at the start."""
    found = {
        tuple(row[key] for key in ("label", "delay", "workers", "parameter", "rate")): row["last"]
        for row in rows
        if row["kind"] == "swept"
    }
    start = common.finite(common.runs(rows)[0]["values"][0])
    ratios = [
        common.finite(gap) / found[PLAIN, *rest]
        for (label, *rest), gap in found.items()
        if label == STOPS and common.finite(found.get((PLAIN, *rest))) < start
    ]
    if not ratios:
        return False, "no pair without stops made the gap smaller"
    said = f"last gap {min(ratios):.2f} to {max(ratios):.2f} times that without"
    return common.at_most(max(ratios), NEAR), f"{said}, {len(ratios)} pairs"


def by_workers(rows: Rows, label: str) -> dict[int, float]:
    """Virtual seconds to the gap that both came to at the end, by number of workers."""
    own = {
        workers: of(rows, "root", workers)
        for workers in sorted({row["workers"] for row in common.runs(rows)})
    }
    gap = 1.02 * max(common.last(each, one) for each in own.values() for one in (ASGD, PLAIN))
    return {workers: common.time_to(each, label, gap) for workers, each in own.items()}


def suffers(rows: Rows) -> tuple[bool, str]:
    times = list(by_workers(rows, ASGD).values())
    slower = all(common.sooner(one, other, 1 / NEAR) for one, other in itertools.pairwise(times))
    return slower and math.isfinite(times[-1]), shown(rows, ASGD)


def never_suffers(rows: Rows) -> tuple[bool, str]:
    times = list(by_workers(rows, PLAIN).values())
    before = itertools.accumulate(times, min)
    pairs = zip(times[1:], before, strict=False)
    return all(common.at_most(time, best, NEAR) for time, best in pairs), shown(rows, PLAIN)


def shown(rows: Rows, label: str) -> str:
    times = by_workers(rows, label)
    if not all(map(math.isfinite, times.values())):
        return "no gap that both came to"
    return "after " + ", ".join(f"{s:.3g} s ({n} workers)" for n, s in times.items())


def within_the_bound(rows: Rows) -> tuple[bool, str]:
    most = [max(row["of the bound"]) for row in rows if row["kind"] == "update times"]
    return common.at_most(max(most), 1), f"{min(most):.2f} to {max(most):.2f} of it"


def table(rows: Rows) -> list[Row]:
    found: list[Row] = []
    workers = of(rows, next(iter(DELAYS)))[0]["workers"]
    swept = [row for row in rows if row["kind"] == "swept" and row["workers"] == workers]
    for kind in DELAYS:
        for label in LABELS:
            own = common.runs(of(rows, kind), label)
            size, rate = own[0]["parameter"], own[0]["rate"]
            tried = [row for row in swept if (row["delay"], row["label"]) == (kind, label)]
            sizes = [row["parameter"] for row in tried]
            rates = [row["rate"] for row in tried if row["parameter"] == size]
            mean, reached = statistics.fmean, seconds(rows, kind, label)
            found.append(
                {
                    "delays": kind,
                    "method": label,
                    "R or batch": "" if size is None else common.marked(size, sizes),
                    "step size": common.marked(rate, rates),
                    "last gap, median (range)": common.spread(row["last"] for row in own),
                    "virtual s to the gap": reached if math.isfinite(reached) else None,
                    "updates": mean(row["total_updates"] for row in own),
                    "dropped or cancelled, %": 100 * mean(row["thrown_away"] for row in own),
                    "mean staleness": mean(row["mean_staleness"] for row in own),
                    "max staleness": max(row["max_staleness"] for row in own),
                }
            )
    return found


def draw(figure: Figure, rows: Rows) -> None:
    axes = figure.subplots(2, 3)
    for (left, middle, _), (kind, formula) in zip(axes, DELAYS.items(), strict=True):
        every = common.curves(of(rows, kind), LABELS)
        draw_curves(left, every, "updates", "f(x) − f*")
        draw_curves(middle, every, "seconds", "f(x) − f*")
        for axis in (left, middle):
            seen = any(np.isfinite(line.get_ydata()).any() for line in axis.lines)
            axis.set_yscale("log" if seen else "linear")
        middle.set(ylabel=None)
        left.set_title(f"{kind}: delays {formula}", loc="left")
    _draw_workers(axes[0][2], rows)
    _draw_bound(axes[1][2], rows)
    legend_below(figure, every)


def _draw_workers(axis: Axes, rows: Rows) -> None:
    for label in (ASGD, PLAIN):
        times, look = by_workers(rows, label), style(label)
        axis.plot(list(times), list(times.values()), **look._asdict())
    axis.set_xscale("log")
    axis.set_xticks(list(times), [str(each) for each in times])
    axis.minorticks_off()
    axis.margins(y=0.2)
    axis.set(xlabel="workers", ylabel="virtual seconds to one gap", ylim=(0, None))
    axis.set_title("root", loc="left")


def _draw_bound(axis: Axes, rows: Rows) -> None:
    color = style(PLAIN).color
    for kind, mark in zip(DELAYS, ("o", "s"), strict=True):
        own = [row for row in rows if row["kind"] == "update times" and row["delay"] == kind]
        for stops, fill in ((True, "white"), (False, color)):
            dots = [(row["R"], max(row["of the bound"])) for row in own if row["stops"] is stops]
            look = {"marker": mark, "markerfacecolor": fill, "markersize": 7 if stops else 4}
            name = kind + (", stops" if stops else "")
            axis.plot(*zip(*dots, strict=True), color=color, ls="none", label=name, **look)
    axis.axhline(1, color="0.4", lw=1)
    axis.set_xscale("log")
    ticks = sorted({row["R"] for row in rows if row["kind"] == "update times"})
    axis.set_xticks(ticks, [str(each) for each in ticks])
    axis.minorticks_off()
    axis.set(xlabel="R (versions)", ylabel="longest R updates / t(R)", ylim=(0, 1.1))
    axis.legend(
        loc="center", bbox_to_anchor=(0.5, 0.75), ncols=2, handletextpad=0, columnspacing=0.6
    )


PAPER = Paper(
    number=8,
    title="Ringmaster ASGD and Rennala SGD",
    reference='Maranjyan, Tyurin, Richtárik 2025, "Ringmaster ASGD: the first asynchronous SGD '
    'with optimal time complexity", arXiv:2501.16168; Tyurin, Richtárik 2023, "Optimal time '
    'complexities of parallel stochastic optimization methods under a fixed computation model", '
    "arXiv:2305.12387. Step sizes by delay: Mishchenko, Bach, Even, Woodworth 2022, "
    "arXiv:2206.07638; Koloskova, Stich, Jaggi 2022, arXiv:2206.08307",
    shows="Slow workers make asynchronous SGD slow, the more of them the more. Dropping what is R "
    "versions old or more makes its time to an accuracy optimal, as Rennala's batches on the "
    "newest version are; in practice it is faster than Rennala and than step sizes by delay (a "
    "quadratic, d = 1729, 6174 workers of delays i + |N(0, i)|).",
    ran="The same quadratic, but from x = 0 and with noise that is independent in each coordinate "
    "(standard deviation 0.01), where the authors' code starts at (sqrt d, 0, ...), 3,500 times "
    "higher, and adds one number to all coordinates: ours is limited by noise, theirs by delays. "
    "On 256 workers, for the virtual seconds in which they compute 3,000 gradients; asynchronous "
    "SGD and Ringmaster at the milder delays on 16 to 4,096 workers too, for as many seconds. "
    "Delays are drawn once a worker, where the authors' code draws one for every gradient: the "
    "paper's, `linear`, and milder ones, `root`: 1 + √i + |N(0, √i)|. Step sizes 4^-3..1 for "
    "every method and every R or batch of 16, 64 and 256, the best of each halved or doubled "
    "until it lies between two that are worse; tuned by the last gap on seed 0. `ASP` is "
    "asynchronous SGD; `step by delay` multiplies its step size by W / max(W, staleness), W "
    "workers, as Mishchenko et al. and Koloskova et al. do, not as a plain quotient. `Rennala` "
    "lets outdated gradients be finished and ignores them, as its algorithm says; `KBatchSync "
    "(cancels)` is Rennala that starts all workers anew at every iteration, as its authors "
    "simulate it. The gap is that of the version that the last worker to start read. Of the "
    "settled gradients alone, not of those still computed at the end, is it counted how many were "
    "dropped or cancelled.",
    measure=measure,
    claims=(
        no_slower(PLAIN, ASGD, "Ringmaster is not slower than asynchronous SGD (5 %)", "paper"),
        no_slower(PLAIN, ADAPTIVE, "nor than step sizes by delay", "paper"),
        no_slower(PLAIN, RENNALA, "nor than Rennala", "paper"),
        no_slower(RENNALA, ASGD, "Rennala is not slower than asynchronous SGD", "paper"),
        no_slower(CANCELS, RENNALA, "Rennala that cancels is not slower than Rennala", "ours"),
        no_slower(PLAIN, CANCELS, "Ringmaster is not slower than Rennala that cancels", "paper"),
        no_slower(
            STOPS, PLAIN, "stopping outdated clocks never hurts, each tuned by itself", "ours"
        ),
        Claim(
            "nor, on seed 0, does it for any delays, R and step size that both were tried with and "
            "that lowered the gap without stops",
            stops_never_hurt,
            "ours",
        ),
        Claim("asynchronous SGD gets slower as slower workers are added", suffers, "paper"),
        Claim("Ringmaster does not", never_suffers, "paper"),
        Claim(
            "R updates in a row never take longer than t(R) of Lemma 4.1",
            within_the_bound,
            "paper, Lemma 4.1",
        ),
    ),
    table=table,
    draw=draw,
    height=4.8,
    notes="With a step size of its own asynchronous SGD makes up for slow workers by small steps, "
    "of which it makes more than the others. What Ringmaster drops and Rennala ignores is computed "
    "in vain; a restart gives a slow worker the newest version, but nothing for what it had begun. "
    "An R that is large for the workers drops nothing: that is asynchronous SGD. Where R or step "
    "size is at the edge of those tried, the table says so; another may be better. Not run: the "
    "paper's delays on its 6174 workers.",
)
