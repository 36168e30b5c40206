"""The claims of `ssp`, and what of its rows they are about."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

from experiments.papers import common
from experiments.papers.ssp.runs import (
    LEVELS,
    PROBLEMS,
    SINGLE,
    SIZES,
    bounds,
    needed,
    speed,
    step,
    waits,
)
from jax_ssp.report.papers import Claim, Rows


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


CLAIMS: tuple[Claim, ...] = (
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
    Claim("waiting grows with the workers under BSP, much less under SSP", waiting_grows, "ours"),
    Claim("what a bound saves in waiting saturates", waiting_saturates, "ours"),
    Claim(
        "many workers under SSP(3) are sooner than a single one, to both levels",
        beats_single,
        "paper",
    ),
)
