"""What failures leave of 16 to 100,000 workers: goodput by policy, in virtual time.

    python -m experiments.benchmarks.scale.failures [--quick] [--json FILE]
        [--failures 2] [--chips 8] [--chip-years 1] [--seed 0]

A worker is a machine of `--chips` chips, of which each fails once in `--chip-years` years, so a
worker once in 46 days. Clocks take 60 seconds with a spread of 2 %; once in 10,000 clocks (once a
week) a worker stands still for 30 seconds besides. A failure is noticed after 30 seconds, and 10
minutes later somebody is there in the worker's place. One program over many workers pauses for 30
seconds to go on with one less, and again with one more; all of it restarts in 120 seconds; a save
holds it up for one. But for the chips' failures these are assumptions of ours. Exchange takes no
time here: see `saturation`.

- *rigid*: one program; any failure stops all, who fall back to the last checkpoint.
- *elastic*: one program that pauses at a failure, and when the worker is there again.
- *BSP*, *SSP*, *Quorum*, *BackupWorkers*: workers that are programs of their own, under the real
  controller, for as long as `--failures` failures take. Whoever fails is waited for until that is
  noticed, and enters at the smallest clock.
- *Decoupled*: 8 or 64 learners, each an elastic program over its share of the workers, by
  `ssp.Virtual` and the real controller.

Columns: `by`, what the row is from: a formula, the real controller, or arrays (a model, where the
controller would take too long here); `failures` in it; `goodput`, the work of clocks that were
merged over what all could have done; `waiting`, the share of time in which workers waited for
others; `model`, another figure for that goodput: by Daly's formula for rigid (in which who restarts
may fail, too), by arrays, over as many clocks, for what the controller ran; `long_run`, by arrays,
the latter half of a time in which 100 failures are expected (of 20,000 clocks at the most).

Why it matters: who enters at the smallest clock in the middle of a clock is the slowest from then
on, by up to a clock more than who was it before. Under a bound that is not felt until it is used
up; then each failure costs all of them as much as under BSP.

Takes 3 minutes on an idle core (`--quick`: half a minute; chips fail ten times as often then).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

import jax_ssp as ssp
from experiments.benchmarks.common import arguments, report
from experiments.benchmarks.reliability import ettr
from experiments.benchmarks.scale import models
from experiments.benchmarks.scale.clocks import DAY, Clocks, Failing, facts
from experiments.benchmarks.scale.fleet import settled, spent
from experiments.benchmarks.scale.learners import Program, learned

COLUMNS = ("workers", "policy", "by", "failures", "goodput", "waiting", "model", "long_run")
SIZES = (16, 64, 1_000, 10_000, 100_000)
CONTROLLED = 10_000  # the most workers that the real controller runs here
SCANNED = 1_000  # likewise, of policies that look at all workers at each event
LONG, MOST_CLOCKS = 100, 20_000  # failures in the long run, which has so many clocks at the most
CLOCKS = Clocks(seconds=60.0, spread=0.02, stalls=1e-4, stall=30.0)
FAILING = Failing(mtbf=0.0, detect=30.0, back=600.0, pause=30.0, restart=120.0, stall=1.0)
BOUNDS = (3, 10)
LOOSE = "SSP(10)"  # shown for the long run alone
SHARE, GRACE = 0.9, 3.0  # of a quorum; seconds
LEARNERS, STEPS = (8, 64), 60
TAU, CARRY = 2, 4

Row = dict[str, Any]
Policy = ssp.policies.Policy
Model = Callable[[int, int], models.Modelled]


def rows(sizes: Sequence[int], failing: Failing, failures: int, seed: int) -> Iterator[Row]:
    """All rows, size by size."""
    for workers in sizes:
        yield from one_program(workers, failing, seed)
        yield from controlled(workers, failing, failures, seed)
        for learners in LEARNERS:
            if learners == LEARNERS[0] or workers >= 10 * learners:
                yield decoupled(workers, learners, failing, failures, seed)


def one_program(workers: int, failing: Failing, seed: int) -> Iterator[Row]:
    """Rigid and elastic, by formula."""
    computes = models.barrier(CLOCKS, workers, np.random.default_rng(seed))
    waiting, away = 1 - computes, failing.back / failing.mtbf
    mtbf = failing.among(workers)
    costs = ettr.Costs(
        interval=models.young(failing.stall, mtbf),
        save=failing.stall,
        stall=failing.stall,
        restart=failing.detect + failing.restart,
        **dict.fromkeys(("restore", "flush", "backoff", "rejoin"), 0.0),
    )
    goodput = computes * models.rigid(failing, workers)
    beside = computes * ettr.daly(costs, mtbf)
    yield _row(workers, "rigid", "formula", "", goodput, waiting, beside, "")
    goodput = computes * models.one_program(failing, workers) * (1 - away)
    yield _row(workers, "elastic", "formula", "", goodput, waiting, "", "")


def controlled(workers: int, failing: Failing, failures: int, seed: int) -> Iterator[Row]:
    """Workers that are programs of their own."""
    for name, policy, model in _modelled(workers, failing, seed):
        lasts = failing.among(workers) / CLOCKS.seconds  # clocks a failure
        clocks = min(int(LONG * lasts), MOST_CLOCKS)
        late = model(clocks, clocks // 2)
        if workers > CONTROLLED or name == LOOSE:
            row = (workers, name, "arrays", late.failures, late.goodput, "", "", late.goodput)
            yield _row(*row)
            continue
        same = model(max(1, int(failures * lasts)), 0).goodput
        beside = (same, late.goodput)
        yield _by_controller(workers, name, policy, failing, failures, seed, beside)
    if workers <= SCANNED:
        policy = ssp.BackupWorkers(b=max(1, workers // 50))
        fewer, beside = max(1, failures // 4), ("", "")
        name = f"BackupWorkers({policy.b})"
        yield _by_controller(workers, name, policy, failing, fewer, seed, beside)


def _modelled(workers: int, failing: Failing, seed: int) -> Iterator[tuple[str, Policy, Model]]:
    """Policies that arrays go with; a model takes how many clocks there are, and since when."""
    how = (workers, CLOCKS, failing)
    for bound in (0, *BOUNDS):
        policy = ssp.SSP(bound) if bound else ssp.BSP()
        name = f"SSP({bound})" if bound else "BSP"
        yield (
            name,
            policy,
            lambda clocks, since, s=bound: models.bounded(s, *how, clocks, seed, since),
        )
    policy = ssp.Quorum(k=int(SHARE * workers), grace=GRACE)
    yield (
        f"Quorum({SHARE:g} W)",
        policy,
        lambda clocks, _: models.quorum(SHARE, GRACE, *how, clocks, seed),
    )


def _by_controller(
    workers: int,
    name: str,
    policy: Policy,
    failing: Failing,
    failures: int,
    seed: int,
    beside: tuple[Any, Any],
) -> Row:
    time = spent(policy, workers, CLOCKS, failing, failures, seed)
    shares = settled(time)
    waiting = shares["gate"] + shares["merge"]
    row = (workers, name, "controller", time.failures, shares["useful"], waiting, *beside)
    return _row(*row)


def decoupled(workers: int, learners: int, failing: Failing, failures: int, seed: int) -> Row:
    """So many learners, of as many workers each."""
    program = Program(workers // learners, CLOCKS, failing)
    policy = ssp.Decoupled(quorum=learners // 2, tau=TAU, carry=CARRY)
    found = learned(learners, program, policy, STEPS, 50 * failures, seed)
    computes = models.barrier(CLOCKS, program.workers, np.random.default_rng(seed))
    name, waiting = f"Decoupled, {learners} learners", 1 - computes
    row = (workers, name, "controller", found.failures, found.goodput, waiting, "", "")
    return _row(*row)


def _row(*values: Any) -> Row:
    return dict(zip(COLUMNS, values, strict=True))


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, **{"failures": 2, "chips": 8, "chip-years": 1.0, "seed": 0})
    sizes = SIZES
    if args.quick:
        sizes, args.failures, args.chip_years = (16, 1_000), 1, args.chip_years / 10
    failing = FAILING._replace(mtbf=args.chip_years * 365.25 * DAY).of_chips(args.chips)
    made = []
    for row in rows(sizes, failing, args.failures, args.seed):
        print(row["workers"], row["policy"], f"{row['goodput']:.4f}", sep="\t", file=sys.stderr)
        made.append(row)
    assumed = facts(clocks=CLOCKS, failing=failing, grace=GRACE, tau=TAU, carry=CARRY)
    report("failures", COLUMNS, made, args, assumed=assumed)


if __name__ == "__main__":
    main()
