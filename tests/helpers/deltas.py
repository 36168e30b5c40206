"""Random deltas of `jax_ssp.testing`, and a transform of which one sees whether it ran."""

import jax
import jax.numpy as jnp
import optax

from jax_ssp.testing.deltas import (
    MERGES,
    NUM_WORKERS,
    assert_close,
    assert_same,
    each,
    extras,
    layout,
    like,
    merges,
    mixed,
    run,
    scanned,
    single,
    update,
)

__all__ = [
    "MERGES",
    "NUM_WORKERS",
    "Counting",
    "assert_close",
    "assert_same",
    "each",
    "extras",
    "layout",
    "like",
    "merges",
    "mixed",
    "run",
    "scanned",
    "single",
    "update",
]


class Counting:
    """A transform of which one sees whether it ran: its state counts, and adds up the deltas."""

    @staticmethod
    def make():
        def init(params):
            return jnp.int32(0), jax.tree.map(jnp.zeros_like, params)

        def update(updates, state, params=None, *, lag, **extra_args):
            count, total = state
            total = jax.tree.map(jnp.add, total, updates)
            assert {"staleness", "moon"} <= extra_args.keys()
            return total, (count + lag, total)

        return optax.GradientTransformationExtraArgs(init, update)
