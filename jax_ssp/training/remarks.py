"""What a user may not expect of a run, its optimizers above all, said once when it starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_ssp.controller.weight import weight_of
from jax_ssp.delays.network import Network
from jax_ssp.pairs import on_pairs
from jax_ssp.placement import Placement
from jax_ssp.rounds import by_rounds, counts_by_itself, has_schedule
from jax_ssp.runtimes.devices import Devices
from jax_ssp.runtimes.plan import Plan
from jax_ssp.runtimes.session import Session
from jax_ssp.runtimes.task import Task
from jax_ssp.runtimes.virtual import Virtual
from jax_ssp.server.uphill import on_host
from jax_ssp.surroundings import cores
from jax_ssp.training.outer_remarks import of_momentum, of_staleness, of_turns
from jax_ssp.trees import Tree
from jax_ssp.views import seeing

SCALE = 0.25  # of the gradients that an optimizer is tried with


def remarks(session: Session, task: Task) -> list[str]:
    """Sentences on where the optimizer lives, what its schedules count, and what comes of both.

    Args:
        session: the run before its first clock.
        task: what is trained, with the step as it was given.

    Returns:
        Nothing where nothing is computed.
    """
    if session.store is None:
        return []
    assert task.step is not None  # as has been seen
    plan, step = session.plan, task.step
    state = jax.eval_shape(step.init, session.task.params)
    return [
        *_where(session, step, state),
        *_counts(state),
        *_of_server_tx(plan, session),
        *_many_steps(plan, state),
        *_cancels(session, step),
        *_of_outer(session),
        *_of_overlap(plan, session),
    ]


def _where(session: Session, step: Any, state: Any) -> Iterator[str]:
    """Where the optimizer lives, and what its schedules count."""
    if session.plan.optimizer_on == "server":
        yield (
            "the optimizer is on the server, which gives it each merge; a delta is minus the mean "
            "gradient of a clock"
        )
    elif getattr(step, "optimizer", None) is not None:
        yield (
            "the optimizer is on the workers: each has a state of its own, and a delta is its steps"
        )
    if has_schedule(state):
        yield f"its schedules count rounds of {session.round_samples} samples"


def _of_outer(session: Session) -> Iterator[str]:
    """What momentum on the server and stale deltas come to."""
    assert session.store is not None  # as something is computed
    server, _ = session.store.states
    yield from of_momentum(session, server)
    yield from of_turns(session)
    yield from of_staleness(session.plan, session.num_workers, session.round_samples)


def _of_overlap(plan: Plan, session: Session) -> Iterator[str]:
    """Where steps that are run ahead have nothing to hide."""
    world = plan.runtime
    if not (plan.overlap and isinstance(world, Virtual | Devices)):
        return
    if not (world.network or Network()).is_free:
        return
    if isinstance(world, Virtual):
        yield (
            f"`overlap={plan.overlap}` saves no virtual time without a network: a clock takes all "
            "its time from its start. With one, `ssp.Network(latency=0.001)` say, the steps run "
            "ahead hide what is waited for, as they do on devices"
        )
    elif world.delay is None and _is_busy(session):
        yield (
            f"`overlap={plan.overlap}` has nothing to hide: {session.num_workers} workers share "
            f"the host's {cores()} cores, which are never idle, and to run ahead takes one more "
            "pass over the parameters in each clock. It pays where deltas travel, or devices wait"
        )


def _is_busy(session: Session) -> bool:
    """Whether its workers leave no core of the host idle."""
    places = [Placement.of(worker.device) for worker in session.workers]
    return len(places) >= cores() and all(place.reuses for place in places)


def _counts(state: Any) -> Iterator[str]:
    """The schedules that are not set to the round."""
    for name in counts_by_itself(state):
        if name == optax.MultiStepsState.__name__:
            yield "a schedule within `optax.MultiSteps` counts the updates of that, not rounds"
        else:
            yield f"a schedule in {name}, if there is one, counts its own calls, not rounds"


def _of_server_tx(plan: Plan, session: Session) -> Iterator[str]:
    """What the schedules of the server's own transforms count."""
    assert session.store is not None  # as something is computed
    server, deltas = session.store.states
    if plan.optimizer_on == "workers" and has_schedule(server):
        yield "the schedules of `server_tx` count versions"
    if has_schedule(deltas):
        yield "the schedules of `delta_tx` count deltas"


def _many_steps(plan: Plan, state: Any) -> Iterator[str]:
    """That a worker would mostly send zeros."""
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, optax.MultiStepsState))
    waits = any(isinstance(node, optax.MultiStepsState) for node in nodes)
    if waits and plan.optimizer_on == "workers" and max(plan.schedule.usual) == 1:
        yield (
            "`optax.MultiSteps` gives zeros until it has k gradients, and with `local_steps=1` "
            "each of these is sent: with `local_steps=k` a clock is one whole update"
        )


def _cancels(session: Session, step: Any) -> Iterator[str]:
    """That merges of less than all deltas count in full under an optimizer that divides them."""
    plan, workers = session.plan, session.num_workers
    if plan.optimizer_on == "workers":
        return
    merged = min(plan.policy.usual_merge(workers), workers)
    share = merged * weight_of(plan.weight, workers, merged)
    if share < 1 and _is_scale_free(step, session.task.params):
        yield (
            f"`weight={plan.weight!r}` makes a merge of {merged} of {workers} deltas {share:.3g} "
            "of a gradient, and this optimizer divides by the size of gradients (as Adam and Lion "
            "do), so each merge counts in full: a round goes about as far as "
            f"{workers / merged:.3g} of `BSP`. Divide the learning rate by that, or have all "
            "deltas of a round merged together (`BSP`)"
        )


def _is_scale_free(step: Any, params: Any) -> bool:
    """Whether small gradients move parameters as far as large ones do: tried on small ones."""
    tx = on_pairs(step.optimizer)
    views = getattr(step, "views", None)
    tx = by_rounds(tx if views is None else seeing(tx, views, params, "the optimizer"))
    rng = np.random.default_rng(0)

    def small(leaf: Any) -> np.ndarray:
        shape = tuple(min(size, 2) for size in jnp.shape(leaf))
        return np.asarray(rng.normal(size=shape), jnp.asarray(leaf).dtype)

    tried, gradient = (jax.tree.map(small, params) for _ in range(2))

    @jax.jit
    def update(gradient: Tree, state: Any, params: Tree) -> tuple[Tree, Any]:
        return tx.update(gradient, state, params, round=jnp.int32(1))

    def moved(factor: float) -> list[np.ndarray]:
        given = jax.tree.map(lambda leaf: leaf * np.asarray(factor, leaf.dtype), gradient)
        state = jax.jit(tx.init)(tried)
        for _ in range(2):  # of some, the first call only sets their state
            updates, state = update(given, state, tried)
        return [np.asarray(leaf) for leaf in jax.tree.leaves(updates)]

    try:
        with on_host():
            large, little, none = moved(1.0), moved(SCALE), moved(0.0)
    except Exception:  # one that cannot be tried so
        return False
    # However small its learning rate is.
    size = max((float(np.abs(leaf).max()) for leaf in large if leaf.size), default=0.0)
    return all(
        np.allclose(one, other, rtol=1e-2, atol=1e-4 * size)
        for one, other in zip(large, little, strict=True)
    ) and not all(
        np.allclose(one, zero, atol=1e-4 * size) for one, zero in zip(large, none, strict=True)
    )
