"""How a tree that is sharded in slices is cut: by position, what one device of a slice holds.

A piece of position p has the structure of the tree, and of each leaf what device p of a slice holds
of a fragment, or nothing (an array of size 0) where another position answers for the same numbers.
So what is replicated in a slice is in one piece alone, and a piece travels between device p of a
slice and the server without ever being gathered with others.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_ssp.compression import nbytes
from jax_ssp.fragments import Fragments, Range
from jax_ssp.layout import Delta
from jax_ssp.server.partition import Cut, Partition, ranges_of
from jax_ssp.server.positions import Index, indices_of, owners_of, whole_of, within
from jax_ssp.server.sliced_cut import SlicedCut
from jax_ssp.slices import Slice
from jax_ssp.trees import Params


class ShardCut(Partition):
    """Cuts a tree by fragments, each of them by the positions of a slice, and these by bytes.

    A piece has what a position holds of a fragment: where a shard has some of its rows, those.
    Where several positions hold the same, the one with the least bytes of that fragment so far
    answers for it.

    Args:
        params: the tree, for its structure, shapes and dtypes.
        like: a slice, and how the tree lies on it.
        shares: in how many pieces of about the same number of bytes each position is cut.
        fragments: None for one.

    Attributes:
        positions: of each piece of a fragment.

    Example:
        >>> mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("fsdp",))
        >>> params = {"w": np.arange(4, dtype=np.float32)}
        >>> cut = ShardCut(params, Slice(mesh, (jax.P("fsdp"),)), shares=2)
        >>> [piece["w"].tolist() for piece in cut.apart(params)], cut.positions
        ([[0.0, 1.0], [2.0, 3.0]], (0, 0))
    """

    remedy = (
        "those of workers on slices are merged by the position of their shards. Have the step do "
        "it, before its optimizer, say"
    )

    def __init__(
        self, params: Params, like: Slice, shares: int = 1, fragments: Fragments | None = None
    ) -> None:
        leaves, self._structure = jax.tree.flatten(params)
        self._specs = like.params
        self._params = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
        ranges = ranges_of(fragments, params)
        self.whole = SlicedCut(params, like, ranges)
        self.num_devices = like.size * shares
        self.positions = tuple(each for each in range(like.size) for _ in range(shares))
        self._indices = [
            indices_of(leaf, like, spec) for leaf, spec in zip(leaves, like.params, strict=True)
        ]
        held = [self._shards(self._params, position) for position in range(like.size)]
        self._local = [self._cut(tree, at, ranges) for at, tree in enumerate(held)]
        parts = [
            [cut.like(each, tree) for cut, tree in zip(self._local, held, strict=True)]
            for each in range(len(ranges))
        ]
        self._owners = list(map(self._owners_of, parts))
        mine = [
            [self._owned(each, at, tree) for at, tree in enumerate(trees)]
            for each, trees in enumerate(parts)
        ]
        self._shares = [[Cut(tree, shares) for tree in trees] for trees in mine]
        self.shapes = [
            piece
            for cuts, trees in zip(self._shares, mine, strict=True)
            for cut, tree in zip(cuts, trees, strict=True)
            for piece in ([tree] if shares == 1 else jax.eval_shape(cut.split, tree))
        ]
        self._take = jax.jit(self._pieces, static_argnums=(0, 1))
        # A part that nothing is read of says still on which device it is to be computed.
        self._lay = jax.jit(self._laid, static_argnums=(0, 1), keep_unused=True)

    def _shards(self, leaves: Sequence[Any], position: int) -> Delta:
        """What a position holds of a tree of whole leaves."""

        def shard(index: Index, array: Any) -> Any:
            if not isinstance(array, jax.ShapeDtypeStruct):
                return array[index]
            shape = tuple(each.stop - each.start for each in index)
            return jax.ShapeDtypeStruct(shape, array.dtype)

        return self._structure.unflatten(
            jax.tree.map(partial(shard, indices[position]), leaf)
            for indices, leaf in zip(self._indices, leaves, strict=True)
        )

    def _cut(self, shards: Params, position: int, ranges: list[list[Range]]) -> Cut:
        """How what a position holds is cut by fragments."""
        here = [indices[position] for indices in self._indices]
        return Cut(shards, ranges=[list(map(within, each, here)) for each in ranges])

    def _owners_of(self, parts: Sequence[Params]) -> list[list[int]]:
        """Of each leaf for each position the one that answers for what it holds of a fragment."""
        sizes = [0] * len(parts)  # in bytes, of what they answer for so far
        return [
            owners_of(indices, list(map(nbytes, leaves)), sizes)
            for indices, *leaves in zip(self._indices, *map(jax.tree.leaves, parts), strict=True)
        ]

    def _owned(self, fragment: int, position: int, part: Delta) -> Delta:
        """What a position answers for, given what it holds of a fragment; pure."""

        def mine(owners: list[int], leaf: Any) -> Any:
            return leaf if owners[position] == position else jax.tree.map(_nothing, leaf)

        leaves = self._structure.flatten_up_to(part)
        return self._structure.unflatten(map(mine, self._owners[fragment], leaves))

    def _mine(self, fragment: int, position: int, shards: Delta) -> Delta:
        """What a position answers for of a fragment, given what it holds; pure."""
        if self.num_fragments > 1:
            shards = self._local[position].piece(shards, fragment)
        return self._owned(fragment, position, shards)

    def _pieces(self, fragment: int, position: int, shards: Delta) -> list[Delta]:
        """The pieces of a fragment that a position has, given what it holds; pure."""
        return self._shares[fragment][position].split(self._mine(fragment, position, shards))

    def pieces_of(self, tree: Delta, fragment: int) -> list[Delta]:
        leaves = self._structure.flatten_up_to(tree)
        return [
            piece
            for position in range(len(self._local))
            for piece in self._pieces(fragment, position, self._shards(leaves, position))
        ]

    def apart(self, tree: Delta) -> list[Delta]:
        tree = jax.tree.map(np.asarray, tree)
        return [p for each in range(self.num_fragments) for p in self.pieces_of(tree, each)]

    def together(self, pieces: Sequence[Delta], place: Any) -> Delta:
        if isinstance(place, Slice):
            return self.assembled(pieces, place)
        parts = self._parts(pieces, range(self.num_fragments), None)
        shards = [jax.tree.leaves(cut.join(p)) for cut, p in zip(self._local, parts, strict=True)]
        leaves = whole_of(self._params, self._indices, shards)
        return jax.device_put(self._structure.unflatten(leaves), place)

    def trial(self) -> tuple[Params, Cut]:
        """It has every axis cut to at most 4: no device may hold one like the parameters."""
        small = self._structure.unflatten(
            jax.ShapeDtypeStruct(tuple(min(n, 4) for n in leaf.shape), leaf.dtype)
            for leaf in self._params
        )
        return small, Cut(small, 2)

    # Of trees that lie on slices.

    def shards(self, tree: Delta, on: Slice, fragment: int = 0) -> list[Delta]:
        """The pieces of a fragment of a tree on a slice, each on its position's device.

        In the place of those of other processes is None.
        """
        held: dict[int, list[Any]] = {position: [] for position in on.here}
        for leaf in self._structure.flatten_up_to(tree):
            arrays, structure = jax.tree.flatten(leaf)
            data = [{each.device: each.data for each in x.addressable_shards} for x in arrays]
            for position, mine in held.items():
                mine.append(structure.unflatten(each[on.devices[position]] for each in data))
        pieces: list[Any] = [None] * self.num_devices
        share = self.num_devices // on.size
        for position, leaves in held.items():
            taken = self._take(fragment, position, self._structure.unflatten(leaves))
            pieces[position * share : (position + 1) * share] = taken
        return pieces

    def assembled(self, pieces: Sequence[Delta], on: Slice, fragment: int | None = None) -> Delta:
        """The tree of pieces on a slice: its shards, sent to each device that holds them.

        Args:
            pieces: anywhere.
            on: the slice.
            fragment: that the pieces are of; None for all. Then it is the fragment as programs of
                the slice see it.
        """
        some = range(self.num_fragments) if fragment is None else [fragment]
        parts = self._parts(pieces, some, on)
        here = [on.devices[position] for position in on.here]
        parts = jax.device_put([parts[position] for position in on.here], here)
        there = self._structure.unflatten(self._params)
        if fragment is not None:
            there = self.whole.like(fragment, there)
        lay = self._lay if self._is_to_lay(fragment) else self._laid
        held = [lay(at, fragment, each) for at, each in zip(on.here, parts, strict=True)]
        return self._on(there, on, held)

    def _parts(
        self, pieces: Sequence[Delta], some: Sequence[int], on: Slice | None
    ) -> list[list[Delta]]:
        """For each position what it holds of some fragments, where who answers for that has it."""
        count = self.num_devices
        mine = [
            self._by_position(each, pieces[at * count : (at + 1) * count], on)
            for at, each in enumerate(some)
        ]
        return [
            [
                self._structure.unflatten(
                    leaves[owners[position]][number]
                    for number, owners in enumerate(self._owners[each])
                )
                for each, leaves in zip(some, mine, strict=True)
            ]
            for position in range(len(self._local))
        ]

    def _by_position(
        self, fragment: int, pieces: Sequence[Delta], on: Slice | None
    ) -> list[list[Any]]:
        """For each position the leaves of what it answers for; on a slice, on its device."""
        share = self.num_devices // len(self._local)
        if share > 1 and on is not None:
            pieces = [
                jax.device_put(piece, on.devices[at]) if at in on.here else piece
                for piece, at in zip(pieces, self.positions, strict=True)
            ]
        return [
            self._structure.flatten_up_to(cut.join(list(pieces[at * share : (at + 1) * share])))
            for at, cut in enumerate(self._shares[fragment])
        ]

    def _is_to_lay(self, fragment: int | None) -> bool:
        """Whether what a position was sent is not yet what it holds."""
        if fragment is None:
            return self.num_fragments > 1
        return any(self.whole.masked(fragment))

    def _laid(self, position: int, fragment: int | None, parts: list[Delta]) -> Delta:
        """What a position holds of a tree, or of a fragment on a slice, given its parts; pure."""
        cut = self._local[position]
        if fragment is None:
            return cut.join(parts)
        (part,) = parts
        masked = self.whole.masked(fragment)
        if not any(masked):
            return part
        shapes = jax.tree.leaves(self._shards(self._params, position))

        def zeros(shape: Any, leaf: Any) -> Any:
            return jax.tree.map(lambda array: jnp.zeros(shape.shape, array.dtype), leaf)

        leaves = self._structure.flatten_up_to(part)
        base = self._structure.unflatten(map(zeros, shapes, leaves))
        put = self._structure.flatten_up_to(cut.put(base, fragment, part))
        both = zip(masked, put, leaves, strict=True)
        return self._structure.unflatten(new if instead else leaf for instead, new, leaf in both)

    def _on(self, like: Params, on: Slice, held: Sequence[Delta]) -> Delta:
        """The tree on a slice whose shards are these, by position."""

        def whole(shape: Any, spec: jax.P, *shards: Any) -> Any:
            def of(*arrays: jax.Array) -> jax.Array:
                return jax.make_array_from_single_device_arrays(
                    shape.shape, on.sharding(spec), list(arrays)
                )

            return jax.tree.map(of, *shards)

        shards = map(self._structure.flatten_up_to, held)
        leaves = map(whole, jax.tree.leaves(like), self._specs, *shards)
        return self._structure.unflatten(leaves)


def _nothing(array: Any) -> Any:
    shape = (0, *array.shape[1:])
    if isinstance(array, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(shape, array.dtype)
    return np.zeros(shape, array.dtype)
