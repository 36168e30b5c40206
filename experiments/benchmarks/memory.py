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

import contextlib
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jax_ssp as ssp
from experiments.benchmarks.common import arguments, report
from jax_ssp.controller import DeltaReady, Merge, StartClock
from jax_ssp.placement import Placement
from jax_ssp.server.local_store import LocalStore
from jax_ssp.server.memory import Memory
from jax_ssp.server.snapshot import Snapshot
from jax_ssp.server.versions import Versions
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


class Ledger:
    """Adds up the live arrays by their owner, and keeps the most that it has seen.

    Attributes:
        peaks: the most bytes of each owner: a worker's device, or "server".
        versions: the most versions alive.
        counting: from the first clock to the last.
    """

    def __init__(self, devices: Sequence[jax.Device]) -> None:
        self.lock = threading.RLock()
        self.counting = False
        self.peaks: dict[Any, int] = dict.fromkeys([*devices, "server"], 0)
        self.versions = 0
        self._jit = jax.jit
        self._server: Versions | None = None
        self._store: LocalStore | None = None
        self._snapshots: weakref.WeakSet[Snapshot] = weakref.WeakSet()
        self._arrived: list[weakref.ref[jax.Array]] = []

    def count(self, owner: Any, temporary: int = 0) -> None:
        """Look at what is alive, and add the temporary bytes of what this owner runs."""
        with self.lock:
            if not self.counting:
                return
            held = dict.fromkeys(self.peaks, 0)
            held[owner if owner in held else "server"] = temporary
            servers = self._server_arrays()
            for array in jax.live_arrays():
                with contextlib.suppress(RuntimeError):  # deleted by another thread meanwhile
                    workers = array.device in held and id(array) not in servers
                    held[array.device if workers else "server"] += array.nbytes
            self.peaks = {name: max(peak, held[name]) for name, peak in self.peaks.items()}

    def _server_arrays(self) -> set[int]:
        """What the server has, also where workers are."""
        arrived = [array for one in self._arrived if (array := one()) is not None]
        self._arrived = list(map(weakref.ref, arrived))
        pieces = [snapshot.pieces for snapshot in list(self._snapshots)]
        owned = [vars(self._server), vars(self._store), pieces, arrived]
        return {id(array) for array in _arrays(owned)}

    def alive(self) -> int:
        """Count the versions."""
        with self.lock:
            now = len(self._snapshots)
            self.versions = max(self.versions, now)
        return now

    def close(self) -> None:
        """Let go of the server: programs, which jax_ssp keeps, have a reference to the ledger."""
        self._server = self._store = None

    # What stands in for parts of jax_ssp.

    def snapshot(self, *arguments: Any) -> Snapshot:
        with self.lock:
            self._snapshots.add(made := Snapshot(*arguments))
        return made

    def made(self, *arguments: Any) -> Versions:
        self._server = CountedVersions(*arguments)
        self._server.ledger = self
        return self._server

    def store(self, *arguments: Any) -> LocalStore:
        self._store = LocalStore(*arguments)
        return self._store

    def to_worker(self, tree: Any, device: jax.Device) -> Any:
        """A snapshot on its way."""
        tree = _copied(tree, device)
        self.count(device)
        return tree

    def to_server(self, tree: Any, device: jax.Device) -> Any:
        """A delta on its way."""
        with self.lock:
            tree = _copied(tree, device)
            self._arrived += map(weakref.ref, jax.tree.leaves(tree))
            self.count("server")
        return tree

    def jit(self, function: Callable[..., Any], **options: Any) -> CountedProgram:
        return CountedProgram(self, self._jit(function, **options))


class CountedVersions(Versions):
    """Versions that have the ledger count after each merge is started, and not within."""

    ledger: Ledger

    def apply(self, programs: Any, *arguments: Any) -> int:
        with self.ledger.lock:
            before = self.newest  # what the merge reads is alive until that is done
            self.ledger.counting = False
            version = super().apply(programs, *arguments)
            self.ledger.counting = True
            temporary = programs._merge.temporary * len(before.pieces)
            self.ledger.count("server", temporary)
            del before
        return version


class CountedProgram:
    """A jitted function that has the ledger count after it was started.

    Attributes:
        temporary: XLA's temporary bytes, of the largest shapes so far.
    """

    def __init__(self, ledger: Ledger, jitted: Any) -> None:
        self._ledger = ledger
        self._jitted = jitted
        self._known: dict[str, int] = {}
        self.temporary = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._jitted, name)

    def __call__(self, *arguments: Any) -> Any:
        shapes = str(jax.tree.map(np.shape, arguments))
        if shapes not in self._known:
            compiled = self._jitted.lower(*arguments).compile()
            self._known[shapes] = compiled.memory_analysis().temp_size_in_bytes
            self.temporary = max(self._known.values())
        results = self._jitted(*arguments)
        for result in jax.tree.leaves(results)[:1]:
            self._ledger.count(result.device, self._known[shapes])
        return results


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


@contextlib.contextmanager
def accelerators(ledger: Ledger, host: bool) -> Iterator[None]:
    """Have CPU devices treated like accelerators; with `host`, that of the server is a CPU."""

    def nothing(like: Any, device: jax.Device) -> Memory:
        return Memory([], device)

    def receive(place: Placement, tree: Any) -> Any:
        return ledger.to_server(tree, place.device)

    def to(snapshot: Snapshot, device: jax.Device) -> list[Any]:
        return [ledger.to_worker(piece, device) for piece in snapshot.pieces]

    stand_ins = {
        "jax.jit": ledger.jit,
        "jax_ssp.server.server.Versions": ledger.made,
        "jax_ssp.runtimes.session.Memory": nothing,
        "jax_ssp.worker.outbox.Placement.receive": receive,
        "jax_ssp.server.versions.Memory": Memory if host else nothing,
        "jax_ssp.server.snapshot.Snapshot.to": to,
        "jax_ssp.server.local_store.LocalStore": ledger.store,
        "jax_ssp.server.versions.Snapshot": ledger.snapshot,
    }
    with contextlib.ExitStack() as patches:
        for name, stand_in in stand_ins.items():
            patches.enter_context(mock.patch(name, stand_in))
        yield


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


def _copied(tree: Any, device: jax.Device) -> Any:
    """A tree on this device, itself if it is there: `device_put` would give other names to it."""
    return jax.tree.map(lambda a: a if a.device == device else jax.device_put(a, device), tree)


def _arrays(thing: Any) -> Iterator[jax.Array]:
    """The arrays in a container of containers."""
    if isinstance(thing, jax.Array):
        yield thing
    elif isinstance(thing, (dict, list, tuple)):
        for each in thing.values() if isinstance(thing, dict) else thing:
            yield from _arrays(each)


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
