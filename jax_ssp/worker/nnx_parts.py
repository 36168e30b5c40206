"""A flax.nnx model as named arrays, and put together again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


class Part:
    """A variable of a model, or an array that is an attribute, taken apart into named arrays.

    Args:
        path: where it is in the model.
        variable: it.

    Attributes:
        arrays: by dotted path. A variable may hold a tree; what of it is no number stays in place.
        paths: the same names, each as the keys that lead there.
    """

    def __init__(self, path: tuple[Any, ...], variable: Any) -> None:
        self._path = path
        self._is_variable = isinstance(variable, nnx.Variable)
        self._cached = isinstance(variable, nnx.Cache)
        held = variable.get_value() if self._is_variable else variable
        leaves, self._structure = jax.tree_util.tree_flatten_with_path(held)
        self._leaves: list[Any] = []  # the name of an array, or what is none
        self.arrays: dict[str, Any] = {}
        self.paths: dict[str, tuple[Any, ...]] = {}
        for inner, leaf in leaves:
            whole = (*path, *map(_key, inner))
            name = ".".join(str(key).replace("\\", "\\\\").replace(".", "\\.") for key in whole)
            if _is_array(leaf):
                self.arrays[name] = leaf
                self.paths[name] = whole
                self._leaves.append((name,))
            else:
                self._leaves.append(leaf)
        self._variable = variable.replace(None) if self._is_variable else None

    def stays(self, name: str) -> bool:
        """Whether this array stays the worker's own: it cannot be averaged, or should not."""
        value = self.arrays[name]
        real = _is_floating(value) and not jnp.iscomplexobj(value)
        return self._cached or not real or not bool(jnp.all(jnp.isfinite(value)))

    def filled(self, values: Mapping[str, Any], bare: bool = False) -> tuple[tuple[Any, ...], Any]:
        """The path, and the variable with other arrays; with `bare`, what it would hold."""
        held = self._structure.unflatten(
            [values[leaf[0]] if isinstance(leaf, tuple) else leaf for leaf in self._leaves]
        )
        bare = bare or self._variable is None
        return self._path, held if bare else self._variable.replace(held)


def parts_of(state: Any) -> list[Part]:
    return [Part(path, variable) for path, variable in nnx.to_flat_state(state)]


def trains(path: tuple[Any, ...], variable: Any) -> bool:
    """A filter of nnx: what the optimizer is to train."""
    if not isinstance(variable, nnx.Param):
        return False
    return all(map(_is_floating, jax.tree.leaves(variable.get_value())))


def _is_array(leaf: Any) -> bool:
    """Whether JAX computes with this."""
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic, bool, int, float, complex))


def _is_floating(leaf: Any) -> bool:
    return _is_array(leaf) and jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.inexact)


def _key(key: Any) -> Any:
    """What a key of a path in a tree is: a name or an index."""
    for name in ("key", "idx", "name"):
        if hasattr(key, name):
            return getattr(key, name)
    return key


def like_before(value: Any, before: jax.Array) -> Any:
    """A value of the dtype it had, where it is of the same kind."""
    if not _is_array(value):
        return before
    value = jnp.asarray(value)
    for kind in (jnp.inexact, jnp.integer):
        if jnp.issubdtype(value.dtype, kind) and jnp.issubdtype(before.dtype, kind):
            return value.astype(before.dtype)
    return value


def seeded(rngs: Any, key: jax.Array) -> Any:
    """The model's random state, its streams started anew from `key`."""
    leaves, structure = jax.tree.flatten(rngs)
    fresh: list[jax.Array] = []
    for number, leaf in enumerate(leaves):
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            fresh.append(jnp.zeros_like(leaf))
        elif leaf.shape == ():
            fresh.append(jax.random.fold_in(key, number))
        else:
            fresh.append(jax.random.split(jax.random.fold_in(key, number), leaf.shape))
    return jax.tree.unflatten(structure, fresh)
