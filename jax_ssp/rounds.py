"""What a schedule counts: rounds, in which every worker makes one synchronous step.

A schedule of optax counts the updates of its own transform. Those of a worker are not those of the
run: a slow worker makes fewer, and on a server each of W workers brings one. So the counts of the
states by which optax looks schedules up are set to the run's round before each step; all other
counts, such as that of Adam's moments, stay their own.

A state that is not known here counts by itself. So do the schedules within `optax.MultiSteps`,
which count its updates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

# Two of these have no public name. They are found without making an array, which would start JAX
# before a run can say how many devices of the CPU it needs.
_SCHEDULES: tuple[type, ...] = (
    optax.ScaleByScheduleState,
    type(jax.eval_shape(optax.schedules.WrappedSchedule(float).init)),  # if injected
    type(jax.eval_shape(lambda: optax.add_decayed_weights(float).init(()))),
)
_LEFT_ALONE = (*_SCHEDULES, optax.MultiStepsState)
_BY_THEMSELVES = (  # states of optax with a count that functions are looked up by
    "ConditionallyMaskState",
    "ConditionallyTransformState",
    "DAdaptAdamWState",
    "MadgradState",
    "MomoAdamState",
    "MomoState",
    "MultiStepsState",
    "ProdigyState",
    "ScaleByAdemamixState",
    "ScheduleFreeState",
)


def at_round(state: Any, round: Any) -> Any:
    """An optimizer's state with its schedules at this round; pure.

    Args:
        state: a tree with states of optax in it, however deep.
        round: int32, a scalar.

    Example:
        >>> tx = optax.chain(optax.scale_by_adam(), optax.scale_by_schedule(lambda count: 1.0))
        >>> adam, schedule = at_round(tx.init(jnp.zeros(2)), jnp.int32(7))
        >>> int(adam.count), int(schedule.count)
        (0, 7)
    """
    if not has_schedule(state):
        return state

    def leaf(node: Any) -> Any:
        if not isinstance(node, _SCHEDULES):
            return node
        known: Any = node
        count = jnp.asarray(known.count)
        return known._replace(count=jnp.broadcast_to(jnp.asarray(round, count.dtype), count.shape))

    return jax.tree.map(leaf, state, is_leaf=_is_known)


def has_schedule(state: Any) -> bool:
    """Whether a state has a schedule that can be set."""
    nodes = jax.tree.leaves(state, is_leaf=_is_known)
    return any(isinstance(node, _SCHEDULES) for node in nodes)


class ByRounds(optax.GradientTransformationExtraArgs):
    """A transform whose schedules count rounds. Made by `by_rounds`."""


def by_rounds(tx: optax.GradientTransformation) -> ByRounds:
    """A transform whose schedules are at the `round` that it is told.

    Example:
        >>> tx = by_rounds(optax.scale_by_schedule(optax.linear_schedule(0.0, 100.0, 10)))
        >>> updates, _ = tx.update(jnp.float32(1), tx.init(jnp.float32(0)), round=jnp.int32(3))
        >>> float(updates)
        30.0
    """
    inner = optax.with_extra_args_support(tx)

    def update(
        updates: optax.Updates, state: Any, params: Any = None, *, round: Any, **others: Any
    ) -> tuple[optax.Updates, Any]:
        return inner.update(updates, at_round(state, round), params, round=round, **others)

    return ByRounds(inner.init, update)


def counts_by_itself(state: Any) -> list[str]:
    """Names of the states that may look a schedule up by a count which is not set.

    Those of optax that are known to, and of others each that has a whole number: whether it is a
    schedule's cannot be seen.

    Example:
        >>> from optax.contrib import schedule_free_sgd
        >>> counts_by_itself(schedule_free_sgd(0.1).init(jnp.zeros(2)))
        ['ScheduleFreeState']
    """
    found: list[str] = []

    def look(node: Any) -> None:
        kind = type(node)
        fields = getattr(node, "_fields", None) or getattr(node, "__dataclass_fields__", None)
        if isinstance(node, _SCHEDULES):
            return
        if kind.__name__ in _BY_THEMSELVES:
            found.append(kind.__name__)
            if isinstance(node, optax.MultiStepsState):
                return
        values = [getattr(node, name) for name in fields] if fields else node
        if fields and not kind.__module__.startswith(("optax", "jax_ssp", "flax")):
            whole = [v for v in values if jnp.issubdtype(getattr(v, "dtype", None), jnp.integer)]
            if any(getattr(v, "shape", None) == () for v in whole):
                found.append(kind.__name__)
        if isinstance(values, Mapping):
            values = [*values.values()]
        if isinstance(values, list | tuple):
            for value in values:
                look(value)

    look(state)
    return list(dict.fromkeys(found))


def _is_known(node: Any) -> bool:
    return isinstance(node, _LEFT_ALONE)
