"""Deltas that are not finite never reach the parameters."""

from __future__ import annotations

from typing import Any

import jax
import optax

from jax_ssp.mitigations._shared import only_where
from jax_ssp.trees import all_finite


def skip_nonfinite(
    inner: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Replace a delta with a NaN or an infinity anywhere by zeros; leave the inner state alone.

    .. math::
        \Delta' = \mathrm{inner}(\Delta) \text{ if all numbers of } \Delta
        \text{ are finite, else } 0

    `optax.apply_if_finite` lets a bad update through after a number of them; this never does. What
    a worker computes that is not finite comes to no transform: it is dropped before, and counted
    (see `max_nonfinite` of `ssp.train`). So this is for what is made of deltas on the server: a
    `server_tx` after a sum that may overflow, or a `delta_tx` after another transform. Of
    parameters split over several devices each piece is judged alone.

    Args:
        inner: the transform that finite deltas pass through, with all extra arguments; by default
            `optax.identity()`. What it makes of them is not checked.

    Returns:
        A transform with the state of `inner`.

    Raises:
        TypeError: if `inner` is not an optax transform.

    Example:
        >>> import jax.numpy as jnp
        >>> transform = skip_nonfinite()
        >>> delta = {"w": jnp.array([1.0, jnp.nan]), "b": jnp.array([2.0])}
        >>> applied, _ = transform.update(delta, transform.init(delta))
        >>> applied["w"].tolist(), applied["b"].tolist()
        ([0.0, 0.0], [0.0])

    Reference:
        Micikevicius et al. 2018, "Mixed precision training", arXiv:1710.03740 (an update with an
        overflow is skipped, and nothing of it kept).
    """

    def finite(updates: Any, **others: Any) -> jax.Array:
        return all_finite(updates)

    return only_where(finite, "skip_nonfinite(inner=...)", inner)
