"""The parties of a run on a cluster, and its world, which ends them."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from jax_ssp.runtimes.base import World
from jax_ssp.runtimes.crew import Stay
from jax_ssp.runtimes.parties import Blueprint, exchange_of
from jax_ssp.runtimes.ray.actors import Actors, Room
from jax_ssp.runtimes.ray.calls import Actor, LostActor
from jax_ssp.runtimes.ray.fed import RemoteFeed, Vacant
from jax_ssp.runtimes.ray.remote import RemoteWorker
from jax_ssp.runtimes.ray.sent import sent
from jax_ssp.runtimes.ray.sharded import ShardedStore
from jax_ssp.runtimes.runtime import Parties
from jax_ssp.runtimes.threads import Threads

ROOM_SECONDS = 20.0
"""How long one that had joined a run which goes on is waited for once those are there with whom it
goes on in any case (seconds)."""


def parties(run: Blueprint, room: Room) -> tuple[ShardedStore, list[RemoteWorker]]:
    """The store and the workers of a run, in actors.

    Args:
        run: what it is.
        room: for them.
    """
    actors = Actors(sent(run), room)
    try:
        shards = [actors.shard(number) for number in range(room.shares)]
        theirs = [actors.worker(number) for number in range(run.there)]
        store = ShardedStore(run.store, shards, actors)
        with ThreadPoolExecutor(max_workers=32) as pool:
            begin = range(min(room.workers, run.there))
            feeds = list(pool.map(partial(_feed, actors), begin, theirs))
            late = range(len(begin), run.there)
            feeds += pool.map(partial(_late_feed, actors), late, theirs[len(begin) :])
        for number in range(run.there, len(run.feeds)):
            feeds.append(Vacant(actors, number, feeds[0].names))
        exchange = exchange_of(run.plan)
        workers = [
            RemoteWorker(number, feed, exchange, run.ledger, store.wire, place)
            for number, (feed, place) in enumerate(zip(feeds, run.places, strict=True))
        ]
    except BaseException:
        actors.close()
        raise
    return store, workers


def _feed(actors: Actors, number: int, actor: Actor) -> RemoteFeed:
    return RemoteFeed(actors, number, actor=actor)


def _late_feed(actors: Actors, number: int, actor: Actor) -> RemoteFeed:
    """Of a worker that had joined a run which goes on, whether there is room for it or not."""
    try:
        return RemoteFeed(actors, number, actor=actor, patience=ROOM_SECONDS)
    except LostActor:
        actors.came(actor)
        actor.kill()
        return _feed(actors, number, actors.stand_in(number))


class RayThreads(Threads):
    """Runs the clocks of workers in actors, each in a thread here that waits for it.

    Args:
        store: of the run.
        given: what `Threads` is made of.
    """

    def __init__(self, store: ShardedStore, *given: Any) -> None:
        super().__init__(*given)
        self._store = store

    def left_out(self) -> set[int]:
        return self._store.actors.end_stand_ins()

    def lost(self, worker: int) -> None:
        super().lost(worker)
        if worker >= self._running.num_workers and worker not in self._late:
            self._let_go(self._crew.stays[worker])  # the run goes on with fewer

    def _let_go(self, stay: Stay) -> None:
        feed = stay.feed or self._workers[stay.index].feed
        assert isinstance(feed, RemoteFeed)
        feed.actor.kill()

    def _failed(self, stay: Stay, error: BaseException) -> None:
        try:
            self._store.check()  # who reads what a share has failed to make gets that error too
        except BaseException as raised:
            self._clock.fail(raised)
        else:
            super()._failed(stay, error)


@dataclass(frozen=True)
class RayWorld(World):
    """A world whose parties are actors; they end with it.

    Attributes:
        session: of the run.
    """

    session: Parties | None = None

    def close(self) -> None:
        """Let go of all it holds; what may be asked for later is fetched before."""
        assert self.session is not None
        store = self.session.store
        assert isinstance(store, ShardedStore)
        self.executor.interrupted()  # so that nobody minds
        store.actors.let_nobody_in()
        super().close()
        try:
            store.settle()
            for worker in self.session.workers:
                with contextlib.suppress(Exception):  # one that is lost has nothing
                    worker.settle()
        finally:
            store.actors.close()
