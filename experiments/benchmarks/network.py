"""Whether virtual time over a network predicts the wall time of real devices paced by the same one.

Two workers under SSP(1) on one device, over a link that all of an exchange counts on: latency, own
bandwidth, the server's, and merging. A step is a small model's, with an injected delay of 60 ms, so
that computing is a few percent of a clock. Each setting is run once on `ssp.Devices` and once in
`ssp.Virtual`, with the same delay and the same network: nothing is fitted.

    python -m experiments.benchmarks.network [--quick] [--json FILE]

Columns: `local_steps` H; `wire` of deltas and snapshots; `overlap`; seconds to the last merge on
`devices` and in `virtual` time; `ratio` of the two; the share of a clock that computing took, with
no delay and no network (`computing`); `kept`: whether the ratio is within 5 % of 1.

Takes 5 minutes (`--quick`: 15 seconds).
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jax_ssp as ssp
from experiments.benchmarks.common import arguments, report

COLUMNS = (
    *("local_steps", "wire", "overlap", "clocks", "devices", "virtual", "ratio"),
    *("computing", "kept"),
)
STEPS = (1, 4, 16)
WIRES: dict[str, Any] = {"none": None, "int8": ssp.compression.Int8()}
OVERLAPS = ("no", "1 step")
STEP_SECONDS = 0.06
WIDTH = 128
BYTES = 4 * 2 * WIDTH * WIDTH  # of two layers
# A delta that is not compressed takes 60 ms alone, and 80 ms if both send at once.
NETWORK = ssp.Network(
    latency=0.02,
    bandwidth=BYTES / 0.04,
    server_bandwidth=BYTES / 0.03,
    merge_rate=BYTES / 0.005,
)
WITHIN = 0.05
SECONDS = 20.0  # that one run takes, about


def loss_fn(params: Any, batch: Any, key: Any) -> tuple[Any, dict[str, Any]]:
    for weights in params.values():
        batch = jnp.tanh(batch @ weights)
    return jnp.mean(batch**2), {}


STEP = ssp.make_step(loss_fn, optax.sgd(1e-2))
RNG = np.random.default_rng(0)
PARAMS = {
    f"layer{layer}": WIDTH**-0.5 * RNG.standard_normal((WIDTH, WIDTH), np.float32)
    for layer in range(2)
}
EXAMPLES = RNG.standard_normal((16, WIDTH), np.float32)


def run(runtime: Any, steps: int, wire: str, overlap: str, clocks: int) -> ssp.Result:
    """A run of so many clocks of each worker."""
    return ssp.train(
        STEP,
        params=PARAMS,
        data=lambda worker: itertools.repeat(EXAMPLES),
        policy=ssp.SSP(1),
        runtime=runtime,
        num_clocks=clocks,
        local_steps=steps,
        overlap=OVERLAPS.index(overlap),
        delta_wire=WIRES[wire],
        snapshot_wire=WIRES[wire],
        progress=False,
    )


def devices(**paced: Any) -> ssp.Devices:
    """Two workers on the first device."""
    first = jax.local_devices()[0]
    return ssp.Devices(devices=[first], num_workers=2, workers_per_device=2, **paced)


def measured(steps: int, wire: str, overlap: str, seconds: float) -> dict[str, Any]:
    """One row."""
    delay = ssp.delays.Constant(STEP_SECONDS)
    clocks = max(3, round(seconds / (steps * STEP_SECONDS + 0.12)))
    bare = run(devices(), steps, wire, overlap, clocks).seconds
    real = run(devices(delay=delay, network=NETWORK), steps, wire, overlap, clocks)
    ssp.check_contract(real.tape)
    virtual = ssp.Virtual(2, delay, network=NETWORK)
    rehearsed = run(virtual, steps, wire, overlap, clocks).seconds
    ratio = rehearsed / real.seconds
    row = (steps, wire, overlap, clocks, real.seconds, rehearsed, ratio)
    return dict(zip(COLUMNS, (*row, bare / real.seconds, abs(ratio - 1) <= WITHIN), strict=True))


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    seconds = 0.5 if args.quick else SECONDS
    settings = itertools.product(STEPS[:2] if args.quick else STEPS, WIRES, OVERLAPS)
    rows = [measured(*setting, seconds) for setting in settings]
    worst = max(abs(row["ratio"] - 1) for row in rows)
    print(f"virtual time is off by at most {worst:.1%}", file=sys.stderr)
    report("network", COLUMNS, rows, args)


if __name__ == "__main__":
    main()
