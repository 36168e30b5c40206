"""A config file with a small experiment, a line through points, and what is appended to it."""

from pathlib import Path

# A least-squares problem with a mistake on demand.
CONFIG = '''"""Small least squares.

What comes after the first paragraph is not shown."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import optax

import jax_ssp as ssp


@dataclass(frozen=True)
class Line(ssp.Workload):
    """A line through points."""

    num_examples: int = 64
    """Points."""
    batch_size: int = 4
    """Points a step."""
    scale: float = 1.0
    mistake: str = ""

    def build(self, num_workers: int, seed: int) -> ssp.Task:
        x = np.random.default_rng(seed).normal(size=(self.num_examples, 3)).astype(np.float32)
        y = x @ np.arange(3, dtype=np.float32)

        def loss_fn(params, batch, key):
            if self.mistake == "bug":
                undefined_name  # noqa: B018
            x, y = batch
            errors = self.scale * (x @ params["w"] - y) ** 2
            if self.mistake == "nan":
                return jnp.nan * jnp.mean(errors), {}
            return errors if self.mistake == "vector" else jnp.mean(errors), {}

        def evaluate(params):
            if self.mistake == "first evaluation":
                raise RuntimeError("no evaluation at all")
            if self.mistake == "evaluation" and params["w"].any():
                raise RuntimeError("no evaluation today")
            return {"distance": jnp.linalg.norm(params["w"] - jnp.arange(3.0))}

        data = ssp.data.Shards((x, y), self.batch_size, num_workers, seed)
        step = ssp.make_step(loss_fn, optax.sgd(0.1))
        return ssp.Task(step, {"w": jnp.zeros(3)}, data, evaluate)


def get_config() -> ssp.Experiment:
    return ssp.Experiment(
        name="line",
        workload=Line(),
        policy=ssp.SSP(bound=3),
        server_tx=ssp.configured(ssp.mitigations.scale_by_staleness, exponent=0.5),
        runtime=ssp.Virtual(num_workers=4, delay=ssp.delays.Exponential(mean=1.0)),
        num_clocks=20,
        eval_every=5,
    )
'''

# Appended to CONFIG; the later definition counts.
ON_DEVICES = """

def get_config() -> ssp.Experiment:
    return ssp.Experiment(
        name="line",
        workload=Line(),
        runtime=ssp.Devices(num_workers=2, cpu_devices=2, delay=DELAY),
        num_clocks=1_000_000,
        eval_every=1,
    )
"""
SWEEP = """

def get_sweep() -> list[ssp.Experiment]:
    return [
        ssp.Experiment(
            name=name,
            workload=Line(),
            policy=policy,
            runtime=ssp.Virtual(num_workers=4),
            num_clocks=5,
            seed=seed,
        )
        for name, policy in {"BSP": ssp.BSP(), "SSP(1)": ssp.SSP(bound=1)}.items()
        for seed in (0, 1)
    ]
"""


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path
