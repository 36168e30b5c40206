"""What a worker reads, begins with and pushes where its parameters travel as a whole.

Where they are in fragments `in_fragments.py` takes its place.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jax_ssp.controller.commands import StartClock
from jax_ssp.layout import Delta
from jax_ssp.server.snapshot import Message
from jax_ssp.server.wire import Wire
from jax_ssp.trees import Params
from jax_ssp.worker import replica as of
from jax_ssp.worker.program import Program
from jax_ssp.worker.replica import Own, Replica, new_own
from jax_ssp.worker.sliced import SlicedProgram


class InWhole:
    """The programs of a worker that pushes and adopts all of its parameters.

    Args:
        program: of its clocks.

    Attributes:
        goes_on: whether each clock goes on with something that the last has left.
    """

    goes_on = False

    def __init__(self, program: Program | SlicedProgram) -> None:
        self._program = program

    def wanted(self, start: StartClock) -> int | None:
        """The fragment that a clock adopts; None if it adopts all."""
        return None

    def read(
        self, start: StartClock, held: Params, own: Mapping[int, Own], factors: tuple[Any, Any]
    ) -> Params:
        """What a clock adopts: of the version, with own deltas that it lacks.

        Args:
            start: of the clock.
            held: what is wanted of the version.
            own: deltas that the version lacks, by stamp.
            factors: of a delta: its weight, and the share of its statistics.
        """
        return of.read(held, own, self._program.add, *factors)

    def begins(
        self, start: StartClock, before: Replica, read: Params, alpha: np.ndarray | None
    ) -> tuple[Params, Delta | None]:
        """What a clock is measured from, and the progress that it begins with.

        Args:
            start: of the clock.
            before: the worker before it.
            read: what it adopts.
            alpha: of `Mix`; None to rebase.

        Returns:
            The base; and the progress, None if the clock begins at the base itself.
        """
        mixed = None if alpha is None else functools.partial(self._program.mixed, alpha)
        return read, of.carried(before, read, mixed)

    def pack(
        self, wire: Wire, delta: Delta, residual: list[Any], key: jax.Array, clock: int
    ) -> tuple[list[Message], Delta, list[Any]]:
        """A clock's delta as it travels, what the server will read, and the error to keep."""
        if not wire.packs:
            return [delta], delta, residual
        payload, sent, lost = wire.pack(delta, residual, key, np.int32(clock))
        return payload, delta if sent is None else sent, lost

    def own(self, sent: Delta, delta: Delta, reuses: bool) -> Own:
        """An own delta, for clocks that read what lacks it.

        One that was sent as it is, or whose memory is to be given back, is kept itself.
        """
        return new_own(sent, delta if sent is delta or reuses else None)

    def rehearse(self, held: Params, moves: list[Delta], alpha: np.ndarray | None) -> Delta | None:
        """Compile what `begins` runs; gives the progress that a clock may begin with.

        Args:
            held: parameters.
            moves: a delta, and that of steps run ahead, if that is done.
            alpha: of `Mix`.
        """
        if alpha is not None:
            return self._program.mixed(alpha, held, held, *moves)
        return moves[1] if len(moves) > 1 else None

    def norm(self, delta: Delta, clock: int) -> jax.Array:
        """The l2 norm of what a clock pushes."""
        return self._program.norm(delta)
