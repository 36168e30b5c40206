"""A ResNet moved here: BatchNorm, dropout, warm-up cosine, masked weight decay on Fashion-MNIST.

Paper:    none; `plain` is the loop as one has it, `get_config` is the same here
Command:  jax-ssp run experiments/migrations/fashion_resnet.py
Time:     half a minute on 2 cores
Expected: test_accuracy about 0.75 after 200 rounds of 64 images
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import jax_ssp as ssp
from experiments.migrations.common import WORKERS, InTurn, whole_batches
from experiments.workloads.fashion import FOLDER, ResNet, load_fashion, loss

ROUNDS = 200  # updates of the plain loop
RATE = 0.1


class DroppingResNet(ResNet):
    """The residual network of the workloads, with dropout before its last layer."""

    def __init__(self, width: int, dropout: float, rngs: nnx.Rngs) -> None:
        super().__init__(width, rngs)
        self.out = nnx.Sequential(nnx.Dropout(dropout, rngs=rngs), self.out)


def make_optimizer(rate: float, rounds: int) -> optax.GradientTransformation:
    """SGD with momentum, decay of kernels alone, and a warm-up cosine."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, rounds // 10, rounds)

    def kernels(params: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    return optax.chain(
        optax.add_decayed_weights(5e-4, mask=kernels), optax.sgd(schedule, momentum=0.9)
    )


@dataclass(frozen=True)
class FashionResNet(ssp.Workload):
    """The network, its loss, optimizer and data."""

    width: int = 4
    """Channels of the first block."""
    dropout: float = 0.1
    """Rate of dropout before the last layer."""
    batch_size: int = 16
    """Images a local step and worker."""
    learning_rate: float = RATE
    """The highest of the schedule."""
    rounds: int = ROUNDS
    """In which the schedule ends."""
    test_images: int = 1000
    """How many are evaluated."""
    folder: Path = FOLDER
    """Where the four files are."""

    def build(self, num_workers: int, seed: int) -> ssp.Task:
        train, test = load_fashion(self.folder)
        optimizer = make_optimizer(self.learning_rate, self.rounds)
        step = ssp.make_nnx_step(self.model(seed), loss, optimizer)
        held = [jnp.asarray(each[: self.test_images]) for each in test]

        @jax.jit
        def evaluate(params: Any) -> dict[str, jax.Array]:
            test_loss, metrics = loss(step.model(params), held)
            return {"test_loss": test_loss, "test_accuracy": metrics["accuracy"]}

        data = ssp.data.Shards(train, self.batch_size, num_workers, seed)
        return ssp.Task(step=step, params=step.params, data=data, evaluate=evaluate)

    def model(self, seed: int) -> DroppingResNet:
        """The network that all begin with."""
        return DroppingResNet(self.width, self.dropout, rngs=nnx.Rngs(seed))


def plain(workload: FashionResNet, seed: int) -> dict[str, jax.Array]:
    """The loop as one has it, on one device; gives the arrays that its model comes to.

    It takes the batches of all workers as one.
    """
    model = workload.model(seed)
    model.train()
    transform = make_optimizer(workload.learning_rate, workload.rounds)
    optimizer = nnx.Optimizer(model, transform, wrt=nnx.Param)

    @nnx.jit
    def update(model: Any, optimizer: Any, batch: Any) -> None:
        grads, _ = nnx.grad(loss, has_aux=True)(model, batch)
        optimizer.update(model, grads)

    train, _ = load_fashion(workload.folder)
    batches = whole_batches(ssp.data.Shards(train, workload.batch_size, WORKERS, seed))
    for _ in range(workload.rounds):
        update(model, optimizer, next(batches))
    return ssp.make_nnx_step(model, loss, transform).params


def get_config() -> ssp.Experiment:
    workload = FashionResNet()
    return ssp.Experiment(
        name="fashion_resnet",
        workload=workload,
        policy=ssp.SSP(bound=3),
        optimizer_on="server",
        runtime=ssp.Virtual(WORKERS, InTurn()),
        max_samples=workload.rounds * WORKERS * workload.batch_size,
        eval_every=10,
    )
