"""Dropping what is too stale, so that whatever follows never sees it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jax_ssp.checks import INT32, integer
from jax_ssp.mitigations._shared import only_where


def drop_stale(
    max_staleness: int = 16, inner: optax.GradientTransformation | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Replace a delta by zeros where it is staler than a limit, and leave the inner state alone.

    .. math:: \Delta' = \mathrm{inner}(\Delta) \text{ if } \tau \le \tau_{\max} \text{ else } 0

    A transform that merely follows in a chain would still see the zeros (a momentum would decay);
    as `inner` it does not. The delta still counts as merged; to keep it out of the merge, and say
    so in the tape, is a policy's decision (`Ringmaster`). Usually a `delta_tx`.

    Args:
        max_staleness: the largest staleness τ (versions) that is applied. The default is above
            the mean staleness of a few workers, W − 1 when merging on arrival; raise it with the
            number of workers, or what is usual is dropped.
        inner: the transform that fresh deltas pass through, with all extra arguments; by default
            `optax.identity()`.

    Returns:
        A transform whose `update` reads `staleness` (int32 scalar) from its extra arguments. Its
        state is that of `inner`.

    Raises:
        ValueError: if `max_staleness` is negative.
        TypeError: if `max_staleness` is not an integer, or `inner` not an optax transform.

    Example:
        >>> transform = drop_stale(max_staleness=3, inner=optax.trace(decay=0.5))
        >>> delta = jnp.array([4.0])
        >>> state = transform.init(delta)
        >>> for staleness in (0, 9, 0):
        ...     applied, state = transform.update(delta, state, staleness=staleness)
        ...     print(applied.tolist())
        [4.0]
        [0.0]
        [6.0]

    Reference:
        Maranjyan, Tyurin, Richtárik 2025, "Ringmaster ASGD: the first asynchronous SGD with optimal
        time complexity", arXiv:2501.16168 (the same rule as a method).
    """
    max_staleness = integer("drop_stale(max_staleness=...)", max_staleness, least=0, most=INT32)

    def fresh(updates: Any, *, staleness: jax.Array | int, **others: Any) -> jax.Array:
        return jnp.asarray(staleness) <= max_staleness

    return only_where(fresh, "drop_stale(inner=...)", inner)
