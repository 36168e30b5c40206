"""A small training, of two parameters that are drawn to 1."""

import itertools

import jax.numpy as jnp
import numpy as np
import optax

import jax_ssp as ssp
from jax_ssp import delays


def loss_fn(params, batch, key):
    return jnp.mean((params["w"] - batch) ** 2), {"distance": jnp.sum(jnp.abs(params["w"]))}


def ones(worker):
    return itertools.repeat(np.ones(2, np.float32))


STEP = ssp.make_step(loss_fn, optax.sgd(0.25))
SPEC = {
    "step": STEP,
    "params": {"w": np.zeros(2, np.float32)},
    "data": ones,
    "policy": ssp.SSP(1),
    "num_clocks": 2,
}


def virtual(*seconds, **others):
    """A world where worker i takes `seconds[i]` for each clock."""
    return ssp.Virtual(len(seconds), delays.PerWorker(tuple(map(float, seconds))), **others)
