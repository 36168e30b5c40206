"""The newest version in pieces, the state of the transforms, and how the next one is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jax_ssp.controller.fragments import pushed_in
from jax_ssp.controller.weight import Weight
from jax_ssp.mitigations.correlation import found, pooled, sums_in, with_sums
from jax_ssp.placement import Placement
from jax_ssp.server.memory import Memory
from jax_ssp.server.merging import Merging, Some, factors_of, new_some
from jax_ssp.server.partition import Partition
from jax_ssp.server.programs import MergePrograms
from jax_ssp.server.snapshot import Message, Snapshot
from jax_ssp.server.transforms import Arrival, arrival, table_of
from jax_ssp.trees import Params, as_float

_Deltas: TypeAlias = tuple[
    slice, Sequence[list[Message]], Sequence[Arrival], Sequence[list[Params]]
]
"""Some deltas of a fragment: where its pieces stand, theirs, what is known of them, their bases."""

MOST_KNOWN = 64  # factors of merges that stay on their device


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
        self._used_again = self._memory if any(each.reuses for each in self._memory) else ()
        self._places = list(map(Placement.of, devices))
        self._here = list(map(parts.of, range(parts.num_fragments)))
        self._known: dict[Any, jax.Array] = {}  # see `_factors`
        self.newest = self._snapshot(pieces)
        self.states = list(map(jax.device_put, map(merging.init, pieces), devices))
        self.devices = tuple(devices)
        self.measures = any(True for _ in found(self.states))
        # Whether it takes all pieces to see what a transform drops.
        self._judges_apart = parts.num_devices > 1 and merging.drops

    def go_on(self, version: int, pieces: list[Params], states: list[Any]) -> None:
        """Hold this version in place of version 0, and these states; their arrays are taken."""
        self.version = version
        self.newest = self._snapshot(pieces)
        self.states = states

    def _snapshot(self, pieces: list[Params], shares: Snapshot | None = None) -> Snapshot:
        """The version that these pieces are; those that it shares with one before are counted."""
        return Snapshot(self.version, pieces, self._used_again, shares, self._places)

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
        if len(self._here) == 1:
            return self._next(programs, [(self._here[0], deltas, arrivals, bases)])
        groups: dict[int, list[int]] = {}
        for number, each in enumerate(arrivals):
            fragment = pushed_in(each.merged.clock, len(self._here))
            groups.setdefault(fragment, []).append(number)
        merges: list[_Deltas] = []
        for fragment, mine in groups.items():
            own = ([each[n] for n in mine] if each else () for each in (deltas, arrivals, bases))
            merges.append((self._here[fragment], *own))
        return self._next(programs, merges)

    def apply_whole(
        self,
        programs: MergePrograms,
        deltas: Sequence[list[Message]],
        arrivals: Sequence[Arrival],
        bases: Sequence[list[Params]] = (),
    ) -> int:
        """The same of deltas that have all pieces."""
        asked = bases if self.merging.wants_base else ()
        merges: list[_Deltas] = [
            (here, [each[here] for each in deltas], arrivals, [each[here] for each in asked])
            for here in self._here
        ]
        return self._next(programs, merges)

    def _next(self, programs: MergePrograms, merges: Sequence[_Deltas]) -> int:
        """Make the next version of what is to be merged in each fragment."""
        before = self.newest
        pieces = before.pieces.copy()
        for merge in merges:
            self._apply(programs, pieces, *merge)
        self.version += 1
        shares = before if len(merges) < len(self._here) else None
        self.newest = self._snapshot(pieces, shares)
        before.release()
        return self.version

    def _apply(
        self,
        programs: MergePrograms,
        pieces: list[Params],
        here: slice,
        deltas: Sequence[list[Message]],
        arrivals: Sequence[Arrival],
        bases: Sequence[list[Params]],
    ) -> None:
        """Merge deltas of one fragment into its pieces among these."""
        facts = table_of(arrivals) if self.merging.wants_facts else None
        parts = [  # where a piece is the only one, it sees what is kept itself
            new_some(each, self._factors(self.devices[index], arrivals), facts)
            for index, each in enumerate(zip(*deltas, strict=True), here.start)
        ]
        if bases:
            of_each = zip(parts, zip(*bases, strict=True), strict=True)
            parts = [part._replace(bases=each) for part, each in of_each]
        if self._judges_apart:
            kept = self._kept(programs, parts, here)
            parts = [part._replace(kept=kept) for part in parts]
        for index, part in enumerate(parts, here.start):
            free, state = self._memory[index].take(), self.states[index]
            to = self.devices[index]
            pieces[index], self.states[index] = programs.merge(to, pieces[index], state, part, free)
        if self.measures and len(parts) > 1:  # over all of them
            self.states[here] = pooled(self.states[here], self.devices[here])

    def sums(self, fragments: Sequence[int]) -> list[list[np.ndarray]]:
        """What is measured of the last merge in the pieces of a share: of each fragment."""
        return [sums_in(self.states[self._here[each].start]) for each in fragments]

    def add_up(self, fragments: Sequence[int], sums: Sequence[list[np.ndarray]]) -> None:
        """These are the sums over all shares."""
        for fragment, known in zip(fragments, sums, strict=True):
            here = self._here[fragment]
            self.states[here] = [with_sums(state, known) for state in self.states[here]]

    def _factors(self, device: jax.Device, arrivals: Sequence[Arrival]) -> np.ndarray | jax.Array:
        """See `Some`; those that came first are on the device, and most merges have one of these.

        A program takes what is there in half the time, but to bring it there takes ten times that.
        """
        weights, num_workers = [each.merged.weight for each in arrivals], arrivals[0].num_workers
        named = device, num_workers, *weights
        known = self._known.get(named)
        if known is not None:
            return known
        averages = self.merging.layout.has_averaged
        made = factors_of(weights, num_workers, self._weight) if averages else as_float(weights)
        if len(self._known) < MOST_KNOWN:
            made = self._known[named] = jax.device_put(made, device)
        return made

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
            some = self._any(device, piece, message, num_deltas)
            merged = programs.merge(device, piece, state, some, memory.take())
            memory.give(jax.block_until_ready(merged)[0])

    def text(self, programs: MergePrograms, example: list[Message]) -> str:
        """The merge of one delta as compiler text: the same text, the same server."""
        return "\n".join(
            programs.text(device, piece, state, self._any(device, piece, message, 1))
            for device, piece, state, message in zip(
                self.devices, self.newest.pieces, self.states, example, strict=True
            )
        )

    def _any(self, device: jax.Device, piece: Params, message: Message, count: int) -> Some:
        """So many deltas of a piece: any of these shapes."""
        arrivals = [arrival()] * count
        return Some(
            (message,) * count,
            self._factors(device, arrivals),
            table_of(arrivals) if self.merging.wants_facts else None,
            (piece,) * count if self.merging.wants_base else (),
            np.ones(count + 1, bool) if self._judges_apart else None,
        )
