"""Live arrays added up by their owner, with CPU devices that stand in for accelerators."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import jax
import numpy as np

from jax_ssp.placement import Placement
from jax_ssp.server.local_store import LocalStore
from jax_ssp.server.memory import Memory
from jax_ssp.server.snapshot import Snapshot
from jax_ssp.server.versions import Versions


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
            temporary = sum(programs._there(each).merge.temporary for each in self.devices)
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


@contextlib.contextmanager
def accelerators(ledger: Ledger, host: bool) -> Iterator[None]:
    """Have CPU devices treated like accelerators; with `host`, that of the server is a CPU."""

    def nothing(like: Any, device: jax.Device) -> Memory:
        return Memory([], device)

    def receive(place: Placement, tree: Any) -> Any:
        return ledger.to_server(tree, place.device)

    def brought(snapshot: Snapshot, number: int, place: Placement) -> Any:
        return ledger.to_worker(snapshot.pieces[number], place.device)

    stand_ins = {
        "jax.jit": ledger.jit,
        "jax_ssp.server.server.Versions": ledger.made,
        "jax_ssp.runtimes.parties.Memory": nothing,
        "jax_ssp.worker.outbox.Placement.receive": receive,
        "jax_ssp.server.versions.Memory": Memory if host else nothing,
        "jax_ssp.server.snapshot.Snapshot.brought": brought,
        "jax_ssp.server.local_store.LocalStore": ledger.store,
        "jax_ssp.server.versions.Snapshot": ledger.snapshot,
    }
    with contextlib.ExitStack() as patches:
        for name, stand_in in stand_ins.items():
            patches.enter_context(mock.patch(name, stand_in))
        yield


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
