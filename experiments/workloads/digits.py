"""Handwritten digits: 1,797 real images of 8 x 8 pixels, and a small convolutional network."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jax_ssp as ssp
from experiments.workloads.dealt import dealt

TEST_IMAGES = 360


@functools.cache
def load_digits() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The train and test splits, the same ones always; images as float32 in 0..1, (n, 8, 8, 1).

    Source: scikit-learn's copy of the UCI ML hand-written digits, E. Alpaydin and C. Kaynak, 1998,
    doi:10.24432/C50P49.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            "the digits come with scikit-learn, which is not installed; "
            "pip install 'jax_ssp[experiments]'"
        ) from error
    digits = datasets.load_digits()
    images = (digits.images / 16.0).astype(np.float32)[..., None]
    labels = digits.target.astype(np.int32)
    order = np.random.default_rng(0).permutation(len(images))
    test, train = order[:TEST_IMAGES], order[TEST_IMAGES:]
    return (images[train], labels[train]), (images[test], labels[test])


class CNN(nnx.Module):
    """Two convolutions with BatchNorm, dropout, a dense layer: 17,000 parameters at width 16."""

    def __init__(self, width: int, dropout: float, rngs: nnx.Rngs) -> None:
        self.conv1 = nnx.Conv(1, width, kernel_size=(3, 3), rngs=rngs)
        self.norm1 = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.conv2 = nnx.Conv(width, 2 * width, kernel_size=(3, 3), rngs=rngs)
        self.norm2 = nnx.BatchNorm(2 * width, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.dense = nnx.Linear(2 * 2 * 2 * width, 64, rngs=rngs)
        self.out = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        x = nnx.max_pool(nnx.relu(self.norm1(self.conv1(images))), (2, 2), strides=(2, 2))
        x = nnx.max_pool(nnx.relu(self.norm2(self.conv2(x))), (2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)
        return self.out(nnx.relu(self.dense(self.dropout(x))))


@dataclass(frozen=True)
class Digits(ssp.Workload):
    """The digits CNN under SGD with momentum."""

    width: int = 16
    """Channels of the first convolution."""
    dropout: float = 0.2
    """Rate of dropout before the dense layers."""
    batch_size: int = 32
    """Images a local step and worker."""
    learning_rate: float = 0.05
    """Of SGD."""
    momentum: float = 0.9
    """Of SGD, kept by each worker."""
    elastic: bool = False
    """Whether all workers share each epoch, so that they may come and go."""

    def build(self, num_workers: int, seed: int) -> ssp.Task:
        train, (images, labels) = load_digits()
        model = CNN(self.width, self.dropout, rngs=nnx.Rngs(seed))
        optimizer = optax.sgd(self.learning_rate, momentum=self.momentum)

        def loss(model: CNN, batch: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
            x, y = batch
            logits = model(x)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
            return jnp.mean(losses), {"accuracy": jnp.mean(jnp.argmax(logits, -1) == y)}

        step = ssp.make_nnx_step(model, loss, optimizer)

        @jax.jit
        def evaluate(params: Any) -> dict[str, jax.Array]:
            test_loss, metrics = loss(step.model(params), (images, labels))
            return {"test_loss": test_loss, "test_accuracy": metrics["accuracy"]}

        data = dealt(train, self.batch_size, num_workers, seed, self.elastic)
        return ssp.Task(step=step, params=step.params, data=data, evaluate=evaluate)


@dataclass(frozen=True)
class DigitsMLP(ssp.Workload):
    """The digits under plain SGD on a ReLU network without normalization.

    Normalized layers do not mind steps that are too large; these do, so that staleness shows.
    """

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""
    batch_size: int = 16
    """Images a local step and worker."""
    learning_rate: float = 0.1
    """Of SGD."""

    def build(self, num_workers: int, seed: int) -> ssp.Task:
        (train_images, train_labels), (images, labels) = load_digits()
        sizes = [train_images[0].size, *self.hidden, 10]
        keys = jax.random.split(jax.random.key(seed), len(sizes) - 1)
        he = jax.nn.initializers.he_normal()
        params = [
            {"w": he(key, (fan_in, fan_out)), "b": jnp.zeros(fan_out)}
            for key, fan_in, fan_out in zip(keys, sizes, sizes[1:], strict=False)
        ]

        def loss_fn(params: Any, batch: Any, key: Any = None) -> tuple[jax.Array, dict[str, Any]]:
            x, y = batch
            x = x.reshape(x.shape[0], -1)
            *inner, last = params
            for layer in inner:
                x = nnx.relu(x @ layer["w"] + layer["b"])
            logits = x @ last["w"] + last["b"]
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
            return jnp.mean(losses), {"accuracy": jnp.mean(jnp.argmax(logits, -1) == y)}

        @jax.jit
        def evaluate(params: Any) -> dict[str, jax.Array]:
            test_loss, metrics = loss_fn(params, (images, labels))
            return {"test_loss": test_loss, "test_accuracy": metrics["accuracy"]}

        return ssp.Task(
            step=ssp.make_step(loss_fn, optax.sgd(self.learning_rate)),
            params=params,
            data=ssp.data.Shards((train_images, train_labels), self.batch_size, num_workers, seed),
            evaluate=evaluate,
        )
