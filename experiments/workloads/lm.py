"""A language model over bytes: the transformer, AdamW with a warm-up cosine, bits per byte."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jax_ssp as ssp
from experiments.workloads.dealt import dealt
from experiments.workloads.sizes import Size
from experiments.workloads.text import load_text, pieces
from experiments.workloads.transformer import (
    FIRST,
    SIZES,
    Computing,
    Shape,
    Transformer,
    shardings,
)
from jax_ssp.placement import Placement

COMPUTING = Computing()
ON_CPU = Computing("float32")  # which computes bfloat16 by way of it
AT_ONCE = 16  # pieces that are evaluated


@dataclass(frozen=True)
class LM(ssp.Workload):
    """A transformer that predicts each byte of a piece of text by those before it in the piece."""

    shape: Shape = SIZES["0.3M"]
    """Of the transformer; `SIZES` has some by name."""
    computing: Computing = COMPUTING
    """How it is computed."""
    context: int = 128
    """Bytes of a piece."""
    batch_size: int = 8
    """Pieces a local step and worker."""
    learning_rate: float = 3e-3
    """The highest of the schedule."""
    rounds: int = 1000
    """In which the schedule ends, at a tenth of it; the first tenth warms up."""
    weight_decay: float = 0.1
    """Of AdamW, on all but the norms."""
    clip: float = 1.0
    """The largest norm of a gradient."""
    text: Path | None = None
    """A file or folder to learn; by default the standard library's source files."""
    pattern: str = "*"
    """Of the names of files to take of a folder, such as *.txt."""
    held_out: int = 512
    """Pieces of what is held out that are evaluated, spread evenly over it."""
    elastic: bool = False
    """Whether all workers share each epoch, so that they may come and go."""

    def build(self, num_workers: int, seed: int) -> ssp.Task:
        train, held = (pieces(each, self.context) for each in load_text(self.text, self.pattern))
        if not len(held):
            raise ValueError(
                f"`LM(context={self.context})` is more than the bytes that are held out; lower it, "
                "or give more text."
            )
        chosen = np.linspace(0, len(held) - 1, min(self.held_out, len(held))).astype(int)
        step = self.step(seed)
        data = dealt(train, self.batch_size, num_workers, seed, self.elastic)
        evaluate = evaluation(step.model, held[chosen])
        return ssp.Task(step, step.params, data, evaluate, shardings=self.shardings)

    def shardings(self, params: Any) -> dict[str, jax.P]:
        """How parameters lie on a slice, whose axes are those of the mesh that is set."""
        axes = jax.sharding.get_abstract_mesh().axis_names
        return shardings(self.shape, self.computing, axes)

    def step(self, seed: int) -> Any:
        """The training step of a worker. It is made on the host: a device may not have room."""
        with jax.default_device(Placement.host().device):
            model = Transformer(self.shape, self.computing, nnx.Rngs(seed))
        return ssp.make_nnx_step(model, loss, self.optimizer(), tokens=counted)

    def optimizer(self) -> optax.GradientTransformation:
        """AdamW with clipping, and decay of all but the norms."""
        top, warm = self.learning_rate, max(1, self.rounds // 10)
        schedule = optax.warmup_cosine_decay_schedule(
            top / warm, top, warm, max(self.rounds, warm + 1), top / 10
        )

        def decays(params: Any) -> Any:
            return jax.tree.map_with_path(lambda path, _: path[-1].key != "scale", params)

        adamw = optax.adamw(schedule, b2=0.95, weight_decay=self.weight_decay, mask=decays)
        return optax.chain(optax.clip_by_global_norm(self.clip), adamw)


def counted(batch: Any) -> int:
    """The tokens in a batch, each of which is predicted once."""
    return math.prod(batch.shape)


TINY = Shape(layers=2, width=32, heads=4, groups=2, hidden=48)
WORKLOADS: dict[Size, LM] = {
    "smoke": LM(TINY, ON_CPU, context=32, batch_size=2, rounds=12, held_out=16),
    "laptop": LM(computing=ON_CPU),
    # As DiLoCo's smallest (arXiv:2311.08105): 64 pieces of 1,024 a worker, 88,000 steps.
    "paper": LM(
        SIZES["100M"],
        Computing(remat=True),
        context=1024,
        batch_size=64,
        learning_rate=4e-4,
        rounds=88_000,
        held_out=1024,
    ),
}
"""What the `lm_*` configs train at each size."""


def nats(model: Any, batch: jax.Array) -> jax.Array:
    """Cross-entropy of each byte of each piece, (pieces, bytes), in float32.

    Args:
        model: from tokens to logits.
        batch: (pieces, bytes), uint8; before the first byte of a piece stands a zero.
    """
    tokens = batch.astype(jnp.int32)
    before = jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=FIRST)
    return optax.softmax_cross_entropy_with_integer_labels(model(before), tokens)


def loss(model: Any, batch: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The mean over all bytes (nats)."""
    return jnp.mean(nats(model, batch)), {}


def evaluation(
    model: Callable[[Any], Any], held_out: np.ndarray, at_once: int = AT_ONCE
) -> Callable[[Any], dict[str, jax.Array]]:
    """A function `params -> metrics`: `test_loss` (nats a byte) and `bits_per_byte`.

    Args:
        model: params -> the model.
        held_out: pieces, (n, bytes), uint8.
        at_once: pieces that are computed at a time; it changes nothing but the memory needed.
    """
    parts = -(-len(held_out) // at_once)
    filled = np.zeros((parts * at_once, held_out.shape[1]), np.uint8)
    filled[: len(held_out)] = held_out
    filled = filled.reshape(parts, at_once, -1)
    counts = (np.arange(parts * at_once) < len(held_out)).astype(np.float32).reshape(parts, -1)

    @jax.jit
    def evaluate(params: Any, filled: jax.Array, counts: jax.Array) -> dict[str, jax.Array]:
        def part(one: Any) -> jax.Array:
            batch, count = one
            return jnp.sum(jnp.mean(nats(model(params), batch), axis=1) * count)

        mean = jnp.sum(jax.lax.map(part, (filled, counts))) / len(held_out)
        return {"test_loss": mean, "bits_per_byte": mean / math.log(2)}

    return lambda params: evaluate(params, filled, counts)  # arguments, no constants of the program
