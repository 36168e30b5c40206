"""Executors for the clocks that say themselves when something is finished."""

from __future__ import annotations

from collections.abc import Sequence

from jax_ssp.controller.commands import Cancel, StartAhead, StartClock
from jax_ssp.controller.events import WorkerLost
from jax_ssp.runtimes.base import LazyExecutor, Message, Parties
from jax_ssp.runtimes.faults import NO_FAULTS, Fate, Fates, fate_of
from jax_ssp.server.store import Store
from jax_ssp.worker.lazy import Lazy
from jax_ssp.worker.waits import Waiting
from jax_ssp.worker.worker import Worker


class OnDemand(LazyExecutor):
    """Computes a clock when its delta is needed, in the thread that asks for it.

    Args:
        workers: by number; they share a device.
        store: where they read and push.
        batch: so many clocks at most are computed in one program.
        fates: what goes wrong.
    """

    def __init__(
        self, workers: Sequence[Worker], store: Store, batch: int = 1, fates: Fates = NO_FAULTS
    ) -> None:
        self._workers = workers
        self._computing = Lazy(workers, store, batch)
        self._fates = fates

    def has_data(self, worker: int) -> bool:
        return self._computing.has_data(worker)

    def start(self, start: StartClock) -> None:
        if self._fates and fate_of(self._fates, start).nan:
            self._workers[start.worker].spoil(start.clock)
        self._computing.start(start)

    def start_ahead(self, grant: StartAhead) -> None:
        self._computing.go_ahead(grant)

    def done(self, worker: int) -> None:
        self._computing.done(worker)

    def waits(self) -> list[Waiting]:
        return self._computing.waits()

    def cancel(self, cancel: Cancel) -> None:
        self._computing.cancel(cancel.worker)

    def finished(self, start: StartClock) -> Message:
        if self._fates and _is_lost(fate_of(self._fates, start)):
            self._computing.done(start.worker)
            return Message(WorkerLost(start.worker))
        event, metrics = self._computing.push(start)
        return Message(event, metrics)


class Nothing(LazyExecutor):
    """Computes nothing: the clockwork runs alone.

    Args:
        fates: what goes wrong.
    """

    def __init__(self, fates: Fates = NO_FAULTS) -> None:
        self._fates = fates

    def start(self, start: StartClock) -> None:
        pass

    def cancel(self, cancel: Cancel) -> None:
        pass

    def has_data(self, worker: int) -> bool:
        return True

    def finished(self, start: StartClock) -> Message:
        fate = fate_of(self._fates, start)
        if _is_lost(fate):
            return Message(WorkerLost(start.worker))
        return Message(start.finished(finite=not fate.nan))


def lazy_executor(session: Parties, batch: int, fates: Fates) -> LazyExecutor:
    """The one that goes with these parties: with one another, or with nothing to compute."""
    if session.store is None:
        return Nothing(fates)
    return OnDemand(session.workers, session.store, batch, fates)


def _is_lost(fate: Fate) -> bool:
    """Whether the worker is lost in a clock of this fate, which raises if that is its fate."""
    if fate.error is not None:
        raise fate.error
    return fate.lost
