r"""How much merges go the same way, measured on the server's device; part of a transform's state.

Of the merged deltas :math:`\Delta_t`, what is measured is their lag-1 correlation

.. math:: \rho_t = \frac{\langle \Delta_t, \Delta_{t-1} \rangle}{|\Delta_t| \, |\Delta_{t-1}|}

and, of an optimizer with learning rate η and momentum μ, the *effective rate*
:math:`\eta (1 + \mu / (1 - \mu \rho))`: how far a merge goes along its own delta. Nesterov's
momentum makes :math:`u_t = \eta (\Delta_t + \mu \sum_k \mu^k \Delta_{t-k})` of it. Where deltas
that are k merges apart correlate by :math:`\rho^k`, the part of that along :math:`\Delta_t` is
:math:`\eta (1 + \mu \sum_k (\mu \rho)^k)`: η(1 + μ) where merges have nothing in common, and
η / (1 − μ) where all go the same way.

Where the parameters are in pieces, each piece knows its part of three sums; `pooled` adds them up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_ssp.trees import Tree, widened

DECAY = 0.9  # of the mean over past correlations


class Correlation(NamedTuple):
    """What is known of the merges so far.

    Attributes:
        last: the delta of the last merge, in at least float32.
        sums: of the last merge and the one before: their product, and the squares of both.
        mean: of past correlations, decaying, and the share of it that there is so far.
        rate, momentum: η and μ of the last merge; -1 where they are not known.
        kept: the effective rate that the optimizer keeps; -1 where it keeps none.
    """

    last: Tree
    sums: jax.Array
    mean: jax.Array
    rate: jax.Array
    momentum: jax.Array
    kept: jax.Array


def begun(params: Tree, rate: Any, momentum: Any, kept: float = -1.0) -> Correlation:
    """What is known before the first merge."""
    last = jax.tree.map(lambda leaf: jnp.zeros_like(widened(leaf)), params)
    nothing = jnp.zeros(3, jnp.float32), jnp.zeros(2, jnp.float32)
    return Correlation(last, *nothing, *map(jnp.float32, (rate, momentum, kept)))


def after(known: Correlation, delta: Tree, rate: Any) -> Correlation:
    """What is known after a merge of this delta, at this rate."""
    wide = jax.tree.map(widened, delta)
    sums = jnp.stack([_dot(wide, known.last), _dot(wide, wide), _dot(known.last, known.last)])
    rate = jnp.float32(rate)
    return known._replace(last=wide, sums=sums, mean=averaged(known), rate=rate)


def averaged(known: Correlation) -> jax.Array:
    """The mean with the last merge in it."""
    rho = _cosine(known.sums)
    new = DECAY * known.mean + (1 - DECAY) * jnp.stack([rho, jnp.ones_like(rho)])
    return jnp.where(jnp.isfinite(rho), new, known.mean)


def usual(known: Correlation) -> jax.Array:
    """The correlation that merges have by now, the last included; 0 before there is one."""
    total, share = averaged(known)
    return jnp.where(share > 0, total / jnp.where(share > 0, share, 1), 0)


def gain(momentum: Any, rho: Any) -> Any:
    """The effective rate over the learning rate.

    Example:
        >>> gain(0.9, 0.0), round(gain(0.9, 1.0), 6)
        (1.9, 10.0)
    """
    return 1 + momentum / (1 - momentum * rho)


def found(state: Any) -> Iterator[Correlation]:
    """What is measured anywhere in a state."""
    for node in jax.tree.leaves(state, is_leaf=_is_one):
        if _is_one(node):
            yield node


def pooled(states: Sequence[Any], places: Sequence[Any] = ()) -> list[Any]:
    """The states of all pieces, in which each knows the sums over all of them.

    Args:
        states: of one transform, for each piece.
        places: the device of each, where they differ.
    """
    each = [jax.tree.flatten(state, is_leaf=_is_one) for state in states]
    columns = list(zip(*(leaves for leaves, _ in each), strict=True))
    shared = [_shared(column, places) for column in columns]
    return [tree.unflatten([c[n] for c in shared]) for n, (_, tree) in enumerate(each)]


def sums_in(state: Any) -> list[np.ndarray]:
    """What a piece knows of each sum, as it stands in its state."""
    return [np.asarray(known.sums) for known in found(state)]


def with_sums(state: Any, sums: Sequence[np.ndarray]) -> Any:
    """The state with these sums, over all pieces, in place of a piece's own; see `sums_in`."""
    left = iter(sums)

    def known(node: Any) -> Any:
        return node._replace(sums=jnp.asarray(next(left))) if _is_one(node) else node

    return jax.tree.map(known, state, is_leaf=_is_one)


def measures(known: Correlation) -> dict[str, float]:
    """The correlation and the effective rate of the last merge, those that there are.

    Example:
        >>> both = {"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([1.0, 1.0])}
        >>> known = begun(both[0], rate=0.5, momentum=0.5)
        >>> for delta in both:
        ...     known = after(known, delta, known.rate)
        >>> {name: round(value, 3) for name, value in measures(known).items()}
        {'outer/correlation': 0.707, 'outer/effective_rate': 0.887}
    """
    dot, *squares = np.asarray(known.sums, np.float64).tolist()
    if not (np.isfinite(dot) and all(0 < square < np.inf for square in squares)):
        return {}
    rho = min(1.0, max(-1.0, dot / float(np.sqrt(squares[0]) * np.sqrt(squares[1]))))
    rate, momentum = float(known.rate), float(known.momentum)
    values = {CORRELATION: rho}
    if momentum >= 0:
        values[EFFECTIVE] = rate * gain(momentum, rho)
    return values


CORRELATION, EFFECTIVE = "outer/correlation", "outer/effective_rate"
"""What the measures are called among the metrics of a clock."""


def _shared(column: Sequence[Any], places: Sequence[Any]) -> Sequence[Any]:
    """What stands in one place of all states, with the sums added up."""
    if not _is_one(column[0]):
        return column
    sums = [known.sums for known in column]
    if not places:
        total = [sum(sums[1:], sums[0])] * len(sums)
    else:  # all of it is dispatched; nobody waits
        here = [jax.device_put(each, places[0]) for each in sums]
        total = [jax.device_put(sum(here[1:], here[0]), place) for place in places]
    return [known._replace(sums=each) for known, each in zip(column, total, strict=True)]


def _is_one(node: Any) -> bool:
    return isinstance(node, Correlation)


def _cosine(sums: jax.Array) -> jax.Array:
    """Not a number where one of the two deltas moves nothing, or is not finite."""
    dot, one, other = sums
    there = (one > 0) & (other > 0) & jnp.all(jnp.isfinite(sums))
    rho = dot / jnp.where(there, jnp.sqrt(one) * jnp.sqrt(other), 1)
    return jnp.where(there, jnp.clip(rho, -1, 1), jnp.nan)


def _dot(one: Tree, other: Tree) -> jax.Array:
    """The dot product of two trees, in float32."""
    products = jax.tree.map(lambda a, b: jnp.sum(a * b, dtype=a.dtype), one, other)
    return sum(jax.tree.leaves(products), jnp.float32(0)).astype(jnp.float32)
