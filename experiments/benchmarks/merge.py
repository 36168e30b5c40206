"""What a merge costs the server: bytes a second against `numpy.add` over the same arrays.

    python -m experiments.benchmarks.merge [--quick] [--json FILE]

The store merges as in a run: one delta at a time, as it travels, while somebody
holds the newest snapshot and lets go of it for the next, so that memory is used again; each merge
is waited for. The yardstick is `numpy.add(a, b, out=c)` over four float32 leaves of the same sizes,
in one thread. The two take turns; figures are medians over the rounds of several merges each.

A server's bytes are the least that its merge can move: parameters and delta read and parameters
written, which is what numpy moves; an 8-bit delta is a quarter of that tree; momentum is read and
written besides. (XLA makes two passes of momentum, so it moves more than is counted.) Below some
4 MB numpy works in the caches, and what is seen is what it costs to start a program and to wait for
its threads.

Columns: `bytes` of the parameters; `placement`, on one CPU device ("host") or cut over two
("devices"); `server`, its transform or wire; `ratio_to_numpy`, our bytes a second over numpy's.
Absolute figures go to stderr. Takes 2.5 minutes and 8 GB (`--quick`: 25 seconds).
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax

import jax_ssp as ssp
from experiments.benchmarks.common import alternating, arguments, median_ratio, report, seconds
from jax_ssp.controller.commands import Merge, Merged, StartClock
from jax_ssp.controller.events import Token
from jax_ssp.placement import Placement
from jax_ssp.server.local_store import LocalStore
from jax_ssp.server.server import Server

COLUMNS = ("bytes", "placement", "server", "ratio_to_numpy")
LEAVES = 4
MB = 1 << 20
SIZES = (MB // 4, MB, 4 * MB, 16 * MB, 64 * MB, 256 * MB)
QUICK = (MB, 4 * MB, 16 * MB)
WORKERS = 8

OUTER = optax.sgd(0.7, momentum=0.9, nesterov=True)
SERVERS: dict[str, dict[str, Any]] = {
    "identity": {},
    "scale_by_staleness": {"server_tx": ssp.mitigations.scale_by_staleness()},
    "sgd momentum": {"server_tx": optax.chain(optax.scale(-1.0), OUTER)},
    "int8 deltas": {"delta_wire": ssp.compression.Int8()},
}
TREES = {"sgd momentum": 5.0, "int8 deltas": 2.25}  # that a merge moves; of the others 3


class Merging:
    """A store, a delta that has arrived there, and somebody who holds the newest snapshot."""

    def __init__(
        self, tree: dict[str, Any], devices: Sequence[Any], delta_wire: Any = None, **how: Any
    ) -> None:
        self.store = LocalStore(Server(tree, device=devices, **how), delta_wire)
        self.store.compile(1)
        wire = self.store.wire
        sent = [delta := jax.device_put(tree, devices[0], may_alias=False)]
        if wire.packs:
            sent, _, _ = wire.pack(delta, wire.residual())
        self.delta = jax.block_until_ready(
            [Placement.of(d).receive(p) for p, d in zip(sent, devices, strict=True)]
        )
        self.published = self.store.snapshot(0)

    def __call__(self, merges: int) -> None:
        weight = 1 / WORKERS
        for _ in range(merges):
            version = self.store.version
            token = Token(0, version)
            start = StartClock(0, version, 1, version, (), WORKERS, weight, token)
            self.store.lease(start)
            held, self.published = self.published, self.store.snapshot(version)
            held.release()
            self.store.push(start.finished(), self.delta, {})
            merged = Merged(0, version, version, 3, 1, weight, token)
            self.store.merge(Merge(version + 1, (merged,), WORKERS))
            jax.block_until_ready(self.store.server.versions.newest.pieces)


def adding(tree: dict[str, Any]) -> Callable[[int], None]:
    """The yardstick, over the same leaves."""
    both = [(leaf.copy(), leaf.copy(), leaf.copy()) for leaf in tree.values()]

    def add(times: int) -> None:
        for _ in range(times):
            for a, b, c in both:
                np.add(a, b, out=c)

    return add


def measured(size: int, placement: str, devices: Sequence[Any], quick: bool) -> list[Any]:
    """The rows of a size and a placement."""
    rng = np.random.default_rng(0)
    count = size // LEAVES // 4
    tree = {f"leaf{leaf}": 1e-3 * rng.standard_normal(count, np.float32) for leaf in range(LEAVES)}
    contenders: dict[str, Callable[[int], None]] = {"numpy": adding(tree)}
    contenders |= {name: Merging(tree, devices, **how) for name, how in SERVERS.items()}
    for contender in contenders.values():
        contender(3)  # memory that is used again is then there
    merges = min(200, max(3, (64 * MB if quick else 256 * MB) // size))

    def rate(name: str) -> float:
        moved = TREES.get(name, 3.0) * size * merges
        return moved / seconds(lambda: contenders[name](merges))

    measures = {name: lambda name=name: rate(name) for name in contenders}
    taken = alternating(measures, 5 if quick else 7)
    rows = []
    for name, rates in taken.items():
        ratio = median_ratio(rates, taken["numpy"])
        about = f"{statistics.median(rates) / 1e9:.2f} GB/s"
        print(
            f"{size / MB:g} MB", placement, name, about, f"{ratio:.2f}", sep="\t", file=sys.stderr
        )
        if name != "numpy":
            rows.append(dict(zip(COLUMNS, (size, placement, name, ratio), strict=True)))
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    jax.config.update("jax_num_cpu_devices", 2)
    devices = jax.local_devices(backend="cpu")
    places = {"host": devices[:1], "devices": devices}
    rows = [
        row
        for size in (QUICK if args.quick else SIZES)
        for placement, where in places.items()
        for row in measured(size, placement, where, args.quick)
    ]
    report("merge", COLUMNS, rows, args)


if __name__ == "__main__":
    main()
