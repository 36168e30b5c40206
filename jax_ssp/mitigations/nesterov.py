"""Delayed Nesterov: every delta is applied at once, momentum only after a number of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jax_ssp.checks import INT32, LEAST, MOST, integer, number, share
from jax_ssp.mitigations._shared import chosen, zeros
from jax_ssp.mitigations.as_given import AsGiven
from jax_ssp.trees import Tree, all_finite, widened


class DelayedNesterovState(NamedTuple):
    """Merges since the momentum was last updated, the momentum, and the sum of gradients since."""

    count: jax.Array
    momentum: Tree
    total: Tree


class DelayedNesterov(AsGiven):
    """Made by `delayed_nesterov`.

    Attributes:
        buffer: as given there.
    """

    buffer: int


def delayed_nesterov(
    learning_rate: float = 0.7, momentum: float = 0.9, activation: float = 0.0, buffer: int = 4
) -> DelayedNesterov:
    r"""Nesterov's momentum on the server, updated once in N merges.

    With pseudo-gradient :math:`g_t = -\Delta_t`, merge t = 0, 1, .., learning rate ε, momentum
    decay β and activation c, and :math:`m = D = 0` at first, each merge adds :math:`g_t` to D. Then

    .. math::
        m \leftarrow \beta m + D / N, \quad
        \Delta'_t = -\epsilon \, ((1 - c N + c) \, \beta m + g_t / N), \quad
        D \leftarrow 0

    where N divides t + 1, and elsewhere :math:`\Delta'_t = -\epsilon \, (c \, \beta m + g_t / N)`.
    A momentum updated with every delta would turn N times as often as the synchronous one, on
    gradients that are stale. At N = 1 it is `outer(optax.sgd(ε, momentum=β, nesterov=True))`.

    A `server_tx`, on a server that merges each delta on arrival with `weight="sum"`: N deltas are
    averaged here. It takes the place of a momentum of the workers: 0.9 on both is 100 times the
    step of neither.

    A delta that is not finite leaves the state as it was.

    Args:
        learning_rate: ε.
        momentum: β.
        activation: c, the share of the momentum applied in each merge, in [0, 1/N]. 0 applies all
            of it when it is updated, 1/N spreads it evenly.
        buffer: N (merges); the number of workers is a good one.

    Returns:
        A transform whose state is twice as large as the parameters in float32.

    Raises:
        ValueError: if `learning_rate` is not positive or not finite, `momentum` not in [0, 1),
            `buffer` smaller than 1, or `activation` not in [0, 1/N].
        TypeError: if one of these is not a number, or `buffer` not an integer.

    Example:
        >>> transform = delayed_nesterov(learning_rate=1.0, momentum=0.5, buffer=2)
        >>> delta = jnp.array([4.0])
        >>> state = transform.init(delta)
        >>> for _ in range(4):
        ...     applied, state = transform.update(delta, state)
        ...     print(applied.tolist())
        [2.0]
        [4.0]
        [2.0]
        [5.0]

    Reference:
        Liu et al. 2024, "Asynchronous local-SGD training for language modeling", arXiv:2401.09135
        (algorithm 3).
    """
    learning_rate = number(
        "delayed_nesterov(learning_rate=...)", learning_rate, above=0, least=LEAST, most=MOST
    )
    momentum = share("delayed_nesterov(momentum=...)", momentum, one=False)
    buffer = integer("delayed_nesterov(buffer=...)", buffer, least=1, most=INT32)
    activation = number("delayed_nesterov(activation=...)", activation)
    if not 0 <= activation <= 1 / buffer:
        raise ValueError(
            f"`delayed_nesterov(activation=...)` must be between 0 and {1 / buffer}, 1 / buffer at "
            f"{buffer}, got {activation}."
        )

    def init(params: optax.Params) -> DelayedNesterovState:
        return DelayedNesterovState(jnp.int32(0), zeros(params), zeros(params))

    def update(
        updates: optax.Updates,
        state: DelayedNesterovState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, DelayedNesterovState]:
        del params, extra_args
        last = state.count == buffer - 1
        count = jnp.where(last, 0, state.count + 1)
        # What the momentum counts in this merge.
        share = momentum * jnp.where(last, 1 - activation * buffer + activation, activation)
        gradients = jax.tree.map(lambda u: -widened(u), updates)
        total = jax.tree.map(jnp.add, state.total, gradients)
        velocity = jax.tree.map(
            lambda m, d: jnp.where(last, momentum * m + d / buffer, m), state.momentum, total
        )
        total = jax.tree.map(lambda d: jnp.where(last, 0, d), total)
        updates = jax.tree.map(
            lambda u, g, m: (-learning_rate * (share.astype(m.dtype) * m + g / buffer)).astype(
                u.dtype
            ),
            updates,
            gradients,
            velocity,
        )
        new = DelayedNesterovState(count, velocity, total)
        return updates, chosen(all_finite(gradients), new, state)

    made = DelayedNesterov(init, update)
    made.buffer = buffer
    return made
