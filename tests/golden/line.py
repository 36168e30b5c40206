"""A run whose every number is exact in float32, so that all machines come to the same bits.

Two workers pull one number towards 3 by half of the way, of which half is merged: after n updates
it is a multiple of 4^-n.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import optax

import jax_ssp as ssp


def loss_fn(params, batch, key):
    distance = params["w"] - batch
    return 0.5 * distance**2, {"distance": distance}


STEP = ssp.make_step(loss_fn, optax.sgd(0.5))


@dataclass(frozen=True)
class Line(ssp.Workload):
    """One number."""

    def build(self, num_workers, seed):
        return ssp.Task(
            STEP,
            {"w": jnp.float32(0)},
            lambda worker: iter([np.float32(3)] * 4),
            lambda params: {"distance": params["w"] - 3, "loss": 0.5},
        )


def get_config():
    """Four clocks of two workers, one 2.5 times as slow, at bound 1."""
    return ssp.Experiment(
        name="line",
        workload=Line(),
        policy=ssp.SSP(bound=1),
        runtime=ssp.Virtual(num_workers=2, delay=ssp.delays.PerWorker(seconds=(1.0, 2.5))),
        num_clocks=4,
        eval_every=1,
    )
