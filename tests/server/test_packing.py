"""A tree as one flat buffer of bytes, and back."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jax_ssp.server.packing import ALIGNMENT, pack, unpack
from tests.helpers.problems import bits

TREE = {
    "float": np.linspace(-1, 1, 7, dtype=np.float32).reshape(7, 1),
    "half": np.array([1.5, -0.0, np.inf], ml_dtypes.bfloat16),
    "none": np.zeros((0, 3), np.float32),
    "nested": (np.int8(3), np.array([True, False]), np.array([1 + 2j], np.complex64)),
    "empty": [],
}


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_what_is_unpacked_has_the_same_bits(make, kind):
    tree = jax.tree.map(make, TREE)
    again = unpack(kind(pack(tree)), like=jax.eval_shape(lambda: tree))
    assert bits(again) == bits(TREE)


def test_an_array_that_is_not_contiguous_arrives_as_it_is():
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T[::2]
    np.testing.assert_array_equal(unpack(pack([array]), like=[array])[0], array)


def test_arrays_are_views_of_the_buffer_where_programs_can_use_them():
    buffer = pack(TREE)
    start = np.frombuffer(buffer, np.uint8).ctypes.data
    for leaf in jax.tree.leaves(unpack(buffer, like=TREE)):
        assert not leaf.size or (leaf.ctypes.data - start) % ALIGNMENT == 0
    unpack(buffer, like=TREE)["float"][0, 0] = 5
    assert unpack(buffer, like=TREE)["float"][0, 0] == 5


@pytest.mark.parametrize(
    "like",
    [
        {"w": np.zeros(3, np.float32)},
        {"w": np.zeros(2, np.float64)},
        {"w": np.zeros((2, 1), np.float32)},
        {"w": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)},
        {},
    ],
    ids=["longer", "wider", "of other rank", "more", "none"],
)
def test_what_is_not_expected_is_refused(like):
    with pytest.raises(ValueError, match=r"the buffer holds arrays .*float32.* are expected"):
        unpack(pack({"w": np.zeros(2, np.float32)}), like)


def test_what_is_damaged_is_refused():
    like = {"w": np.ones(100, np.float32)}
    buffer = pack(like)
    with pytest.raises(ValueError, match="it was cut off"):
        unpack(buffer[:-128], like)
    for damaged in (b"", buffer[:10], b"\xff" * 64):
        with pytest.raises(ValueError, match="does not begin as one that `pack` has made"):
            unpack(damaged, like)


@pytest.mark.parametrize("leaf", ["text", jax.ShapeDtypeStruct((2,), np.float32)], ids=repr)
def test_what_is_no_array_cannot_be_packed(leaf):
    with pytest.raises(TypeError):
        pack({"w": leaf})
