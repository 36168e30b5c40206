"""Where the controller or the shards of the server saturate, and how many shards are needed.

    python -m experiments.benchmarks.scale.saturation [--quick] [--json FILE] [--measure]
        [--clock 60] [--merge 3e9] [--link 2.5e9] [--seed 0]

Each worker pushes once in `--clock` seconds. An event takes the controller what was measured
(`controller.json`); a push takes each shard its share of the bytes over what it receives a second
(`--link`), and over what it merges (`--merge`); it does one after the other. The defaults of these
are what was measured on 2 cores of an AMD EPYC with little else to do, rounded down: what comes
through a socket of one machine, and merging into 256 MB without an optimizer (with Nesterov
momentum it is half as fast). `--measure` measures them here, the controller too. Give the bytes a
second of your network.

- Pushes that come at any time want shards that are busy for at most 70 % of the time.
- At a barrier all come at once, and all read at once then: while the shards are busy, nobody
  computes. They shall take no more than a tenth of a clock.

Columns: `workers`; `gigabytes` of the parameters; `controller`, the share of time that it is busy;
`one_shard`, the same of a shard, were it the only one; `shards` for the one, and `barrier_shards`
for the other. The rest are shares of time in which workers compute, by the real controller behind
queues of these costs, for 1,000 workers at the most: `ssp` under SSP(3) with `shards` of them;
`ssp_half`, with half as many, rounded down; `expected_half`, what such shards can take over what is
asked of them; `bsp` with `shards`, and `bsp_barrier` with `barrier_shards`.

Takes half a minute (`--quick`: 5 seconds).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

import jax_ssp as ssp
from experiments.benchmarks.common import arguments, report
from experiments.benchmarks.scale.clocks import MOST_BUSY, Clocks, Failing, facts
from experiments.benchmarks.scale.costs import Costs, controller_seconds, event_seconds, rates
from experiments.benchmarks.scale.fleet import Exchange, Fleet, settled

COLUMNS = (
    *("workers", "gigabytes", "controller", "one_shard", "shards", "barrier_shards"),
    *("ssp", "ssp_half", "expected_half", "bsp", "bsp_barrier"),
)
SIZES = (8, 64, 1_000, 10_000, 100_000)
GIGABYTES = (0.4, 4.0, 40.0)
SIMULATED = 1_000  # the most workers behind queues
NEVER_FAILS = Failing(mtbf=math.inf)
BURST = 0.1  # share of a clock that a barrier's exchange takes, at the most
NUM_CLOCKS = 15


def busy(workers: int, clock: float, push: float) -> float:
    """The share of time for which something is busy that each push takes so long of."""
    return workers / clock * push


def shards_needed(workers: int, clock: float, size: float, costs: Costs) -> int:
    """Shards of which each is busy for at most `MOST_BUSY`."""
    return math.ceil(busy(workers, clock, costs.push(size)) / MOST_BUSY)


def shards_at_a_barrier(workers: int, clock: float, size: float, costs: Costs) -> int:
    """Shards that take at most `BURST` of a clock for all pushes, and all reads after them."""
    whole = workers * (costs.push(size) + size / costs.link)
    return math.ceil(whole / (BURST * clock))


def computing(
    policy: ssp.policies.Policy,
    workers: int,
    clocks: Clocks,
    size: float,
    shards: int,
    costs: Costs,
    seed: int = 0,
) -> float:
    """The share of time in which workers compute, by the real controller behind queues.

    A snapshot is read from all shards at once; at a barrier the workers share them.
    """
    at_once = workers if policy.guaranteed_bound == 0 else 1
    exchange = Exchange(
        reading=at_once * size / shards / costs.link,
        shard=costs.push(size / shards),
        controller=costs.event,
    )
    rng = np.random.default_rng(seed)
    fleet = Fleet(policy, workers, clocks.stream(rng), exchange)
    busy_clocks = max(1.0, busy(workers, clocks.seconds, exchange.shard))
    until = NUM_CLOCKS * clocks.seconds * busy_clocks
    return settled(fleet.run(until, NEVER_FAILS, iter(())))["useful"]


def row(workers: int, gigabytes: float, clock: float, costs: Costs, seed: int) -> dict[str, Any]:
    """What a size asks for, and what comes of it."""
    size = 1e9 * gigabytes
    one = busy(workers, clock, costs.push(size))
    shards = shards_needed(workers, clock, size, costs)
    barrier = shards_at_a_barrier(workers, clock, size, costs)
    controller = busy(workers, clock, costs.event)
    values: list[Any] = [workers, gigabytes, controller, one, shards, barrier]
    if workers > SIMULATED or shards < 2:
        return dict(zip(COLUMNS, [*values, "", "", "", "", ""], strict=True))
    clocks = Clocks(clock, spread=0.02)

    def by(policy: ssp.policies.Policy, count: int) -> float:
        return computing(policy, workers, clocks, size, count, costs, seed)

    half = shards // 2
    values += [by(ssp.SSP(3), shards), by(ssp.SSP(3), half), min(1.0, half / one)]
    values += [by(ssp.BSP(), shards), by(ssp.BSP(), barrier)]
    return dict(zip(COLUMNS, values, strict=True))


def main(argv: Sequence[str] | None = None) -> None:
    told = {"clock": 60.0, "merge": 3e9, "link": 2.5e9, "measure": False, "seed": 0}
    args = arguments(__doc__, argv, **told)
    merge, link = args.merge, args.link
    if args.measure:
        taken = rates(args.quick)
        merge, link = taken["merge"], taken["link"]
    made, used = [], {}
    for workers in SIZES[:2] if args.quick else SIZES:
        event = controller_seconds(workers)
        if args.measure:
            event = event_seconds(ssp.SSP(3), workers, max(5_000, 2 * workers))
        costs = Costs(event, merge, link)
        used[str(workers)] = costs._asdict()
        made += [row(workers, size, args.clock, costs, args.seed) for size in GIGABYTES]
    report("saturation", COLUMNS, made, args, costs=used, assumed=facts(most_busy=MOST_BUSY))


if __name__ == "__main__":
    main()
