"""A flax.nnx model as named arrays, and put together again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_ssp.checks import shown


class Part:
    """A variable of a model, or an array that is an attribute, taken apart into named arrays.

    Args:
        path: where it is in the model.
        variable: it.

    Attributes:
        arrays: by dotted path. A variable may hold a tree; what of it is no number stays in place.
        paths: the same names, each as the keys that lead there.
        spec: how they are to lie on a mesh, as the variable's metadata says.
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
        spec = nnx.get_partition_spec(variable).get_value() if self._is_variable else None
        self.spec = spec if isinstance(spec, jax.P) else jax.P()

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


class Chosen:
    """What of a model is trained, and which of its parameters are frozen; filters of nnx.

    Args:
        wrt: the user's filter: what is to be trained.

    Raises:
        TypeError: if it is none.
    """

    # What flax changes itself, as a model is called.
    _OWN = (nnx.BatchStat, nnx.RngState, nnx.Cache, nnx.Intermediate)

    def __init__(self, wrt: Any) -> None:
        self.wrt = wrt
        try:
            self._picked = nnx.filterlib.to_predicate(wrt)
        except Exception as error:
            raise self._no_filter(f"got {shown(wrt)}") from error

    def trains(self, path: tuple[Any, ...], variable: Any) -> bool:
        """Whether the optimizer is to train this."""
        if not isinstance(variable, nnx.Variable) or isinstance(variable, self._OWN):
            return False
        return self._picks(path, variable) and all(
            map(_is_floating, jax.tree.leaves(variable.get_value()))
        )

    def freezes(self, path: tuple[Any, ...], variable: Any) -> bool:
        """Whether this is a parameter that stays as it is."""
        return isinstance(variable, nnx.Param) and not self._picks(path, variable)

    def check(self, trained: Sequence[Part], model: Any) -> None:
        """Raise ValueError if there is nothing to train, in a model that has parameters."""
        types = {type(v).__name__ for _, v in nnx.to_flat_state(nnx.state(model, nnx.Param))}
        if types and not trained:
            raise ValueError(
                f"`make_nnx_step(wrt=...)` picks no parameter of the model, got {shown(self.wrt)}; "
                f"its parameters are of {', '.join(sorted(types))}. What is to be trained must be "
                "variables of floating point."
            )

    def _picks(self, path: tuple[Any, ...], variable: Any) -> bool:
        try:
            picked = self._picked(path, variable)
            return bool(picked)
        except Exception as error:
            raise self._no_filter(
                f"got {shown(self.wrt)}, which raised {type(error).__name__} at {path}: {error}"
            ) from error

    def _no_filter(self, got: str) -> TypeError:
        return TypeError(
            "`make_nnx_step(wrt=...)` must be a filter of flax.nnx, such as `nnx.LoRAParam`, "
            f"`nnx.PathContains('head')`, or a function (path, variable) -> bool, {got}."
        )


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


_OF_LOSS = 2**31 - 1  # no stream of a model has this number


def key_of_loss(key: jax.Array) -> jax.Array:
    """The key that the loss gets, of that of its step: other than those of the model's streams."""
    return jax.random.fold_in(key, _OF_LOSS)


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


def beside(params: Mapping[str, Any], others: Any) -> Any:
    """A copy of a tree of other arrays, on the device of the parameters if they are on one.

    Its variables are others too: streams of random numbers count in them.
    """
    others = jax.tree.map(lambda leaf: leaf, others)
    first = next(iter(params.values()), None)
    if isinstance(first, jax.core.Tracer) or not isinstance(first, jax.Array):
        return others
    devices = first.devices()
    return jax.device_put(others, *devices) if len(devices) == 1 else others
