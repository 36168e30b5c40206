"""Matrix factorization, Lasso and logistic regression: what parameter servers were measured on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jax_ssp as ssp
from experiments.workloads.digits import load_digits


@dataclass(frozen=True)
class MatrixFactorization(ssp.Workload):
    """Ratings of a low rank, some of them seen, from the product of two thin matrices by SGD."""

    users: int = 240
    """Rows of the matrix."""
    items: int = 160
    """Its columns."""
    rank: int = 8
    """Of the matrix, and of the model."""
    share: float = 0.2
    """Of the ratings, that is seen."""
    noise: float = 0.1
    """Standard deviation of the noise on a rating; the ratings' own is 1."""
    penalty: float = 0.01
    """Weight of the squared norms of the factors of a rating."""
    batch_size: int = 32
    """Ratings a local step and worker."""
    learning_rate: float = 10.0
    """Of SGD on the mean over a batch, which moves each row by about 1 / users of it."""

    def build(self, num_workers: int, seed: int) -> ssp.Task:
        rng = np.random.default_rng([seed, 1])
        left = rng.normal(size=(self.users, self.rank)).astype(np.float32)
        right = rng.normal(size=(self.items, self.rank)).astype(np.float32)
        user, item = np.nonzero(rng.random((self.users, self.items)) < self.share)
        exact = (left[user] * right[item]).sum(1) / self.rank**0.5
        rating = (exact + rng.normal(scale=self.noise, size=len(user))).astype(np.float32)
        arrays = (user.astype(np.int32), item.astype(np.int32), rating)

        def loss_fn(params: Any, batch: Any, key: Any = None) -> tuple[jax.Array, Any]:
            user, item, rating = batch
            left, right = params["left"][user], params["right"][item]
            error = jnp.sum(left * right, axis=1) - rating
            norms = jnp.sum(left**2, axis=1) + jnp.sum(right**2, axis=1)
            return jnp.mean(error**2 + self.penalty * norms), {}

        shapes = {"left": left.shape, "right": right.shape}
        return ssp.Task(
            step=ssp.make_step(loss_fn, optax.sgd(self.learning_rate)),
            params={
                name: jnp.asarray(0.3 * rng.normal(size=shape), jnp.float32)
                for name, shape in shapes.items()
            },
            data=ssp.data.Shards(arrays, self.batch_size, num_workers, seed),
            evaluate=jax.jit(lambda params: {"objective": loss_fn(params, arrays)[0]}),
        )


@dataclass(frozen=True)
class Lasso(ssp.Workload):
    """|X w - y|^2 / 2n + penalty |w|_1 by coordinate descent; each worker has its own coordinates.

    The deltas are of different coordinates, so they are to be summed: `weight="sum"`.
    """

    num_examples: int = 128
    """Rows of X."""
    dimension: int = 512
    """Its columns."""
    nonzero: int = 24
    """Coordinates that matter."""
    correlation: float = 0.0
    """Of any two columns."""
    noise: float = 0.1
    """Standard deviation of the noise on y."""
    penalty: float = 0.1
    """Weight of the l1 norm."""
    batch_size: int = 4
    """Coordinates a local step and worker."""
    learning_rate: float = 0.1
    """Share of the way to the best value of each coordinate alone."""

    def build(self, num_workers: int, seed: int) -> ssp.Task:
        rng = np.random.default_rng([seed, 2])
        own = rng.normal(size=(self.num_examples, self.dimension))
        common = rng.normal(size=(self.num_examples, 1))
        mixed = (1 - self.correlation) ** 0.5 * own + self.correlation**0.5 * common
        inputs = (mixed / np.sqrt(np.mean(mixed**2, axis=0))).astype(np.float32)
        answer = np.zeros(self.dimension)
        chosen = rng.choice(self.dimension, self.nonzero, replace=False)
        answer[chosen] = rng.normal(size=self.nonzero)
        noise = rng.normal(scale=self.noise, size=self.num_examples)
        outputs = (inputs @ answer + noise).astype(np.float32)

        def evaluate(params: Any) -> dict[str, jax.Array]:
            error = inputs @ params["w"] - outputs
            size = jnp.sum(jnp.abs(params["w"]))
            return {"objective": jnp.mean(error**2) / 2 + self.penalty * size}

        coordinates = np.arange(self.dimension, dtype=np.int32)
        return ssp.Task(
            step=CoordinateStep(inputs, outputs, self.penalty, self.learning_rate),
            params={"w": jnp.zeros(self.dimension)},
            data=ssp.data.Shards(coordinates, self.batch_size, num_workers, seed),
            evaluate=jax.jit(evaluate),
        )


@dataclass(frozen=True, eq=False)
class CoordinateStep:
    """Moves the coordinates of a batch towards what is best for each of them alone.

    The columns of `inputs` have a mean square of 1, so that is a soft threshold.
    """

    inputs: np.ndarray
    outputs: np.ndarray
    penalty: float
    rate: float

    def init(self, params: Any) -> None:
        return None

    def __call__(
        self, params: Any, worker_state: None, batch: jax.Array, key: jax.Array
    ) -> tuple[Any, None, Mapping[str, jax.Array]]:
        w = params["w"]
        columns = jnp.asarray(self.inputs)[:, batch]
        error = jnp.asarray(self.inputs) @ w - self.outputs
        target = w[batch] - columns.T @ error / len(self.outputs)
        best = jnp.sign(target) * jnp.maximum(jnp.abs(target) - self.penalty, 0)
        delta = jnp.zeros_like(w).at[batch].set(self.rate * (best - w[batch]))
        return {"w": delta}, worker_state, {"loss": jnp.mean(error**2) / 2}


@dataclass(frozen=True)
class LogisticRegression(ssp.Workload):
    """The digits by multi-class logistic regression under SGD."""

    penalty: float = 1e-3
    """Weight of half the squared norm of the weights."""
    batch_size: int = 8
    """Images a local step and worker."""
    learning_rate: float = 0.3
    """Of SGD."""

    def build(self, num_workers: int, seed: int) -> ssp.Task:
        images, labels = load_digits()[0]
        arrays = (images.reshape(len(images), -1), labels)

        def loss_fn(params: Any, batch: Any, key: Any = None) -> tuple[jax.Array, Any]:
            x, y = batch
            logits = x @ params["w"] + params["b"]
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
            return jnp.mean(losses) + self.penalty / 2 * jnp.sum(params["w"] ** 2), {}

        return ssp.Task(
            step=ssp.make_step(loss_fn, optax.sgd(self.learning_rate)),
            params={"w": jnp.zeros((arrays[0].shape[1], 10)), "b": jnp.zeros(10)},
            data=ssp.data.Shards(arrays, self.batch_size, num_workers, seed),
            evaluate=jax.jit(lambda params: {"objective": loss_fn(params, arrays)[0]}),
        )
