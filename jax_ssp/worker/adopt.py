"""The rules of adoption: what becomes of a worker's progress when it takes in a snapshot.

By default it is carried over as it is (*rebase*): local = new base + progress. With `Mix` local
parameters move a part of their way to the new base. What is averaged follows its own rule.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp

from jax_ssp import checks
from jax_ssp.layout import Delta, Layout, Moved, Statistic
from jax_ssp.placement import Place, Placement
from jax_ssp.server.sliced import SlicedWire
from jax_ssp.server.snapshot import Snapshot
from jax_ssp.server.wire import Wire
from jax_ssp.trees import Params, all_finite
from jax_ssp.worker.clock import statistic


@dataclass(frozen=True)
class Mix:
    """Adopt by mixing: local = alpha * local + (1 - alpha) * snapshot.

    Args:
        alpha: 0 takes the snapshot alone and forgets the steps run ahead; 1 stays where it is.

    Raises:
        ValueError: if `alpha` is not in [0, 1].

    Example:
        >>> Mix(0.5)
        Mix(alpha=0.5)

    Reference:
        Douillard et al. 2025, "Streaming DiLoCo with overlapping communication", arXiv:2501.18512.
    """

    alpha: float = 0.5

    def __post_init__(self) -> None:
        checks.put(self, "alpha", checks.share)


Adopt: TypeAlias = Literal["rebase"] | Mix


def check_adopt(adopt: Any, field: str = "adopt") -> Adopt:
    """The rule of adoption, if it is one.

    Raises:
        ValueError: if it is neither "rebase" nor a `Mix`.
    """
    if isinstance(adopt, Mix):
        return adopt
    checks.choice(field, adopt, ("rebase",), otherwise="or `ssp.Mix(alpha)`")
    return "rebase"


def opened(
    snapshot: Snapshot, wire: Wire | SlicedWire, device: Place, fragment: int | None = None
) -> Params:
    """The parameters of a snapshot, on this device or slice; or a fragment, if one is named."""
    if isinstance(wire, SlicedWire):
        which = slice(None) if fragment is None else wire.parts.of(fragment)
        return wire.unpack(snapshot.to(itertools.cycle(wire.sources), which), fragment)
    assert isinstance(device, jax.Device)
    if fragment is not None:
        pieces = snapshot.to(itertools.repeat(device), wire.parts.of(fragment))
        return wire.unpack_one(pieces, fragment=fragment)
    if wire.unpacks:
        return wire.unpack(snapshot.to(itertools.repeat(device)))
    return snapshot.brought(0, Placement.of(device))


def entered(kinds: Layout, base: Params, carried: Delta) -> Delta:
    """Progress made on another base, as a delta from this one: statistics enter it by their rule.

    A statistic without a value stays without one, and where the progress is not finite, all are.
    """
    good = all_finite(kinds.trained(carried))

    def leaf(averaged: bool, base: jax.Array, carried: Any) -> Any:
        if not averaged:
            return carried
        value = Moved.by(base, carried, jnp.ones((), base.dtype)).into(base)
        there = good & jnp.isfinite(carried.value)
        return statistic(base, jnp.where(there, value, jnp.nan))

    return kinds.map(leaf, base, carried)


def mixed(kinds: Layout, alpha: jax.Array, old: Params, base: Params, *moves: Delta) -> Delta:
    """What to carry over to `base` for local = alpha * local + (1 - alpha) * base.

    Local is, before that, `old` plus the moves made since.
    """

    def leaf(averaged: bool, old: Any, base: Any, *moves: Any) -> Any:
        factor = alpha.astype(base.dtype)
        if not averaged:
            return factor * ((old - base) + sum(moves[1:], start=moves[0]))
        local = old
        for move in moves:
            local = jnp.where(jnp.isfinite(move.value), move.value, local)
        value = factor * local + (1 - factor) * base
        value = jnp.clip(value, jnp.minimum(local, base), jnp.maximum(local, base))
        return statistic(base, value)

    moves = tuple(if_finite(kinds, each) for each in moves)
    return kinds.map(leaf, old, base, *moves)


def if_finite(kinds: Layout, delta: Delta) -> Delta:
    """The delta, or zeros if a trained number of it is not finite: no bad clock spoils another.

    Of such a delta no statistic has a value.
    """
    finite = all_finite(kinds.trained(delta))

    def leaf(averaged: bool, leaf: Any) -> Any:
        return leaf if averaged else jnp.where(finite, leaf, jnp.zeros_like(leaf))

    return kinds.map(leaf, delta)


def nothing(kinds: Layout, delta: Delta) -> Delta:
    """A delta like this one that moves nothing."""

    def leaf(averaged: bool, leaf: Any) -> Any:
        if not averaged:
            return jnp.zeros_like(leaf)
        return Statistic(jnp.full_like(leaf.value, jnp.nan), jnp.zeros_like(leaf.move))

    return kinds.map(leaf, delta)


def gone_on(kinds: Layout, base: Params, delta: Delta) -> Params:
    """The parameters after a clock from this base; the base itself if its delta is not finite."""

    def leaf(averaged: bool, base: jax.Array, leaf: Any) -> jax.Array:
        if averaged:
            return jnp.where(jnp.isfinite(leaf.value), leaf.value, base)
        return base + leaf

    return kinds.map(leaf, base, if_finite(kinds, delta))
