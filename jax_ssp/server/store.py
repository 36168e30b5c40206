"""Where a run's arrays are: payloads by their token, snapshots by their version.

The loop and the controller deal in numbers alone. Who has finished a clock pushes its payload here,
before anybody hears that the clock is finished; who starts one fetches the version that it is to
read. What the loop carries out comes as a call, always in the same order for the same tape:

- `lease` for a clock that is granted: its version stays until its delta is settled, and until its
  worker is granted another clock or leaves;
- `merge` for deltas that become a version;
- `drop` for a delta that was dropped, cancelled or late;
- `leave` for a worker that runs no further clock.

A version is compressed for the wire when it is leased first, so the error that is fed back depends
on the tape alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any

import jax

from jax_ssp.controller.commands import Merge, StartClock
from jax_ssp.controller.events import DeltaReady, Token
from jax_ssp.layout import Layout
from jax_ssp.server.snapshot import Message, Snapshot
from jax_ssp.server.wire import Wire
from jax_ssp.trees import Params, digest, is_finite


class Store(ABC):
    """Where payloads and snapshots of a run are, in this process or elsewhere.

    `push` and `snapshot` are called by any thread; all else by one at a time.

    Attributes:
        version: the number of the newest version.
        layout: of the parameters.
        shapes: of the masters.
        wire: how deltas and snapshots travel.
        devices: where the pieces of a payload are to be when they are pushed.
        wants_base: whether a transform asks for the bases of deltas.
    """

    version: int
    layout: Layout
    shapes: Params
    wire: Wire
    devices: tuple[jax.Device, ...]
    wants_base: bool

    @abstractmethod
    def lease(self, start: StartClock) -> None:
        """This clock is granted: the version that it reads stays until its delta is settled."""

    @abstractmethod
    def push(self, event: DeltaReady, payload: list[Message], metrics: Mapping[str, float]) -> None:
        """A clock is finished.

        Args:
            event: that will be reported of it, under whose token the rest is kept.
            payload: the delta as it travels, a piece on each of `devices`.
            metrics: of the clock.
        """

    @abstractmethod
    def merge(self, merge: Merge) -> None:
        """Make a version of deltas that were pushed; they are settled then."""

    @abstractmethod
    def drop(self, token: Token) -> None:
        """Forget the payload and the lease of a clock, if there are any."""

    @abstractmethod
    def leave(self, worker: int) -> None:
        """This worker runs no further clock, and not the one that it runs; its pushes stay."""

    @abstractmethod
    def snapshot(self, version: int) -> Snapshot:
        """A version as it travels, for a reader who says `release` when done with its memory.

        Raises:
            LookupError: if nobody has leased it (any more).
        """

    @abstractmethod
    def compile(self, num_deltas: int) -> None:
        """Get ready to merge so many deltas at a time."""

    @abstractmethod
    def program(self) -> str:
        """What a merge compiles from: the same text, the same server."""

    @abstractmethod
    def save(self, running: Collection[Token]) -> tuple[dict[str, Any], dict[str, Any]]:
        """All that it holds between two events, for a checkpoint.

        Args:
            running: tokens of clocks whose deltas have not been reported; a push that is here
                already is made once more by whoever goes on.

        Returns:
            Facts for JSON, and arrays by name, which stay as they are whatever happens here.
        """

    @abstractmethod
    def load(self, facts: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
        """Hold what was saved; only before the first event.

        Raises:
            ValueError: if it is not what such a store has saved.
        """

    @property
    @abstractmethod
    def params(self) -> Params:
        """The newest version in the user's dtypes, to be kept as long as one likes."""

    @property
    @abstractmethod
    def masters(self) -> Params:
        """The same in at least float32."""

    @property
    @abstractmethod
    def states(self) -> tuple[Any, Any]:
        """Of `server_tx` and of `delta_tx`; of several devices, tuples with one for each."""

    @property
    def small_states(self) -> tuple[Any, Any]:
        """The same, for what is read of each merge: large arrays may be missing in it."""
        return self.states

    def finite(self) -> bool:
        """Whether every number of the newest version is finite."""
        return is_finite(self.params)

    def fingerprint(self) -> str:
        """Of the newest version: the same for the same bits."""
        return digest(*jax.tree.leaves(self.masters))

    def close(self) -> None:
        """Let go of what is in other processes, if that is not done yet."""
