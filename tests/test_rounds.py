"""Schedules at the round of a run."""

import jax
import jax.numpy as jnp
import optax
import pytest

from jax_ssp.rounds import at_round, by_rounds, counts_by_itself, has_schedule

SCHEDULE = optax.linear_schedule(0.0, 1.0, 10)
PARAMS = {"w": jnp.zeros(2), "b": jnp.zeros(3)}
SETTABLE = {
    "sgd": lambda: optax.sgd(SCHEDULE),
    "chain": lambda: optax.chain(
        optax.clip(1.0), optax.chain(optax.scale_by_learning_rate(SCHEDULE))
    ),
    "masked": lambda: optax.masked(optax.sgd(SCHEDULE), {"w": True, "b": True}),
    "partition": lambda: optax.partition(
        {"one": optax.sgd(SCHEDULE), "two": optax.sgd(SCHEDULE)}, {"w": "one", "b": "two"}
    ),
    "injected": lambda: optax.inject_hyperparams(optax.sgd)(learning_rate=SCHEDULE),
    "if finite": lambda: optax.apply_if_finite(optax.sgd(SCHEDULE), 3),
}


@pytest.fixture(autouse=True)
def as_optax_needs():
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize("name", SETTABLE)
@pytest.mark.every(3)
def test_the_rate_is_that_of_the_round(name):
    tx = by_rounds(SETTABLE[name]())
    state = tx.init(PARAMS)
    gradient = jax.tree.map(jnp.ones_like, PARAMS)
    assert has_schedule(state)
    for round in (0, 7, 3):
        updates, state = tx.update(gradient, state, PARAMS, round=jnp.int32(round))
        for leaf in jax.tree.leaves(updates):
            assert leaf == pytest.approx(-round / 10, abs=1e-6)


def test_a_scheduled_weight_decay_too():
    tx = by_rounds(optax.add_decayed_weights(SCHEDULE))
    params = {"w": jnp.ones(2)}
    updates, _ = tx.update({"w": jnp.zeros(2)}, tx.init(params), params, round=jnp.int32(4))
    assert updates["w"] == pytest.approx(0.4)


def test_other_counts_are_left_alone():
    state = optax.adamw(SCHEDULE).init(PARAMS)
    moved = at_round(state, jnp.int32(5))
    assert int(moved[0].count) == 0
    assert jax.tree.structure(moved) == jax.tree.structure(state)
    assert [leaf.dtype for leaf in jax.tree.leaves(moved)] == [
        leaf.dtype for leaf in jax.tree.leaves(state)
    ]


def test_what_has_no_schedule_is_itself():
    state = optax.adam(0.1).init(PARAMS)
    assert at_round(state, jnp.int32(5)) is state


def test_multi_steps_counts_its_updates():
    many = optax.MultiSteps(optax.sgd(SCHEDULE), every_k_schedule=2)
    state = many.init(PARAMS)
    assert not has_schedule(state)
    assert counts_by_itself(state) == ["MultiStepsState"]


OWN = ("dadapt_adamw", "madgrad", "momo", "momo_adam", "prodigy", "schedule_free_sgd")


@pytest.mark.parametrize("name", [name for name in OWN if hasattr(optax.contrib, name)])
def test_what_looks_a_schedule_up_by_a_count_of_its_own_is_named(name):
    state = jax.eval_shape(getattr(optax.contrib, name)(SCHEDULE).init, PARAMS)
    assert len(counts_by_itself(state)) == 1


def test_a_count_of_another_library_is_named():
    class Counted(optax.EmptyState.__mro__[1]):
        _fields = ("count",)
        count = property(lambda self: self[0])
        __module__ = "somebody.elses"

    assert counts_by_itself((Counted([jnp.int32(0)]),)) == ["Counted"]
    assert counts_by_itself(optax.adamw(SCHEDULE).init(PARAMS)) == []
