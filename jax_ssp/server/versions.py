"""The newest version in pieces, the state of the transforms, and how the next one is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jax_ssp.controller.fragments import pushed_in
from jax_ssp.controller.weight import Weight
from jax_ssp.mitigations.correlation import found, pooled, sums_in, with_sums
from jax_ssp.placement import Placement
from jax_ssp.server.memory import Memory
from jax_ssp.server.merging import Merging, Some, factors_of
from jax_ssp.server.partition import Partition
from jax_ssp.server.programs import MergePrograms
from jax_ssp.server.snapshot import Message, Snapshot
from jax_ssp.server.transforms import Arrival, arrival, table_of
from jax_ssp.trees import Params, as_float

_Deltas: TypeAlias = tuple[Sequence[list[Message]], Sequence[Arrival], Sequence[list[Params]]]
"""Of some deltas their pieces, what is known of them, and their bases."""


class Versions:
    """Versions of the masters: makes the next one, and holds only the newest.

    Args:
        merging: what a merge computes.
        pieces: of version 0.
        devices: where each of them is.
        weight: the rule that says the shares of statistics.
        parts: how a version is cut into pieces.

    Attributes:
        merging, devices, parts: as given.
        version: the number of the newest.
        newest: that version; whoever needs it longer than up to the next merge holds it.
        states: of the transforms, for each piece.
        measures: whether a transform measures merges over all pieces.
    """

    def __init__(
        self,
        merging: Merging,
        pieces: list[Params],
        devices: Sequence[jax.Device],
        weight: Weight,
        parts: Partition,
    ) -> None:
        self.merging = merging
        self.parts = parts
        self.version = 0
        self._weight = weight
        self._memory = list(map(Memory, pieces, devices))
        self._places = list(map(Placement.of, devices))
        self._as_float = lru_cache(as_float)  # they are the same from merge to merge, mostly
        self.newest = self._snapshot(pieces)
        self.states = list(map(jax.device_put, map(merging.init, pieces), devices))
        self.devices = tuple(devices)
        self.measures = any(True for _ in found(self.states))

    def go_on(self, version: int, pieces: list[Params], states: list[Any]) -> None:
        """Hold this version in place of version 0, and these states; their arrays are taken."""
        self.version = version
        self.newest = self._snapshot(pieces)
        self.states = states

    def _snapshot(self, pieces: list[Params], shares: Snapshot | None = None) -> Snapshot:
        """The version that these pieces are; those that it shares with one before are counted."""
        return Snapshot(self.version, pieces, self._memory, shares, self._places)

    @property
    def _judges_apart(self) -> bool:
        """Whether it takes all pieces to see what a transform drops."""
        return self.parts.num_devices > 1 and self.merging.drops

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
            deltas: for each the pieces of the fragment that its clock has pushed.
            arrivals: what is known of each.
            bases: of each the same pieces, where a transform asks for them.

        Returns:
            The number of the new version.
        """
        count = self.parts.num_fragments
        if count == 1:
            return self._next({0: (deltas, arrivals, bases)}, programs)
        groups: dict[int, list[int]] = {}
        for number, each in enumerate(arrivals):
            groups.setdefault(pushed_in(each.merged.clock, count), []).append(number)
        merges: dict[int, _Deltas] = {
            fragment: tuple(
                [each[n] for n in mine] if each else () for each in (deltas, arrivals, bases)
            )
            for fragment, mine in groups.items()
        }
        return self._next(merges, programs)

    def apply_whole(
        self,
        programs: MergePrograms,
        deltas: Sequence[list[Message]],
        arrivals: Sequence[Arrival],
        bases: Sequence[list[Params]] = (),
    ) -> int:
        """The same of deltas that have all pieces."""
        merges: dict[int, _Deltas] = {}
        for fragment in range(self.parts.num_fragments):
            here = self.parts.of(fragment)
            merges[fragment] = [d[here] for d in deltas], arrivals, [b[here] for b in bases]
        return self._next(merges, programs)

    def _next(self, merges: Mapping[int, _Deltas], programs: MergePrograms) -> int:
        """Make the next version of what is to be merged in each fragment."""
        pieces = list(self.newest.pieces)
        for fragment, deltas in merges.items():
            self._apply(programs, pieces, fragment, *deltas)
        self.version += 1
        before = self.newest
        shares = before if len(merges) < self.parts.num_fragments else None
        self.newest = self._snapshot(pieces, shares)
        before.release()
        return self.version

    def _apply(
        self,
        programs: MergePrograms,
        pieces: list[Params],
        fragment: int,
        deltas: Sequence[list[Message]],
        arrivals: Sequence[Arrival],
        bases: Sequence[list[Params]],
    ) -> None:
        """Merge deltas of one fragment into its pieces among these."""
        factors, facts = self._factors(arrivals), self._facts(arrivals)
        bases = bases if self.merging.wants_base else ()
        here = self.parts.of(fragment)
        parts = [  # where a piece is the only one, it sees what is kept itself
            Some(_pieces(deltas, index), factors, facts, _pieces(bases, index), None)
            for index in range(self.parts.num_devices)
        ]
        if self._judges_apart:
            kept = self._kept(programs, parts, here)
            parts = [part._replace(kept=kept) for part in parts]
        for index, part in enumerate(parts, start=here.start):
            free, state = self._memory[index].take(), self.states[index]
            to = self.devices[index]
            pieces[index], self.states[index] = programs.merge(to, pieces[index], state, part, free)
        self._pool(here)

    def _pool(self, here: slice) -> None:
        """Let these pieces, all of a merge, know what is measured over all of them."""
        if self.measures and here.stop - here.start > 1:
            self.states[here] = pooled(self.states[here], self.devices[here])

    def sums(self, fragments: Sequence[int]) -> list[list[np.ndarray]]:
        """What is measured of the last merge in the pieces of a share: of each fragment."""
        return [sums_in(self.states[self.parts.of(each).start]) for each in fragments]

    def add_up(self, fragments: Sequence[int], sums: Sequence[list[np.ndarray]]) -> None:
        """These are the sums over all shares."""
        for fragment, known in zip(fragments, sums, strict=True):
            here = self.parts.of(fragment)
            self.states[here] = [with_sums(state, known) for state in self.states[here]]

    def _factors(self, arrivals: Sequence[Arrival]) -> np.ndarray:
        """See `Some`."""
        weights = [arrival.merged.weight for arrival in arrivals]
        if self.merging.layout.has_averaged:
            return factors_of(weights, arrivals[0].num_workers, self._weight)
        return self._as_float(tuple(weights))

    def _facts(self, arrivals: Sequence[Arrival]) -> np.ndarray | None:
        """See `Some`: every argument of a program takes its time."""
        return table_of(arrivals) if self.merging.wants_facts else None

    def _kept(self, programs: MergePrograms, parts: Sequence[Some], here: slice) -> np.ndarray:
        """Which deltas of a merge, and whether the merge, may bring statistics: in all pieces."""
        there = self.devices[here], self.newest.pieces[here], self.states[here]
        judged = map(programs.judge, *there, parts)
        before, after = np.any(list(map(np.asarray, judged)), axis=0).T
        return after | ~before

    def compile(self, num_deltas: int, programs: MergePrograms, example: list[Message]) -> None:
        """Compile a merge of so many deltas by running it once; nothing is kept of it.

        Args:
            num_deltas: how many.
            programs: for which form of deltas.
            example: the pieces of such a delta, any of these shapes, each on its device.
        """
        for device, piece, state, message, memory in zip(
            self.devices, self.newest.pieces, self.states, example, self._memory, strict=True
        ):
            state = jax.tree.map(jnp.copy, state)  # the merge takes its state over
            some = self._any(piece, message, num_deltas)
            merged = programs.merge(device, piece, state, some, memory.take())
            memory.give(jax.block_until_ready(merged)[0])

    def text(self, programs: MergePrograms, example: list[Message]) -> str:
        """The merge of one delta as compiler text: the same text, the same server."""
        return "\n".join(
            programs.text(device, piece, state, self._any(piece, message, 1))
            for device, piece, state, message in zip(
                self.devices, self.newest.pieces, self.states, example, strict=True
            )
        )

    def _any(self, piece: Params, message: Message, count: int) -> Some:
        """So many deltas of a piece: any of these shapes."""
        arrivals = [arrival()] * count
        return Some(
            (message,) * count,
            self._factors(arrivals),
            self._facts(arrivals),
            (piece,) * count if self.merging.wants_base else (),
            np.ones(count + 1, bool) if self._judges_apart else None,
        )


def _pieces(trees: Sequence[list[Any]], index: int) -> tuple[Any, ...]:
    """Of each tree the piece of that number."""
    return tuple([tree[index] for tree in trees]) if trees else ()
