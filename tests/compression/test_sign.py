"""Sign sends a bit for each number and the mean magnitude of each leaf."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given

from jax_ssp.compression import Sign, compress, nbytes, residual_of
from tests.helpers.formats import ARRAYS, QUICK, encoding, layout, normal, round_trip
from tests.helpers.formats_in_numpy import sign_in_numpy, wide


@QUICK
@given(ARRAYS)
def test_sign_loses_what_its_paper_says(x):
    """|x - C(x)|^2 = (1 - |x|_1^2 / (n |x|_2^2)) |x|^2: Karimireddy et al."""
    arrived = wide(round_trip(Sign(), jnp.asarray(x)))
    assume(np.isfinite(arrived).all())
    x = wide(x)
    square = (x**2).sum()
    expected = square - np.abs(x).sum() ** 2 / max(x.size, 1)
    smallest = 2 * x.size * float(np.finfo(np.float32).tiny)  # below it the mean may arrive as 0
    limit = 1e-5 * square + x.size * smallest**2
    np.testing.assert_allclose(((x - arrived) ** 2).sum(), expected, rtol=0, atol=limit)


def test_a_leaf_too_small_for_a_mean_arrives_as_zeros_and_is_kept():
    delta = jnp.full(6, float(np.finfo(np.float32).tiny))
    message, decoded, residual = compress(Sign(), delta, residual_of(delta))
    assert float(message[0]["scale"]) == 0.0
    assert decoded.tolist() == [0.0] * 6
    assert residual.tolist() == delta.tolist()


def test_signs_are_packed_8_a_byte_and_that_of_0_is_positive(first):
    x = jnp.asarray([0.0, -0.0, 1.0, -1.0, -2.0, 2.0, 3.0, -3.0, -6.0], first)
    (message,) = encoding(Sign())(x)
    assert [f"{byte:08b}" for byte in message["signs"].tolist()] == ["11100110", "00000000"]
    assert (message["scale"].dtype, float(message["scale"])) == (jnp.float32, 2.0)
    arrived = Sign().decode([message], like=x)
    assert arrived.dtype == first
    assert arrived.tolist() == [2, 2, 2, -2, -2, 2, 2, -2, -2]


def test_the_scale_arrives_unrounded(first):
    x = normal((37,), dtype=first)
    (message,) = encoding(Sign())(x)
    arrived = wide(jax.jit(lambda m: Sign().decode(m, like=x))([message]))
    np.testing.assert_array_equal(np.abs(arrived), wide(message["scale"]))


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 300])
def test_sign_takes_a_bit_a_number_and_four_bytes_a_leaf(size):
    (message,) = jax.eval_shape(Sign().encode, normal((1, size, 1)))
    assert layout(message)[1] == [((), jnp.float32), ((-(-size // 8),), jnp.uint8)]
    assert nbytes(message) == -(-size // 8) + 4


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_leaf_with_a_number_that_is_not_finite_arrives_as_nans(bad):
    tree = {"a": normal((9,)).at[4].set(bad), "b": normal((9,), 1)}
    arrived = round_trip(Sign(), tree)
    assert np.isnan(arrived["a"]).all()
    np.testing.assert_allclose(arrived["b"], sign_in_numpy(np.asarray(tree["b"])), rtol=1e-6)


@pytest.mark.slow
def test_the_mean_of_large_numbers_is_finite():
    for size in (1, 6, 7, 300):
        x = jnp.full(size, 3.3e38).at[0].multiply(-1)
        np.testing.assert_allclose(round_trip(Sign(), x), x, rtol=1e-6)


@pytest.mark.slow
def test_a_mean_beyond_float32_arrives_as_nans(x64):
    x = jnp.array([1e300, 1.0])
    assert np.isnan(round_trip(Sign(), x)).all()
    _, _, residual = compress(Sign(), x, residual_of(x))
    assert residual.tolist() == [0.0, 0.0]


def test_a_leaf_of_zeros_arrives_as_zeros():
    with jax.debug_nans(True):
        for size in (0, 1, 9):
            x = jnp.zeros(size)
            arrived = np.asarray(Sign().decode(Sign().encode(x), like=x))
            assert arrived.tobytes() == np.zeros(size, np.float32).tobytes()
