"""Stands for the data of a worker that is in an actor, where that is too."""

from __future__ import annotations

from jax_ssp.runtimes.ray.actors import Actors
from jax_ssp.runtimes.ray.calls import Actor


class RemoteFeed:
    """The data of such a worker, which is where that is.

    Args:
        actors: of the run.
        worker: whose.
        cursor: how many of its batches are taken, or passed over.
        actor: where it is; None for a new one, which is started then.
        late: whether that is one of a worker which was never there, or had no room.
        patience: for the actor to answer (seconds); None for as long as it takes.

    Attributes:
        actor: where it is.
        names: of its devices, as a tape names them.
        has_data: whether it had data for a clock when it came again; None for the first.

    Raises:
        LostActor: if the actor is not there in time.
    """

    def __init__(
        self,
        actors: Actors,
        worker: int,
        cursor: int = 0,
        actor: Actor | None = None,
        late: bool = False,
        patience: float | None = None,
    ) -> None:
        self._actors, self._worker = actors, worker
        self._stands_in = actors.lacks_room(worker)
        self.taken = cursor
        self.has_data: bool | None = None
        if actor is not None:
            self.actor, self.names = actor, actor.get("names", seconds=patience)
            actors.came(actor)
            return
        self.actor = actors.worker(worker, late)
        try:
            self.names, self.has_data = self.actor.get("come_again", cursor)  # waits for room
        except BaseException:
            self.actor.kill()  # nobody else does: the next one begins with the feed before
            raise
        finally:
            actors.came(self.actor)

    def rewound(self, cursor: int) -> RemoteFeed:
        """The same batches from there on, in a new actor: the old one is no more."""
        self.actor.kill()
        return RemoteFeed(self._actors, self._worker, cursor, late=self._stands_in)

    def skip(self, steps: int = 1) -> None:
        """Pass over so many batches."""
        self.taken += steps
        self.actor.get("go_on_at", self.taken)

    def finished(self) -> None:
        """Its worker has finished a clock."""
        self._actors.finished(self._worker)

    def waiting(self) -> None:
        """Nobody here knows whether it waits."""

    def check_goes_back(self) -> None:
        """It does: that is seen before anything is sent."""


class Vacant(RemoteFeed):
    """Stands for the data of a worker that is not there yet.

    Args:
        actors: of the run.
        worker: whose.
        names: of devices like those that it will have.
    """

    def __init__(self, actors: Actors, worker: int, names: list[tuple[str, int]]) -> None:
        self._actors, self._worker, self.names = actors, worker, names
        self.taken, self.has_data = 0, None
        self.actor = Actor(None, f"worker {worker}")
        self.actor.killed = True  # nobody answers

    def rewound(self, cursor: int) -> RemoteFeed:
        return RemoteFeed(self._actors, self._worker, cursor, late=True)
