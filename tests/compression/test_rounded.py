"""The formats that send every number in fewer bits: bfloat16, float16 and int8."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jax_ssp.compression import BFloat16, Float16, Int8, compress, nbytes, residual_of
from tests.helpers.formats import QUICK, assert_same, encoding, layout, normal, round_trip
from tests.helpers.formats_in_numpy import bfloat16_in_numpy, wide

# Of more than one of them


def test_a_number_that_is_not_finite_takes_only_its_block_with_it():
    good = normal(40)
    for bad in (np.nan, np.inf):
        broken = good.at[9].set(bad)
        there = np.asarray(round_trip(Int8(7), broken))
        assert np.flatnonzero(~np.isfinite(there)).tolist() == list(range(7, 14))
        np.testing.assert_array_equal(there[14:], round_trip(Int8(7), good)[14:])
        there = np.asarray(round_trip(BFloat16(), broken))
        np.testing.assert_array_equal(there, round_trip(BFloat16(), good).at[9].set(bad))


def test_ties_are_rounded_to_even():
    assert round_trip(BFloat16(), jnp.array([1 + 2**-8, 1 + 3 * 2**-8])).tolist() == [1, 1 + 2**-6]
    assert round_trip(Int8(), jnp.array([127.0, 0.5, 1.5, 2.5])).tolist() == [127, 0, 2, 2]


# bfloat16


def test_infinities_keep_their_sign_in_bfloat16():
    x = jnp.array([np.inf, -np.inf, 3.4e38])
    assert round_trip(BFloat16(), x).tolist() == [np.inf, -np.inf, np.inf]


@pytest.mark.slow
def test_what_bfloat16_holds_arrives_unchanged_in_bfloat16():
    for dtype in (jnp.bfloat16, jnp.float8_e4m3fn, jnp.float8_e5m2):
        tree = normal(200, dtype=dtype)
        message, decoded, residual = compress(BFloat16(), tree, residual_of(tree))
        assert_same(decoded, tree)
        assert not residual.any()
        assert message[0].dtype == jnp.bfloat16


def test_the_bits_that_float16_has_more_are_kept_in_the_residual():
    tree = jnp.array([1 + 2.0**-10, 6e-8], jnp.float16)  # the second is subnormal in float16
    _, decoded, residual = compress(BFloat16(), tree, residual_of(tree))
    assert decoded.tolist() == [1.0, float(tree[1])]
    assert residual.tolist() == [2.0**-10, 0.0]


def test_float64_is_rounded_once(x64):
    # By way of float32 it would be a tie, and go down.
    assert round_trip(BFloat16(), jnp.array([1 + 2.0**-8 + 2.0**-40])).tolist() == [1 + 2.0**-7]


def test_the_oracle_of_bfloat16_is_the_one_of_others():
    x = np.random.default_rng(0).normal(size=999).astype(np.float32)
    other = x.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(bfloat16_in_numpy(x), other)


# float16


@pytest.mark.parametrize("size", [7e4, 1e10, 3.4028e38, 1e-10, 1e-30])
def test_float16_neither_overflows_nor_underflows(size):
    """65504 is where it ends, and 6e-5 where it begins to lose bits."""
    x = {"w": jnp.asarray(np.float32(size) * np.float32([1.0, -0.7, 2.0**-10, 1.0 / 3.0]))}
    decoded = round_trip(Float16(), x)
    np.testing.assert_allclose(decoded["w"], x["w"], rtol=2.0**-11)
    with np.errstate(over="ignore"):
        plain = np.asarray(x["w"]).astype(np.float16).astype(np.float32)
    assert not np.allclose(plain, x["w"], rtol=2.0**-11, atol=0)


# Int8


@pytest.mark.parametrize("size", [0, 1, 6, 7, 8, 21, 50])
@pytest.mark.every(5)
def test_int8_takes_a_byte_a_number_and_four_a_block(size):
    (message,) = encoding(Int8(7))(normal((1, size, 1)))
    assert layout(message)[1] == [((-(-size // 7),), jnp.float32), ((size,), jnp.int8)]
    assert nbytes(message) == size + 4 * -(-size // 7)


@QUICK
@given(hnp.arrays(np.float32, 21, elements=st.floats(width=32)))
def test_int8_values_never_go_beyond_127_and_their_products_are_exact(x):
    (message,) = encoding(Int8(7))(jnp.asarray(x))
    values = wide(message["values"]).reshape(3, 7)
    assert np.all(np.abs(values) <= 127)
    scales = wide(message["scales"])[:, None]
    arrived = wide(Int8(7).decode([message], like=x)).reshape(3, 7)
    finite = np.isfinite(x).reshape(3, 7).all(axis=1)
    np.testing.assert_array_equal(arrived[finite], (values[finite] * scales[finite]))
    assert np.isfinite(arrived[finite]).all()
    assert np.isnan(arrived[~finite]).all()


@pytest.mark.parametrize("largest", [0.0, -0.0, 1e-45, 1e-39, 1.2e-38, 1.4e-36])
def test_a_block_too_small_for_a_scale_arrives_as_zeros_and_is_kept(largest):
    delta = jnp.asarray(np.float32([largest, 0.0]))
    message, decoded, residual = compress(Int8(), delta, residual_of(delta))
    assert message[0]["scales"].tolist() == [0.0]
    assert decoded.tolist() == [0.0, 0.0]
    assert residual.tolist() == (delta + 0).tolist()  # JAX on a CPU takes a subnormal for 0


def test_a_block_of_zeros_is_not_divided_by_zero():
    with jax.debug_nans(True):
        assert Int8(2).decode(Int8(2).encode(jnp.zeros(3)), like=jnp.zeros(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("largest", [3.4028235e38, 3.4028233e38, -3.4028235e38, 1e-34])
def test_the_largest_and_smallest_blocks_stay_finite(largest):
    x = np.float32([largest, largest / 2, 0])
    np.testing.assert_allclose(round_trip(Int8(), jnp.asarray(x)), x, rtol=0.01)


def test_float64_beyond_the_range_of_a_scale(x64):
    x = jnp.array([1e-300, 0.0, 1e300, 1.0, 1.0, -0.3])
    np.testing.assert_allclose(round_trip(Int8(2), x), [0, 0, np.nan, np.nan, 1, -0.3], rtol=0.01)


def test_a_message_of_another_block_is_refused():
    message = Int8(4).encode(jnp.ones(9))
    with pytest.raises(
        ValueError, match=r"9 values in 3 blocks where `like` has 9 in 2; .* here 8"
    ):
        Int8(8).decode(message, like=jnp.ones(9))


@pytest.mark.parametrize("block", [2.0, "256", None, True])
def test_a_block_that_is_no_integer_is_refused(block):
    with pytest.raises(TypeError, match=r"`Int8\(block=\.\.\.\)` must be an integer, got"):
        Int8(block)


@pytest.mark.parametrize("block", [0, -1])
def test_a_block_without_numbers_is_refused(block):
    with pytest.raises(
        ValueError, match=rf"`Int8\(block=\.\.\.\)` must be at least 1, got {block}"
    ):
        Int8(block)
