"""Gap-Aware: a delta shrinks with how far the server went meanwhile, in steps, not in versions."""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jax_ssp.checks import LEAST, MOST, choice, flag, number, share
from jax_ssp.mitigations._shared import chosen, given, zeros
from jax_ssp.mitigations.as_given import as_given
from jax_ssp.pairs import on_pairs
from jax_ssp.trees import Tree, all_finite, squared_norm, widened


class ScaleByGapState(NamedTuple):
    """A moving mean, not yet corrected for its start at 0, and the total of its weights."""

    weights: jax.Array
    mean_square: Tree


def scale_by_gap(
    decay: float = 0.999,
    elementwise: bool = True,
    weight: Literal["mean", "sum"] | float = "mean",
) -> optax.GradientTransformationExtraArgs:
    r"""Divide a delta by how many server steps its base is away from the server.

    With server parameters :math:`\theta_t` and base :math:`\theta_s` of the delta,

    .. math::
        \Delta' = \Delta / G, \qquad
        G = 1 + \frac{|\theta_t - \theta_s|}{C_t}, \qquad
        C_t = w \sqrt{\frac{\sum_{i \le t} d^{t-i} \Delta_i^2}{\sum_{i \le t} d^{t-i}}},

    each number by itself, or with norms of the whole tree in place of numbers. C, the size of one
    server step, is the moving root mean square of the deltas as they come, Δ among them, times the
    weight w that the server gives to one: G is 1 for a base that is the newest version, grows
    linearly with the gap, and is 1 + τ after τ equal steps in one direction, less if they cancel
    each other. Where C is 0, so is Δ, and G is 1. A delta of which a square is not finite does not
    enter the mean.

    Usually a `delta_tx`, on a server that merges on arrival. Where its `server_tx` has a momentum
    β, a server step is up to 1 / (1 − β) times as large as a delta; give `weight` as that multiple
    of the server's, or gaps are overrated. When learning rates decay, C follows within 1 / (1 − d)
    deltas; authors' code takes the largest rate so far instead, so that late penalties fade.

    Args:
        decay: d, of the moving mean over deltas; 0 takes the delta at hand alone.
        elementwise: a gap for each number, as the paper prefers; False takes one for all of them.
        weight: that of the server: "mean" (w = 1 / num_workers), "sum" (w = 1), or a number. "sum"
            in a `server_tx`, which is given deltas already weighted.

    Returns:
        A transform whose `update` needs `params` and, from its extra arguments, `num_workers`
        (int32 scalar) and `stale_params`: the base of the delta, a tree like the parameters. Its
        state is as large as the parameters in float32, or two numbers if not `elementwise`.

    Raises:
        ValueError: if `decay` is not in [0, 1), or `weight` not one of these, or not positive.
        TypeError: if `decay` is not a number, or `elementwise` not a bool.

    Example:
        >>> transform = scale_by_gap(weight="sum")
        >>> delta, params, base = jnp.array([-2.0]), jnp.array([1.0]), jnp.array([7.0])
        >>> applied, _ = transform.update(
        ...     delta, transform.init(params), params, stale_params=base, num_workers=4
        ... )
        >>> print(applied)  # the server is 6 away, which is 3 steps of 2: G = 4
        [-0.5]

    Reference:
        Barkai, Hakimi, Schuster 2020, "Gap-aware mitigation of gradient staleness", ICLR,
        arXiv:1909.10802.
    """
    decay = share("scale_by_gap(decay=...)", decay, one=False)
    elementwise = flag("scale_by_gap(elementwise=...)", elementwise)
    if isinstance(weight, str):
        choices = ("mean", "sum")
        weight = choice("scale_by_gap(weight=...)", weight, choices, otherwise="or a number")
    else:
        weight = number("scale_by_gap(weight=...)", weight, above=0, least=LEAST, most=MOST)

    def squares(tree: Tree) -> Tree:
        return jax.tree.map(lambda x: x**2, tree) if elementwise else squared_norm(tree)

    def init(params: optax.Params) -> ScaleByGapState:
        return ScaleByGapState(jnp.float32(0), squares(zeros(params)))

    def update(
        updates: optax.Updates,
        state: ScaleByGapState,
        params: optax.Params | None = None,
        *,
        stale_params: optax.Params,
        num_workers: jax.Array | int,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleByGapState]:
        del extra_args
        params = given(params, "scale_by_gap")
        factors = {"mean": 1 / jnp.asarray(num_workers).astype(jnp.float32), "sum": 1.0}
        w = factors[weight] if isinstance(weight, str) else weight
        deltas = jax.tree.map(widened, updates)
        new = squares(deltas)
        weights = decay * state.weights + (1 - decay)
        mean_square = jax.tree.map(
            lambda mean, square: decay * mean + (1 - decay) * square, state.mean_square, new
        )
        state = chosen(all_finite(new), ScaleByGapState(weights, mean_square), state)
        weights = jnp.maximum(state.weights, jnp.finfo(jnp.float32).tiny)  # 0 before the first
        moved = jax.tree.map(lambda p, base: widened(p) - widened(base), params, stale_params)
        gap = functools.partial(_gap, w, weights)
        gaps = jax.tree.map(gap, state.mean_square, squares(moved))
        if not elementwise:
            gaps = jax.tree.map(lambda delta: gaps.astype(delta.dtype), deltas)
        updates = jax.tree.map(lambda u, d, g: (d / g).astype(u.dtype), updates, deltas, gaps)
        return updates, state

    return as_given(on_pairs(optax.GradientTransformationExtraArgs(init, update)))


def _gap(w: Any, weights: jax.Array, mean: jax.Array, square: jax.Array) -> jax.Array:
    """G, from the moving sums of squares and of weights, and the square of the distance."""
    step = jnp.asarray(w, mean.dtype) * jnp.sqrt(mean / weights.astype(mean.dtype))
    return 1 + jnp.where(step > 0, jnp.sqrt(square) / jnp.where(step > 0, step, 1), 0)
