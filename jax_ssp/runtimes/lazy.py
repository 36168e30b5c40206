"""Executors for the clocks that say themselves when something is finished."""

from __future__ import annotations

from collections.abc import Mapping

from jax_ssp.controller.commands import Cancel, StartAhead, StartClock
from jax_ssp.controller.events import WorkerLost
from jax_ssp.runtimes.base import Donor, LazyExecutor, Message
from jax_ssp.runtimes.faults.base import FINE, INJECTED
from jax_ssp.runtimes.faults.fates import NO_FATES, Fates
from jax_ssp.runtimes.runtime import Parties
from jax_ssp.server.store import Store
from jax_ssp.worker.kept import Kept
from jax_ssp.worker.lazy import Lazy
from jax_ssp.worker.successor import inherited, placed, successor
from jax_ssp.worker.waits import Waiting
from jax_ssp.worker.worker import Worker


class OnDemand(LazyExecutor):
    """Computes a clock when its delta is needed, in the thread that asks for it.

    Args:
        workers: by number; they share a device. Who comes again takes the place of the lost one.
        store: where they read and push.
        batch: so many clocks at most are computed in one program.
        fates: what goes wrong.
    """

    def __init__(
        self, workers: list[Worker], store: Store, batch: int = 1, fates: Fates = NO_FATES
    ) -> None:
        self._workers = workers
        self._store = store
        self._lost: set[int] = set()  # and not started again
        self._computing = Lazy(workers, store, batch)
        self._fates = fates

    def has_data(self, worker: int) -> bool:
        return self._computing.has_data(worker)

    def start(self, start: StartClock) -> None:
        if start.worker in self._lost:
            self._renew(start)
        if self._fates and self._fates.of(start).nan:
            self._workers[start.worker].spoil(start.clock)
        self._computing.start(start)

    def start_ahead(self, grant: StartAhead) -> None:
        self._computing.go_ahead(grant)

    def done(self, worker: int) -> None:
        self._computing.done(worker)

    def lost(self, worker: int) -> None:
        self._computing.done(worker)
        self._lost.add(worker)

    def joined(self, worker: int, donor: Donor | None = None) -> None:
        if donor is not None:
            before = self._workers[worker]
            state = self._computing.between(donor.worker)
            replica = inherited(before, state, donor.waiting, donor.weight)
            feed = before.feed.rewound(self.taken(worker))
            self._workers[worker] = placed(before, feed, replica)
            self._lost.discard(worker)

    def _renew(self, start: StartClock) -> None:
        """Have a worker begin anew that was lost, and starts its first clock since."""
        worker = start.worker
        lost = self._workers[worker]
        snapshot = self._store.snapshot(start.version)
        feed = lost.feed.rewound(self.taken(worker))
        self._workers[worker] = successor(lost, feed, snapshot)
        snapshot.release()
        self._lost.remove(worker)

    def waits(self) -> list[Waiting]:
        return self._computing.waits()

    def kept(self, running: Mapping[int, StartClock]) -> list[Kept | None]:
        return self._computing.kept(self._lost)

    def cancel(self, cancel: Cancel) -> None:
        self._computing.cancel(cancel.worker)

    def finished(self, start: StartClock) -> Message:
        fate = self._fates.of(start) if self._fates else FINE
        self._fates.play(fate.in_step)
        if fate.lost:
            return Message(WorkerLost(start.worker, INJECTED))
        event, metrics = self._computing.push(start)
        self._fates.play(fate.in_push)
        return Message(event, metrics)


class Nothing(LazyExecutor):
    """Computes nothing: the clockwork runs alone.

    Args:
        fates: what goes wrong.
    """

    def __init__(self, fates: Fates = NO_FATES) -> None:
        self._fates = fates

    def start(self, start: StartClock) -> None:
        pass

    def cancel(self, cancel: Cancel) -> None:
        pass

    def has_data(self, worker: int) -> bool:
        return True

    def kept(self, running: Mapping[int, StartClock]) -> list[Kept | None]:
        return []

    def finished(self, start: StartClock) -> Message:
        fate = self._fates.of(start)
        self._fates.play(fate.in_step)
        if fate.lost:
            return Message(WorkerLost(start.worker, INJECTED))
        self._fates.play(fate.in_push)
        return Message(start.finished(finite=not fate.nan))


def lazy_executor(session: Parties, batch: int, fates: Fates) -> LazyExecutor:
    """The one that goes with these parties: with one another, or with nothing to compute."""
    if session.store is None:
        return Nothing(fates)
    return OnDemand(session.workers, session.store, batch, fates)
