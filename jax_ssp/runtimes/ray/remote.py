"""Stands for a worker that is in an actor, for the thread here that runs its clocks.

It has what that thread asks of a `Worker`. Most calls are sent and not waited for; the delta of a
clock is, and comes as references to its pieces, for whoever pushes them. To begin a clock and to
ask for its delta is one call, as long as nobody wants anything in between.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, TypeAlias

from jax_ssp.controller.commands import StartAhead, StartClock
from jax_ssp.controller.events import Token
from jax_ssp.data.ledger import Ledger
from jax_ssp.placement import Place, Placement
from jax_ssp.runtimes.ray.calls import Actor
from jax_ssp.runtimes.ray.fed import RemoteFeed, Vacant
from jax_ssp.runtimes.ray.fetched import Fetched, Pieces, reading
from jax_ssp.runtimes.ray.numbers import Dealer, Numbers
from jax_ssp.runtimes.ray.states import Left, RemoteKept, RemoteReplica
from jax_ssp.server.snapshot import Snapshot
from jax_ssp.server.store import Store
from jax_ssp.worker.exchange import Exchange
from jax_ssp.worker.outbox import Push
from jax_ssp.worker.successor import inherited, placed, successor
from jax_ssp.worker.waits import Waiting

Begins: TypeAlias = tuple[StartClock, Pieces | None, Numbers | None]
"""A clock that is to be begun, the pieces to adopt, if any, and numbers of batches."""

SETTLE_SECONDS = 60.0  # for the state of a worker to come here, once the run is over


class RemoteSeat(NamedTuple):
    """Where such a worker is.

    Attributes:
        recorded: the form of the slice that it is, if it is one; else a device that stands for it.
        names: of its devices, as a tape names them.
    """

    recorded: Place
    names: list[tuple[str, int]]

    @property
    def name(self) -> tuple[str, int]:
        """Of its first device."""
        return self.names[0]


class RemoteWarmup(NamedTuple):
    """What such a worker will run."""

    actor: Actor

    def digest(self) -> str:
        """See `Warmup.digest`."""
        return self.actor.get("digest")

    def compile(self) -> None:
        """Compile it, where it will run."""
        self.actor.get("compile")

    def rehearse(self) -> dict[str, float]:
        """See `Warmup.rehearse`."""
        return self.actor.get("rehearse")


class RemoteWorker:
    """Stands for a worker in an actor.

    Args:
        index: number of the worker.
        feed: its data, and where it is.
        exchange: its part of the plan.
        ledger: of the run, if one deals its batches.
        wire: how deltas and snapshots travel.
        place: the form of the slice that it is, if it is one; else a device that stands for it.

    Attributes: those of a `Worker`.
    """

    def __init__(
        self,
        index: int,
        feed: RemoteFeed,
        exchange: Exchange,
        ledger: Ledger | None,
        wire: Any,
        place: Place,
    ) -> None:
        self.index, self.feed, self.exchange, self.wire = index, feed, exchange, wire
        self.device = Placement.host().device
        self._actor = feed.actor
        self.seat = RemoteSeat(place, feed.names)
        self.warmup = RemoteWarmup(self._actor)
        self.kind = index, self._actor
        self.armed = False
        self.began: tuple[Token, RemoteKept] | None = None
        self.is_dispatched = False
        self.ledger = ledger
        self._dealer = None if ledger is None else Dealer(ledger, index, feed.taken)
        self._held = -1  # the version that it has
        self._has_data = feed.has_data  # None: it is asked
        self._begins: Begins | None = None  # goes with `finish`, unless somebody asks in between
        self._following: tuple[StartClock, Numbers | None] | None = None
        self._left = Left() if isinstance(feed, Vacant) else None

    def waits(self) -> Waiting | None:
        """Nobody here knows whether it waits for its data."""
        return None

    @property
    def replica(self) -> RemoteReplica | Left:
        """Its state now."""
        return self._left or RemoteReplica(self._actor)

    def settle(self) -> None:
        """Have here what is asked for once its actor is no more; of one that is lost, nothing."""
        self._left = Left()
        if self._actor.answers():
            with contextlib.suppress(Exception):  # whatever it is that its process is left with
                now = RemoteReplica(self._actor, SETTLE_SECONDS)
                self._left = Left(now.state, now.residual)

    def _numbers(self, ahead: int) -> Numbers | None:
        return None if self._dealer is None else self._dealer.next(ahead)

    # What it is told to do.

    def has_data(self) -> bool:
        """See `Worker.has_data`."""
        if self._has_data is None:
            self._has_data = self._actor.get("has_data")
        return self._has_data

    def holds(self, version: int) -> bool:
        """Whether a clock on this version needs no snapshot."""
        return self._held == version and self.wire.parts.num_fragments == 1

    def begin(self, start: StartClock, snapshot: Snapshot | None) -> None:
        """See `Worker.begin`."""
        pieces = None
        if snapshot is not None:
            pieces = snapshot.pieces
            assert isinstance(pieces, Pieces)
            self._held = snapshot.version
        self._begins = start, pieces, self._numbers(0)
        self.began = (start.token, RemoteKept(self._actor, start.token)) if self.armed else None
        if self.armed:
            self._begin(armed=True)
        self.is_dispatched = True

    def _begin(self, armed: bool = False) -> None:
        """Send the clock that is to be begun, if it is not sent yet, without asking for its end."""
        begins, self._begins = self._begins, None
        if begins is not None:
            self._actor.tell("begin", *begins, armed)

    def go_ahead(self, grant: StartAhead) -> None:
        """See `Worker.go_ahead`."""
        self._begin()
        self._actor.tell("go_ahead", grant, self._numbers(0))
        self._has_data = None

    def prefetch(self, start: StartClock) -> None:
        """See `Worker.prefetch`."""
        self._following = start, self._numbers(start.local_steps)  # it goes with `finish`

    def finish(self) -> Push:
        """See `Worker.finish`; the payload is checksums, and references to its pieces."""
        count = 1 + self.wire.parts.num_devices
        following, self._following = self._following, None
        begins, self._begins = self._begins, None
        if begins is None:
            (push, has_data), pieces = self._actor.results("finish", count, following)
        else:
            (push, has_data), pieces = self._clock(count, begins, following)
        self.feed.finished()
        self.is_dispatched = False
        self._has_data = has_data or None
        if not push.finite:
            self._held = -1
        return push._replace(payload=[push.payload, *pieces])

    def _clock(self, count: int, begins: Begins, following: Any) -> tuple[Any, list[Any]]:
        """Have a clock run in one call, with the version's pieces, small ones by value."""
        start, pieces, numbers = begins
        if pieces is None or self.wire.parts.num_fragments > 1:  # of which it reads some
            return self._actor.results("clock", count, begins, following)
        with reading():
            begins = start, None, numbers
            return self._actor.results("clock", count, begins, following, *pieces.references)

    def cancel(self) -> None:
        """See `Worker.cancel`."""
        self._actor.tell("cancel")
        self._held = -1

    def skip(self, steps: int) -> None:
        """See `Worker.skip`."""
        self._actor.tell("skip", steps, self._numbers(0))
        self._has_data = None

    def spoil(self, clock: int) -> None:
        """See `Worker.spoil`."""
        self._actor.tell("spoil", clock)

    # For a checkpoint.

    def keep(self) -> RemoteKept:
        """What it is between two clocks."""
        return RemoteKept(self._actor, None)

    def take_up(self, store: Store, name: str, facts: Any, arrays: Mapping[str, Any]) -> None:
        """See `Worker.take_up`."""
        mine = {key: each for key, each in arrays.items() if key.startswith(name)}
        self._actor.get("take_up", name, facts, mine, store.shapes)
        self.feed.taken = facts["cursor"]
        self.is_dispatched = "sent" in facts
        if self.ledger is not None:
            self._dealer = Dealer(self.ledger, self.index, self.feed.taken)


@successor.register
def _(lost: RemoteWorker, feed: RemoteFeed, snapshot: Fetched) -> RemoteWorker:
    feed.actor.tell("succeed", snapshot.version, snapshot.pieces)
    return placed(lost, feed, None)


@placed.register
def _(lost: RemoteWorker, feed: RemoteFeed, replica: Any) -> RemoteWorker:
    if replica is not None:
        state, waiting, weight = replica
        feed.actor.get("inherit", waiting, weight, *state.references())
    return RemoteWorker(lost.index, feed, lost.exchange, lost.ledger, lost.wire, lost.seat.recorded)


@inherited.register
def _(lost: RemoteWorker, donor: RemoteKept, waiting: Collection[int], weight: float) -> Any:
    return donor, tuple(waiting), weight
