"""How a tree of parameters is cut into parts of about the same size, one for each device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jax_ssp.compression import nbytes
from jax_ssp.layout import Delta
from jax_ssp.trees import Params


class _Range(NamedTuple):
    """Where a piece cuts a leaf: along one axis, from `start` up to `stop`."""

    axis: int
    start: int
    stop: int


class Cut:
    """Cuts a tree into pieces of about the same number of bytes.

    Each piece has the structure of the tree. Of each leaf it holds a range along one axis, the
    whole of it, or nothing (an array of size 0). A leaf is cut between rows, never within one; a
    scalar stays whole.

    Args:
        params: the tree, for its structure, shapes and dtypes.
        num_pieces: at least 1.

    Example:
        >>> cut = Cut({"a": jnp.zeros(6), "b": jnp.zeros((2, 1))}, num_pieces=2)
        >>> pieces = cut.split({"a": jnp.arange(6.0), "b": jnp.ones((2, 1))})
        >>> [piece["a"].tolist() for piece in pieces], [piece["b"].shape for piece in pieces]
        ([[0.0, 1.0, 2.0, 3.0], [4.0, 5.0]], [(0, 1), (2, 1)])
    """

    def __init__(self, params: Params, num_pieces: int = 1) -> None:
        leaves, self._structure = jax.tree.flatten(params)
        sizes = list(map(nbytes, leaves))
        share = sum(sizes) / num_pieces
        self.num_pieces = num_pieces
        self._ranges: list[list[_Range]] = [[] for _ in range(num_pieces)]
        before = 0
        for leaf, size in zip(leaves, sizes, strict=True):
            axis = _axis(leaf.shape, num_pieces)
            rows = leaf.shape[axis] if leaf.shape else 1
            ends = [
                min(max(round(rows * (share * number - before) / max(size, 1)), 0), rows)
                for number in range(num_pieces)
            ]
            for piece, start, stop in zip(self._ranges, ends, [*ends[1:], rows], strict=True):
                piece.append(_Range(axis, start, stop))
            before += size

    def split(self, tree: Delta) -> list[Delta]:
        """The pieces of a tree, which may have several arrays where it has a leaf; pure."""
        if self.num_pieces == 1:
            return [tree]
        leaves = self._structure.flatten_up_to(tree)

        def part(leaf: Any, piece: _Range) -> Any:
            return jax.tree.map(lambda array: _part(array, piece), leaf)

        return [self._structure.unflatten(map(part, leaves, ranges)) for ranges in self._ranges]

    def join(self, pieces: Sequence[Delta]) -> Delta:
        """The tree of the pieces; pure."""
        if self.num_pieces == 1:
            return pieces[0]
        leaves = zip(*map(self._structure.flatten_up_to, pieces), strict=True)

        def joined(parts: Sequence[Any], ranges: Sequence[_Range]) -> Any:
            return jax.tree.map(lambda *arrays: _joined(arrays, ranges), *parts)

        return self._structure.unflatten(map(joined, leaves, zip(*self._ranges, strict=True)))


def _axis(shape: tuple[int, ...], num_pieces: int) -> int:
    """The axis to cut along: the first one, whose parts are contiguous, if it is long enough."""
    if not shape or shape[0] >= num_pieces:
        return 0
    return max(range(len(shape)), key=shape.__getitem__)


def _part(leaf: Any, piece: _Range) -> Any:
    axis, start, stop = piece
    if not leaf.shape:  # a scalar; where it is not, there is an empty vector in its place
        return leaf if stop > start else jnp.zeros((0,), leaf.dtype)
    return leaf[(slice(None),) * axis + (slice(start, stop),)]


def _joined(parts: Sequence[Any], ranges: Sequence[_Range]) -> Any:
    filled = [part for part, piece in zip(parts, ranges, strict=True) if piece.stop > piece.start]
    if len(filled) == 1:
        return filled[0]
    return jnp.concatenate(filled or list(parts), ranges[0].axis)
