"""Small steps, and what the tests of steps and clocks share."""

import jax
import jax.numpy as jnp
import numpy as np

KEY = jax.random.key(0)


def loss_fn(params, batch, key):
    x, y = batch
    error = x @ params["w"] + params["b"] - y
    return jnp.mean(error**2), {"mae": jnp.mean(jnp.abs(error))}


def linear():
    return {"w": jnp.array([0.5, -1.0]), "b": jnp.float32(0.1)}


def batch_of(seed, *leading):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(*leading, 4, 2)).astype(np.float32)
    return x, rng.normal(size=(*leading, 4)).astype(np.float32)


def assert_close(tree, expected, rtol=1e-6):
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    for leaf, other in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=rtol, atol=1e-7)


class Handmade:
    """A step written by hand; `change` bends what it gives."""

    def __init__(self, change=lambda *result: result):
        self.change = change

    def init(self, params):
        return jnp.int32(0)

    def __call__(self, params, worker_state, batch, key):
        delta = jax.tree.map(lambda leaf: 0.5 * (batch - leaf), params)
        return self.change(delta, worker_state + 1, {"loss": jnp.float32(0)})


PARAMS = {"w": jnp.zeros(2), "inner": [jnp.zeros(())]}
