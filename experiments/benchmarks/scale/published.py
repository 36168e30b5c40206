"""The comparison that Decoupled DiLoCo published, in shape: goodput of up to 2.4 million chips.

    python -m experiments.benchmarks.scale.published [--quick] [--json FILE] [--seed 0]

Douillard et al. 2026, "Decoupled DiLoCo for resilient distributed pre-training", arXiv:2604.21428.
What is known here of its simulation is from summaries of it, and from its authors' announcement;
the paper itself could not be read:

- a chip fails once a year, and 150,000 to 2.4 million of them are simulated;
- 8 learners (2 and 16 besides), H = 24 steps, two steps of overlap, a quorum of 1;
- at 1.2 million chips a goodput of 27 % with data parallelism, 58 % with elastic data parallelism,
  and 70, 88 and 93 % with 2, 8 and 16 learners; at 2.4 million 18 % (rigid), 40 % (elastic), 80 and
  86 % (8 and 16 learners);
- there are times to go on with fewer chips, to go on with more, and until chips are there again,
  and chips of unequal speed. How much of each is not known here.

So these are ours: steps of a second, chips of equal speed, none away for long. What a failure
takes is fitted to two of the figures, both at 1.2 million chips: 58 % elastic gives `PAUSES`
seconds a failure, 27 % rigid gives `RESTART` seconds, with checkpoints at Young's interval that
hold up all for a second. Who stands still does not fail. All other figures follow.

Columns: `chips`; `kind`; `learners`; `goodput` here; `published`; `fitted`, whether the figure was
fitted to; `dropped`, the share of deltas that came more than four rounds late, or after the end.
Rigid and elastic are formulas, the others runs of the real controller under `Decoupled` by
`ssp.Virtual`.

Takes a minute (`--quick`: 10 seconds).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax_ssp as ssp
from experiments.benchmarks.common import arguments, report
from experiments.benchmarks.scale import models
from experiments.benchmarks.scale.clocks import DAY, Clocks, Failing, facts
from experiments.benchmarks.scale.learners import Program, learned

COLUMNS = ("chips", "kind", "learners", "goodput", "published", "fitted", "dropped")
CHIPS = (150_000, 300_000, 600_000, 1_200_000, 2_400_000)
LEARNERS = (2, 8, 16)
PUBLISHED = {
    (1_200_000, "rigid", 1): 0.27,
    (1_200_000, "elastic", 1): 0.58,
    (1_200_000, "decoupled", 2): 0.70,
    (1_200_000, "decoupled", 8): 0.88,
    (1_200_000, "decoupled", 16): 0.93,
    (2_400_000, "rigid", 1): 0.18,
    (2_400_000, "elastic", 1): 0.40,
    (2_400_000, "decoupled", 8): 0.80,
    (2_400_000, "decoupled", 16): 0.86,
}
FITTED = ((1_200_000, "rigid", 1), (1_200_000, "elastic", 1))
PAUSES = 19.0  # seconds a failure, of one program that goes on
RESTART = 46.6  # seconds a failure, of one that falls back
STEPS = 24  # of a second each
CLOCKS = Clocks(seconds=float(STEPS))
FAILING = Failing(mtbf=365.25 * DAY, pause=PAUSES / 2, restart=RESTART, stall=1.0)
POLICY = ssp.Decoupled(quorum=1, tau=2, carry=4)


def rows(sizes: Sequence[int], clocks: int, seed: int) -> Iterator[dict[str, Any]]:
    """One row for each number of chips and each way to use them."""
    for chips in sizes:
        yield _row(chips, "rigid", 1, models.rigid(FAILING, chips), 0.0)
        yield _row(chips, "elastic", 1, models.one_program(FAILING, chips), 0.0)
        for learners in LEARNERS:
            program = Program(chips // learners, CLOCKS, FAILING)
            found = learned(learners, program, POLICY, STEPS, clocks, seed)
            yield _row(chips, "decoupled", learners, found.goodput, found.dropped)


def _row(chips: int, kind: str, learners: int, goodput: float, dropped: float) -> dict[str, Any]:
    which = (chips, kind, learners)
    values = (*which, goodput, PUBLISHED.get(which, ""), which in FITTED, dropped)
    return dict(zip(COLUMNS, values, strict=True))


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, seed=0)
    sizes, clocks = (CHIPS[-2:-1], 50) if args.quick else (CHIPS, 500)
    made = list(rows(sizes, clocks, args.seed))
    compared = [row for row in made if row["published"] != "" and not row["fitted"]]
    worst = max(abs(row["goodput"] - row["published"]) for row in compared)
    print(f"off by at most {100 * worst:.1f} points where nothing was fitted")
    report("published", COLUMNS, made, args, assumed=facts(failing=FAILING, policy=repr(POLICY)))


if __name__ == "__main__":
    main()
