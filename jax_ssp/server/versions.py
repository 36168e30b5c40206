"""The newest version in pieces, the state of the transforms, and how the next one is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_ssp.controller.weight import Weight
from jax_ssp.server.memory import Memory
from jax_ssp.server.merging import Merging, Some, factors_of
from jax_ssp.server.programs import MergePrograms
from jax_ssp.server.snapshot import Message, Snapshot
from jax_ssp.server.transforms import Arrival, arrival, table_of
from jax_ssp.trees import Params, as_float


class Versions:
    """Versions of the masters: makes the next one, and holds only the newest.

    Args:
        merging: what a merge computes.
        pieces: of version 0, each on a device of its own.
        devices: those.
        weight: the rule that says the shares of statistics.

    Attributes:
        merging: as given.
        version: the number of the newest.
        newest: that version; whoever needs it longer than up to the next merge holds it.
        states: of the transforms, for each piece.
    """

    def __init__(
        self,
        merging: Merging,
        pieces: list[Params],
        devices: Sequence[jax.Device],
        weight: Weight,
    ) -> None:
        self.merging = merging
        self.version = 0
        self._weight = weight
        self._memory = list(map(Memory, pieces, devices))
        self.newest = Snapshot(0, pieces, self._memory)
        self.states = list(map(jax.device_put, map(merging.init, pieces), devices))

    @property
    def _judges_apart(self) -> bool:
        """Whether it takes all pieces to see what a transform drops."""
        return len(self.newest.pieces) > 1 and self.merging.drops

    def apply(
        self,
        programs: MergePrograms,
        deltas: Sequence[list[Message]],
        arrivals: Sequence[Arrival],
        bases: Sequence[list[Params]] = (),
    ) -> int:
        """Merge deltas in the form of these programs, with the weights that `arrivals` say.

        Args:
            programs: from `programs`.
            deltas: for each its pieces, one on each device.
            arrivals: what is known of each.
            bases: of each its pieces, where a transform asks for them.

        Returns:
            The number of the new version.
        """
        factors, facts = self._factors(arrivals), table_of(arrivals)
        bases = bases if self.merging.wants_base else ()
        old, kept = self.newest.pieces, None  # where a piece is the only one, it sees that itself
        parts = [
            Some(_pieces(deltas, index), factors, facts, _pieces(bases, index), kept)
            for index in range(len(old))
        ]
        if self._judges_apart:
            kept = self._kept(programs, parts)
            parts = [part._replace(kept=kept) for part in parts]
        pieces: list[Params] = []
        for index, part in enumerate(parts):
            free = self._memory[index].take()
            piece, self.states[index] = programs.merge(old[index], self.states[index], part, free)
            pieces.append(piece)
        self.version += 1
        before, self.newest = self.newest, Snapshot(self.version, pieces, self._memory)
        before.release()
        return self.version

    def _factors(self, arrivals: Sequence[Arrival]) -> np.ndarray:
        """See `Some`."""
        weights = [arrival.merged.weight for arrival in arrivals]
        if self.merging.layout.has_averaged:
            return factors_of(weights, arrivals[0].num_workers, self._weight)
        return as_float(weights)

    def _kept(self, programs: MergePrograms, parts: Sequence[Some]) -> np.ndarray:
        """Which deltas of a merge, and whether the merge, may bring statistics: in all pieces."""
        judged = map(programs.judge, self.newest.pieces, self.states, parts)
        before, after = np.any(list(map(np.asarray, judged)), axis=0).T
        return after | ~before

    def compile(self, num_deltas: int, programs: MergePrograms, example: list[Message]) -> None:
        """Compile a merge of so many deltas by running it once; nothing is kept of it.

        Args:
            num_deltas: how many.
            programs: for which form of deltas.
            example: the pieces of such a delta, any of these shapes, each on its device.
        """
        for piece, state, message, memory in zip(
            self.newest.pieces, self.states, example, self._memory, strict=True
        ):
            state = jax.tree.map(jnp.copy, state)  # the merge takes its state over
            some = self._any(piece, message, num_deltas)
            merged = jax.block_until_ready(programs.merge(piece, state, some, memory.take()))
            memory.give(merged[0])

    def text(self, programs: MergePrograms, example: list[Message]) -> str:
        """The merge of one delta as compiler text: the same text, the same server."""
        return "\n".join(
            programs.text(piece, state, self._any(piece, message, 1))
            for piece, state, message in zip(self.newest.pieces, self.states, example, strict=True)
        )

    def _any(self, piece: Params, message: Message, count: int) -> Some:
        """So many deltas of a piece: any of these shapes."""
        arrivals = [arrival()] * count
        return Some(
            (message,) * count,
            self._factors(arrivals),
            table_of(arrivals),
            (piece,) * count if self.merging.wants_base else (),
            np.ones(count + 1, bool) if self._judges_apart else None,
        )


def _pieces(trees: Sequence[list[Any]], index: int) -> tuple[Any, ...]:
    """Of each tree the piece of that number."""
    return tuple([tree[index] for tree in trees]) if trees else ()
