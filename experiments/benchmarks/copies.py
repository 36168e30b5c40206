"""What it takes to copy a part from memory to memory: as one flat array, and leaf by leaf.

    python -m experiments.benchmarks.copies [--quick] [--json FILE]

A part of so many float32 leaves goes from a worker's device to the host, on whose memory the delta
is to be, or from the host to the device, as a snapshot. The bound is one array of as many bytes,
copied into pinned memory or from the host's. All take turns; figures are medians over the rounds of
the ratio of a round. The first accelerator is the device; without one a CPU device is, in the test
mode that treats it as if it had memory of its own, which shows what starting copies costs, and
nothing of a bus.

Columns: `way`; `leaves`; `megabytes` in all; `milliseconds` of the flat array; `of_bound`, the
bound's time over that; `by_leaf`, the time of copying each leaf for itself over that.

Takes a minute (`--quick`: 10 seconds).
"""

from __future__ import annotations

import contextlib
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.common import alternating, arguments, median_ratio, report, seconds
from jax_ssp.placement import Placement, separate_memory
from jax_ssp.server.flat import Flat

COLUMNS = ("way", "leaves", "megabytes", "milliseconds", "of_bound", "by_leaf")
SIZES = ((8, 1.0), (100, 1.0), (8, 64.0), (300, 400.0))  # leaves, megabytes
QUICK = SIZES[:2]


def tree_of(leaves: int, megabytes: float) -> list[np.ndarray]:
    """Leaves of a model: half of the bytes in a few large ones, and as many small ones."""
    total = round(megabytes * 1e6 / 4)
    large = max(1, leaves // 2)
    sizes = [total // large] * large + [64] * (leaves - large)
    return [np.full(size, number, np.float32) for number, size in enumerate(sizes)]


def flat(tree: Any, source: Placement, to: Placement) -> Any:
    return Flat.of(tree, source).sent(source, to).received(to)


def by_leaf(tree: Any, source: Placement, to: Placement) -> Any:
    return to.receive(source.send(tree, to))


def row(leaves: int, megabytes: float, source: Placement, to: Placement, rounds: int) -> Any:
    """Measure one way."""
    tree = source.put(tree_of(leaves, megabytes), may_alias=False)
    one = source.put(jnp.concatenate(tree_of(leaves, megabytes)), may_alias=False)

    def copy(how: Callable[..., Any], what: Any) -> Callable[[], float]:
        jax.block_until_ready(how(what, source, to))
        return lambda: seconds(lambda: jax.block_until_ready(how(what, source, to)))

    measures = {
        "flat": copy(flat, tree),
        "by_leaf": copy(by_leaf, tree),
        "bound": copy(by_leaf, one),
    }
    taken = alternating(measures, rounds)
    return {
        "way": "to the host" if to.on_host else "from the host",
        "leaves": leaves,
        "megabytes": megabytes,
        "milliseconds": 1e3 * statistics.median(taken["flat"]),
        "of_bound": median_ratio(taken["bound"], taken["flat"]),
        "by_leaf": median_ratio(taken["by_leaf"], taken["flat"]),
    }


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    jax.config.update("jax_num_cpu_devices", 2)  # before the backends start
    with separate_memory() if jax.default_backend() == "cpu" else contextlib.nullcontext():
        device, host = Placement.of(jax.devices()[0]), Placement.host()
        rows = [
            row(*size, *way, rounds=5 if args.quick else 15)
            for size in (QUICK if args.quick else SIZES)
            for way in ((device, host), (host, device))
        ]
    report("copies", COLUMNS, rows, args)


if __name__ == "__main__":
    sys.exit(main())
