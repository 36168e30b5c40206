"""Elastic averaging: the server is a center that workers pull, and that pulls them back."""

from __future__ import annotations

from typing import Any

import jax
import optax

from jax_ssp.checks import share
from jax_ssp.mitigations._shared import given
from jax_ssp.mitigations.as_given import as_given
from jax_ssp.trees import widened


def elastic_average(alpha: float = 0.1) -> optax.GradientTransformationExtraArgs:
    r"""Move the center a part of the way towards a worker (EASGD).

    With the center (the server's parameters) :math:`\tilde x`, and the worker's own
    :math:`x = \theta_s + \Delta`, where :math:`\theta_s` is the base of its delta,

    .. math:: \Delta' = \alpha \, (x - \tilde x).

    The worker's half of the force, :math:`x \leftarrow x - \alpha (x - \tilde x)`, is
    `adopt=ssp.Mix((1 - 2 * alpha) / (1 - alpha))` in `ssp.train`. A worker adopts the center that
    its own delta has moved already, :math:`\tilde x' = \tilde x + \alpha (x - \tilde x)`; in the
    paper both halves see the one before. With :math:`a` of `Mix`,

    .. math:: a x + (1 - a) \tilde x' = x - (1 - a)(1 - \alpha)(x - \tilde x),

    which is the paper's for :math:`(1 - a)(1 - \alpha) = \alpha`, where deltas are merged on
    arrival. `Mix(1 - alpha)` pulls a worker 1 − α times as much.

    A `delta_tx`, with `weight="sum"`.

    Args:
        alpha: α, in (0, 1]; at most 1/2 for that `Mix`. With W workers the center moves by up to
            Wα in a round: keep it at most 1 / W. The paper takes 0.9 / W.

    Returns:
        A transform without state, whose `update` needs `params` and, from its extra arguments,
        `stale_params`: the base of the delta, a tree like the parameters.

    Raises:
        ValueError: if `alpha` is not in (0, 1].
        TypeError: if it is not a number.

    Example:
        >>> import jax.numpy as jnp
        >>> transform = elastic_average(alpha=0.5)
        >>> delta, center, base = jnp.array([3.0]), jnp.array([2.0]), jnp.array([1.0])
        >>> applied, _ = transform.update(
        ...     delta, transform.init(center), center, stale_params=base
        ... )
        >>> applied.tolist()  # the worker is at 4, the center at 2
        [1.0]

    Reference:
        Zhang, Choromanska, LeCun 2015, "Deep learning with elastic averaging SGD",
        arXiv:1412.6651.
    """
    alpha = share("elastic_average(alpha=...)", alpha, zero=False)

    def update(
        updates: optax.Updates,
        state: optax.EmptyState,
        params: optax.Params | None = None,
        *,
        stale_params: optax.Params,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del extra_args
        params = given(params, "elastic_average")

        def pull(u: jax.Array, center: jax.Array, base: jax.Array) -> jax.Array:
            # Bases and centers are near each other: their difference first loses least.
            return (alpha * ((widened(base) - widened(center)) + widened(u))).astype(u.dtype)

        return jax.tree.map(pull, updates, params, stale_params), state

    return as_given(
        optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    )
