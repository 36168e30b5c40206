"""Ringmaster ASGD (2025) and Rennala SGD (2023): a quadratic on many workers of unequal speed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.papers import common
from experiments.papers.ringmaster_runs import (
    ADAPTIVE,
    ASGD,
    BSP,
    DELAYS,
    PLAIN,
    RENNALA,
    STOPS,
    measure,
)
from jax_ssp.report.papers import Claim, Paper, Row, Rows
from jax_ssp.report.plots import draw_curves, legend_below, style

LABELS = (BSP, ASGD, ADAPTIVE, RENNALA, PLAIN, STOPS)
NEAR = 1.05  # as near as three draws of the workers' speeds tell times apart


def of(rows: Rows, kind: str, workers: int | None = None) -> list[Mapping[str, Any]]:
    """The runs at a kind of delays, on so many workers or on the number that all methods had."""
    own = [row for row in common.runs(rows) if row["delay"] == kind]
    workers = workers or next(row["workers"] for row in own if row["label"] == BSP)
    return [row for row in own if row["workers"] == workers]


def level(rows: Rows, kind: str) -> float:
    """The gap that all but BSP came to at the end (or 2 % above it)."""
    return 1.02 * max(common.last(of(rows, kind), label) for label in LABELS if label != BSP)


def seconds(rows: Rows, kind: str, label: str) -> float:
    return common.time_to(of(rows, kind), label, level(rows, kind))


def no_slower(label: str, other: str, sentence: str) -> Claim:
    """That a method takes no longer than another to the level, at either kind of delays."""

    def check(rows: Rows) -> tuple[bool, str]:
        times = {kind: (seconds(rows, kind, label), seconds(rows, kind, other)) for kind in DELAYS}
        said = "; ".join(
            f"{kind}: gap {level(rows, kind):.3f} after {one:.3g} and {two:.3g} s"
            for kind, (one, two) in times.items()
        )
        return all(one <= NEAR * two for one, two in times.values()), said

    return Claim(sentence, check)


def stops_never_hurt(rows: Rows) -> tuple[bool, str]:
    """By the last gap, for every R and step size tried with both that made the gap smaller."""
    found = {
        tuple(row[key] for key in ("label", "delay", "workers", "parameter", "rate")): row["last"]
        for row in rows
        if row["kind"] == "swept" and row["last"] is not None
    }
    start = common.runs(rows)[0]["values"][0]
    pairs = [
        (gap, found[PLAIN, *rest])
        for (label, *rest), gap in found.items()
        if label == STOPS and found.get((PLAIN, *rest), math.inf) < start
    ]
    ratios = [stops / plain for stops, plain in pairs]
    said = f"last gap {min(ratios):.2f} to {max(ratios):.2f} times that without, {len(pairs)} pairs"
    return max(ratios) <= NEAR, said


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
    return times[-1] > NEAR * min(times), shown(rows, ASGD)


def never_suffers(rows: Rows) -> tuple[bool, str]:
    times = list(by_workers(rows, PLAIN).values())
    return times[-1] <= NEAR * min(times), shown(rows, PLAIN)


def shown(rows: Rows, label: str) -> str:
    times = by_workers(rows, label).items()
    return "after " + ", ".join(f"{s:.3g} s ({n} workers)" for n, s in times)


def within_the_bound(rows: Rows) -> tuple[bool, str]:
    most = [max(row["of the bound"]) for row in rows if row["kind"] == "update times"]
    return max(most) <= 1, f"{min(most):.2f} to {max(most):.2f} of it"


def table(rows: Rows) -> list[Row]:
    found: list[Row] = []
    for kind in DELAYS:
        for label in LABELS:
            own = common.runs(of(rows, kind), label)
            mean, reached = statistics.fmean, seconds(rows, kind, label)
            found.append(
                {
                    "delays": kind,
                    "method": label,
                    "R or batch": own[0]["parameter"],
                    "step size": own[0]["rate"],
                    "last gap, median (range)": common.spread(row["last"] for row in own),
                    "virtual s to the gap": reached if math.isfinite(reached) else None,
                    "updates": mean(row["total_updates"] for row in own),
                    "thrown away, %": 100 * mean(row["thrown_away"] for row in own),
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
        left.set(yscale="log")
        middle.set(yscale="log", ylabel=None)
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
    'complexities of parallel stochastic optimization methods", arXiv:2305.12387',
    shows="Slow workers make asynchronous SGD slow, the more of them the more. Dropping what is R "
    "versions old or more makes its time to an accuracy optimal, as Rennala's batches on the "
    "newest version are; in practice it is faster than Rennala and than step sizes by delay (a "
    "quadratic, d = 1729, 6174 workers of delays i + |N(0, i)|).",
    ran="The same quadratic and noise (0.01 a coordinate), on 256 workers, for the virtual seconds "
    "in which they compute 3,000 gradients; asynchronous SGD and Ringmaster at the milder delays "
    "on 16 to 4,096 workers too, for as many seconds. Delays are drawn once a worker: the paper's, "
    "`linear`, and milder ones, `root`: 1 + √i + |N(0, √i)|. Step sizes 4^-5..1 for every method, "
    "each with every R or batch of 16, 64 and 256, then the best halved and doubled; tuned by the "
    "last gap on seed 0. `ASP` is asynchronous SGD; step sizes by delay are the step size over the "
    "staleness. The gap is that of the version that the last worker to start read.",
    measure=measure,
    claims=(
        no_slower(PLAIN, ASGD, "Ringmaster is not slower than asynchronous SGD (5 %)"),
        no_slower(PLAIN, ADAPTIVE, "nor than step sizes by delay"),
        no_slower(PLAIN, RENNALA, "nor than Rennala"),
        no_slower(RENNALA, ASGD, "Rennala is not slower than asynchronous SGD"),
        no_slower(STOPS, PLAIN, "stopping outdated clocks never hurts, each tuned by itself"),
        Claim(
            "stopping outdated clocks never hurts, at the same R and step size", stops_never_hurt
        ),
        Claim("asynchronous SGD gets slower as slower workers are added", suffers),
        Claim("Ringmaster does not", never_suffers),
        Claim("R updates in a row never take longer than t(R) of Lemma 4.1", within_the_bound),
    ),
    table=table,
    draw=draw,
    height=4.8,
    notes="Few workers, little noise and a step size of its own leave asynchronous SGD hardly "
    "behind: at the milder delays it has caught up with Ringmaster by the gap asked for, at the "
    "paper's later (second column). The step size over the staleness begins with an overshoot, "
    "then is the fastest at the milder delays and not at the paper's. Rennala throws most "
    "gradients away. With stops tuning took a smaller R at the paper's delays, and lost a little; "
    "at equal R and step size stops lose nothing. With thousands of workers asynchronous SGD falls "
    "behind, as the paper says (top right); Ringmaster suffers too at 4,096, where the smallest R "
    "tried, a sixteenth of the workers, is 256. Not run: the paper's delays on its 6174 workers.",
)
