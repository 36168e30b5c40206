"""Formats that lose, or say what is not so, are caught, each for what is wrong with it."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_ssp as ssp
from jax_ssp.compression.base import Compressor, decode_leaves, encode_leaves
from jax_ssp.testing import check_compressor


@dataclass(frozen=True)
class Plain(Compressor):
    """Right: float32, as it is."""

    def encode(self, tree):
        return encode_leaves(lambda leaf: leaf.astype(jnp.float32), tree)

    def decode(self, message, like):
        return decode_leaves(lambda part, like: part, message, like)


def test_what_is_right_passes():
    check_compressor(Plain(), seed=5)


class Nonzero(Plain):
    """What it sends depends on the values."""

    def encode(self, tree):
        return [leaf[leaf != 0] for leaf in jax.tree.leaves(tree)]


class Halves(Plain):
    """Never sends a number that is too small, however often."""

    for_snapshots = False

    def encode(self, tree):
        return encode_leaves(lambda leaf: jnp.clip(leaf, -0.1, 0.1).astype(jnp.float32), tree)


class Wide(Plain):
    def decode(self, message, like):
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), super().decode(message, like))


class Silent(Plain):
    """Takes a NaN for a 0."""

    def encode(self, tree):
        return super().encode(jax.tree.map(lambda leaf: jnp.nan_to_num(leaf, posinf=0.0), tree))


class Far(Plain):
    """Signs alone, and says that one can compute with it."""

    def encode(self, tree):
        return encode_leaves(lambda leaf: 4 * jnp.sign(leaf).astype(jnp.float32), tree)


class Numbered(Plain):
    """Each message is another."""

    def encode(self, tree):
        COUNT.append(1)
        return encode_leaves(lambda leaf: (leaf + 1e-3 * len(COUNT)).astype(jnp.float32), tree)


class SameDraw(Plain):
    random = True
    for_snapshots = False

    def encode(self, tree, key):
        return super().encode(tree)


class Thawed(Plain):
    __hash__ = None


COUNT = []
BROKEN = {
    Nonzero: "(NonConcrete|depends on shapes alone)",
    Halves: "What is kept stays bounded",
    Wide: "What arrives has the structure, shapes and dtypes",
    Silent: "A number that is not finite arrives as one",
    Far: "else it says `for_snapshots = False`",
    Numbered: "The same tree .* gives the same",
    SameDraw: "another key gives the same message",
    Thawed: "unhashable",
}


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
@pytest.mark.every(3)
def test_what_is_wrong_is_caught_and_seen_again(kind):
    with pytest.raises(AssertionError, match=rf"(?s){BROKEN[kind]}.*See it again: .*seed=2"):
        check_compressor(kind(), seed=2)


def test_a_residual_that_is_not_what_was_lost_is_caught():
    """Decoding differs from program to program: the receiver gets another number."""

    @dataclass(frozen=True)
    class Counts(Plain):
        def decode(self, message, like):
            COUNT.append(1)
            shift = np.float32(1e-2 * (len(COUNT) % 7))
            return decode_leaves(lambda part, like: part + shift, message, like)

    with pytest.raises(AssertionError, match="decoded to the same"):
        check_compressor(Counts())


@pytest.mark.parametrize("given", [ssp.compression.Int8, 3, None])
def test_what_is_no_compressor_is_a_type_error(given):
    with pytest.raises(TypeError, match=r"`check_compressor\(compressor=...\)` must be one such"):
        check_compressor(given)
