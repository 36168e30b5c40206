"""Peak memory of a worker and of the server, in multiples of the parameters' bytes.

    python -m experiments.benchmarks.memory [--quick] [--json FILE]

The CPU backend counts no bytes, and workers on it share memory with the server, which those on
accelerators cannot. So 4 CPU devices stand in for accelerators and a fifth one for the host: what
travels between them is copied, as `jax.device_put` does (`Placement.receive` gives a view), and
workers keep no old arrays for reuse (`Memory` keeps none on accelerators either). Then, whenever
jax_ssp has started a program or a copy, all live arrays are added up by the device they are on,
together with XLA's temporary bytes of that program (its `memory_analysis` for the CPU): what an
accelerator has to have at least, since its allocator may waste some.

Counted to a worker is what is on its device: the snapshot it adopted and the one before while that
is still referenced, own deltas, gradients and other temporaries, parts under way, the error it has
not sent, batches; not what the server has there with `placement="devices"`. Counted to the server
are the versions alive, its state, deltas that have arrived, memory it keeps for reuse (on the host
alone) and the temporaries of its merge; over all its devices. Steps are SGD without momentum,
H = 1, batch 2 on wide layers: no optimizer state, and activations of 0.3 % that nobody need be
blamed for. Clocks take random times (20 ms on average), so that workers drift apart to the bound.

Columns: `model`; `mode`; `worker_multiple`, of the worker with the most; `server_multiple`;
`versions_alive`, the most at a time. To stderr: how many are needed at a time, that is the newest
version and those that workers hold or are about to adopt, and how many more were alive.

The aim: a `worker_multiple` of 4 without overlap, and never a version more than needed. Takes one
minute (`--quick`: 15 seconds).
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jax_ssp as ssp
from experiments.benchmarks.common import arguments, report
from experiments.benchmarks.ledger import Ledger, accelerators
from jax_ssp.controller import DeltaReady, Merge, StartClock
from jax_ssp.training.train import train

COLUMNS = ("model", "mode", "worker_multiple", "server_multiple", "versions_alive")
WORKERS = 4
BATCH = 2
MODELS = ((4, 512), (16, 256))  # square tanh layers, and their width
MEAN_DELAY = 20e-3

MODES: dict[str, dict[str, Any]] = {
    "BSP()": {"policy": ssp.BSP()},
    "SSP(3)": {"policy": ssp.SSP(3)},
    "ASP()": {"policy": ssp.ASP()},
    "SSP(3), overlap 1": {"policy": ssp.SSP(3), "overlap": 1},
    "SSP(3), lazy": {"policy": ssp.SSP(3, "lazy")},
    "SSP(3), int8 deltas": {"policy": ssp.SSP(3), "delta_wire": ssp.compression.Int8()},
    "SSP(3), on devices": {"policy": ssp.SSP(3), "placement": "devices"},
}


class Watcher(ssp.Observer):
    """Turns counting on and off, and compares the versions alive with those that are needed."""

    def __init__(self, ledger: Ledger) -> None:
        self.needed = self.excess = 0
        self._ledger = ledger
        self._newest = 0
        self._holds: dict[int, set[int]] = {}

    def on_start(self, info: Any) -> None:
        self._ledger.counting = True

    def on_entry(self, now: float, event: Any, commands: Any) -> None:
        if isinstance(event, DeltaReady):
            self._holds[event.worker] = {event.version}
        for command in commands:
            if isinstance(command, Merge):
                self._newest = command.version
            if isinstance(command, StartClock):
                self._holds.setdefault(command.worker, set()).add(command.version)
        needed = {self._newest}.union(*self._holds.values())
        self.needed = max(self.needed, len(needed))
        self.excess = max(self.excess, self._ledger.alive() - len(needed))

    def on_end(self, status: str) -> None:
        self._ledger.counting = False


def measured(layers: int, width: int, mode: str, clocks: int) -> dict[str, Any]:
    """The row of a model and a mode."""
    rng = np.random.default_rng(0)
    params = {
        f"layer{layer:02}": width**-0.5 * rng.standard_normal((width, width), np.float32)
        for layer in range(layers)
    }
    batch = rng.standard_normal((BATCH, width), np.float32)
    *devices, host = jax.devices()
    ledger = Ledger(devices)
    watcher = Watcher(ledger)
    how = {"placement": host, **MODES[mode]}
    with accelerators(ledger, host=how["placement"] is host):
        train(
            ssp.make_step(loss_fn, optax.sgd(1e-3)),
            progress=False,
            params=params,
            data=lambda worker: iter([batch] * clocks),
            runtime=ssp.Devices(devices, delay=ssp.delays.Exponential(MEAN_DELAY)),
            num_clocks=clocks,
            observers=[watcher],
            **how,
        )
    ledger.close()
    size = sum(leaf.nbytes for leaf in params.values())
    server = ledger.peaks.pop("server") / size
    worker = max(ledger.peaks.values()) / size
    print(
        f"{mode}: at most {watcher.needed} versions needed at a time, "
        f"{watcher.excess} more alive than needed",
        file=sys.stderr,
    )
    values = (f"{layers}x{width}x{width}", mode, worker, server, ledger.versions)
    return dict(zip(COLUMNS, values, strict=True))


def loss_fn(params: Any, batch: Any, key: Any) -> tuple[Any, dict[str, Any]]:
    for weights in params.values():
        batch = jnp.tanh(batch @ weights)
    return jnp.mean(batch**2), {}


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    jax.config.update("jax_num_cpu_devices", WORKERS + 1)
    rows = []
    for layers, width in MODELS[:1] if args.quick else MODELS:
        for mode in MODES:
            rows.append(measured(layers, width, mode, 15 if args.quick else 60))
            gc.collect()
    report("memory", COLUMNS, rows, args)


if __name__ == "__main__":
    main()
