"""Trees of arrays: what they must be like, and what is asked of their numbers, each thing once.

What they must be like is checked by shapes alone, before anything computes. Numbers are added up in
at least float32.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from numbers import Real
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jax_ssp.checks import MOST, shown
from jax_ssp.pairs import Tree, is_complex, split

Params: TypeAlias = Any

flatten = jax.tree_util.default_registry.flatten  # `jax.tree.flatten` calls it, by way of two

# What they must be like.


def check_params(params: Any, name: str = "params") -> Any:
    """Check that parameters can be averaged; gives their shapes and dtypes. `name` is for messages.

    Raises:
        TypeError: if a leaf is no array.
        ValueError: if there is none, or one is not floating point.
    """
    shapes = shapes_of(name, params)
    if not jax.tree.leaves(shapes):
        raise ValueError(f"`{name}` must hold at least one array, got none.")
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise ValueError(
                f"`{name}{jax.tree_util.keystr(path)}` is {leaf.dtype}; parameters must be "
                "floating point, since deltas are averaged. What is constant the loss may hold "
                "itself; counters and flags a step of your own keeps in its worker state, as that "
                "of `ssp.make_nnx_step` does."
            )
    check_arrays(name, params)
    check_sizes(name, params)
    return shapes


def check_tree(name: str, tree: Any) -> None:
    """Raise TypeError if JAX cannot take it for a tree."""
    try:
        jax.tree_util.tree_flatten_with_path(tree)
    except Exception as error:  # of a dict whose keys have no order, say
        said = str(error).split(". ")[0]
        raise TypeError(f"`{name}` must be a tree of arrays, got {shown(tree)}: {said}.") from error


def check_arrays(name: str, tree: Any) -> None:
    """Raise TypeError if a leaf is only the shape of an array, or has no value yet."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, jax.ShapeDtypeStruct | jax.core.Tracer):
            raise TypeError(
                f"`{name}{jax.tree_util.keystr(path)}` must be an array with values, got "
                f"{shown(leaf)}."
            )


def check_sizes(name: str, tree: Any) -> None:
    """Raise ValueError if a number of Python's is too large for float32."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, float) and MOST < abs(leaf) < math.inf:
            raise ValueError(f"`{name}` must hold numbers of at most {MOST:g}, got {leaf}.")


def shapes_of(name: str, tree: Any) -> Any:
    """Shape and dtype of each leaf of a tree; `name` is for the message.

    Raises:
        TypeError: if a leaf is neither an array nor a number; its path is named.
    """

    def shape(path: tuple[Any, ...], leaf: Any) -> jax.ShapeDtypeStruct:
        try:
            kind = jax.typeof(leaf)
        except (TypeError, ValueError, OverflowError) as error:
            raise TypeError(
                f"`{name}{jax.tree_util.keystr(path)}` must be an array of numbers, got a "
                f"{type(leaf).__name__}: {error}"
            ) from None
        return jax.ShapeDtypeStruct(kind.shape, kind.dtype)

    check_tree(name, tree)
    return jax.tree_util.tree_map_with_path(shape, tree)


def check_metrics(whose: str, metrics: Any) -> None:
    """Check that metrics are a dict of scalars: real numbers, or arrays of shape ().

    Args:
        whose: gave them, for messages: "the step's".
        metrics: what was given; arrays may be traced.

    Raises:
        TypeError: if they are no dict, a name is no string, or a value is no number.
        ValueError: if an array has more dimensions than 0.
    """
    if not isinstance(metrics, Mapping):
        raise TypeError(f"{whose} metrics must be a dict, got a {type(metrics).__name__}.")
    for name, value in metrics.items():
        if not isinstance(name, str):
            raise TypeError(f"{whose} metric {name!r} must have a string as its name.")
        if isinstance(value, Real):
            if isinstance(value, int) and abs(value) >= 2**1024:
                raise ValueError(f"{whose} metric {name!r} must be a number that a float can hold.")
            continue
        shape, dtype = (getattr(value, each, None) for each in ("shape", "dtype"))
        if shape is None:
            raise TypeError(
                f"{whose} metric {name!r} must be a scalar, got a {type(value).__name__}; give "
                "each number in it a name of its own."
            )
        if tuple(shape) != ():
            raise ValueError(
                f"{whose} metric {name!r} must be a scalar, got shape {tuple(shape)}; reduce it, "
                "or give each number in it a name of its own."
            )
        if isinstance(value, (jax.Array, np.ndarray, np.generic)) and not _is_real(dtype):
            raise TypeError(f"{whose} metric {name!r} must be a real number, got {dtype}.")


def _is_real(dtype: Any) -> bool:
    return any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_))


def check_like(
    whose: str, name: str, tree: Any, like_name: str, like: Any, *, any_float: bool = False
) -> None:
    """Check that a tree has the structure, shapes and dtypes of another.

    Args:
        whose, name, like_name: what the trees are called in messages.
        tree, like: trees of arrays or of shapes.
        any_float: whether any floating-point dtype will do; a complex one where there is a complex.

    Raises:
        ValueError: if they differ; the path is named, and what both are there.
    """
    given, expected = (
        {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(t)}
        for t in (tree, like)
    )
    for path, leaf in expected.items():
        if path not in given:
            others = ", ".join(f"{name}{other}" for other in given if other not in expected)
            raise ValueError(
                f"{whose} `{name}` has no leaf for `{like_name}{path}`; it has "
                f"{others or 'no other'} instead. They must have the same structure."
            )
        other = given[path]
        kind = "complex" if is_complex(leaf) else "floating-point"
        fits = other.dtype == leaf.dtype
        if any_float and not fits:
            fits = jnp.issubdtype(other.dtype, jnp.inexact)
            fits &= is_complex(other) == is_complex(leaf)
        if other.shape != leaf.shape or not fits:
            raise ValueError(
                f"{whose} `{name}{path}` is {other.dtype}{list(other.shape)}, but "
                f"`{like_name}{path}` is {leaf.dtype}{list(leaf.shape)}; they must agree"
                + (f", but any {kind} type will do." if any_float else ".")
            )
    extra = next((path for path in given if path not in expected), None)
    if extra is not None:
        raise ValueError(
            f"{whose} `{name}` has `{name}{extra}`, but there is no `{like_name}{extra}`. They "
            "must have the same structure."
        )
    if jax.tree.structure(tree) != jax.tree.structure(like):
        raise ValueError(
            f"{whose} `{name}` is a {jax.tree.structure(tree)}, but `{like_name}` is a "
            f"{jax.tree.structure(like)}; they must be the same."
        )


# Sums in at least float32.


def wide(dtype: Any) -> Any:
    """The dtype in which numbers of this one are added up: at least float32."""
    return dtype if jnp.finfo(dtype).bits >= 32 else np.dtype(np.float32)


def as_float(factor: Any) -> np.ndarray:
    """A factor, or several, in the widest float that JAX is set to."""
    return np.asarray(factor, jax.dtypes.canonicalize_dtype(np.float64))


def widened(leaf: Any) -> jax.Array:
    """An array in the dtype in which its numbers are added up."""
    leaf = jnp.asarray(leaf)
    return leaf.astype(wide(leaf.dtype))


def weighted(leaf: Any, weight: jax.Array) -> jax.Array:
    """An array times a weight, in at least float32."""
    leaf = widened(leaf)
    return leaf * weight.astype(leaf.dtype)


def squared_norm(tree: Tree) -> jax.Array:
    """The sum of the squares of all numbers, in float32; of a complex one, of both its parts."""
    squares = (jnp.sum(widened(leaf) ** 2) for leaf in jax.tree.leaves(split(tree)))
    return sum((each.astype(jnp.float32) for each in squares), start=jnp.float32(0))


# Finiteness.


def all_finite(leaves: Any) -> jax.Array:
    """Whether every number of some arrays is finite; pure."""
    flags = list(map(_is_finite, jax.tree.leaves(leaves)))
    return jnp.all(jnp.stack(flags)) if flags else jnp.bool(True)


_LARGE = 4096  # numbers; below that it makes no difference


def _is_finite(leaf: jax.Array) -> jax.Array:
    if leaf.size < _LARGE or not jnp.issubdtype(leaf.dtype, jnp.floating):
        return _compared(leaf)
    return jax.lax.platform_dependent(leaf, cpu=_multiplied, default=_compared)


def _compared(leaf: jax.Array) -> jax.Array:
    return jnp.all(jnp.isfinite(leaf))


def _multiplied(leaf: jax.Array) -> jax.Array:
    """The same by a product with zeros, which on the CPU backend costs next to nothing.

    0 x is 0 where x is finite and NaN elsewhere, and sums of these are so too. The barrier keeps
    XLA from working the product into what made the array, which it would then make twice.
    """
    matrix = leaf if leaf.ndim == 1 else leaf.reshape(-1, leaf.shape[-1])
    matrix = jax.lax.optimization_barrier(matrix)
    return _compared(matrix @ jnp.zeros(matrix.shape[-1], leaf.dtype))


def is_finite(tree: Tree) -> bool:
    """Whether every number of some arrays is finite, as soon as they are there."""
    return bool(_all_finite(tree))


_all_finite = jax.jit(all_finite)


# Fingerprints.


def digest(*parts: Any) -> str:
    """A short fingerprint of arrays or text, the same in every process."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            sha.update(part.encode())
        else:
            array = np.asarray(part)
            sha.update(f"{array.dtype}{array.shape}".encode())
            sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return sha.hexdigest()[:16]


def copied(tree: Any) -> Any:
    """The same with arrays of its own, which no program takes over."""
    return jax.tree.map(lambda leaf: jnp.copy(leaf) if isinstance(leaf, jax.Array) else leaf, tree)
