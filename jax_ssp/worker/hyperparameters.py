"""The hyper-parameters that `optax.inject_hyperparams` keeps in an optimizer's state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

PREFIX = "hyperparams/"
"""Of their names among the metrics of a clock."""


def hyperparameters(state: Any, prefix: str = PREFIX) -> dict[str, jax.Array]:
    """Those that an update has used, by name, from the state that it left; traceable.

    All that are one number, as float32. Where several transforms have one of the same name, the
    second is called `name_2`.

    Args:
        state: of any transforms, within whatever else.
        prefix: of the names.

    Example:
        >>> import optax
        >>> optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.5)
        >>> hyperparameters((optimizer.init(jnp.zeros(2)), "other"))
        {'hyperparams/learning_rate': Array(0.5, dtype=float32)}
    """
    found: dict[str, jax.Array] = {}
    for node in _injected(state):
        for name, value in node.hyperparams.items():
            if jnp.ndim(value) == 0 and jnp.isrealobj(value):
                number = 1
                while (called := prefix + name + (f"_{number}" if number > 1 else "")) in found:
                    number += 1
                found[called] = jnp.asarray(value).astype(jnp.float32)
    return found


def _injected(state: Any) -> Iterator[Any]:
    """The states of `inject_hyperparams` in a state, also one within another."""
    for node in jax.tree.leaves(state, is_leaf=_has_some):
        if _has_some(node):
            yield node
            yield from _injected(node.inner_state)


def _has_some(node: Any) -> bool:
    return isinstance(getattr(node, "hyperparams", None), dict) and hasattr(node, "inner_state")
