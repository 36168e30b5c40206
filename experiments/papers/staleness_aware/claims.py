"""The claims of `staleness_aware`, and what of its rows they are about."""

from __future__ import annotations

import functools
import statistics

from experiments.papers import common
from experiments.papers.staleness_aware.runs import (
    DELAYS,
    EQUAL,
    accuracies,
    at_common,
    best,
    measured,
)
from jax_ssp.report.papers import Claim, Rows

TRAINED = (1, 15, 30)  # n, of the training
DIVIDED = ", 1/tau"
CLOSE = 0.02  # of the test accuracy: 7 of 360 images
FASTER = 1.5  # times, as the paper has it
FAILED = 0.5  # an accuracy that no method that learns is below
SHARES = (0.95, 0.99)  # of the way from the first loss to the last of BSP


def mean_is_n(rows: Rows) -> tuple[bool, str]:
    ratios = [statistics.fmean(row["mean"]) / row["n"] for row in measured(rows, EQUAL)]
    said = f"{min(ratios):.3f} to {max(ratios):.3f} of n"
    return max(abs(ratio - 1) for ratio in ratios) < 0.1, said


def most_is_double(rows: Rows) -> tuple[bool, str]:
    ratios = [max(row["max"]) / row["n"] for row in measured(rows, EQUAL)]
    return max(ratios) <= 2, f"at most {min(ratios):.2f} to {max(ratios):.2f} of n"


def seldom_above(rows: Rows) -> tuple[bool, str]:
    """Whether more than 2n is rare with the delays of the training, too."""
    found = [
        (statistics.fmean(row["above"]), max(row["max"]) / row["n"])
        for row in measured(rows, {list(DELAYS)[-1]: None})
    ]
    shares, most = zip(*found, strict=True)
    said = (
        f"of the deltas {min(shares):.2g} to {max(shares):.2g} are; the largest {max(most):.1f} n"
    )
    return max(shares) < 1e-4, said


def fails(rows: Rows, label: str) -> tuple[bool, str]:
    """Whether it learns with no seed, at the rate at which BSP does."""
    own = at_common(rows)
    said = f"test accuracy {common.spread(accuracies(own, label))} at {best(rows, 'BSP'):g}"
    learns = statistics.median(accuracies(own, "BSP")) > FAILED
    return learns and max(accuracies(own, label)) < FAILED, said


def as_good(rows: Rows, labels: tuple[str, ...]) -> tuple[bool, str]:
    """Whether they come as far as BSP does, which learns, all at its best rate."""
    own = at_common(rows)
    ends = {label: statistics.median(accuracies(own, label)) for label in ("BSP", *labels)}
    said = ", ".join(f"{label} {end:.3f}" for label, end in ends.items())
    learns = ends["BSP"] > FAILED
    return learns and min(ends.values()) > ends["BSP"] - CLOSE, f"test accuracy: {said}"


def sooner(rows: Rows, label: str) -> tuple[bool, str]:
    """Whether it is at both levels in less time than BSP, at the same rate."""
    own = at_common(rows)
    said: list[str] = []
    holds = True
    for share in SHARES:
        level, times = common.race(own, label, "BSP", share)
        holds &= common.sooner(*times)
        said.append(f"to loss {level:.3g}: {times[0]:.4g} s, BSP {times[1]:.4g} s")
    return holds, "; ".join(said)


def less_time(rows: Rows) -> tuple[bool, str]:
    """Whether as many batches take so much less time without waiting for one another."""
    own = at_common(rows)
    stale, bulk = (
        statistics.median(row["total_seconds"] for row in common.runs(own, label))
        for label in ("Softsync(30)", "BSP")
    )
    return bulk >= FASTER * stale, f"{stale:.4g} s, BSP {bulk:.4g} s: {bulk / stale:.2f} times"


CLAIMS: tuple[Claim, ...] = (
    Claim("with equal workers the mean staleness of n-softsync is n, to 10 %", mean_is_n, "paper"),
    Claim("with equal workers it is at most 2n", most_is_double, "paper"),
    Claim(
        "with an exponential part it is hardly ever above 2n (1 delta in 10,000)",
        seldom_above,
        "ours",
    ),
    Claim(
        "at the best rate of BSP 30-softsync does not learn",
        functools.partial(fails, label="Softsync(30)"),
        "paper",
    ),
    Claim("nor does 15-softsync", functools.partial(fails, label="Softsync(15)"), "paper"),
    Claim(
        f"1-softsync comes as far as BSP there, to {CLOSE}, as it is",
        functools.partial(as_good, labels=("Softsync(1)",)),
        "paper",
    ),
    *(
        Claim(
            f"divided by the staleness {n}-softsync comes as far as BSP, to {CLOSE}",
            functools.partial(as_good, labels=(f"Softsync({n}){DIVIDED}",)),
            "paper",
        )
        for n in TRAINED
    ),
    Claim(
        "asynchronous SGD goes through as many batches in two thirds of the seconds of "
        "synchronous SGD, or less",
        less_time,
        "paper",
    ),
    *(
        Claim(
            f"and {n}-softsync is sooner in seconds than BSP at both 95 and 99 % of the way",
            functools.partial(sooner, label=f"Softsync({n}){DIVIDED}"),
            "ours",
        )
        for n in TRAINED
    ),
)
