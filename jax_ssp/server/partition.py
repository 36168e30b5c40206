"""How a tree of parameters is cut into pieces: by fragments, and each of these over devices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_ssp.controller.fragments import pushed_in
from jax_ssp.fragments import Fragments, Range, by_bytes
from jax_ssp.layout import Delta
from jax_ssp.trees import Params


class Cut:
    """Cuts a tree into pieces.

    Each piece has the structure of the tree. Of each leaf it holds a range along one axis, the
    whole of it, or nothing (an array of size 0). A leaf is cut between rows, never within one; a
    scalar stays whole.

    Args:
        params: the tree, for its structure, shapes and dtypes.
        num_pieces: at least 1; they are of about the same number of bytes.
        ranges: in place of that, for each piece what it holds of each leaf.

    Example:
        >>> cut = Cut({"a": jnp.zeros(6), "b": jnp.zeros((2, 1))}, num_pieces=2)
        >>> pieces = cut.split({"a": jnp.arange(6.0), "b": jnp.ones((2, 1))})
        >>> [piece["a"].tolist() for piece in pieces], [piece["b"].shape for piece in pieces]
        ([[0.0, 1.0, 2.0, 3.0], [4.0, 5.0]], [(0, 1), (2, 1)])
    """

    def __init__(
        self, params: Params, num_pieces: int = 1, ranges: list[list[Range]] | None = None
    ) -> None:
        leaves, self._structure = jax.tree.flatten(params)
        self._ranges = by_bytes(leaves, num_pieces) if ranges is None else ranges
        self.num_pieces = len(self._ranges)

    @property
    def key(self) -> Any:
        """The same for cuts that cut the same."""
        return self._structure, tuple(map(tuple, self._ranges))

    def split(self, tree: Delta) -> list[Delta]:
        """The pieces of a tree, which may have several arrays where it has a leaf; pure."""
        if self.num_pieces == 1:
            return [tree]
        return [self.piece(tree, number) for number in range(self.num_pieces)]

    def piece(self, tree: Delta, number: int) -> Delta:
        """One of them; pure."""
        return self._each(lambda array, range: _part(array, range), number, tree)

    def join(self, pieces: Sequence[Delta]) -> Delta:
        """The tree of the pieces; pure."""
        if self.num_pieces == 1:
            return pieces[0]
        leaves = zip(*map(self._structure.flatten_up_to, pieces), strict=True)

        def joined(parts: Sequence[Any], ranges: Sequence[Range]) -> Any:
            return jax.tree.map(lambda *arrays: _joined(arrays, ranges), *parts)

        return self._structure.unflatten(map(joined, leaves, zip(*self._ranges, strict=True)))

    def put(self, tree: Delta, number: int, piece: Delta) -> Delta:
        """The tree with one piece in its place; pure."""

        def put(array: Any, range: Range, part: Any) -> Any:
            if not range.rows:
                return array
            if not array.shape or range.rows == array.shape[range.axis]:
                return part
            return array.at[rows_of(range)].set(part)

        return self._each(put, number, tree, piece)

    def like(self, number: int, tree: Delta) -> Delta:
        """What one piece of a tree is like; the tree may be one of shapes."""
        return jax.eval_shape(lambda each: self.piece(each, number), tree)

    def _each(self, function: Callable[..., Any], number: int, *trees: Delta) -> Delta:
        """Of each leaf `function(array, range, ...)`."""
        leaves = zip(*map(self._structure.flatten_up_to, trees), strict=True)

        def each(leaf: tuple[Any, ...], range: Range) -> Any:
            return jax.tree.map(lambda array, *others: function(array, range, *others), *leaf)

        return self._structure.unflatten(map(each, leaves, self._ranges[number]))


class Partition(ABC):
    """How a tree is cut into fragments, and each of these into pieces for the server's devices.

    The pieces of a fragment stand together: piece `fragment * num_devices + device`.

    Attributes:
        whole: cuts the tree into its fragments, where a worker computes.
        num_devices: how many pieces a fragment has.
        shapes: of each piece.
        remedy: what to do where a transform cannot work on pieces.
    """

    whole: Any  # a `Cut`, or a `SlicedCut`
    num_devices: int
    shapes: list[Params]
    remedy: str

    @cached_property
    def num_fragments(self) -> int:
        """How many fragments there are."""
        return self.whole.num_pieces

    @property
    def num_pieces(self) -> int:
        """How many pieces there are in all."""
        return self.num_fragments * self.num_devices

    def of(self, fragment: int) -> slice:
        """Where the pieces of a fragment stand."""
        return slice(fragment * self.num_devices, (fragment + 1) * self.num_devices)

    def pushed(self, clock: int) -> slice:
        """Where the pieces stand that a clock pushes."""
        return self.of(pushed_in(clock, self.num_fragments))

    @abstractmethod
    def pieces_of(self, tree: Delta, fragment: int) -> list[Delta]:
        """The pieces of one fragment of a tree that is whole; pure."""

    @abstractmethod
    def apart(self, tree: Delta) -> list[Delta]:
        """The pieces of a tree that is whole, on one device or the host."""

    @abstractmethod
    def together(self, pieces: Sequence[Delta], place: Any) -> Delta:
        """The tree of all pieces, wherever they are, on a device or slice."""

    @abstractmethod
    def trial(self) -> tuple[Params, Cut]:
        """A tree to try on whether a transform is elementwise, and how to cut it."""


class Parts(Partition):
    """Cuts a tree into fragments, and each of these into pieces of about the same size.

    Args:
        params: the tree, for its structure, shapes and dtypes.
        num_devices: of the server; it has a piece of each fragment on each of them.
        fragments: None for one.

    Example:
        >>> parts = Parts({"a": jnp.zeros(4)}, num_devices=2, fragments=Fragments(2))
        >>> [piece["a"].shape for piece in parts.split({"a": jnp.arange(4.0)})], parts.of(1)
        ([(1,), (1,), (1,), (1,)], slice(2, 4, None))
    """

    remedy = 'merge them on one device (`placement="host"`), on Ray in one of `server_shards`'

    def __init__(
        self, params: Params, num_devices: int = 1, fragments: Fragments | None = None
    ) -> None:
        self.whole = Cut(params, 1, ranges_of(fragments, params))
        self.num_devices = num_devices
        shapes = jax.eval_shape(self.whole.split, params)
        self._each = [Cut(each, num_devices) for each in shapes]
        self._params = jax.eval_shape(lambda tree: tree, params)
        self.shapes = jax.eval_shape(self.split, params)
        self._split, self._join = jax.jit(self.split), jax.jit(self.join)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Parts) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> Any:
        return self.whole.key, tuple(each.key for each in self._each)

    def apart(self, tree: Delta) -> list[Delta]:
        return [tree] if self.num_pieces == 1 else self._split(tree)

    def together(self, pieces: Sequence[Delta], place: Any) -> Delta:
        return pieces[0] if len(pieces) == 1 else self._join(jax.device_put(pieces, place))

    def trial(self) -> tuple[Params, Cut]:
        return self._params, Cut(self._params, self.num_devices)

    def split(self, tree: Delta) -> list[Delta]:
        """All pieces of a tree; pure."""
        fragments = self.whole.split(tree)
        return [p for cut, each in zip(self._each, fragments, strict=True) for p in cut.split(each)]

    def join(self, pieces: Sequence[Delta]) -> Delta:
        """The tree of all pieces; pure."""
        return self.whole.join(
            [self.joined(pieces[self.of(each)], each) for each in range(self.num_fragments)]
        )

    def pieces_of(self, tree: Delta, fragment: int) -> list[Delta]:
        one = tree if self.num_fragments == 1 else self.whole.piece(tree, fragment)
        return self._each[fragment].split(one)

    def joined(self, pieces: Sequence[Delta], fragment: int) -> Delta:
        """A fragment of its pieces, as a tree that holds nothing of the others; pure."""
        return self._each[fragment].join(pieces)


def ranges_of(fragments: Fragments | None, params: Params) -> list[list[Range]]:
    """What each fragment holds of each leaf of the parameters; all of them without."""
    if fragments is None or fragments.count == 1:
        return by_bytes(jax.tree.leaves(params), 1)
    return list(map(list, zip(*fragments.of(params).values(), strict=True)))


def rows_of(range: Range) -> tuple[slice, ...]:
    """The index of what a piece holds of a leaf."""
    return (slice(None),) * range.axis + (slice(range.start, range.stop, range.step),)


def _part(leaf: Any, range: Range) -> Any:
    if not leaf.shape:  # a scalar; where it is not, there is an empty vector in its place
        return leaf if range.rows else jnp.zeros((0,), leaf.dtype)
    return leaf[rows_of(range)]


def _joined(parts: Sequence[Any], ranges: Sequence[Range]) -> Any:
    filled = [(part, range) for part, range in zip(parts, ranges, strict=True) if range.rows]
    if len(filled) == 1:
        return filled[0][0]
    joined = jnp.concatenate([part for part, _ in filled] or list(parts), ranges[0].axis)
    order = np.concatenate([np.arange(*each[1:]) for _, each in filled] or [np.arange(0)])
    if (order[1:] > order[:-1]).all():
        return joined
    return jnp.take(joined, np.argsort(order), axis=filled[0][1].axis)
