"""Delay compensation: a stale gradient corrected to first order for where the server is now."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jax_ssp.checks import LEAST, MOST, flag, number, share
from jax_ssp.mitigations._shared import given, zeros
from jax_ssp.mitigations.as_given import as_given
from jax_ssp.pairs import on_pairs
from jax_ssp.trees import Tree, widened


class DelayCompensationState(NamedTuple):
    """The moving mean of the squared gradient, with `adaptive`; else None."""

    mean_square: Tree


def delay_compensation(
    lam: float = 0.04,
    learning_rate: float = 1.0,
    adaptive: bool = False,
    decay: float = 0.95,
    epsilon: float = 1e-7,
) -> optax.GradientTransformationExtraArgs:
    r"""Correct a delta for the way that the server went while it was computed (DC-ASGD).

    With gradient :math:`g = -\Delta / \eta`, server parameters :math:`w_t` and base
    :math:`w_{\mathrm{bak}}` of the delta, all elementwise,

    .. math:: \Delta' = -\eta \, (g + \lambda_t \, g^2 \, (w_t - w_{\mathrm{bak}})),

    where :math:`g^2` stands for the diagonal of the Hessian. :math:`\lambda_t = \lambda`; or with
    `adaptive` (DC-ASGD-a) :math:`\lambda_t = \lambda / \sqrt{v_t + \epsilon}` with
    :math:`v_t = m v_{t-1} + (1 - m) g^2` and :math:`v_0 = 0`. A delta whose base is the newest
    version is left as it is.

    Exact for one local step of plain SGD. After more steps g is the sum of their gradients, and
    after another optimizer only a direction: tune λ then. Usually a `delta_tx`.

    Args:
        lam: λ, how much is corrected; 0 leaves everything as it is. The paper takes 0.04, and 2
            with `adaptive`.
        learning_rate: η, of the SGD that the workers run.
        adaptive: divide λ by the moving root mean square of the gradient.
        decay: m, of the moving mean over deltas; only with `adaptive`.
        epsilon: added to the mean square; only with `adaptive`.

    Returns:
        A transform whose `update` needs `params` and, from its extra arguments, `stale_params`: the
        base of the delta, a tree like the parameters.

    Raises:
        ValueError: if `lam` is negative, `learning_rate` or `epsilon` not positive, one of them not
            finite, or `decay` not in [0, 1).
        TypeError: if one of these is not a number, or `adaptive` not a bool.

    Example:
        >>> transform = delay_compensation(lam=0.5, learning_rate=0.1)
        >>> delta, params, base = jnp.array([-0.2]), jnp.array([1.0]), jnp.array([1.5])
        >>> applied, _ = transform.update(
        ...     delta, transform.init(params), params, stale_params=base
        ... )
        >>> print(applied)  # the gradient was 2, and is 2 + 0.5 * 4 * (1 - 1.5) = 1
        [-0.1]

    Reference:
        Zheng et al. 2017, "Asynchronous stochastic gradient descent with delay compensation",
        arXiv:1609.08326. The mean square is one over the deltas of all workers, as there; the
        authors' release (for Multiverso) keeps one a worker.
    """
    lam = number("delay_compensation(lam=...)", lam, least=0, most=MOST)
    learning_rate = number(
        "delay_compensation(learning_rate=...)", learning_rate, above=0, least=LEAST, most=MOST
    )
    adaptive = flag("delay_compensation(adaptive=...)", adaptive)
    decay = share("delay_compensation(decay=...)", decay, one=False)
    epsilon = number("delay_compensation(epsilon=...)", epsilon, above=0, least=LEAST, most=MOST)

    def init(params: optax.Params) -> DelayCompensationState:
        return DelayCompensationState(zeros(params) if adaptive else None)

    def update(
        updates: optax.Updates,
        state: DelayCompensationState,
        params: optax.Params | None = None,
        *,
        stale_params: optax.Params,
        **extra_args: Any,
    ) -> tuple[optax.Updates, DelayCompensationState]:
        del extra_args
        params = given(params, "delay_compensation")
        gradients = jax.tree.map(lambda u: widened(u) / -learning_rate, updates)
        if adaptive:
            mean_square = jax.tree.map(
                lambda v, g: jnp.where(jnp.isfinite(g**2), decay * v + (1 - decay) * g**2, v),
                state.mean_square,
                gradients,
            )
            lams = jax.tree.map(lambda v: lam / jnp.sqrt(v + epsilon), mean_square)
            state = DelayCompensationState(mean_square)
        else:
            lams = jax.tree.map(lambda g: jnp.full_like(g, lam), gradients)

        def compensated(
            u: jax.Array, g: jax.Array, lam: jax.Array, p: jax.Array, base: jax.Array
        ) -> jax.Array:
            correction = lam * g**2 * (widened(p) - widened(base))
            return (widened(u) - learning_rate * correction).astype(u.dtype)

        return jax.tree.map(compensated, updates, gradients, lams, params, stale_params), state

    return as_given(on_pairs(optax.GradientTransformationExtraArgs(init, update)))
