"""In the actor of a share of the server: a store with its pieces, which is told what happens.

Who pushes a delta waits until it is here, beside whatever is merged meanwhile. All else comes from
the loop, in the order of the tape, in batches: each says what happened since the last.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jax_ssp.controller.commands import Merge, StartClock
from jax_ssp.controller.events import DeltaReady, Token
from jax_ssp.placement import Placement
from jax_ssp.runtimes.ray.pieces import on_host
from jax_ssp.runtimes.ray.sent import Reader
from jax_ssp.runtimes.ray.sums import checksum
from jax_ssp.server.local_store import LocalStore
from jax_ssp.server.snapshot import Message, Snapshot


class Sums(NamedTuple):
    """What is measured of a merge, over all shares.

    Attributes:
        fragments: that were merged.
        sums: of each.
    """

    fragments: list[int]
    sums: list[list[np.ndarray]]


SMALL = 64  # numbers in an array


class Leave(NamedTuple):
    """A worker runs no further clock."""

    worker: int


class Shard:
    """A share of the server, in a process of its own, which may be one of several runs in turn."""

    _store: LocalStore

    def __init__(self) -> None:
        self._reader = Reader()
        self._place = Placement.host()
        self._given: Snapshot | None = None  # what was read last

    def rest(self) -> None:
        """Be nobody."""
        self._reader.forget()
        self._given = None
        self.__dict__.pop("_store", None)

    def become(self, settings: Mapping[str, Any], sent: list[Any], number: int) -> None:
        """Be a share; see `There.become`."""
        self._store = self._reader.read(settings, sent).share(number)

    def pid(self) -> int:
        """Of its process."""
        return os.getpid()

    def compile(self, num_deltas: int) -> None:
        """Get ready to merge so many deltas at a time."""
        self._store.compile(num_deltas)

    def push(
        self, event: DeltaReady, metrics: Mapping[str, float], sums: list[int], *pieces: Any
    ) -> None:
        """Pieces of a delta: all that are of this share.

        Args:
            event: that will be reported of it.
            metrics: of the clock.
            sums: their checksums, where they were made.
            pieces: of it.

        Raises:
            ValueError: if it is not what was sent.
        """
        if list(map(checksum, pieces)) != sums:
            raise ValueError(
                f"the delta of worker {event.worker} in clock {event.clock} has come to a share of "
                "the server as something else than it was sent."
            )
        self._store.push(event, list(map(self._place.receive, pieces)), metrics)

    def happen(
        self, what: Sequence[StartClock | Merge | Token | Leave | Sums], wanted: list[int]
    ) -> Any:
        """This has happened, in this order.

        Args:
            what: clocks that were granted, merges, tokens whose deltas are dropped, who leaves,
                what was measured.
            wanted: pieces of the newest version to be given, by their number here, after a None.
        """
        store = self._store
        if self._given is not None:  # by now it is in the object store
            self._given.release()
            self._given = None
        for each in what:
            match each:
                case StartClock():
                    store.lease(each)
                case Merge():
                    store.merge(each)
                case Token():
                    store.drop(each)
                case Leave(worker):
                    store.leave(worker)
                case Sums(fragments, sums):
                    store.server.versions.add_up(fragments, sums)
        if not wanted:
            return None
        self._given = store.snapshot(store.version)
        return [None, *given(self._given.pieces, wanted)]

    def sums(self, fragments: list[int]) -> list[list[np.ndarray]]:
        """What is measured here of the last merge, in these fragments."""
        return self._store.server.versions.sums(fragments)

    # All of it.

    def masters(self) -> list[Any]:
        """The newest version's pieces, in at least float32."""
        return on_host(self._store.server.versions.newest.keep())

    def states(self) -> tuple[Any, Any]:
        """See `Store.states`."""
        return on_host(self._store.states)

    def small_states(self) -> tuple[Any, Any]:
        """See `Store.small_states`."""
        states = self._store.states
        small = jax.tree.map(lambda leaf: leaf if np.size(leaf) <= SMALL else None, states)
        return on_host(small)

    def finite(self) -> bool:
        """Whether every number of the newest version is finite."""
        return self._store.finite()

    def save(self, running: Sequence[Token]) -> tuple[dict[str, Any], dict[str, Any]]:
        """See `Store.save`."""
        facts, arrays = self._store.save(running)
        return facts, {name: np.asarray(array) for name, array in arrays.items()}

    def load(
        self, facts: Mapping[str, Any], arrays: Mapping[str, Any]
    ) -> tuple[dict[int, int], list[StartClock]]:
        """See `Store.load`; gives what was granted last, and clocks that are not settled."""
        put = {name: jax.device_put(each, self._place.device) for name, each in arrays.items()}
        self._store.load(facts, put)
        leases = self._store.leases
        return leases.last, list(leases.clocks.values())

    def held(self, version: int) -> Any:
        """The pieces of a version that somebody needs."""
        snapshot = self._store.snapshot(version)
        pieces = snapshot.keep()
        snapshot.release()
        copies = given(pieces, range(len(pieces)))
        return copies[0] if len(copies) == 1 else copies


def given(pieces: Sequence[Message], wanted: Sequence[int]) -> list[Any]:
    """These of the pieces, for whoever reads them; Ray copies them once the call has ended."""
    return [on_host(pieces[number]) for number in wanted]
