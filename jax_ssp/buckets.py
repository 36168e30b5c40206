"""Small arrays of a model in a few flat ones, as server and workers hold and send them.

A program takes some microseconds for each array that it is given, and for each that it makes,
however small it is; so does whoever lets go of it. A model may have hundreds of small ones, such as
biases and scales, and each clock gives all of them to the program of its steps and to the merge.
So between programs those of a kind lie in one flat array, a *bucket*; within a program each is a
part of that again, which takes no longer than to copy it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_ssp.compression import nbytes
from jax_ssp.layout import Delta, Layout, Statistic
from jax_ssp.trees import Params

SMALL = 1 << 15  # bytes, that are copied twice in less time than an array takes by itself


@dataclass(frozen=True)
class Buckets(Layout):
    """The layout of parameters that lie in buckets, made by `in_buckets`.

    What lies so is a list: the buckets, and the arrays that lie by themselves.

    Attributes:
        structure, dtypes, averaged: of that list.
        inner: the layout of the parameters as the user has them.
        shapes: of the user's arrays.
        members: of each in the list the numbers of the user's arrays that are in it.
    """

    inner: Layout
    shapes: tuple[tuple[int, ...], ...]
    members: tuple[tuple[int, ...], ...]

    @property
    def user(self) -> Layout:
        return self.inner

    @property
    def like(self) -> Params:
        """Shapes and dtypes of the user's arrays."""
        each = map(jax.ShapeDtypeStruct, self.shapes, self.inner.dtypes)
        return self.inner.structure.unflatten(each)

    def packed(self, tree: Delta) -> list[Any]:
        # Not by the structure: functions in a state, say, may be others each time it is made.
        leaves = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, Statistic))
        each = ([leaves[number] for number in numbers] for numbers in self.members)
        return [inside[0] if len(inside) == 1 else _joined(inside) for inside in each]

    def unpacked(self, arrays: Sequence[Any]) -> Delta:
        leaves: list[Any] = [None] * len(self.shapes)
        for numbers, array in zip(self.members, arrays, strict=True):
            shapes = tuple(self.shapes[number] for number in numbers)
            split = _split if isinstance(array, np.ndarray) else _split_by_program
            parts = [array] if len(numbers) == 1 else split(array, shapes)
            for number, part in zip(numbers, parts, strict=True):
                leaves[number] = part
        return self.inner.structure.unflatten(leaves)


def in_buckets(layout: Layout, params: Params) -> Layout:
    """The layout with small arrays of the same kind in buckets; itself if there are no such.

    Args:
        layout: of the parameters.
        params: these, or their shapes.

    Example:
        >>> params = {"w": jnp.ones((2, 2)), "b": jnp.zeros(3), "scale": jnp.float32(2)}
        >>> layout = in_buckets(Layout.of(params), params)
        >>> (bucket,) = layout.packed(params)
        >>> bucket.tolist()
        [0.0, 0.0, 0.0, 2.0, 1.0, 1.0, 1.0, 1.0]
        >>> layout.unpacked([bucket])["w"].shape
        (2, 2)
    """
    leaves = layout.structure.flatten_up_to(params)
    kinds: dict[Any, list[int]] = {}
    for number, (leaf, dtype, flag) in enumerate(
        zip(leaves, layout.dtypes, layout.averaged, strict=True)
    ):
        small = nbytes(leaf) <= SMALL and jnp.issubdtype(dtype, jnp.floating) and not _is_weak(leaf)
        kinds.setdefault((dtype, flag) if small else number, []).append(number)
    if len(kinds) == len(leaves):
        return layout
    members = tuple(map(tuple, kinds.values()))
    first = [numbers[0] for numbers in members]
    return Buckets(
        jax.tree.structure([0] * len(members)),
        tuple(layout.dtypes[number] for number in first),
        tuple(layout.averaged[number] for number in first),
        layout,
        tuple(leaf.shape for leaf in leaves),
        members,
    )


def of_states(layout: Layout, init: Callable[[Params], Any]) -> Layout:
    """How the states of a step lie, as its parameters do: in buckets, or as they are.

    Args:
        layout: of the parameters.
        init: gives a state for the user's parameters.
    """
    if not isinstance(layout, Buckets):
        return layout.user
    state = jax.eval_shape(init, layout.like)
    leaves, structure = jax.tree.flatten(state)
    dtypes = tuple(leaf.dtype for leaf in leaves)
    return in_buckets(Layout(structure, dtypes, (False,) * len(leaves)), state)


def _is_weak(leaf: Any) -> bool:
    """Whether it gives way to the dtype of others, which it would not do in a bucket."""
    return getattr(leaf, "weak_type", False)


@partial(jax.jit, inline=True)
def _joined(leaves: Sequence[Any]) -> Any:
    """Arrays as a flat one; of statistics the values, and the moves."""
    return jax.tree.map(lambda *each: jnp.concatenate([jnp.ravel(one) for one in each]), *leaves)


def _split(bucket: Any, shapes: Sequence[tuple[int, ...]]) -> list[Any]:
    """The arrays of these shapes that a flat one is made of."""
    ends = [0, *itertools.accumulate(map(math.prod, shapes))]
    return [
        jax.tree.map(lambda flat: flat[start:end].reshape(shape), bucket)  # noqa: B023
        for shape, (start, end) in zip(shapes, itertools.pairwise(ends), strict=True)
    ]


_split_by_program = jax.jit(_split, static_argnums=1, inline=True)
