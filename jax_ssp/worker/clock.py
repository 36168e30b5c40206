"""A clock: some local steps on a worker, one program, whatever it is trained with.

A step sees parameters of the user's dtypes; what it has made so far is kept beside the base, in the
masters' dtypes, so that a clock loses none of its low bits (see `layout.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax

from jax_ssp.layout import Delta, Layout, Moved, Statistic
from jax_ssp.mitigations.loss_scale import LossScale
from jax_ssp.rounds import at_round
from jax_ssp.trees import Params, all_finite
from jax_ssp.worker.hyperparameters import hyperparameters

if TYPE_CHECKING:
    from jax_ssp.worker.step import Batch, Step, WorkerState


def clock_fn(
    step: Step, steps: int, first: int = 0, layout: Layout | None = None
) -> Callable[..., tuple[Delta, WorkerState, Mapping[str, jax.Array]]]:
    """The function of a clock, or of a part of it, not jitted.

    It takes `(params, worker_state, batch, key, clock, round=0, carried=None)`.

    Args:
        step: what to repeat.
        steps: how many; with more than one, every leaf of `batch` has a leading axis of that size.
        first: the number of the first of them in its clock.
        layout: of the parameters, where those it takes are masters; by default what they are.

    Returns:
        A function giving the delta, the new worker state, and the metrics' means over the steps,
        with those of the hyper-parameters that the steps have used (see `hyperparameters`).
        `key` is the worker's; clock and number are folded in to give each step its own. The
        schedules in the worker state are at `round` plus the step's number (see `rounds.py`). With
        `carried`, progress made before (a delta), steps begin at `params + carried` and the delta
        contains it. Of a step `of_gradients`, which is minus a gradient, the delta is the mean over
        the steps, all of them at `params`. The delta is summed up beside the parameters rather than
        subtracted from them at the end, which would cost it its low bits. A step that is not
        finite, or that its optimizer says it skips, leaves statistics as they were; of a clock
        whose delta is not finite they have no value.
    """

    def run(
        params: Params,
        state: WorkerState,
        batch: Batch,
        key: jax.Array,
        clock: Any,
        round: Any = 0,
        carried: Delta | None = None,
    ) -> tuple[Delta, WorkerState, Mapping[str, jax.Array]]:
        kinds = Layout.of(params, averaged_leaves(step, params)) if layout is None else layout
        base = kinds.masters(params)
        key = jax.random.fold_in(key, clock)

        def one(
            progress: Params | None, state: WorkerState, batch: Batch, number: Any
        ) -> tuple[Params, WorkerState, Mapping[str, jax.Array]]:
            here = _stayed if _of_gradients(step) else _reached
            local = kinds.rounded(base if progress is None else here(kinds, base, progress))
            own_key, now = jax.random.fold_in(key, number), _round_of(step, round, number)
            delta, state, metrics = _stepped(step, local, state, batch, own_key, now)
            delta = kinds.masters(delta)
            if kinds.has_averaged:
                before = _begun(kinds, base, None) if progress is None else progress
                good = _good(kinds, delta, state, metrics)
                delta = _with_values(kinds, before, kinds.masters(local), delta, good)
            return _further(kinds, progress, delta), state, metrics

        alone = steps == 1 and carried is None
        progress = None if alone else _begun(kinds, base, carried)
        if steps == 1:
            progress, state, metrics = one(progress, state, batch, jnp.int32(first))
            return _finished(kinds, base, progress), state, metrics

        def body(carry: tuple[Params, WorkerState], each: tuple[Batch, jax.Array]) -> Any:
            progress, state, metrics = one(*carry, *each)
            return (progress, state), metrics

        numbers = jnp.arange(first, first + steps, dtype=jnp.int32)
        (progress, state), metrics = jax.lax.scan(body, (progress, state), (batch, numbers))
        if _of_gradients(step):
            progress = _shared_out(kinds, progress, steps)
        metrics = jax.tree.map(lambda values: jnp.mean(values, axis=0), metrics)
        return _finished(kinds, base, progress), state, metrics

    return run


def _of_gradients(step: Step) -> bool:
    return getattr(step, "of_gradients", False)


def _round_of(step: Step, round: Any, number: Any) -> jax.Array:
    """At which round a step is; the gradients of a clock are all of one."""
    now = jnp.asarray(round, jnp.int32)
    return now if _of_gradients(step) else now + number


def _stepped(
    step: Any, local: Params, state: WorkerState, batch: Batch, key: jax.Array, round: jax.Array
) -> tuple[Params, WorkerState, Mapping[str, jax.Array]]:
    """A step, its schedules at this round; and what hyper-parameters it used."""
    told = {"round": round} if getattr(step, "takes_round", False) else {}
    delta, state, metrics = step(local, at_round(state, round), batch, key, **told)
    return delta, state, {**metrics, **hyperparameters(state)}


def averaged_leaves(step: Step, params: Params) -> Any:
    """Tree of booleans like `params`: which leaves the step says are averaged; None if none are."""
    named = getattr(step, "averaged", None)
    return None if named is None else named(params)


# Progress within a clock: of what is trained the sum of the deltas, of what is averaged its value.


def _begun(kinds: Layout, base: Params, carried: Delta | None) -> Params:
    if carried is None:
        return kinds.map(lambda averaged, base: base if averaged else jnp.zeros_like(base), base)
    one = jnp.ones((), jnp.float32)

    def leaf(averaged: bool, base: jax.Array, carried: Any) -> jax.Array:
        return Moved.by(base, carried, one).into(base) if averaged else carried

    return kinds.map(leaf, base, carried)


def _reached(kinds: Layout, base: Params, progress: Params) -> Params:
    return kinds.map(
        lambda averaged, base, progress: progress if averaged else jnp.add(base, progress),
        base,
        progress,
    )


def _stayed(kinds: Layout, base: Params, progress: Params) -> Params:
    """Where gradients are summed up, what is trained stays where it is."""
    return kinds.map(lambda averaged, old, new: new if averaged else old, base, progress)


def _shared_out(kinds: Layout, progress: Params, steps: int) -> Params:
    """A sum of gradients as their mean."""
    return kinds.map(lambda averaged, leaf: leaf if averaged else leaf / steps, progress)


def _with_values(
    kinds: Layout, before: Params, local: Params, delta: Params, good: jax.Array
) -> Params:
    """A step's delta, with the value it has come to in place of each averaged leaf."""

    def leaf(averaged: bool, before: jax.Array, local: jax.Array, delta: jax.Array) -> jax.Array:
        return jnp.where(good, local + delta, before) if averaged else delta

    return kinds.map(leaf, before, local, delta)


def _further(kinds: Layout, progress: Params | None, delta: Params) -> Params:
    if progress is None:
        return delta
    return kinds.map(
        lambda averaged, progress, delta: delta if averaged else jnp.add(progress, delta),
        progress,
        delta,
    )


def _finished(kinds: Layout, base: Params, progress: Params) -> Delta:
    """The delta of a clock that has come to this."""
    if not kinds.has_averaged:
        return progress
    good = all_finite(kinds.trained(progress))

    def leaf(averaged: bool, base: jax.Array, progress: jax.Array) -> Any:
        if not averaged:
            return progress
        return statistic(base, jnp.where(good, progress, jnp.nan))

    return kinds.map(leaf, base, progress)


def statistic(base: jax.Array, value: jax.Array) -> Statistic:
    """A statistic that has come to this value; where that is not finite, it has moved nowhere."""
    there = jnp.isfinite(value)
    return Statistic(value, jnp.where(there, value - base, jnp.zeros_like(base)))


def _good(kinds: Layout, delta: Params, state: Any, metrics: Mapping[str, Any]) -> jax.Array:
    """Whether a step is to be seen in the statistics: it is finite, and nobody has skipped it."""
    return all_finite([delta, metrics.get("loss", ())]) & _made(state)


def _made(state: Any) -> jax.Array:
    """Whether no optimizer has skipped the step, by what its state says."""
    made = jnp.bool(True)
    for node in jax.tree.leaves(state, is_leaf=_judges):
        if isinstance(node, optax.ApplyIfFiniteState):
            made &= jnp.all(node.last_finite)
        elif isinstance(node, LossScale):
            made &= node.finite & _made(node.inner)
        elif _judges(node) and isinstance(node.skip_state, dict):
            made &= ~jnp.any(node.skip_state.get("should_skip", False))
    return made


def _judges(node: Any) -> bool:
    return isinstance(node, optax.ApplyIfFiniteState | optax.MultiStepsState | LossScale)
