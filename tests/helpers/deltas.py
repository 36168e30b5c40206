"""Random deltas, and what the server tells a transform about them."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax

MERGES = 12
NUM_WORKERS = 4
ROUNDING = {"float32": 1e-6, "bfloat16": 1e-2, "int32": 0}


def like(tree, rng, scale=1.0):
    """Random numbers of the shapes and dtypes of a tree."""
    return jax.tree.map(
        lambda leaf: jnp.asarray(scale * rng.normal(size=leaf.shape), leaf.dtype), tree
    )


def single():
    """A tree of float32 alone, as much of optax wants under strict promotion."""
    return {"w": jnp.zeros((3, 2)), "b": jnp.zeros(())}


def mixed():
    """One with a half-precision leaf too."""
    return {**single(), "h": jnp.zeros(5, jnp.bfloat16)}


def extras(staleness, base):
    """What the server passes, and something that a later version of it may pass."""
    others = {"lag": jnp.int32(1), "worker": jnp.int32(2), "num_workers": jnp.int32(NUM_WORKERS)}
    return {"staleness": staleness, "stale_params": base, **others, "moon": jnp.float32(0.3)}


def merges(zeros, seed=0, length=MERGES):
    """Stacked over merges: a delta, parameters, the delta's base, and its staleness."""
    rng = np.random.default_rng(seed)
    stacked = jax.tree.map(lambda leaf: jnp.zeros((length, *leaf.shape), leaf.dtype), zeros)
    params = like(stacked, rng)
    near = like(stacked, rng, 0.1)
    return SimpleNamespace(
        delta=like(stacked, rng, 0.3),
        params=params,
        base=jax.tree.map(lambda p, n: (p + n).astype(p.dtype), params, near),
        staleness=jnp.asarray(rng.integers(0, 30, length), jnp.int32),
    )


def each(stacked):
    """One merge after the other."""
    for t in range(len(stacked.staleness)):
        yield jax.tree.map(lambda leaf: leaf[t], vars(stacked))  # noqa: B023


def update(transform, state, merge):
    """Apply a transform to one of `each`."""
    about = extras(merge["staleness"], merge["base"])
    return transform.update(merge["delta"], state, merge["params"], **about)


def run(transform, stacked, jit=True):
    """What it gives for one merge after the other, and its last state."""
    given, state = [], None
    one = functools.partial(update, transform)
    one = jax.jit(one) if jit else one
    for merge in each(stacked):
        state = transform.init(merge["params"]) if state is None else state
        applied, state = one(state, merge)
        given.append(applied)
    return given, state


def assert_close(tree, expected, rtol=None):
    """The same structure, shapes and dtypes, and numbers up to rounding."""
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    for leaf, other in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
        assert (leaf.shape, leaf.dtype) == (other.shape, other.dtype)
        tolerance = ROUNDING[leaf.dtype.name] if rtol is None else rtol
        leaf, other = (np.asarray(number, np.float64) for number in (leaf, other))
        np.testing.assert_allclose(leaf, other, rtol=tolerance, atol=tolerance * 1e-1)


def assert_same(tree, expected):
    """The same to the last bit."""
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    for leaf, other in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
        assert leaf.dtype == other.dtype
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(other))


def layout(tree):
    """Structure, shapes, dtypes and weak types: what a compiled program depends on."""
    leaves = [jax.typeof(jnp.asarray(leaf)) for leaf in jax.tree.leaves(tree)]
    return jax.tree.structure(tree), leaves


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
