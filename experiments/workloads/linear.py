"""Least squares with a known answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jax_ssp as ssp


@dataclass(frozen=True)
class LeastSquares(ssp.Workload):
    """y = X w* + noise, to be solved for w* by SGD."""

    num_examples: int = 4096
    """Rows of X, split over the workers."""
    dimension: int = 32
    """Length of w*."""
    noise: float = 0.1
    """Standard deviation of the noise on y."""
    batch_size: int = 16
    """Examples a local step and worker."""
    learning_rate: float = 0.05
    """Of SGD."""

    def build(self, num_workers: int, seed: int) -> ssp.Task:
        rng = np.random.default_rng(seed)
        inputs = rng.normal(size=(self.num_examples, self.dimension)).astype(np.float32)
        answer = rng.normal(size=self.dimension).astype(np.float32)
        noise = rng.normal(scale=self.noise, size=self.num_examples).astype(np.float32)
        outputs = inputs @ answer + noise

        def loss_fn(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, Any]:
            x, y = batch
            return jnp.mean((x @ params["w"] - y) ** 2) / 2, {}

        def evaluate(params: Any) -> dict[str, jax.Array]:
            residual = inputs @ params["w"] - outputs
            distance = jnp.linalg.norm(params["w"] - answer) / jnp.linalg.norm(answer)
            return {"loss": jnp.mean(residual**2) / 2, "distance": distance}

        return ssp.Task(
            step=ssp.make_step(loss_fn, optax.sgd(self.learning_rate)),
            params={"w": jnp.zeros(self.dimension)},
            data=ssp.data.Shards((inputs, outputs), self.batch_size, num_workers, seed),
            evaluate=jax.jit(evaluate),
        )
