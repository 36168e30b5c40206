"""The claims of `dssp`, and what of its rows they are about."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from functools import partial
from typing import Any

from experiments.papers import common
from experiments.papers.dssp.runs import (
    BOUNDS,
    DELAYS,
    EQUAL,
    LOWER,
    MIXED,
    OURS,
    PRINTED,
    UPPER,
)
from jax_ssp.report.papers import Claim, Rows

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


CLAIMS: tuple[Claim, ...] = (
    *judged(PRINTED, "paper"),
    *judged(OURS, "ours"),
    Claim(
        f"{MIXED}: Algorithm 1 leaves its range to be faster, ours does not",
        leaves_its_range,
        "ours",
    ),
)
