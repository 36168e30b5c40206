"""Steps that no worker could repeat are caught, each for what is wrong with it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp.testing import check_step
from tests.helpers.problems import PARAMS, STEP, batches

BATCH = next(batches(0))


@pytest.mark.parametrize("optimizer", [optax.sgd(0.1), optax.adamw(1e-3)], ids=["sgd", "adamw"])
@pytest.mark.every(2)
def test_a_step_that_keeps_the_contract_passes(optimizer):
    def loss_fn(params, batch, key):
        x, y = batch
        noise = jax.random.normal(key, y.shape) * 0.1
        return jnp.mean((x @ params["w"] - y + noise) ** 2), {}

    with jax.numpy_dtype_promotion("standard"):  # as optax wants it
        check_step(ssp.make_step(loss_fn, optimizer), PARAMS, BATCH)
    check_step(STEP, PARAMS, BATCH)


def test_a_key_in_a_step_s_state_is_no_matter():
    class Keeps(Own):
        def init(self, params):
            return jax.random.key(0)

        def __call__(self, params, state, batch, key):
            return {"w": params["w"]}, key, {"loss": 1.0}

    check_step(Keeps(), PARAMS, BATCH)


class Own:
    def init(self, params):
        return jnp.zeros(())

    def __call__(self, params, state, batch, key):
        return {"w": self.delta(params, state, key)}, state + 1, {}


class Chance(Own):
    def delta(self, params, state, key):
        return jnp.full(6, np.random.random(), jnp.float32)


class Branches(Own):
    def delta(self, params, state, key):
        return params["w"] if float(jnp.sum(params["w"])) >= 0 else params["w"] + 1


class Explodes(Own):
    def delta(self, params, state, key):
        return params["w"] + 1 / (state - 1)


class Shape(Own):
    def delta(self, params, state, key):
        return params["w"][:3]


BROKEN = {
    Chance: (AssertionError, "The same parameters, state, batch and key give the same"),
    Explodes: (AssertionError, "parameters are not finite"),
    Branches: (Exception, "Concret|bool"),
    Shape: (ValueError, "delta"),
}


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_what_is_wrong_is_caught(kind):
    error, said = BROKEN[kind]
    with pytest.raises(error, match=said):
        check_step(kind(), PARAMS, BATCH)
