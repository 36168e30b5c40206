"""The state of a worker that is in an actor: what is asked of it is fetched."""

from __future__ import annotations

from typing import Any, NamedTuple

from jax_ssp.controller.events import Token
from jax_ssp.runtimes.cut import NotKept
from jax_ssp.runtimes.ray.calls import Actor


class Left(NamedTuple):
    """What is left of the state of a worker once the run is over; of one that is lost, nothing.

    Attributes:
        state, residual: see `Replica`.
    """

    state: Any = None
    residual: Any = None


class RemoteReplica(NamedTuple):
    """The state of a worker where it is; what is asked of it is fetched.

    Attributes:
        actor: of the worker.
        seconds: to wait for it at most.
    """

    actor: Actor
    seconds: float | None = None

    def _get(self, part: str) -> Any:
        return self.actor.get("of_replica", part, seconds=self.seconds)

    @property
    def state(self) -> Any:
        """See `Replica`."""
        return self._get("state")

    @property
    def residual(self) -> Any:
        """See `Replica`."""
        return self._get("residual")

    @property
    def delta(self) -> Any:
        """See `Replica`."""
        return self._get("delta")

    @property
    def ran(self) -> int:
        """See `Replica`."""
        return self._get("ran")


class RemoteKept(NamedTuple):
    """What a worker was, which is where it is.

    Attributes:
        actor: of the worker.
        token: of the clock before which it was that; None for what it is now.
    """

    actor: Actor
    token: Token | None

    @property
    def replica(self) -> RemoteKept:
        """Itself: who inherits from it gets it there."""
        return self

    def pack(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Facts for JSON and arrays by name, which say all of it.

        Raises:
            NotKept: whatever is wrong there.
        """
        try:
            beside = self.token is not None
            return self.actor.get_or_kill("pack", name, self.token, beside=beside)
        except Exception as error:
            raise NotKept(f"nothing is to be had from the process of {self.actor.what}.") from error

    def references(self) -> list[Any]:
        """To it, in the object store: to what each of its processes has."""
        if self.token is None:
            return self.actor.calls("keep")
        return self.actor.calls("began", self.token, beside=True)
