"""Fragments of a tree that lies on a slice, as its worker's programs see them.

They hold the same numbers as those of a worker on one device, and nothing moves between devices
where one is cut out or put in. XLA shards evenly alone: so where a fragment has some rows of an
axis that is sharded, it has the leaf with zeros in the place of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_ssp.fragments import Range
from jax_ssp.layout import Delta
from jax_ssp.server.partition import rows_of
from jax_ssp.shardings import Specs
from jax_ssp.slices import Slice, pinned
from jax_ssp.trees import Params


class SlicedCut:
    """Cuts a tree into fragments in programs that run under the mesh of a slice.

    A fragment has the structure of the tree, and each leaf lies as the tree's does. It is all of
    that; or its rows in the fragment, where their axis is not sharded; or, where it is, the leaf
    with zeros in the place of other rows; or nothing, an array of size 0.

    Args:
        params: the tree, for its structure, shapes and dtypes.
        like: a slice, and how the tree lies on it.
        ranges: for each fragment what it holds of each leaf.

    Attributes:
        num_pieces: how many fragments.

    Example:
        >>> mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("fsdp",))
        >>> ranges = [[Range(0, 0, 1)], [Range(0, 1, 4)]]
        >>> cut = SlicedCut({"w": jnp.zeros(4)}, Slice(mesh, (jax.P("fsdp"),)), ranges)
        >>> piece = cut.piece({"w": jnp.arange(4.0)}, 1)
        >>> piece["w"].tolist(), cut.put({"w": jnp.zeros(4)}, 1, piece)["w"].tolist()
        ([1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 3.0])
    """

    def __init__(self, params: Params, like: Slice, ranges: list[list[Range]]) -> None:
        leaves, self._structure = jax.tree.flatten(params)
        self._specs: Specs = like.params
        self._ranges = ranges
        self.num_pieces = len(ranges)
        held = [
            like.sharding(spec).shard_shape(tuple(leaf.shape))
            for leaf, spec in zip(leaves, like.params, strict=True)
        ]
        self._masked = [
            [_is_masked(*each) for each in zip(leaves, held, some, strict=True)] for some in ranges
        ]

    def masked(self, number: int) -> list[bool]:
        """Of each leaf whether the fragment has zeros in the place of other rows."""
        return self._masked[number]

    def piece(self, tree: Delta, number: int) -> Delta:
        """One fragment; pure."""

        def part(leaf: jax.Array, spec: jax.P, range: Range, masked: bool) -> jax.Array:
            if not range.rows:
                return pinned(jnp.zeros(_shape(leaf.shape, range), leaf.dtype), spec)
            if _is_all(leaf.shape, range):
                return leaf
            if masked:
                return jnp.where(_mask(leaf, spec, range), leaf, jnp.zeros_like(leaf))
            return pinned(leaf[rows_of(range)], spec)

        return self._each(part, number, tree)

    def put(self, tree: Delta, number: int, piece: Delta) -> Delta:
        """The tree with one fragment in its place; pure."""

        def put(
            leaf: jax.Array, spec: jax.P, range: Range, masked: bool, part: jax.Array
        ) -> jax.Array:
            if not range.rows:
                return pinned(leaf, spec)
            if _is_all(leaf.shape, range):
                return pinned(part, spec)
            if masked:
                return pinned(jnp.where(_mask(leaf, spec, range), part, leaf), spec)
            return pinned(leaf.at[rows_of(range)].set(part), spec)

        return self._each(put, number, tree, piece)

    def like(self, number: int, tree: Delta) -> Delta:
        """What one fragment of a tree is like, which lies as that does; it may be one of shapes."""

        def part(leaf: Any, spec: jax.P, range: Range, masked: bool) -> jax.ShapeDtypeStruct:
            del spec
            shape = leaf.shape if masked else _shape(leaf.shape, range)
            lies = getattr(leaf, "sharding", None)
            return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=lies)

        return self._each(part, number, tree)

    def _each(self, function: Callable[..., Any], number: int, *trees: Delta) -> Delta:
        """Of each leaf `function(array, spec, range, masked, ...)`."""
        facts = zip(self._specs, self._ranges[number], self._masked[number], strict=True)
        leaves = zip(*map(self._structure.flatten_up_to, trees), strict=True)

        def each(leaf: tuple[Any, ...], facts: tuple[Any, ...]) -> Any:
            return jax.tree.map(lambda array, *others: function(array, *facts, *others), *leaf)

        return self._structure.unflatten(map(each, leaves, facts))


def _shape(shape: tuple[int, ...], range: Range) -> tuple[int, ...]:
    """Of the rows of such an array; a scalar has one, or is an empty vector."""
    if not shape:
        return shape if range.rows else (0,)
    return (*shape[: range.axis], range.rows, *shape[range.axis + 1 :])


def _is_all(shape: Sequence[int], range: Range) -> bool:
    return not shape or range.rows == shape[range.axis]


def _is_masked(leaf: Any, held: tuple[int, ...], range: Range) -> bool:
    """Whether some rows are wanted of an axis that is sharded."""
    some = range.rows > 0 and not _is_all(leaf.shape, range)
    return some and held[range.axis] < leaf.shape[range.axis]


def _mask(leaf: jax.Array, spec: jax.P, range: Range) -> jax.Array:
    """Where an array has the rows."""
    rows = np.zeros(leaf.shape[range.axis], bool)
    rows[range.start : range.stop : range.step] = True
    along = rows.reshape((-1, *(1 for _ in leaf.shape[range.axis + 1 :])))
    return pinned(jnp.broadcast_to(along, leaf.shape), spec)
