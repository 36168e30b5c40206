"""The gradient of a step's loss, scaled on its way where the optimizer asks for that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jax_ssp.mitigations.loss_scale import loss_scale_of


def value_and_gradient(
    loss_fn: Callable[[Any], tuple[jax.Array, Any]], params: Any, state: Any
) -> tuple[tuple[jax.Array, Any], Any]:
    """What `loss_fn` gives, and the gradient of the loss.

    Args:
        loss_fn: parameters -> (loss, anything beside it).
        params: where.
        state: of the optimizer; if it has a loss scale, the gradient is taken by it.
    """
    scale = loss_scale_of(state)
    if scale is None:
        return jax.value_and_grad(loss_fn, has_aux=True)(params)

    def scaled(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        loss, others = loss_fn(params)
        return scale.up(loss), (loss, others)

    (_, value), gradient = jax.value_and_grad(scaled, has_aux=True)(params)
    return value, scale.down(gradient)


def metrics_of_scale(before: Any, after: Any) -> dict[str, jax.Array]:
    """What a step says of its loss scale, by the optimizer's states; nothing if there is none."""
    scale, new = loss_scale_of(before), loss_scale_of(after)
    if scale is None or new is None:
        return {}
    return {"loss_scale": scale.scale, "skipped_steps": 1 - new.finite.astype(jnp.float32)}
