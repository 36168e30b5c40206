"""Deltas much larger than those before them are shrunk or left out."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import optax

from jax_ssp.checks import MOST, choice, integer, number
from jax_ssp.mitigations.as_given import as_given
from jax_ssp.pairs import on_pairs
from jax_ssp.trees import squared_norm, weighted

Action: TypeAlias = Literal["shrink", "reject"]

MOST_NORMS = 1_000_000  # that are remembered


class ClipOutliersState(NamedTuple):
    """The last norms let through, infinity where there is none yet; outliers rejected since."""

    norms: jax.Array
    rejected: jax.Array


def clip_outliers(
    factor: float = 3.0, window: int = 32, action: Action = "shrink"
) -> optax.GradientTransformationExtraArgs:
    r"""Shrink or reject a delta whose norm is far above the median of the last ones.

    With n the global norm of the delta and m the median of the last norms let through, it is an
    outlier where :math:`n > f m`, and then

    - "shrink": :math:`\Delta' = \Delta \, f m / n`, and :math:`f m` enters the window;
    - "reject": :math:`\Delta' = 0`, and nothing enters.

    Nothing is an outlier before the window holds 5 norms (all of them, if it is smaller). A norm of
    0 does not enter. A norm that is not finite is always rejected.

    Norms may grow for good, by a learning rate's warm-up, say. "shrink" follows: where most deltas
    are outliers the median grows by up to f in each half window. "reject" would go on for ever, so
    once it has rejected as many in a row as the window holds, it starts with an empty window.

    Usually a `delta_tx`; the server cannot split it over several devices.

    Args:
        factor: f, at least 1.
        window: how many norms are kept (deltas).
        action: one of these two.

    Returns:
        A transform whose state is the window and a count.

    Raises:
        ValueError: if `factor` is smaller than 1 or not finite, `window` smaller than 1, or
            `action` unknown.
        TypeError: if `factor` is not a number or `window` not an integer.

    Example:
        >>> transform = clip_outliers(factor=2.0, window=3)
        >>> state = transform.init(jnp.zeros(2))
        >>> for size in (1.0, 1.0, 1.0, 100.0):
        ...     applied, state = transform.update(jnp.array([0.0, size]), state)
        >>> applied.tolist()
        [0.0, 2.0]

    Reference:
        Seetharaman, Wichern, Pardo, Le Roux 2020, "AutoClip: adaptive gradient clipping for source
        separation networks", arXiv:2007.14469 (a percentile of all norms so far, as the limit).
    """
    factor = number("clip_outliers(factor=...)", factor, least=1, most=MOST)
    window = integer("clip_outliers(window=...)", window, least=1, most=MOST_NORMS)
    action = choice("clip_outliers(action=...)", action, get_args(Action))
    enough = min(window, 5)

    def init(params: optax.Params) -> ClipOutliersState:
        del params
        return ClipOutliersState(jnp.full(window, jnp.inf, jnp.float32), jnp.int32(0))

    def update(
        updates: optax.Updates,
        state: ClipOutliersState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ClipOutliersState]:
        del params, extra_args
        norm = jnp.sqrt(squared_norm(updates))
        known = jnp.sum(jnp.isfinite(state.norms), dtype=jnp.int32)
        limit = jnp.where(known >= enough, factor * _median(state.norms, known), jnp.inf)
        outlier = jnp.isfinite(norm) & (norm > limit)
        kept = jnp.isfinite(norm)
        if action == "reject":
            kept &= ~outlier
        scale = jnp.where(outlier, limit / norm, 1)

        def clipped(u: jax.Array) -> jax.Array:
            scaled = weighted(u, scale).astype(u.dtype)
            return jnp.where(kept, scaled, jnp.zeros_like(u))

        newest = jnp.minimum(norm, limit)[None]
        moved = jnp.concatenate([state.norms[1:], newest])
        norms = jnp.where(kept & (norm > 0), moved, state.norms)
        rejected = jnp.where(kept, 0, state.rejected + outlier.astype(jnp.int32))
        again = rejected >= window
        state = ClipOutliersState(jnp.where(again, jnp.inf, norms), jnp.where(again, 0, rejected))
        return jax.tree.map(clipped, updates), state

    return as_given(on_pairs(optax.GradientTransformationExtraArgs(init, update)))


def _median(norms: jax.Array, known: jax.Array) -> jax.Array:
    """The median of the known norms, which sort before the others."""
    ordered = jnp.sort(norms)
    return (ordered[(known - 1) // 2] + ordered[known // 2]) / 2
