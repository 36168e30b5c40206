"""Actors of a run: how they are made, called and ended. All that is said to Ray is said here."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from jax_ssp.failures import note
from jax_ssp.runtimes.ray.sent import Sent, settings, variables
from jax_ssp.runtimes.ray.shard import Shard
from jax_ssp.runtimes.ray.worker import There

BESIDE = "beside"
"""The group of calls that an actor takes beside what it does."""


class Actor:
    """An actor, and how it is called.

    Calls of one thread come one after the other, in their order.

    Args:
        handle: of Ray's.
        what: it is, for messages.
    """

    def __init__(self, handle: Any, what: str) -> None:
        self._handle = handle
        self.what = what

    def call(self, method: str, *arguments: Any, beside: bool = False, returns: int = 1) -> Any:
        """Have it do something; gives the reference to what comes of it, or several.

        Args:
            method: its name.
            arguments: references among them are there when it begins.
            beside: whether it is done beside what the actor does.
            returns: how many values come of it.
        """
        options: dict[str, Any] = {"num_returns": returns}
        if beside:
            options["concurrency_group"] = BESIDE
        return getattr(self._handle, method).options(**options).remote(*arguments)

    def tell(self, method: str, *arguments: Any) -> None:
        """Have it do something, of which nothing is to be heard."""
        self.call(method, *arguments)

    def get(self, method: str, *arguments: Any, beside: bool = False) -> Any:
        """Have it do something, and wait for what comes of it."""
        return got(self.call(method, *arguments, beside=beside), self.what)

    def results(self, method: str, returns: int) -> tuple[Any, list[Any]]:
        """Of several values the first, waited for, and references to the others."""
        first, *others = self.call(method, returns=returns)
        return got(first, self.what), others

    def kill(self) -> None:
        """End its process, whatever it does."""
        import ray

        ray.kill(self._handle, no_restart=True)


class Actors:
    """Makes the actors of a run, and ends them all.

    Args:
        sent: the run, as they get it.
        worker_options: what Ray is to give an actor of a worker, such as `num_gpus`.
        shard_options: the same, of a share of the server.
        ships: whether actors are to get the variables of this process's environment.
    """

    def __init__(
        self,
        sent: Sent,
        worker_options: Mapping[str, Any],
        shard_options: Mapping[str, Any],
        ships: bool,
    ) -> None:
        import ray

        self._settings = settings()
        self._sent = [_stored(sent)]
        self._variables = variables() if ships else {}
        self._kinds = {
            There: ray.remote(concurrency_groups={BESIDE: 1})(There).options(
                max_restarts=0, **worker_options, **self._environment()
            ),
            Shard: ray.remote(Shard).options(
                max_restarts=0, **shard_options, **self._environment()
            ),
        }
        self._all: list[Actor] = []
        self._lock = threading.Lock()
        self._closed = False

    def _environment(self) -> dict[str, Any]:
        return {"runtime_env": {"env_vars": self._variables}} if self._variables else {}

    def worker(self, number: int) -> Actor:
        """A new actor of a worker, which is being made."""
        return self._made(There, number, f"worker {number}")

    def shard(self, number: int) -> Actor:
        """A new actor of a share of the server."""
        return self._made(Shard, number, f"share {number} of the server")

    def _made(self, kind: type, number: int, what: str) -> Actor:
        with self._lock:
            if self._closed:
                raise RuntimeError("the run is over, and no actor is made any more.")
            handle = self._kinds[kind].remote(self._settings, self._sent, number)
            actor = Actor(handle, what)
            self._all.append(actor)
            return actor

    def close(self) -> None:
        """End all of them."""
        with self._lock:
            self._closed = True
            for actor in self._all:
                actor.kill()


def is_there(reference: Any) -> bool:
    """Whether what a reference is to is known by now, or what went wrong."""
    import ray

    return bool(ray.wait([reference], timeout=0, fetch_local=False)[0])


def got(reference: Any, what: str) -> Any:
    """What a reference is to, waited for; errors are raised as they were there.

    Raises:
        Exception: what was raised in the actor; or a `LostActor`, if its process is no more.
    """
    import ray
    from ray.exceptions import RayActorError, RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        cause = error.cause
        if not isinstance(cause, BaseException):
            raise
        note(cause, f"in the process of {what}")
        raise cause from None
    except RayActorError as error:
        raise LostActor(f"the process of {what} is no more: {_first_line(error)}") from error


class LostActor(RuntimeError):
    """The process of an actor has ended, or cannot be reached any more."""


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _stored(sent: Sent) -> Any:
    """A run in the object store.

    Raises:
        TypeError: naming what cannot be sent to another process.
    """
    import ray

    try:
        return ray.put(sent)
    except TypeError as error:
        raise TypeError(
            f"`Ray(...)`: the run cannot be sent to other processes: {_first_line(error)}. Make "
            "what cannot be pickled where it is used: inside `data(worker)` or the loss, or in a "
            "workload."
        ) from error
