"""Whether a training step is one: for ours, and for one of your own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jax_ssp import checks
from jax_ssp.testing.deltas import assert_close, assert_same
from jax_ssp.testing.require import hold, require
from jax_ssp.trees import Params, all_finite
from jax_ssp.worker.check import check_step as check_shapes
from jax_ssp.worker.step import Step


class Tried(NamedTuple):
    """A step, and what it is tried on."""

    step: Step
    params: Params
    batch: Any


def check_step(step: Step, params: Params, batch: Any, *, seed: int = 0) -> None:
    """Check that a step is one, on parameters and one batch of yours.

    Its delta has the structure and shapes of the parameters, its state keeps its own, and metrics
    are scalars; the same key gives the same; jitted and scanned it gives what it gives by itself;
    what it is given may be donated; and from good numbers come good numbers.

    Args:
        step: from `make_step`, `make_nnx_step`, or of your own.
        params: the first version.
        batch: one batch.
        seed: of the key that it gets.

    Raises:
        AssertionError: if it is none; it says what must hold, and how to see it again.
        TypeError, ValueError: if shapes or types do not fit, or the seed is none.

    Example:
        >>> import optax, jax_ssp as ssp
        >>> def loss_fn(params, batch, key):
        ...     return jnp.mean((params["w"] - batch) ** 2), {}
        >>> step = ssp.make_step(loss_fn, optax.sgd(0.1))
        >>> check_step(step, {"w": jnp.zeros(3)}, jnp.ones(3))
    """
    seed = checks.seed("check_step(seed=...)", seed)
    check_shapes(step, params, batch)
    tried = Tried(step, jax.tree.map(jnp.asarray, params), batch)
    for check in STEP_CHECKS:
        hold(check, tried, seed)


def is_pure(tried: Tried, seed: int) -> None:
    """The same parameters, state, batch and key give the same."""
    first, again = (_once(tried)(tried.params, seed) for _ in range(2))
    assert_same(again, first)


def is_jitted(tried: Tried, seed: int) -> None:
    """Jitted it gives what it gives by itself, up to rounding."""
    given = jax.jit(_once(tried), static_argnums=1)(tried.params, seed)
    assert_close(given, _once(tried)(tried.params, seed), rtol=1e-4)


def is_scanned_and_donated(tried: Tried, seed: int) -> None:
    """Several steps are one program, which may take its parameters and state for its own."""

    def clock(params: Params, state: Any) -> Any:
        def body(carry: Any, number: jax.Array) -> Any:
            key = jax.random.fold_in(jax.random.key(seed), number)
            delta, state, metrics = _called(tried, *carry, key)
            grown = jax.tree.map(lambda p, d: (p + d).astype(p.dtype), carry[0], delta)
            return (grown, state), metrics

        return jax.lax.scan(body, (params, state), jnp.arange(3))

    run = jax.jit(clock, donate_argnums=(0, 1))
    own = [jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), tried.params) for _ in range(2)]
    first, again = (run(params, tried.step.init(params)) for params in own)
    assert_same(_plain(again), _plain(first))
    require(bool(all_finite(first[0][0])), "after three steps its parameters are not finite")


STEP_CHECKS: tuple[Callable[[Tried, int], None], ...] = (
    is_pure,
    is_jitted,
    is_scanned_and_donated,
)


def _once(tried: Tried) -> Callable[[Params, int], Any]:
    def once(params: Params, seed: int) -> Any:
        return _plain(_called(tried, params, tried.step.init(params), jax.random.key(seed)))

    return once


def _called(tried: Tried, params: Params, state: Any, key: jax.Array) -> Any:
    told: Any = {"round": jnp.int32(0)} if getattr(tried.step, "takes_round", False) else {}
    return tried.step(params, state, tried.batch, key, **told)


def _plain(tree: Any) -> Any:
    """All of a tree as arrays of numbers, keys too."""

    def plain(leaf: Any) -> jax.Array:
        leaf = jnp.asarray(leaf)
        key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(leaf) if key else leaf

    return jax.tree.map(plain, tree)
