"""A transform that the server takes as it is, wherever it goes."""

from __future__ import annotations

import optax

from jax_ssp.checks import shown


class AsGiven(optax.GradientTransformationExtraArgs):
    """A transform that the server takes as it is. Made by `as_given`."""


def as_given(tx: optax.GradientTransformation) -> AsGiven:
    """Have the server take a transform as it is, wherever it goes.

    A `server_tx` or `delta_tx` that makes of a delta something that points the other way is refused
    before a run, since it is nearly always an optimizer without `ssp.outer`. This one is not tried.
    (Nor are the mitigations that wrap no other transform: where they go is known.)

    Args:
        tx: any optax transform.

    Raises:
        TypeError: if it is none.

    Example:
        >>> import jax.numpy as jnp, optax, jax_ssp as ssp
        >>> server = ssp.Server({"w": jnp.zeros(1)}, ssp.as_given(optax.scale(-1.0)))
        >>> server.merge([{"w": jnp.ones(1)}])
        1
        >>> server.params["w"].tolist()
        [-1.0]
        >>> ssp.Server({"w": jnp.zeros(1)}, optax.sgd(1.0))
        Traceback (most recent call last):
        ValueError: `server_tx` goes uphill: what it makes of deltas points against them, as an \
optimizer turns a gradient round. Give it as `ssp.outer(optimizer)`; or, if it is meant so, as \
`ssp.as_given(transform)`.
    """
    if not isinstance(tx, optax.GradientTransformation):
        raise TypeError(f"`as_given(tx)` must be an optax transform, got {shown(tx)}.")
    return AsGiven(*optax.with_extra_args_support(tx))
