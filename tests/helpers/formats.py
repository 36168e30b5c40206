"""Wire formats in tables, with what is known of each, and their programs, each compiled once."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jax_ssp.compression import BFloat16, Compressor, Float16, Int8, RandK, Sign, TopK, compress
from jax_ssp.compression.base import decode_leaves, encode_leaves
from tests.helpers.formats_in_numpy import (
    bfloat16_in_numpy,
    block_error,
    float16_in_numpy,
    from_mean,
    int8_in_numpy,
    sign_in_numpy,
    top_k_in_numpy,
    unsent,
    wide,
)


@dataclass(frozen=True)
class TopOfAll(Compressor):
    """The 3 largest numbers of the whole tree; only here, to try the seam with a format that is
    not one of single leaves."""

    for_snapshots = False

    def encode(self, tree):
        flat = jnp.concatenate(
            encode_leaves(lambda leaf: leaf.reshape(-1).astype(jnp.float32), tree)
        )
        _, places = jax.lax.top_k(jnp.where(jnp.isnan(flat), jnp.inf, jnp.abs(flat)), 3)
        return {"places": places, "values": flat[places]}

    def decode(self, message, like):
        sizes = [leaf.size for leaf in jax.tree.leaves(like)]
        flat = jnp.zeros(sum(sizes), message["values"].dtype)
        flat = flat.at[message["places"]].set(message["values"])
        parts = jnp.split(flat, np.cumsum(sizes)[:-1])
        return decode_leaves(lambda part, like: part.reshape(like.shape), parts, like)


@dataclass(frozen=True)
class Drawing(Compressor):
    """A random format with a key of its own, so that it is tried like all others."""

    inner: Compressor
    for_snapshots = False

    def encode(self, tree):
        return self.inner.encode(tree, jax.random.key(7))

    def decode(self, message, like):
        return self.inner.decode(message, like)


# A row for every format: how to make it, what arrives in NumPy, and the bound on its error.
ROWS = {
    "bfloat16": (BFloat16(), bfloat16_in_numpy, lambda x: np.abs(x) * 2.0**-8),
    "float16": (
        Float16(),
        float16_in_numpy,
        lambda x: np.maximum(np.abs(x) * 2.0**-11, 2.0**-28 * np.abs(x).max(initial=1e-30)),
    ),
    "int8": (Int8(), lambda x: int8_in_numpy(x, 256), lambda x: block_error(x, 256)),
    "int8, blocks of 7": (Int8(7), lambda x: int8_in_numpy(x, 7), lambda x: block_error(x, 7)),
    "top k": (TopK(), lambda x: top_k_in_numpy(x, 1), lambda x: unsent(x, 1)),
    "top k, 0.7": (TopK(0.7), lambda x: top_k_in_numpy(x, 7), lambda x: unsent(x, 7)),
    "sign": (Sign(), sign_in_numpy, from_mean),
}
FORMATS = {name: row[0] for name, row in ROWS.items()}
rows = pytest.mark.parametrize(("format", "numpy", "bound"), ROWS.values(), ids=ROWS)
formats = pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
# The contract of error feedback holds for those to come, too.
EVERYONE = {
    "bfloat16": BFloat16(),
    "float16": Float16(),
    "rand k": Drawing(RandK()),
    "int8": Int8(),
    "top k": TopK(),
    "sign": Sign(),
    "top of all": TopOfAll(),
}
CONTRACT = {**EVERYONE, "rand k": RandK()}  # with the keys of a run
everyone = pytest.mark.parametrize("format", EVERYONE.values(), ids=EVERYONE)
# What compiles a lot is tried with three formats in the quick loop, and with all in CI.
compiled = pytest.mark.parametrize(
    "format",
    [
        pytest.param(format, marks=[] if number % 3 == 0 else [pytest.mark.slow])
        for number, format in enumerate(EVERYONE.values())
    ],
    ids=EVERYONE,
)

QUICK = settings(deadline=None, max_examples=25)
SHAPES = st.sampled_from([(), (0,), (1,), (6,), (7,), (3, 5), (1, 300)])  # few: each is compiled
NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)
ARRAYS = SHAPES.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=NUMBERS))


def normal(shape, seed=0, dtype="float32", scale=1.0):
    values = np.random.default_rng(seed).normal(size=shape) * scale
    return jnp.asarray(values.astype(jnp.dtype(dtype)))


def mixed(seed=0, first="float32", scale=1.0):
    """A tree of what there is: nested, of several dtypes, with a scalar and an empty leaf."""
    return {
        "layer": {
            "kernel": normal((20, 30), seed, first, scale),
            "bias": normal(300, seed + 1, "bfloat16", scale),
        },
        "other": (normal((), seed + 2, first, scale), None, normal((0, 3), seed, first)),
        "more": [normal((1, 300), seed + 3, "float16", scale)],
    }


@functools.cache
def compressing(format):
    """`compress` of this format, jitted; the same each time, so that it is compiled once."""
    return jax.jit(functools.partial(compress, format))


def assert_same(tree, other):
    """Equal in structure, shapes, dtypes, and bit for bit."""
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for leaf, another in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        assert (leaf.shape, leaf.dtype) == (another.shape, another.dtype)
        assert np.asarray(leaf).tobytes() == np.asarray(another).tobytes()


def assert_same_but_for_sums(format, tree, other):
    """The same, bit for bit; where the format has a sum, whose order is the compiler's, nearly."""
    if not isinstance(format, Sign):
        assert_same(tree, other)
        return
    assert layout(tree) == layout(other)
    for leaf, another in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(wide(leaf), wide(another), rtol=1e-5, atol=1e-6)


def layout(tree):
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]


@functools.cache
def encoding(format):
    return jax.jit(format.encode)


def round_trip(format, tree):
    """What arrives, all in one program: the harder case, since a compiler sees both ends."""
    return arriving(format)(tree)


@functools.cache
def arriving(format):
    return jax.jit(lambda tree: format.decode(format.encode(tree), like=tree))
