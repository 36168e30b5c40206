"""The claims of `essp`, and what of its rows they are about."""

from __future__ import annotations

import functools
import math

import numpy as np

from experiments.papers import common
from experiments.papers.essp.runs import (
    LEVEL,
    NAMES,
    PROBLEMS,
    best_rate,
    bounds,
    costs,
    counts,
    differential,
    ends,
)
from experiments.papers.ssp.runs import needed
from jax_ssp.report.papers import Claim, Rows


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


CLAIMS: tuple[Claim, ...] = (
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
)
