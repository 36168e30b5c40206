"""Dynamic learning rates: the staler a delta, the less of it is applied."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import optax

from jax_ssp.checks import INT32, MOST, choice, integer, number
from jax_ssp.mitigations.as_given import as_given
from jax_ssp.trees import weighted

Shape: TypeAlias = Literal["inverse", "polynomial", "exponential", "threshold"]


def scale_by_staleness(
    exponent: float = 1.0, shape: Shape = "inverse", threshold: int = 4
) -> optax.GradientTransformationExtraArgs:
    r"""Scale a delta by a function of its staleness.

    The factor, with staleness τ (versions), exponent p and threshold b, is by `shape`

    - "inverse": :math:`\max(1, \tau)^{-p}`. At p = 1 this divides the learning rate by τ; deltas
      of staleness 0 and 1 are left as they are.
    - "polynomial": :math:`(1 + \tau)^{-p}`. FedBuff takes p = 1/2.
    - "exponential": :math:`e^{-p \tau}`.
    - "threshold": 1 where :math:`\tau \le b`, else :math:`1 / (p (\tau - b) + 1)`.

    Usually a `delta_tx`: of several deltas in one merge each has its own staleness.

    Args:
        exponent: p; 0 leaves everything as it is. For "exponential" and "threshold" in 1/versions.
        shape: one of these four.
        threshold: b (versions); only "threshold" reads it.

    Returns:
        A transform whose `update` reads `staleness` (int32 scalar) from its extra arguments. It has
        no state and compiles once for all values of the staleness.

    Raises:
        ValueError: if `exponent` is negative or not finite, `shape` is unknown, or `threshold` is
            negative.
        TypeError: if `exponent` is not a number or `threshold` not an integer.

    Example:
        >>> transform = scale_by_staleness(exponent=1.0)
        >>> delta = jnp.array([4.0, 8.0])
        >>> scaled, _ = transform.update(delta, transform.init(delta), staleness=jnp.int32(4))
        >>> scaled.tolist()
        [1.0, 2.0]

    Reference:
        Zhang, Gupta, Lian, Liu 2016, "Staleness-aware async-SGD for distributed deep learning",
        arXiv:1511.05950 ("inverse"). Xie, Koyejo, Gupta 2019, "Asynchronous federated
        optimization", arXiv:1903.03934 ("polynomial", "threshold"). Nguyen et al. 2022, "Federated
        learning with buffered asynchronous aggregation", arXiv:2106.06639. Damaskinos et al. 2020,
        "FLeet: online federated learning via staleness awareness and performance prediction",
        arXiv:2006.07273 ("exponential").
    """
    exponent = number("scale_by_staleness(exponent=...)", exponent, least=0, most=MOST)
    shape = choice("scale_by_staleness(shape=...)", shape, get_args(Shape))
    threshold = integer("scale_by_staleness(threshold=...)", threshold, least=0, most=INT32)

    def update(
        updates: optax.Updates,
        state: optax.EmptyState,
        params: optax.Params | None = None,
        *,
        staleness: jax.Array | int,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del params, extra_args
        factor = _factor(shape, jnp.asarray(staleness), exponent, threshold)

        def scaled(u: jax.Array) -> jax.Array:
            return weighted(u, factor).astype(u.dtype)

        return jax.tree.map(scaled, updates), state

    return as_given(
        optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    )


def _factor(shape: Shape, staleness: jax.Array, exponent: float, threshold: int) -> jax.Array:
    age = staleness.astype(jnp.float32)  # so that no sum is too large for its dtype
    if shape == "inverse":
        return jnp.maximum(age, 1) ** -exponent
    if shape == "polynomial":
        return (1 + age) ** -exponent
    if shape == "exponential":
        return jnp.exp(-exponent * age)
    return 1 / (exponent * jnp.maximum(age - threshold, 0) + 1)
