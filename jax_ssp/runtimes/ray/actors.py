"""The actors of a run: where they come from, and how they end."""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections.abc import Mapping
from typing import Any, NamedTuple

from jax_ssp.runtimes.ray.calls import PID, Actor, LostActor, first_line, got, is_there
from jax_ssp.runtimes.ray.group import Group
from jax_ssp.runtimes.ray.pool import keep, new_actor
from jax_ssp.runtimes.ray.sent import Sent, settings
from jax_ssp.runtimes.ray.shard import Shard
from jax_ssp.runtimes.ray.worker import There

PATIENCE = 30.0
"""How long spares are put off for the sake of workers that have not finished a clock (seconds)."""

LOOK_SECONDS = 1.0
"""After how long a spare is asked again whether it is there."""

READ_FROM_FILES = ("config_", "part_")
"""How modules are named that the command line has read, and that no other process can import."""


class Room(NamedTuple):
    """Where the actors of a run are, and how many.

    Attributes:
        options: what Ray is to give an actor of a worker, such as `num_gpus`.
        share_options: the same of a share of the server.
        devices: of a worker on a slice, how many, and in how many processes; None where each has
            one.
        alone: whether the cluster is of this process's own.
        spares: workers that are ready to take the place of one that is lost.
        shares: of the server.
        workers: that the run has from now on at least, and for which there is room.
    """

    options: Mapping[str, Any]
    share_options: Mapping[str, Any]
    devices: tuple[int, int] | None
    alone: bool
    spares: int
    shares: int
    workers: int


class Actors:
    """The actors of a run: has them made, and ends them all.

    On a cluster of this process's own, the processes of one run become those of the next. To have a
    spare takes what a worker takes that is to begin; so spares are made once those who begin, at
    first or in the place of a lost one, have each finished a clock. One whose process ends is
    replaced: since nobody has anything for it to do, it is asked now and then.

    Args:
        sent: the run, as they get it.
        room: for them.
    """

    def __init__(self, sent: Sent, room: Room) -> None:
        self._run = settings(), [stored(sent)]
        self._options = {There: dict(room.options), Shard: dict(room.share_options)}
        size, self._processes = room.devices or (None, 1)
        each = None if size is None else size // self._processes
        self._arguments = {There: (each,), Shard: ()}
        self._stand_ins: set[int] = set()  # workers for which there is no room
        self._alone = room.alone
        self._wanted = room.spares
        self._all: list[Actor] = []
        self._spares: list[Actor] = []
        self._asked: dict[Actor, list[Any]] = {}  # answers of spares that are waited for
        self._looked = 0.0  # when they were asked last
        self._coming: list[Actor] = []  # of workers, which have not answered yet
        self._begun = threading.Event()  # who begins with the run has finished a clock
        self._beginning: set[int] = set()  # workers that have finished no clock
        self._since = 0.0  # of the last of them
        self._lock = threading.RLock()
        self._closed = False
        self._end = weakref.finalize(self, _kill_all, self._all)

    def worker(self, number: int, late: bool = False) -> Actor:
        """An actor of a worker, which is being made; from the spares, if there is one.

        Args:
            number: of the worker.
            late: whether it was never there: then it takes no spare, and waits until there are as
                many as due, or are to be once there is room.
        """
        if self.lacks_room(number):
            return self.stand_in(number)
        if late:
            self._begun.wait()
        with self._lock:
            self._beginning.add(number)
            self._since = time.monotonic()
            actor = self._become(There, number, f"worker {number}", fresh=late)
            self._coming.append(actor)
        return actor

    def stand_in(self, number: int) -> Actor:
        """A process in the place of a worker for which there is no room.

        It takes as little as a share of the server, and computes once more what that one had.
        """
        with self._lock:
            self._stand_ins.add(number)
            self._beginning.discard(number)
            what = f"what stands in for worker {number}"
            return self._become(There, number, what, fresh=True, takes=Shard)

    def lacks_room(self, number: int) -> bool:
        """Whether something stands in for this worker."""
        with self._lock:
            return number in self._stand_ins

    def end_stand_ins(self) -> set[int]:
        """Who comes from now on waits for room of its own; gives for whom there was none."""
        with self._lock:
            found, self._stand_ins = self._stand_ins, set()
        return found

    def came(self, actor: Actor) -> None:
        """A worker's actor has answered."""
        with self._lock:
            self._coming = [each for each in self._coming if each is not actor]

    def shard(self, number: int) -> Actor:
        """An actor of a share of the server."""
        return self._become(Shard, number, f"share {number} of the server")

    def finished(self, number: int) -> None:
        """A worker has finished a clock; once all have that began, have as many spares as due."""
        looks = self._wanted > 0 and time.monotonic() - self._looked > LOOK_SECONDS
        if not (self._beginning or looks):
            return
        with self._lock:
            if looks:
                self._look_at_spares()
            self._beginning.discard(number)
            if time.monotonic() - self._since > PATIENCE:
                self._beginning.clear()
            while not (self._beginning or self._closed) and len(self._spares) < self._wanted:
                spare = self._new(There, There)
                spare.tell("prepare", *self._run)
                self._spares.append(spare)
            if not self._beginning:
                self._begun.set()

    def _look_at_spares(self) -> None:
        """Let go of spares whose processes have ended."""
        self._looked = time.monotonic()
        for spare in self._spares:
            answers = self._asked.get(spare, [])
            if all(map(is_there, answers)):
                try:
                    for answer in answers:
                        got(answer, spare.what)
                    self._asked[spare] = spare.calls(PID, beside=True)
                except LostActor:
                    spare.kill()  # of one of several processes, the others
        self._spares = [spare for spare in self._spares if not spare.killed]
        self._asked = {spare: self._asked[spare] for spare in self._spares}

    def _become(
        self,
        kind: type,
        number: int,
        what: str,
        fresh: bool = False,
        takes: type | None = None,
    ) -> Actor:
        with self._lock:
            if self._closed:
                raise RuntimeError("the run is over, and nobody joins it any more.")
            spare = kind is There and self._spares and not fresh
            actor = self._spares.pop(0) if spare else self._new(kind, takes or kind)
            actor.what = what
            actor.tell("become", *self._run, number)
            return actor

    def _new(self, kind: type, takes: type) -> Actor:
        """A new actor of this kind, which takes what one of that kind does."""
        made = [
            new_actor(kind, self._arguments[kind], self._options[takes], self._alone)
            for _ in range(self._processes if kind is There else 1)
        ]
        actor = Group(made, self._alone) if len(made) > 1 else made[0]
        self._all.append(actor)
        return actor

    def let_nobody_in(self) -> None:
        """Nobody joins any more: on a cluster, who still waits for room there is ended."""
        with self._lock:
            self._closed = True
            self._begun.set()
            for actor in [] if self._alone else self._coming:
                actor.kill()

    def close(self) -> None:
        """End all of them; on a cluster of its own, keep those that are at rest."""
        with self._lock:
            self._closed = True
            resting = [(each, each.call("rest")) for each in self._all if not each.killed]
            for actor, answer in resting:
                stays = self._alone and not isinstance(actor, Group)  # it is one for good
                if not stays or not keep(actor, answer):
                    actor.kill()
            self._all.clear()


def _kill_all(actors: list[Actor]) -> None:
    for actor in actors:
        actor.kill()


def stored(run: Any) -> Any:
    """A run in the object store; of files that were read as configs, with what is in them.

    Raises:
        TypeError: naming what cannot be sent to another process.
    """
    import ray
    from ray import cloudpickle

    for name, module in list(sys.modules.items()):
        if name.startswith(READ_FROM_FILES):
            cloudpickle.register_pickle_by_value(module)
    try:
        return ray.put(run)
    except TypeError as error:
        raise TypeError(
            f"`Ray(...)`: the run cannot be sent to other processes: {first_line(error)}. Make "
            "what cannot be pickled where it is used: inside `data(worker)` or the loss, or in a "
            "workload."
        ) from error
