"""What the mitigations share: checks of their arguments, arithmetic in at least float32."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

Tree: TypeAlias = Any


def wide(leaf: Any) -> jax.Array:
    """The leaf in at least float32."""
    leaf = jnp.asarray(leaf)
    return leaf if jnp.finfo(leaf.dtype).bits >= 32 else leaf.astype(jnp.float32)


def zeros(tree: Tree) -> Tree:
    """Zeros of the same structure and shapes, in at least float32."""
    return jax.tree.map(lambda leaf: jnp.zeros_like(wide(leaf)), tree)


def squared_norm(tree: Tree) -> jax.Array:
    """The sum of the squares of all numbers of a tree, in float32."""
    squares = (jnp.sum(wide(leaf) ** 2).astype(jnp.float32) for leaf in jax.tree.leaves(tree))
    return sum(squares, start=jnp.float32(0))


def update_if(
    keep: jax.Array,
    inner: optax.GradientTransformationExtraArgs,
    updates: optax.Updates,
    state: optax.OptState,
    params: optax.Params | None,
    extra_args: dict[str, Any],
) -> tuple[optax.Updates, optax.OptState]:
    """What `inner` makes of the updates where `keep`; elsewhere zeros, and the state as it was."""

    def applied() -> tuple[optax.Updates, optax.OptState]:
        return inner.update(updates, state, params, **extra_args)

    def skipped() -> tuple[optax.Updates, optax.OptState]:
        shapes, _ = jax.eval_shape(applied)
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes), state

    return jax.lax.cond(keep, applied, skipped)


def given(params: optax.Params | None, function: str) -> optax.Params:
    """The parameters.

    Raises:
        ValueError: if there are none.
    """
    if params is None:
        raise ValueError(f"`{function}` needs `params`: call `update(delta, state, params, ...)`.")
    return params


def check_transform(
    field: str, transform: Any, kind: str = "an optax transform"
) -> optax.GradientTransformationExtraArgs:
    """The transform, taking extra arguments.

    Raises:
        TypeError: if it is none.
    """
    if not isinstance(transform, optax.GradientTransformation):
        raise TypeError(f"`{field}` must be {kind} such as `optax.sgd(0.7)`, got {transform!r}.")
    return optax.with_extra_args_support(transform)


def check_integer(field: str, value: Any, least: int) -> None:
    """Raise TypeError if it is not an integer, ValueError if it is smaller than `least`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"`{field}` must be an integer, got {value!r}.")
    if value < least:
        raise ValueError(f"`{field}` must be at least {least}, got {value}.")


def check_non_negative(field: str, value: Any) -> None:
    """Raise if it is not a finite number, 0 or more."""
    _check_number(field, value, "finite and non-negative", lambda number: number >= 0)


def check_positive(field: str, value: Any) -> None:
    """Raise if it is not a finite number, more than 0."""
    _check_number(field, value, "finite and positive", lambda number: number > 0)


def check_decay(field: str, value: Any) -> None:
    """Raise if it is not a number from 0 to 1, 1 left out."""
    _check_number(field, value, "at least 0 and less than 1", lambda number: 0 <= number < 1)


def check_between(field: str, value: Any, low: float, high: float, of: str = "") -> None:
    """Raise if it is not a number from `low` to `high`; `of` says where these come from."""
    between = f"between {low} and {high}{of}"
    _check_number(field, value, between, lambda number: low <= number <= high)


def check_flag(field: str, value: Any) -> None:
    """Raise TypeError if it is not a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"`{field}` must be True or False, got {value!r}.")


def check_choice(field: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise ValueError if it is none of the choices."""
    if value not in choices:
        names = ", ".join(f'"{choice}"' for choice in choices)
        raise ValueError(f"`{field}` must be one of {names}, got {value!r}.")


def _check_number(field: str, value: Any, must_be: str, holds: Callable[[Any], bool]) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"`{field}` must be a number, got {value!r}.")
    if not (math.isfinite(value) and holds(value)):
        raise ValueError(f"`{field}` must be {must_be}, got {value}.")
