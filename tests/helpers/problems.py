"""Small problems and checks that the tests of the worlds share."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jax_ssp as ssp

DIMENSION = 6


def batches(worker, seed=0, size=4):
    """Endless batches of a noisy linear problem, each worker with its own."""
    rng = np.random.default_rng([seed, worker])
    answer = np.arange(DIMENSION, dtype=np.float32)
    while True:
        x = rng.normal(size=(size, DIMENSION)).astype(np.float32)
        noise = rng.normal(scale=0.1, size=size).astype(np.float32)
        yield x, x @ answer + noise


def loss_fn(params, batch, key):
    x, y = batch
    return jnp.mean((x @ params["w"] - y) ** 2), {}


STEP = ssp.make_step(loss_fn, optax.sgd(0.05))
PARAMS = {"w": np.zeros(DIMENSION, np.float32)}


def distance(params):
    """How far parameters are from the answer of the linear problem."""
    return float(np.linalg.norm(np.asarray(params["w"]) - np.arange(DIMENSION)))


def linear(**others):
    """What `train` needs for the linear problem."""
    return {"step": STEP, "params": PARAMS, "data": batches, **others}


class Told:
    """A step whose delta is the batch, and whose metric `read` is the parameter it was given.

    With a power of two as the batch of each (worker, clock), what was read says what was in it.
    """

    def init(self, params):
        return ()

    def __call__(self, params, worker_state, batch, key):
        return {"w": batch}, worker_state, {"read": params["w"]}


TOLD = Told()


def numbers(values):
    """`data` that gives each worker its own float32 numbers, then zeros for ever."""
    zeros = itertools.repeat(0)
    return lambda worker: map(np.float32, itertools.chain(values[worker], zeros))


def bits(tree):
    """A pytree of arrays as something that only the same bits compare equal to."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.dtype, leaf.shape, np.asarray(leaf).tobytes()) for leaf in leaves]


def merges(tape):
    return [c for _, _, commands in tape for c in commands if type(c).__name__ == "Merge"]
