"""A byte language model moved here: AdamW, clipping, warm-up cosine, gradient accumulation.

Paper:    none; `plain` is the loop as one has it, `get_config` is the same here
Command:  jax-ssp run experiments/migrations/byte_lm.py
Time:     half a minute on 2 cores
Expected: test_loss about 2.5 nats a byte after 200 rounds; with --policy BSP and the loop's rate of
          0.01 what `plain` comes to, about 2.4
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import jax_ssp as ssp
from experiments.migrations.common import WORKERS, InTurn, whole_batches

ACCUMULATED = 2  # batches that one update is the mean of
CONTEXT = 32  # bytes that a prediction can see
ROUNDS = 200  # updates of the plain loop
RATE = 1e-2  # of the loop, and of BSP


@functools.cache
def load_text(file: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Train and test pieces of CONTEXT + 1 bytes, int32; every tenth piece is a test piece.

    Source: the Python Language Reference as each Python has it in its standard library
    (`pydoc_data.topics`, PSF license), topics in the order of their names; it is about 470 kB, and
    differs a little between versions of Python. Or any file.
    """
    if file is None:
        from pydoc_data.topics import topics

        content = "\n".join(topics[name] for name in sorted(topics)).encode()
    else:
        content = file.read_bytes()
    size = CONTEXT + 1
    pieces = np.frombuffer(content[: len(content) // size * size], np.uint8).reshape(-1, size)
    tenth = np.arange(len(pieces)) % 10 == 0
    return pieces[~tenth].astype(np.int32), pieces[tenth].astype(np.int32)


class Transformer(nn.Module):
    """A causal transformer over bytes: 50,000 parameters at width 48."""

    width: int = 48
    layers: int = 1

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        places = self.param("places", nn.initializers.normal(0.02), (CONTEXT, self.width))
        x = nn.Embed(256, self.width)(tokens) + places[None]
        mask = nn.make_causal_mask(tokens)
        for layer in range(self.layers):
            attention = nn.MultiHeadDotProductAttention(
                num_heads=2, use_bias=False, name=f"SelfAttention_{layer}"
            )
            x = x + attention(nn.LayerNorm()(x), mask=mask)
            x = x + nn.Dense(self.width)(nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x))))
        return nn.Dense(256)(nn.LayerNorm()(x))


def loss_fn(params: Any, batch: jax.Array, key: Any = None) -> tuple[jax.Array, dict[str, Any]]:
    """Cross-entropy in nats a byte."""
    logits = Transformer().apply(params, batch[:, :-1])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:])
    return jnp.mean(losses), {}


def first_params(seed: int) -> Any:
    """The parameters that all begin with."""
    return Transformer().init(jax.random.key(seed), jnp.zeros((1, CONTEXT), jnp.int32))


def make_optimizer(rate: float, rounds: int) -> optax.GradientTransformation:
    """AdamW with clipping, decay of matrices alone, and a warm-up cosine."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, rounds // 10, rounds)

    def matrices(params: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    return optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.1, mask=matrices)
    )


def evaluation(test: np.ndarray) -> Any:
    """A function `params -> metrics` on test pieces."""
    held = jnp.asarray(test[:512])

    @jax.jit
    def evaluate(params: Any) -> dict[str, jax.Array]:
        return {"test_loss": loss_fn(params, held)[0]}

    return evaluate


@dataclass(frozen=True)
class ByteLM(ssp.Workload):
    """The same model, loss, optimizer and data."""

    batch_size: int = 4
    """Pieces of text a local step and worker."""
    learning_rate: float = RATE
    """The highest of the schedule."""
    rounds: int = ROUNDS
    """In which the schedule ends."""
    text: Path | None = None
    """A file to learn; by default the Python Language Reference of this Python."""

    def build(self, num_workers: int, seed: int) -> ssp.Task:
        train, test = load_text(self.text)
        return ssp.Task(
            step=ssp.make_step(loss_fn, make_optimizer(self.learning_rate, self.rounds)),
            params=first_params(seed),
            data=ssp.data.Shards(train, self.batch_size, num_workers, seed),
            evaluate=evaluation(test),
        )


def plain(workload: ByteLM, seed: int) -> Any:
    """The loop as one has it, on one device; gives the parameters that it comes to.

    It takes the batches of all workers as one, and updates with the mean over ACCUMULATED of them.
    """
    params = first_params(seed)
    optimizer = optax.MultiSteps(
        make_optimizer(workload.learning_rate, workload.rounds), every_k_schedule=ACCUMULATED
    )
    state = optimizer.init(params)

    @jax.jit
    def update(params: Any, state: Any, batch: Any) -> tuple[Any, Any]:
        grads, _ = jax.grad(loss_fn, has_aux=True)(params, batch)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    train, _ = load_text(workload.text)
    batches = whole_batches(ssp.data.Shards(train, workload.batch_size, WORKERS, seed))
    for _ in range(workload.rounds * ACCUMULATED):
        params, state = update(params, state, next(batches))
    return params


def get_config() -> ssp.Experiment:
    # The server steps once for each delta, and Adam's steps are of full length: 4 a round.
    workload = ByteLM(learning_rate=RATE / WORKERS)
    return ssp.Experiment(
        name="byte_lm",
        workload=workload,
        policy=ssp.SSP(bound=3),
        optimizer_on="server",
        local_steps=ACCUMULATED,
        runtime=ssp.Virtual(WORKERS, InTurn()),
        max_samples=workload.rounds * ACCUMULATED * WORKERS * workload.batch_size,
        eval_every=10,
    )
