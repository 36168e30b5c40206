"""Lazy against eager reads under a bound, and how old what they read is (Dai et al. 2015)."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.papers import common
from experiments.papers.essp_runs import (
    LEVEL,
    NAMES,
    PROBLEMS,
    best_rate,
    bounds,
    costs,
    counts,
    differential,
    ends,
    measure,
    shown,
    staleness,
)
from experiments.papers.ssp_runs import focus, needed, of, plot_reached, relative
from jax_ssp.report.papers import Claim, Paper, Row, Rows
from jax_ssp.report.plots import draw_curves, legend_below

LOOKS = {"lazy": ("0.65", "s", "--"), "eager": ("0.1", "o", "-")}


def fresher(rows: Rows) -> tuple[bool, str]:
    """Whether eager reads are fresher on average at every bound, whatever the clocks."""
    gains = [
        differential(rows, delay, f"ESSP({bound})") - differential(rows, delay, f"SSP({bound})")
        for delay in ("even", "uneven")
        for bound in bounds(rows)
    ]
    return min(gains) > 0, f"by {min(gains):.2g} to {max(gains):.2g} clocks on average"


def spread_out(rows: Rows) -> tuple[bool, str]:
    """Whether lazy reads spread evenly over what the bound allows, eager ones do not, if even."""
    bound = bounds(rows)[-1]
    evenness = {}
    for name in NAMES.values():
        shares = counts(rows, "even", f"{name}({bound})")[1:]
        evenness[name] = float(np.exp(-np.sum(shares[shares > 0] * np.log(shares[shares > 0]))))
    said = f"at bound {bound} lazy reads are over {evenness['SSP']:.1f} differentials, eager over "
    as_said = evenness["SSP"] > 0.7 * (bound + 1) and evenness["ESSP"] < 0.3 * (bound + 1)
    return as_said, f"{said}{evenness['ESSP']:.1f} (exponential of the entropy) of {bound + 1}"


def bound_blind(rows: Rows, delay: str) -> tuple[bool, str]:
    """Whether the differential follows the bound under lazy reads only."""
    means = {
        name: [differential(rows, delay, each) for each in ends(rows, name)]
        for name in NAMES.values()
    }
    grown = {name: first - last for name, (first, last) in means.items()}
    said = "; ".join(
        f"{name} {first:.1f} to {last:.1f} clocks" for name, (first, last) in means.items()
    )
    return grown["ESSP"] < grown["SSP"] / 4, said


def robust(rows: Rows, one_rate: bool) -> tuple[bool, str]:
    """Whether the largest bound costs much under lazy reads, and hardly anything under eager ones.

    It costs updates to the level, or, at the rate that is best for lazy reads at the smallest
    bound, in the last objective.
    """
    said: list[str] = []
    holds = True
    for workload in PROBLEMS:
        rate = best_rate(rows, workload, ends(rows, "SSP")[0]) if one_rate else None
        cost = costs(rows, workload, rate)
        (lazy, most), (eager, same) = cost["SSP"], cost["ESSP"]
        holds &= math.isfinite(eager) and common.sooner(same, eager, 1.1)
        holds &= common.sooner(lazy, most, 1 / 1.1)
        at = f" at {rate:g}" if one_rate else ""
        said.append(
            f"{workload}{at}: lazy {lazy:.4g} to {most:.4g}, eager {eager:.4g} to {same:.4g}"
        )
    return holds, "; ".join(said)


def never_later(rows: Rows) -> tuple[bool, str]:
    """Whether eager reads come to the level no later than lazy ones, by updates and by seconds."""
    found = {
        (axis, workload, bound): [
            needed(rows, workload, f"{name}({bound})", LEVEL, axis) for name in NAMES.values()
        ]
        for axis in ("updates", "seconds")
        for workload in PROBLEMS
        for bound in bounds(rows)
    }
    late = [
        f"{workload}, bound {bound}: {lazy:.4g} {axis} lazy, {eager:.4g} eager"
        for (axis, workload, bound), (lazy, eager) in found.items()
        if not common.sooner(eager, lazy, 1 / 0.95)
    ]
    return not late, f"not so in {len(late)} of {len(found)} cases{'; '.join(['', *late])}"


def table(rows: Rows) -> list[Row]:
    found: list[Row] = []
    for workload in PROBLEMS:
        for label in ("BSP", *(f"{name}({b})" for b in bounds(rows) for name in NAMES.values())):
            own = common.runs(of(rows, workload), label)
            rate = common.marked(own[0]["rate"], common.tried_rates(of(rows, workload), label))
            row: Row = {"workload": workload, "method": label, "best rate": rate}
            row["last objective, median (range)"] = common.spread(run["last"] for run in own)
            for axis in ("updates", "seconds"):
                row[f"{axis} to {LEVEL:.0%}"] = needed(rows, workload, label, LEVEL, axis)
            row["mean staleness (versions)"] = round(staleness(rows, workload, label), 1)
            if label != "BSP":
                for delay in ("even", "uneven"):
                    mean = round(differential(rows, delay, label), 1)
                    row[f"mean differential, {delay} clocks"] = mean
            found.append(row)
    return found


def draw(figure: Figure, rows: Rows) -> None:
    axes = figure.subplots(len(PROBLEMS) + 1, 3)
    for row, workload in zip(axes, PROBLEMS, strict=False):
        draw_workload(row, rows, workload)
    every = bounds(rows)
    for axis, bound in zip(axes[-1], (every[(len(every) - 1) // 2], every[-1]), strict=False):
        draw_reads(axis, rows, bound)
    axes[-1, 0].set_ylabel("share of reads, even clocks")
    for delay, fill in (("even", "full"), ("uneven", "none")):
        for adopt, name in NAMES.items():
            color, marker, dashes = LOOKS[adopt]
            ages = [-differential(rows, delay, f"{name}({bound})") for bound in every]
            label = f"{adopt}, {delay} clocks"
            look = {"color": color, "marker": marker, "ls": dashes, "fillstyle": fill}
            axes[-1, 2].plot(range(len(every)), ages, label=label, **look)
    axes[-1, 2].set_xticks(range(len(every)), [str(bound) for bound in every])
    axes[-1, 2].set(xlabel="bound (clocks)", ylabel="mean age of a read:\n- differential (clocks)")
    axes[-1, 2].legend(fontsize="x-small", loc="upper left")
    legend_below(figure, common.curves(of(rows, next(iter(PROBLEMS))), shown(rows)))


def draw_workload(axes: np.ndarray, rows: Rows, workload: str) -> None:
    """Lazy beside eager curves, one colour a bound, and the updates that each bound needs."""
    own = of(rows, workload)
    start = common.runs(own, "BSP")[0]["values"][0]
    low = common.last(own, "BSP")
    for axis, adopt in zip(axes, NAMES, strict=False):
        labels = [label.replace("SSP", NAMES[adopt]) for label in shown(rows)]
        own_curves = [
            replace(curve, label=curve.label.replace("ESSP", "SSP"))
            for curve in common.curves(own, labels)
        ]
        draw_curves(axis, own_curves, "updates", "objective")
        focus(axis, start, low)
        axis.set_title(f"{NAMES[adopt]}: {adopt} reads", loc="left")
    axes[0].set_ylabel(f"{workload}\nobjective")
    axes[1].set(ylabel=None)
    for adopt, name in NAMES.items():
        color, marker, dashes = LOOKS[adopt]
        ratios = [relative(rows, workload, f"{name}({bound})", "updates") for bound in bounds(rows)]
        look = {"color": color, "marker": marker, "ls": dashes, "label": adopt}
        plot_reached(axes[2], ratios, **look)
    axes[2].axhline(1, color="0.8", lw=0.8, zorder=0)
    axes[2].set_xticks(range(len(ratios)), [str(bound) for bound in bounds(rows)])
    axes[2].set(xlabel="bound (clocks)", ylabel="updates to the level,\nagainst BSP")
    axes[2].set_title("at the edge: never", loc="left")
    axes[2].legend(fontsize="x-small", loc="lower right")


def draw_reads(axis: Axes, rows: Rows, bound: int) -> None:
    for shift, (adopt, name) in zip((0.2, -0.2), NAMES.items(), strict=True):
        shares = counts(rows, "even", f"{name}({bound})")
        at = -np.arange(len(shares)) - shift
        axis.bar(at[1:], shares[1:], width=0.4, color=LOOKS[adopt][0], label=adopt)
    axis.set_title(f"bound {bound}", loc="left")
    axis.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axis.set(xlabel="clock differential (clocks)")
    axis.legend()


PAPER = Paper(
    number=2,
    title="ESSP: eager reads under the same bound",
    reference="Dai, Kumar, Wei, Ho, Gibson, Xing 2015, "
    '"High-performance distributed ML at scale through parameter server consistency models", '
    "arXiv:1410.8043",
    shows="Under the same bound a server that pushes what is new (ESSP) gives reads that are "
    "nearly all fresh, where a cache refreshed only when it is too old (SSP) gives every age that "
    "the bound allows; so ESSP converges faster, by iterations and by seconds, and does not mind a "
    "large bound, while SSP does (topic models and matrix factorization of Netflix, on a cluster).",
    ran="The matrix factorization and the logistic regression (batches of 32) of `ssp`, 16 workers "
    "(32 at size `paper`) in virtual time: even clocks, log-normal with sigma 0.1, as on a "
    "homogeneous cluster; and, for the reads alone, the uneven clocks of `ssp` too. The clock "
    "differential is the paper's: the last clock of which all deltas were read, minus the "
    "reader's. A network takes no time, so lazy and eager runs of one bound have the same clocks "
    "to the second: what pushing saves in waiting, or costs in traffic, is not seen, and seconds "
    "are in proportion to updates, which alone the figure shows. As many updates for all, rates "
    "swept for each, on one seed. The level: 99 % of what BSP gains in its run.",
    measure=measure,
    claims=(
        Claim("eager reads are fresher at every bound, even and uneven clocks", fresher, "paper"),
        Claim(
            "with even clocks lazy reads spread over all that the bound allows, eager do not",
            spread_out,
            "paper",
        ),
        Claim(
            "with even clocks only lazy reads grow older with the bound",
            functools.partial(bound_blind, delay="even"),
            "paper",
        ),
        Claim(
            "with uneven clocks too only lazy reads do",
            functools.partial(bound_blind, delay="uneven"),
            "ours",
        ),
        Claim(
            "from the smallest to the largest bound, lazy reads need more updates, eager no more",
            functools.partial(robust, one_rate=False),
            "paper",
        ),
        Claim(
            "at one rate for all the same is so of the last objective",
            functools.partial(robust, one_rate=True),
            "paper",
        ),
        Claim(
            "at every bound eager reads come to the level in no more updates (within 5 %), and so, "
            "as the clocks of a bound are the same, in no more seconds",
            never_later,
            "paper",
        ),
    ),
    table=table,
    draw=draw,
    height=6.2,
    notes="What eager reads gain is freshness; it is worth most where the bound is large, as a "
    "small one keeps lazy reads fresh too. Batches are larger than in `ssp`, since the last value "
    "on one seed is to tell of the rates; 5 % are allowed, since a level is seen at an evaluation "
    "only. Where clocks vary independently workers drift apart, the more the "
    "longer a run is, so that by the coverage of what is read (the slowest worker decides) eager "
    "reads grow older with the bound too, under uneven clocks and over longer runs; how stale the "
    "updates are, in versions, does not follow.",
)
