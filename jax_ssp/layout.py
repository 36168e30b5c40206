"""How the numbers of a run are kept: what is trained, what is only averaged, and in which dtypes.

*Masters* are the parameters as server and workers hold them: in at least float32. A step sees them
rounded to the user's dtypes. Deltas and all sums of them are of the masters' dtypes.

What is only *averaged* (BatchNorm statistics) travels as `Statistic`, which stands in a delta where
the parameters have that leaf. It enters a tree by one rule, at the server as at a worker:

    S' = clip(S + sum of share * move, elementwise between the least and greatest of S and values)

So what is averaged stays among what was seen (a variance is never negative), and moves no slower
than the deltas say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jax_ssp.trees import Params, all_finite, shapes_of, wide

Delta: TypeAlias = Any  # like parameters, with a `Statistic` for each leaf that is averaged


class Statistic(NamedTuple):
    """A leaf of a delta that is averaged.

    One whose value is not finite counts in no merge.

    Attributes:
        value: what the worker came to.
        move: how far that is from what the worker began with.
    """

    value: Any
    move: Any


class Moved(NamedTuple):
    """Some statistics on their way into one leaf.

    Attributes:
        move: the sum of their moves, each times its share.
        least, greatest: among their values and the leaf itself.
    """

    move: jax.Array
    least: jax.Array
    greatest: jax.Array

    @classmethod
    def by(cls, old: jax.Array, statistic: Statistic, share: jax.Array, kept: Any = True) -> Moved:
        """One statistic on its way into `old`; nothing if it is not kept."""
        value, move = (leaf.astype(old.dtype) for leaf in statistic)
        there = kept & jnp.isfinite(value) & jnp.isfinite(move)
        value = jnp.where(there, value, old)
        move = jnp.where(there, move * share.astype(old.dtype), jnp.zeros_like(move))
        return cls(move, jnp.minimum(value, old), jnp.maximum(value, old))

    def with_other(self, other: Moved) -> Moved:
        return Moved(
            self.move + other.move,
            jnp.minimum(self.least, other.least),
            jnp.maximum(self.greatest, other.greatest),
        )

    def into(self, old: jax.Array) -> jax.Array:
        """The leaf once they have entered it."""
        return jnp.clip(old + self.move, self.least, self.greatest)


@dataclass(frozen=True)
class Layout:
    """What each leaf of the parameters is; made by `Layout.of`.

    Attributes:
        structure: of the parameters.
        dtypes: the user's, a leaf each.
        averaged: whether a leaf is only averaged.
    """

    structure: Any
    dtypes: tuple[Any, ...]
    averaged: tuple[bool, ...]

    @classmethod
    def of(cls, params: Params, averaged: Any = None) -> Layout:
        """The layout of parameters; `averaged`, a tree of booleans like them, may be None.

        Raises:
            ValueError: if `averaged` has another structure, or names a leaf of complex numbers.
            TypeError: if a leaf of it is no boolean.

        Example:
            >>> params = {"w": jnp.ones(2, jnp.bfloat16), "mean": jnp.zeros(2)}
            >>> layout = Layout.of(params, {"w": False, "mean": True})
            >>> layout.has_half, layout.has_averaged, layout.masters(params)["w"].dtype
            (True, True, dtype('float32'))
        """
        shapes = shapes_of("params", params)
        leaves, structure = jax.tree.flatten(shapes)
        flags = [False] * len(leaves) if averaged is None else _flags(averaged, shapes)
        return cls(structure, tuple(leaf.dtype for leaf in leaves), tuple(flags))

    @cached_property
    def flags(self) -> Any:
        """`averaged` as a tree."""
        return self.structure.unflatten(self.averaged)

    @cached_property
    def has_averaged(self) -> bool:
        return any(self.averaged)

    @cached_property
    def has_half(self) -> bool:
        """Whether masters have other dtypes than the user's parameters."""
        return any(wide(dtype) != dtype for dtype in self.dtypes)

    # Between programs, where small arrays may lie together (see `buckets.py`); here none do.

    @property
    def user(self) -> Layout:
        """The layout of the parameters as the user has them."""
        return self

    def packed(self, tree: Delta) -> Any:
        """The user's parameters, or a delta of them, as they lie between programs; pure."""
        return tree

    def unpacked(self, arrays: Any) -> Delta:
        """The user's parameters, or a delta of them, of what lies so; pure."""
        return arrays

    # Dtypes.

    def masters(self, params: Params) -> Params:
        """Parameters in the masters' dtypes; any floats, in the parameters' structure; pure."""
        return self._cast(params, tuple(map(wide, self.dtypes)), lambda leaf: leaf)

    def rounded(self, masters: Params) -> Params:
        """Masters in the user's dtypes; pure.

        The barrier keeps XLA from leaving out a rounding that is undone later in the program.
        """
        return self._cast(masters, self.dtypes, jax.lax.optimization_barrier)

    def _cast(self, tree: Any, dtypes: Sequence[Any], then: Callable[[Any], Any]) -> Any:
        leaves = self.structure.flatten_up_to(tree)
        cast = (
            leaf if leaf.dtype == dtype else then(jnp.asarray(leaf).astype(dtype))
            for leaf, dtype in zip(leaves, dtypes, strict=True)
        )
        return self.structure.unflatten(cast)

    # What is trained, what is averaged.

    def map(self, function: Callable[..., Any], *trees: Any) -> Any:
        """`function(averaged, leaf, ...)` over trees; a delta has `Statistic`s for some leaves."""
        return jax.tree.map(function, self.flags, *trees)

    def trained(self, tree: Any) -> list[Any]:
        """The leaves that are trained."""
        leaves = self.structure.flatten_up_to(tree)
        return [leaf for leaf, flag in zip(leaves, self.averaged, strict=True) if not flag]

    def apart(self, tree: Any) -> tuple[Any, list[Any]]:
        """A tree with None in place of its averaged leaves, and those leaves."""
        if not self.has_averaged:
            return tree, []
        leaves = self.structure.flatten_up_to(tree)
        pairs = list(zip(leaves, self.averaged, strict=True))
        trained = self.structure.unflatten(None if flag else leaf for leaf, flag in pairs)
        return trained, [leaf for leaf, flag in pairs if flag]

    def together(self, trained: Any, averaged: Sequence[Any]) -> Any:
        """The tree that `apart` took apart."""
        if not self.has_averaged:
            return trained
        others = iter(averaged)
        leaves = self.structure.flatten_up_to(trained)
        return self.structure.unflatten(
            next(others) if flag else leaf for leaf, flag in zip(leaves, self.averaged, strict=True)
        )

    def delta_like(self, params: Params) -> Delta:
        """A delta of these shapes, made of the parameters' own arrays."""
        return self.map(lambda averaged, leaf: Statistic(leaf, leaf) if averaged else leaf, params)

    def measured(self, delta: Params, base: Params) -> Delta:
        """A delta of plain arrays, measured from a base, as the server reads it; pure."""
        good = all_finite(self.trained(delta))

        def leaf(averaged: bool, move: jax.Array, base: jax.Array) -> Any:
            return Statistic(jnp.where(good, base + move, jnp.nan), move) if averaged else move

        return self.map(leaf, self.masters(delta), base)

    def added(self, params: Params, delta: Delta, weight: jax.Array, share: jax.Array) -> Params:
        """Masters plus a delta, as a merge of it alone would add it; pure."""

        def add(averaged: bool, param: jax.Array, leaf: Any) -> jax.Array:
            if averaged:
                return Moved.by(param, leaf, share).into(param)
            return param + leaf * weight.astype(leaf.dtype)

        return self.map(add, params, delta)


def _flags(averaged: Any, shapes: Any) -> list[bool]:
    named = jax.tree_util.tree_leaves_with_path(averaged)
    if jax.tree.structure(averaged) != jax.tree.structure(shapes):
        raise ValueError(
            "`averaged` must be a tree of booleans with the structure of `params`, "
            f"{jax.tree.structure(shapes)}, got {jax.tree.structure(averaged)}."
        )
    for (path, flag), leaf in zip(named, jax.tree.leaves(shapes), strict=True):
        name = jax.tree_util.keystr(path)
        if not isinstance(flag, bool | np.bool_):
            raise TypeError(f"`averaged{name}` must be True or False, got {flag!r}.")
        if flag and not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"`params{name}` is {leaf.dtype}, but only real numbers can be averaged as "
                "statistics; keep its real and imaginary part as leaves of their own."
            )
    return [bool(flag) for _, flag in named]
