"""The quadratic of the papers on asynchronous SGD with many workers, and their workers' speeds."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jax_ssp as ssp


@dataclass(frozen=True)
class Quadratic(ssp.Workload):
    """f(x) = x'Ax/2 - b'x, A = tridiag(-1, 2, -1) / 4, b = (-1, 0, .., 0) / 4, from x = 0.

    A stochastic gradient is Ax - b plus normal noise. A step subtracts it whole: the learning rate
    is the server's weight, so that one compiled step serves all of them. The metric `gap`, of
    every clock and of evaluations, is f(x) - f* without noise.
    """

    dimension: int = 1729
    """Length of x."""
    noise: float = 0.01
    """Standard deviation of the noise on each coordinate of a gradient."""

    def build(self, num_workers: int, seed: int) -> ssp.Task:
        return _task(self.dimension, self.noise)


@functools.cache
def _task(dimension: int, noise: float) -> ssp.Task:
    answer = jnp.asarray(np.arange(1, dimension + 1) / (dimension + 1) - 1, jnp.float32)

    def half_square(x: jax.Array) -> jax.Array:
        """x'Ax/2, by the ends and the differences of neighbours."""
        return (x[0] ** 2 + x[-1] ** 2 + jnp.sum(jnp.diff(x) ** 2)) / 8

    def evaluate(params: Any) -> dict[str, jax.Array]:
        return {"gap": half_square(params["x"] - answer)}

    def loss_fn(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, Any]:
        x = params["x"]
        tilt = noise * jax.random.normal(key, x.shape)
        return half_square(x) + x[0] / 4 + tilt @ x, evaluate(params)

    return ssp.Task(
        step=ssp.make_step(loss_fn, optax.sgd(1.0)),
        params={"x": jnp.zeros(dimension)},
        data=lambda worker: itertools.repeat(np.float32(0)),
        evaluate=jax.jit(evaluate),
    )


@functools.cache
def unequal(kind: Literal["root", "linear"], num_workers: int, seed: int) -> tuple[float, ...]:
    """Seconds a gradient of each worker, drawn once: i = 1.. and half-normal noise.

    Args:
        kind: "root" is 1 + sqrt(i) + |N(0, sqrt(i))|, "linear" is i + |N(0, i)|, the second
            parameter being the variance.
        num_workers: the largest i.
        seed: of the noise.
    """
    i = np.arange(1, num_workers + 1)
    mean = np.sqrt(i) if kind == "root" else i.astype(float)
    noise = np.abs(np.random.default_rng(seed).normal(size=num_workers)) * np.sqrt(mean)
    return tuple((mean + noise + (kind == "root")).tolist())
