"""The parties of a run on a cluster, and its world, which ends them."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from jax_ssp.runtimes.base import World
from jax_ssp.runtimes.parties import Blueprint, exchange_of
from jax_ssp.runtimes.ray.actors import Actors
from jax_ssp.runtimes.ray.remote import RemoteFeed, RemoteWorker
from jax_ssp.runtimes.ray.sent import sent
from jax_ssp.runtimes.ray.sharded import ShardedStore
from jax_ssp.runtimes.runtime import Parties

if TYPE_CHECKING:
    from jax_ssp.runtimes.ray.runtime import Ray


def parties(run: Blueprint, runtime: Ray) -> tuple[ShardedStore, list[RemoteWorker]]:
    """The store and the workers of a run, in actors.

    Args:
        run: what it is.
        runtime: with how many, and what each gets.
    """
    alone = runtime.address is None
    actors = Actors(sent(run), runtime.worker_options, alone, runtime.spares)
    try:
        shards = [actors.shard(number) for number in range(runtime.server_shards)]
        theirs = [actors.worker(number) for number in range(len(run.feeds))]
        store = ShardedStore(run.store, shards, actors)
        made = partial(_worker, run, actors, store)
        with ThreadPoolExecutor(max_workers=32) as pool:
            workers = list(pool.map(made, range(len(theirs)), theirs))
        actors.prepare()
    except BaseException:
        actors.close()
        raise
    return store, workers


def _worker(
    run: Blueprint, actors: Actors, store: ShardedStore, number: int, actor: Any
) -> RemoteWorker:
    feed = RemoteFeed(actors, number, actor=actor)
    return RemoteWorker(number, feed, exchange_of(run.plan), run.ledger, store.wire)


@dataclass(frozen=True)
class RayWorld(World):
    """A world whose parties are actors; they end with it.

    Attributes:
        session: of the run.
    """

    session: Parties | None = None

    def close(self) -> None:
        """Let go of all it holds; what may be asked for later is fetched before."""
        super().close()
        assert self.session is not None
        store = self.session.store
        assert isinstance(store, ShardedStore)
        try:
            store.settle()
            for worker in self.session.workers:
                with contextlib.suppress(Exception):  # one that is lost has nothing
                    worker.settle()
        finally:
            store.actors.close()
