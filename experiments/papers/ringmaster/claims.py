"""The claims of `ringmaster`, and what of its rows they are about."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

from experiments.papers import common
from experiments.papers.ringmaster.runs import (
    ADAPTIVE,
    ASGD,
    BSP,
    CANCELS,
    DELAYS,
    LABELS,
    PLAIN,
    RENNALA,
    STOPS,
)
from jax_ssp.report.papers import Claim, Rows

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


CLAIMS: tuple[Claim, ...] = (
    no_slower(PLAIN, ASGD, "Ringmaster is not slower than asynchronous SGD (5 %)", "paper"),
    no_slower(PLAIN, ADAPTIVE, "nor than step sizes by delay", "paper"),
    no_slower(PLAIN, RENNALA, "nor than Rennala", "paper"),
    no_slower(RENNALA, ASGD, "Rennala is not slower than asynchronous SGD", "paper"),
    no_slower(CANCELS, RENNALA, "Rennala that cancels is not slower than Rennala", "ours"),
    no_slower(PLAIN, CANCELS, "Ringmaster is not slower than Rennala that cancels", "paper"),
    no_slower(STOPS, PLAIN, "stopping outdated clocks never hurts, each tuned by itself", "ours"),
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
)
