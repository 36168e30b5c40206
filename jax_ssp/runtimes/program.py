"""The programs that workers run, each jitted once for all workers of a step."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_ssp.merging import weighted
from jax_ssp.pairs import split
from jax_ssp.steps import Params, Step, averaged_leaves, clock_fn


class Program:
    """The jitted functions that all workers of a run share.

    Those that make a delta take over (donate) the worker state and, last, memory to put it in; and
    say, last, whether every number of the delta is finite.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self.init = jax.jit(step.init)
        self.add = jax.jit(self._added)
        self.mixed = jax.jit(_mixed)
        self.norm = jax.jit(_norm)
        self.clock = functools.cache(self._clock)
        self.ahead = functools.cache(self._ahead)
        self.rest = functools.cache(self._rest)
        self.together = functools.cache(self._together)

    def _run(self, steps: int, first: int = 0) -> Any:
        """See `clock_fn`; gives too whether the delta is finite."""
        run = clock_fn(self._step, steps, first)

        def reporting(*arguments: Any) -> Any:
            delta, state, metrics = run(*arguments)
            return delta, state, metrics, _is_finite(delta)

        return reporting

    def _clock(self, steps: int) -> Any:
        """A whole clock: (base, state, batch, key, clock, free)."""
        run = self._run(steps)

        def clock(*arguments: Any) -> Any:
            return run(*arguments[:-1])

        return jax.jit(clock, donate_argnums=(1, 5), keep_unused=True)

    def _ahead(self, steps: int) -> Any:
        """A clock's first steps on what the last left: (base, state, ..., clock, delta, free)."""
        run = self._run(steps)

        def ahead(base: Params, *others: Any) -> Any:
            *others, delta, _ = others
            return run(jax.tree.map(jnp.add, base, _if_finite(delta)), *others)

        return jax.jit(ahead, donate_argnums=(1, 6), keep_unused=True)

    def _rest(self, first: int, steps: int) -> Any:
        """The steps of a clock from number `first` on: (base, state, ..., clock, carried)."""
        run = self._run(steps - first, first)
        return jax.jit(run, donate_argnums=(1, 5))

    def _together(self, steps: int) -> Any:
        """A whole clock of several workers in one program, each with its own base and state."""
        run = self._run(steps)

        def together(bases: Any, states: Any, batches: Any, keys: Any, clocks: Any) -> Any:
            each = [_stacked(trees) for trees in (bases, states, batches, keys)]
            deltas, states, metrics, finite = jax.vmap(run)(*each, clocks)
            count = len(bases)
            return _unstacked(deltas, count), _unstacked(states, count), metrics, finite

        return jax.jit(together, donate_argnums=1)

    def _added(self, params: Params, delta: Params, weight: jax.Array, share: jax.Array) -> Params:
        """Parameters plus an own delta, with the weight that the server will give it."""

        def add(averaged: bool, param: jax.Array, delta: jax.Array) -> jax.Array:
            return param + weighted(delta, share if averaged else weight).astype(param.dtype)

        return jax.tree.map(add, averaged_leaves(self._step, params), params, delta)


def _mixed(alpha: jax.Array, old: Params, base: Params, *moves: Params) -> Params:
    """What to carry over to `base` for local = alpha * local + (1 - alpha) * base.

    Before, local is `old` plus the moves made since.
    """
    moves = tuple(map(_if_finite, moves))

    def carried(old: Any, base: Any, *moves: Any) -> jax.Array:
        return alpha.astype(base.dtype) * ((old - base) + sum(moves[1:], start=moves[0]))

    return jax.tree.map(carried, old, base, *moves)


def _if_finite(tree: Params) -> Params:
    """The tree, or zeros if a number of it is not finite: a bad clock spoils no other."""
    finite = _is_finite(tree)
    return jax.tree.map(lambda leaf: jnp.where(finite, leaf, jnp.zeros_like(leaf)), tree)


def _is_finite(tree: Params) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def _norm(tree: Params) -> jax.Array:
    """The l2 norm, summed in at least float32."""
    one = np.float32(1)
    squares = [jnp.sum(weighted(leaf, one) ** 2) for leaf in jax.tree.leaves(split(tree))]
    return jnp.sqrt(sum(square.astype(jnp.float32) for square in squares))


def _stacked(trees: tuple[Any, ...]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _unstacked(tree: Any, count: int) -> tuple[Any, ...]:
    leaves, structure = jax.tree.flatten(tree)
    return tuple(structure.unflatten([leaf[number] for leaf in leaves]) for number in range(count))


@functools.lru_cache(maxsize=8)
def _kept(step: Step) -> Program:
    return Program(step)


def program_of(step: Step) -> Program:
    """The program of a step, the same one as the last time if that is not long ago."""
    try:
        return _kept(step)
    except TypeError:  # a step that cannot be hashed
        return Program(step)
