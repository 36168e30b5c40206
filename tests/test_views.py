"""A step of one's own may say how the server's transforms see its parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp.views import View, seeing

PARAMS = {"a.kernel": jnp.ones(2), "a.bias": jnp.ones(1), "mean": jnp.full(1, 3.0)}


def views(params):
    return [{"a": {"kernel": params["a.kernel"], "bias": params["a.bias"]}}]


def test_a_view_and_back():
    numbers = jax.tree.unflatten(jax.tree.structure(PARAMS), range(3))
    view = View(PARAMS, views(numbers)[0])
    seen = view.of(PARAMS)
    assert jax.tree.map(jnp.shape, seen) == {"a": {"kernel": (2,), "bias": (1,)}}
    back = view.back(jax.tree.map(lambda leaf: leaf + 1, seen), PARAMS)
    assert jax.tree.map(lambda leaf: leaf.tolist(), back) == {
        "a.kernel": [2, 2],
        "a.bias": [2],
        "mean": [3],
    }


def decay(mask):
    return optax.add_decayed_weights(-0.5, mask=mask)


@pytest.mark.parametrize(
    "mask",
    [{"a": {"kernel": True, "bias": False}}, lambda seen: {"a": {"kernel": True, "bias": False}}],
)
def test_a_server_shows_its_transforms_the_view(mask):
    server = ssp.Server(
        PARAMS,
        decay(mask),
        views=views,
        averaged={"a.kernel": False, "a.bias": False, "mean": True},
    )
    server.merge([jax.tree.map(jnp.zeros_like, PARAMS)])
    assert jax.tree.map(lambda leaf: leaf.tolist(), server.params) == {
        "a.kernel": [0.5, 0.5],
        "a.bias": [1],
        "mean": [3],
    }


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda params: [], r"must give at least one tree, got none"),
        (lambda params: [{"a": 7}], r"must give trees of the leaves of `params`"),
        (lambda params: [{"a": params["mean"], "b": params["mean"]}], r"each at most once"),
        (lambda params: [{"a": np.zeros(2)}], r"must give trees of the leaves of `params`"),
    ],
)
def test_views_of_other_things_are_refused(bad, message):
    with pytest.raises((ValueError, TypeError), match=message):
        ssp.Server(PARAMS, optax.identity(), views=bad)


def test_updates_of_another_structure_are_named():
    def update(updates, state, params=None):
        return {"a": {"kernel": updates["a"]["kernel"]}}, state

    tx = optax.GradientTransformation(lambda params: (), update)
    with pytest.raises(ValueError, match=r"`server_tx`'s `updates` has no leaf for `params\['a'\]"):
        ssp.Server(PARAMS, tx, views=views)
    told = seeing(tx, views, PARAMS, "the optimizer")
    with pytest.raises(ValueError, match=r"the optimizer's `updates` has no leaf"):
        told.update(PARAMS, (), PARAMS)
