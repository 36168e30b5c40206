"""What the mitigations share: checks of their arguments, and choices between trees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jax_ssp.checks import instance
from jax_ssp.mitigations.as_given import as_given
from jax_ssp.pairs import on_pairs
from jax_ssp.trees import Tree, widened


def zeros(tree: Tree) -> Tree:
    """Zeros of the same structure and shapes, in at least float32."""
    return jax.tree.map(lambda leaf: jnp.zeros_like(widened(leaf)), tree)


def chosen(condition: jax.Array, tree: Tree, other: Tree) -> Tree:
    """One tree where a scalar condition holds, else the other."""
    return jax.tree.map(lambda one, two: jnp.where(condition, one, two), tree, other)


def only_where(
    keep: Callable[..., jax.Array], field: str, inner: optax.GradientTransformation | None
) -> optax.GradientTransformationExtraArgs:
    """A transform that calls another only where it may; elsewhere it gives zeros.

    Args:
        keep: `(updates, **extra_args) -> bool`, a scalar: whether the inner one is called. Where it
            is not, its state stays as it was.
        field: what messages call the inner one.
        inner: called with the same arguments; None leaves the updates as they are.

    Raises:
        TypeError: if it is no transform.
    """
    wrapped = check_transform(field, optax.identity() if inner is None else inner)

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        def applied() -> tuple[optax.Updates, optax.OptState]:
            return wrapped.update(updates, state, params, **extra_args)

        def skipped() -> tuple[optax.Updates, optax.OptState]:
            shapes, _ = jax.eval_shape(applied)
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes), state

        return jax.lax.cond(keep(updates, **extra_args), applied, skipped)

    made = on_pairs(optax.GradientTransformationExtraArgs(wrapped.init, update))
    return as_given(made) if inner is None else made


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
    must = f"{kind} such as `optax.sgd(0.7)`"
    return optax.with_extra_args_support(
        instance(field, transform, optax.GradientTransformation, must)
    )
