"""Dynamic SSP (Zhao et al. 2019): one range of bounds against every fixed bound in it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.papers import common
from experiments.papers.dssp_runs import (
    BOUNDS,
    DELAYS,
    DRAWN,
    EQUAL,
    LOWER,
    MIXED,
    OURS,
    PRINTED,
    UPPER,
    measure,
)
from jax_ssp.report.papers import Claim, Paper, Row, Rows
from jax_ssp.report.plots import draw_curves, legend_below, style

LEARNED = 50.0  # percent; whoever learns is above


def of(rows: Rows, setting: str) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["setting"] == setting]


def waiting(rows: Rows, setting: str, label: str) -> float:
    """Percent of the workers' time, mean over the seeds."""
    (row,) = [row for row in of(rows, setting) if (row["kind"], row["label"]) == ("waiting", label)]
    return 100 * statistics.fmean(row["waiting"])


def fixed(rows: Rows, setting: str) -> list[float]:
    return [waiting(rows, setting, f"SSP({bound})") for bound in BOUNDS]


def trained(rows: Rows) -> list[str]:
    """The methods that were trained; of the bounds of SSP perhaps not all."""
    return list(dict.fromkeys(row["label"] for row in common.runs(rows)))


def seconds(rows: Rows, setting: str, label: str) -> float:
    """Virtual seconds to twice the loss that the worst of the methods that ended came to."""
    own = of(rows, setting)
    ends = (common.last(own, each) for each in trained(rows))
    level = 2 * max((end for end in ends if math.isfinite(end)), default=math.inf)
    return common.time_to(own, label, level)


def accuracy(rows: Rows, setting: str, label: str) -> float:
    """Percent of the test images, the last of each run, median over the seeds; 0 if diverged."""
    own = common.runs(of(rows, setting), label)
    return 100 * statistics.median(
        0.0 if row["status"] == "diverged" else row["metrics"]["test_accuracy"] for row in own
    )


def waits_less(rows: Rows, label: str, setting: str) -> tuple[bool, str]:
    own, lower = (waiting(rows, setting, each) for each in (label, f"SSP({LOWER})"))
    return own < 0.98 * lower, f"{own:.2f} % of the time against {lower:.2f} %"


def waits_as_the_average(rows: Rows, label: str) -> tuple[bool, str]:
    own = {setting: waiting(rows, setting, label) for setting in DELAYS}
    means = {setting: statistics.fmean(fixed(rows, setting)) for setting in DELAYS}
    said = "; ".join(
        f"{setting}: {own[setting]:.2f} %, fixed {means[setting]:.2f} % "
        f"({min(fixed(rows, setting)):.2f} to {max(fixed(rows, setting)):.2f})"
        for setting in DELAYS
    )
    return all(own[setting] <= 1.02 * means[setting] for setting in DELAYS), said


def faster_when_mixed(rows: Rows, label: str) -> tuple[bool, str]:
    own = seconds(rows, MIXED, label)
    others = {each: seconds(rows, MIXED, each) for each in ("BSP", f"SSP({LOWER})")}
    said = ", ".join(f"{each} {value:.4g}" for each, value in others.items())
    return common.sooner(own, min(others.values()), 0.98), f"{own:.4g} virtual s; {said}"


def no_bound_to_pick(rows: Rows, label: str) -> tuple[bool, str]:
    said: list[str] = []
    holds = True
    bounds = [each for each in trained(rows) if each.startswith("SSP")]
    for setting in DELAYS:
        own = seconds(rows, setting, label)
        mean = statistics.fmean(seconds(rows, setting, each) for each in bounds)
        holds &= math.isfinite(mean) and common.at_most(own, mean, 1.05)
        said.append(f"{setting}: {own:.4g} virtual s, mean of the bounds {mean:.4g}")
    return holds, "; ".join(said)


def as_accurate_as_asp(rows: Rows, label: str) -> tuple[bool, str]:
    pairs = {s: (accuracy(rows, s, label), accuracy(rows, s, "ASP")) for s in DELAYS}
    said = "; ".join(f"{s}: {own:.1f} % and {asp:.1f} %" for s, (own, asp) in pairs.items())
    learned = min(min(pair) for pair in pairs.values()) > LEARNED
    return learned and all(own >= asp - 0.5 for own, asp in pairs.values()), said


def nearly_asp(rows: Rows, label: str) -> tuple[bool, str]:
    own, asp = (seconds(rows, MIXED, each) for each in (label, "ASP"))
    holds = math.isfinite(asp) and common.at_most(own, asp, 1.1)
    return holds, f"{own:.4g} and {asp:.4g} virtual s"


def leaves_its_range(rows: Rows) -> tuple[bool, str]:
    lags = {
        row["label"]: row["max_lag"]
        for row in of(rows, MIXED)
        if row["kind"] == "waiting" and row["label"] in (OURS, PRINTED)
    }
    return lags[PRINTED] > UPPER + 1, f"lag up to {lags[PRINTED]} clocks; ours {lags[OURS]}"


def table(rows: Rows) -> list[Row]:
    return [
        {
            "method": label,
            "devices": setting,
            "waiting, %": waiting(rows, setting, label),
            **trained_columns(rows, setting, label),
        }
        for setting in DELAYS
        for label in trained(rows)
    ]


def trained_columns(rows: Rows, setting: str, label: str) -> Row:
    own = common.runs(of(rows, setting), label)
    return {
        "best rate": common.marked(own[0]["rate"], common.tried_rates(of(rows, setting), label)),
        "test loss, median (range)": common.spread(row["last"] for row in own),
        "test accuracy, %": accuracy(rows, setting, label),
        "virtual s to the loss": seconds(rows, setting, label),
        "mean staleness": statistics.fmean(row["mean_staleness"] for row in own),
    }


def draw(figure: Figure, rows: Rows) -> None:
    axes = figure.subplots(2, 3)
    for (left, middle, right), setting in zip(axes, DELAYS, strict=True):
        every = common.curves(of(rows, setting), DRAWN)
        draw_curves(left, every, "updates", "test loss")
        draw_curves(middle, every, "seconds", "test loss")
        middle.set(ylabel=None)
        left.set_title(setting, loc="left")
        draw_waiting(right, rows, setting)
    legend_below(figure, every)


def draw_waiting(axis: Axes, rows: Rows, setting: str) -> None:
    """By the bound of SSP; not from 0 where all are far from it."""
    shares = dict(zip(BOUNDS, fixed(rows, setting), strict=True))
    for bound, share in shares.items():
        look = style(f"SSP({bound})")
        axis.plot(bound, share, color=look.color, marker=look.marker)
    lines = {label: waiting(rows, setting, label) for label in (OURS, PRINTED)}
    for label, dashes in ((OURS, "-"), (PRINTED, "--")):
        axis.axhline(lines[label], color=style("DSSP").color, ls=dashes, lw=1.2, zorder=1)
    every = [*shares.values(), *lines.values()]
    low, high = min(every), max(every)
    cut = 0 < high - low < low
    bottom = low - 0.3 * (high - low) if cut else 0.0
    axis.set_ylim(bottom, high + 0.3 * (high - bottom))
    ours_above = lines[OURS] >= lines[PRINTED]
    for label, above in ((OURS, ours_above), (PRINTED, not ours_above)):
        about: dict[str, Any] = {"xytext": (0, 2 if above else -2), "textcoords": "offset points"}
        place = {"ha": "right", "va": "bottom" if above else "top", "fontsize": 8}
        axis.annotate(label, (UPPER, lines[label]), **about, **place)
    axis.ticklabel_format(axis="y", useOffset=False)
    axis.set(xlabel="bound of SSP (clocks)", ylabel="time waiting (%)")
    axis.set_xticks(range(LOWER, UPPER + 1, 3))
    if cut:
        axis.set_title("not from 0", loc="left")


def judged(label: str, source: str) -> list[Claim]:
    """The paper's claims, of its Algorithm 1 or of the variant that keeps its bound."""
    name = {PRINTED: "Algorithm 1", OURS: "our DSSP"}[label]
    lower = "SSP at its lower bound (2 %"
    checks = {
        f"{EQUAL}: {name} waits less than {lower} or more)": partial(waits_less, setting=EQUAL),
        f"{MIXED}: {name} waits less than {lower} or more)": partial(waits_less, setting=MIXED),
        f"{name} waits no longer than SSP on the average of the fixed bounds in its range (2 %)": (
            waits_as_the_average
        ),
        f"{MIXED}: {name} converges faster in seconds than BSP and {lower})": faster_when_mixed,
        f"{MIXED}: {name} is nearly as fast as ASP (10 %)": nearly_asp,
        f"no bound has to be picked: the time of {name} to a loss is that of the average of the "
        "bounds trained, or less (5 %)": no_bound_to_pick,
        f"the accuracy of {name} is no worse than ASP's (half a point)": as_accurate_as_asp,
    }
    return [Claim(text, partial(check, label=label), source) for text, check in checks.items()]


PAPER = Paper(
    number=5,
    title="Dynamic SSP: a range of bounds",
    reference='Zhao, An, Liu, Chen 2019, "Dynamic stale synchronous parallel distributed training '
    'for deep learning", arXiv:1908.11848',
    shows="DSSP chooses the bound in 3..15 while it trains, so that none has to be picked: it does "
    "as well as SSP at its fixed bounds on average, or better, waits less, and on a GTX 1060 "
    "beside a GTX 1080 Ti converges faster than BSP and SSP, nearly as fast as ASP (AlexNet and "
    "ResNets on CIFAR; 4 P100 where devices are equal).",
    ran="Waiting at every bound, from the clockwork alone (6,000 updates); an MLP on the digits, "
    "batches of 64, 1,200 updates, at every bound too, rates 0.1 to 1.6 swept for each (the "
    "figure shows some of the curves, the table all). Steps take a log-normal time of median 1 "
    "virtual second and sigma 0.2, 2.5 times that on the slow one of two mixed devices; merging "
    "and sending take none. The claims are judged on the paper's Algorithm 1 (`DSSP as printed`), "
    "whose grant of r lets r + 1 clocks pass, and which asks for another when one is used up, "
    "whatever the lag; and beside it on our DSSP, which never passes its upper bound. Times are "
    "to twice the loss that the worst method that did not diverge came to.",
    measure=measure,
    claims=(
        *judged(PRINTED, "paper"),
        *judged(OURS, "ours"),
        Claim(
            f"{MIXED}: Algorithm 1 leaves its range to be faster, ours does not",
            leaves_its_range,
            "ours",
        ),
    ),
    table=table,
    draw=draw,
    height=4.6,
    notes="Of two devices of lastingly unequal speed, any bounded lag lets the fast one do as many "
    "clocks as the slow one and no more: every bound, and DSSP, waits the same, but for a head "
    "start of `upper` clocks at the most, once. The gain of the paper needs a lag without bound, "
    "which its Algorithm 1 as printed allows, one grant after another; but whenever it grants no "
    "clock, which the speeds of the last two pushes decide, the worker is to wait until it is back "
    "within the lower bound, and what lead it had is used up: it gains early on, which a short "
    "training shows more of than a long run of the clockwork. On equal devices steps are "
    "independent draws, of which the last two pushes predict little, and there is little waiting "
    "to be saved. A rate is the best on one seed: bounds that differ by chance in it differ in "
    "time for that reason, and so does the mean that DSSP is compared with.",
)
