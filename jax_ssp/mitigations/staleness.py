"""Dynamic learning rates: the staler a delta, the less of it is applied."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax


def scale_by_staleness(exponent: float = 1.0) -> optax.GradientTransformationExtraArgs:
    r"""Scale a delta by a power of its staleness.

    The factor is :math:`\max(1, \tau)^{-p}` with staleness τ (versions) and exponent p. At p = 1
    this divides the learning rate by τ, as the source does; deltas of staleness 0 and 1 are left as
    they are.

    Args:
        exponent: p; 0 leaves everything as it is.

    Returns:
        A transform whose `update` reads `staleness` (int32 scalar) from its extra arguments. It has
        no state and compiles once for all values of the staleness.

    Raises:
        ValueError: if `exponent` is negative or not finite.

    Example:
        >>> transform = scale_by_staleness(exponent=1.0)
        >>> delta = jnp.array([4.0, 8.0])
        >>> scaled, _ = transform.update(delta, transform.init(delta), staleness=jnp.int32(4))
        >>> scaled.tolist()
        [1.0, 2.0]

    Reference:
        Zhang, Gupta, Lian, Liu 2016, "Staleness-aware async-SGD for distributed deep learning",
        arXiv:1511.05950.
    """
    if not (math.isfinite(exponent) and exponent >= 0):
        raise ValueError(
            f"`scale_by_staleness(exponent=...)` must be finite and non-negative, got {exponent}."
        )

    def update(
        updates: optax.Updates,
        state: optax.EmptyState,
        params: optax.Params | None = None,
        *,
        staleness: jax.Array | int,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del params, extra_args
        factor = jnp.maximum(jnp.asarray(staleness), 1).astype(jnp.float32) ** -exponent
        return jax.tree.map(lambda u: u * factor.astype(u.dtype), updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
