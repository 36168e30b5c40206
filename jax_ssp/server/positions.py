"""What each position of a slice holds of a leaf, and who answers for what several of them hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from jax_ssp.fragments import Range
from jax_ssp.shardings import axes_of
from jax_ssp.slices import Slice

Index: TypeAlias = tuple[slice, ...]


class SliceParts(NamedTuple):
    """Where a server's pieces are, of parameters that are sharded in slices.

    Attributes:
        like: a slice; what is given out whole lies on this one.
        devices: of each piece, those of the first position first.
        shares: in how many pieces each position is cut.
    """

    like: Slice
    devices: tuple[jax.Device, ...]
    shares: int = 1

    @classmethod
    def on(cls, slices: Sequence[Slice]) -> SliceParts:
        """The parts on the workers' own devices: those of a position share what is of it."""
        devices = zip(*(each.devices for each in slices), strict=True)
        return cls(slices[0], tuple(one for some in devices for one in some), len(slices))


def indices_of(leaf: Any, like: Slice, spec: jax.P) -> list[Index]:
    """Of each position, what it holds of a leaf."""
    axes = axes_of(like.mesh)
    where = [dict(zip(axes, each, strict=True)) for each in np.ndindex(*axes.values())]
    parts = [*spec, *[None] * (len(leaf.shape) - len(spec))]

    def held(size: int, part: Any, at: dict[str, int]) -> slice:
        names = part if isinstance(part, tuple) else () if part is None else (part,)
        number, count = 0, 1
        for name in names:
            number, count = number * axes[name] + at[name], count * axes[name]
        rows = size // count
        return slice(number * rows, (number + 1) * rows)

    return [
        tuple(held(size, part, at) for size, part in zip(leaf.shape, parts, strict=True))
        for at in where
    ]


def whole_of(shapes: Sequence[Any], indices: Sequence[Sequence[Index]], shards: Any) -> list[Any]:
    """Whole leaves on the host.

    Args:
        shapes: of the leaves.
        indices: of each leaf, what each position holds of it.
        shards: of each position, what it holds of each leaf.
    """
    leaves = [np.empty(each.shape, each.dtype) for each in shapes]
    for position, held in enumerate(shards):
        for leaf, index, shard in zip(leaves, indices, held, strict=True):
            leaf[index[position]] = shard
    return leaves


def owners_of(indices: Sequence[Index], bytes_of: Sequence[int], sizes: list[int]) -> list[int]:
    """For each position the one that answers for what it holds of a leaf: often itself.

    Args:
        indices: of each, what it holds.
        bytes_of: of each, how much that is.
        sizes: what positions answer for so far, in bytes; those of this leaf are added.
    """
    keys = [tuple((each.start, each.stop) for each in index) for index in indices]
    owners: dict[Any, int] = {}
    for key in keys:
        if key not in owners:
            alike = [position for position, other in enumerate(keys) if other == key]
            owners[key] = min(alike, key=sizes.__getitem__)
            sizes[owners[key]] += bytes_of[owners[key]]
    return [owners[key] for key in keys]


def within(range: Range, index: Index) -> Range:
    """What a shard has of some rows, counted from its own first one."""
    if not index:
        return range
    axis, start, stop, step = range
    shard = index[axis]
    start += -(-max(shard.start - start, 0) // step) * step
    stop = min(stop, shard.stop)
    if start >= stop:
        return Range(axis, 0, 0)
    return Range(axis, start - shard.start, stop - shard.start, step)
