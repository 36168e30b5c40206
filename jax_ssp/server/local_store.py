"""The store in this process: who needs which version, what was pushed, and what bases were.

A version is held as long as somebody needs it (see `leases.py`). What a delta is measured from is
made anew here where a transform asks for it: the version as it was read, plus the worker's own
deltas that it lacks.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, TypeAlias

import jax

from jax_ssp.compression import Compressor
from jax_ssp.controller.commands import Merge, StartClock
from jax_ssp.controller.events import DeltaReady, Token
from jax_ssp.placement import Placement
from jax_ssp.server.bases import Bases
from jax_ssp.server.leases import Leases
from jax_ssp.server.published import Published
from jax_ssp.server.saved import Granted, Like, Pushed, StoreState, packed, unpacked
from jax_ssp.server.server import Server
from jax_ssp.server.snapshot import Message, Snapshot
from jax_ssp.server.store import Store
from jax_ssp.server.transforms import Arrival, new_arrival
from jax_ssp.server.wire import Wire
from jax_ssp.trees import Params, copied

_Push: TypeAlias = tuple[DeltaReady, list[Message], Mapping[str, float]]
"""A clock that is finished. (It is a plain tuple: each clock makes one.)"""


class LocalStore(Store):
    """The store in this process, around a server.

    Args:
        server: merges.
        delta_wire: compressor of the deltas that are pushed.
        snapshot_wire: compressor of the snapshots.

    Raises:
        ValueError: if `snapshot_wire` is one that draws random numbers.
        TypeError: if a wire is no compressor.

    Example:
        >>> import jax.numpy as jnp
        >>> store = LocalStore(Server({"w": jnp.zeros(2)}))
        >>> start = StartClock(0, 0, 1, 0, (), num_workers=1, weight=1.0, token=Token(0, 0))
        >>> store.lease(start)
        >>> reader = store.snapshot(0)
        >>> store.push(start.finished(), [{"w": reader.pieces[0]["w"] + 1}], {"loss": 0.5})
        >>> reader.release()
        >>> store.drop(start.token)
        >>> store.version
        0
    """

    def __init__(
        self,
        server: Server,
        delta_wire: Compressor | None = None,
        snapshot_wire: Compressor | None = None,
    ) -> None:
        self.server = server
        self.layout = server.layout
        self.shapes = server.shapes
        self.devices = server.devices
        self.wants_base = server.wants_base
        self._parts = server.parts
        pieces = server.versions.newest.pieces
        self.wire = Wire(server.shapes, self.layout, server.parts, delta_wire, snapshot_wire)
        self._programs = server.programs(lambda piece, sent: self.wire.opened(sent, piece))
        self._published = Published(self.wire, pieces)
        # What rebuilds bases, as workers compute them.
        self._reads = [jax.jit(partial(self.wire.read, like=each)) for each in self.wire.shapes]
        self._bases = Bases(self.wire, self.layout, server.weight)
        self._lock = threading.Lock()
        self._pushes: dict[Token, _Push] = {}
        self._measured_from: dict[Token, list[Params]] = {}  # where that is asked for, in pieces
        self.leases = Leases()
        self._leased: dict[int, Snapshot] = {}
        self._opened: dict[int, list[Params]] = {}  # where bases need that; see `_as_read`
        self._need(0)

    @property
    def version(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.server.version

    def lease(self, start: StartClock) -> None:
        with self._lock:
            snapshot = self._need(start.version)
            self._let_go(self.leases.lease(start))
            if self.wants_base:
                base = self._bases.base(start, self._as_read(snapshot))
                if base is not None:
                    self._measured_from[start.token] = base

    def push(self, event: DeltaReady, payload: list[Message], metrics: Mapping[str, float]) -> None:
        with self._lock:
            self._pushes[event.token] = event, payload, metrics
            if self.wants_base and event.token in self.leases.clocks:
                self._bases.pushed(event, payload)

    def merge(self, merge: Merge) -> None:
        payloads: list[list[Message]] = []
        arrivals: list[Arrival] = []
        for delta in merge.deltas:
            event, payload, metrics = self._pushes[delta.token]
            payloads.append(payload)
            arrivals.append(new_arrival(delta, event, metrics, merge.num_workers, merge.round))
        bases = self._bases_of(merge) if self.wants_base else ()
        version = self.server.versions.apply(self._programs, payloads, arrivals, bases)
        assert version == merge.version, "server and controller count the same merges"
        with self._lock:
            if version == 1:
                self._let_go(self.leases.begun())
            for delta in merge.deltas:
                if self._published.messages:
                    self._published.changed(self._parts.pushed(delta.clock))
                self._forget(delta.token)

    def _bases_of(self, merge: Merge) -> list[list[Params]]:
        """What its deltas are measured from: of each the pieces that its clock has pushed."""
        known = self._measured_from
        return [
            known[each.token][self._parts.pushed(each.clock)]
            for each in merge.deltas
            if each.token in known
        ]

    def drop(self, token: Token) -> None:
        with self._lock:
            self._forget(token)

    def leave(self, worker: int) -> None:
        with self._lock:
            self._let_go(self.leases.leave(worker))
            self._bases.leave(worker)
            for token in self.leases.running(worker, self._pushes):
                self._forget(token)

    def snapshot(self, version: int) -> Snapshot:
        with self._lock:
            snapshot = self._leased.get(version)
            if snapshot is not None:
                return snapshot.hold()
        raise LookupError(f"nobody has leased version {version} (any more)")

    # Versions that are needed; all under the lock.

    def _need(self, version: int) -> Snapshot:
        """A version that somebody is to need."""
        snapshot = self._leased.get(version)
        if snapshot is None:
            newest = self.server.versions.newest
            assert version == newest.version, "only the newest is leased anew"
            snapshot = self._leased[version] = self._published.version(newest)
        return snapshot

    def _let_go(self, version: int | None) -> None:
        if version is not None:
            self._leased.pop(version).release()
            if self._opened:
                self._opened.pop(version, None)

    def _forget(self, token: Token) -> None:
        self._pushes.pop(token, None)
        if self._measured_from:
            self._measured_from.pop(token, None)
        self._let_go(self.leases.settled(token))

    def _as_read(self, snapshot: Snapshot) -> list[Params]:
        """A version as workers read it, in pieces; what is compressed is opened once."""
        if self.wire.snapshots is None:
            return snapshot.pieces
        opened = self._opened.get(snapshot.version)
        if opened is None:
            both = zip(self._reads, snapshot.pieces, strict=True)
            opened = self._opened[snapshot.version] = [read(piece) for read, piece in both]
        return opened

    # For a checkpoint.

    def save(self, running: Collection[Token]) -> tuple[dict[str, Any], dict[str, Any]]:
        with self._lock:
            newest, sent = self.server.versions.newest, self._published.messages
            held = dict(self._leased)
            if self.wire.snapshots is None:
                held.pop(self.version, None)  # which is the newest
            if self.version in held:
                sent = {}  # which it has
            starts = self.leases.clocks.values()
            bases = self._measured_from
            under_way = {(each.worker, each.clock) for each in starts if each.token in running}
            state = StoreState(
                self.version,
                newest.keep(),
                copied(self.server.versions.states),
                copied(self._published.residuals),
                dict(sent),
                {version: snapshot.keep() for version, snapshot in sorted(held.items())},
                [
                    Pushed(event, copied(payload), metrics)
                    for event, payload, metrics in self._pushes.values()
                    if event.token not in running
                ],
                [Granted(start, copied(bases.get(start.token))) for start in starts],
                dict(self.leases.last),
                copied(self._bases.without(under_way)),
                copied(self._bases.last),
            )
        return packed(state)

    def load(self, facts: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
        versions, pieces = self.server.versions, self.server.versions.newest.pieces
        published = self._published
        of_wire = published.like(pieces), self.wire.messages, self.server.parts, versions.devices
        like = Like(pieces, versions.states, published.residuals, *of_wire)
        state = unpacked(like, facts, arrays)
        versions.go_on(state.version, state.pieces, state.states)
        self._bases.own, self._bases.last = state.own, state.bases
        snapshots = {each: Snapshot(each, state.snapshots[each]) for each in state.snapshots}
        if self.wire.snapshots is None:
            snapshots[state.version] = versions.newest
        published.go_on(state.residuals, state.sent, snapshots.get(state.version))
        self.leases.go_on(state.version, state.last, [each.start for each in state.granted])
        self._leased = {each: snapshots[each].hold() for each in self.leases.versions}
        self._opened = {}
        self._pushes = {push.event.token: tuple(push) for push in state.pushed}
        self._measured_from = {
            each.start.token: each.base for each in state.granted if each.base is not None
        }

    # Before the first clock.

    def compile(self, num_deltas: int) -> None:
        self.server.versions.compile(num_deltas, self._programs, self._example())
        if self.wire.snapshots is not None:
            self._published.compile(self.server.versions.newest.pieces)

    def program(self) -> str:
        return self.server.versions.text(self._programs, self._example())

    def _example(self) -> list[Message]:
        """A delta as it travels: any of these shapes, on the server's devices."""
        example = self.wire.example if self.wire.deltas is None else jax.jit(self.wire.example)
        messages = map(example, self.server.versions.newest.pieces)
        places = map(Placement.of, self.server.versions.devices)
        return list(map(Placement.receive, places, messages))

    def finite(self) -> bool:
        return self.server.finite()

    @property
    def params(self) -> Params:
        return self.server.params

    @property
    def masters(self) -> Params:
        return self.server.masters

    @property
    def states(self) -> tuple[Any, Any]:
        return self.server.states
