"""TopK sends the largest numbers of each leaf, as many as it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from jax_ssp.compression import RandK, TopK, compress, nbytes, residual_of
from tests.helpers.formats import (
    ARRAYS,
    QUICK,
    assert_same,
    compressing,
    layout,
    normal,
    round_trip,
)
from tests.helpers.formats_in_numpy import count, wide


@pytest.mark.parametrize("tenths", [1, 7])
@QUICK
@given(ARRAYS)
@pytest.mark.every(2)
def test_top_k_keeps_its_share_of_the_square(tenths, x):
    """|x - C(x)|^2 <= (1 - k / n) |x|^2: Stich et al., lemma A.1."""
    arrived = wide(round_trip(TopK(tenths / 10), jnp.asarray(x)))
    x = wide(x)
    lost = 1 - count(x.size, tenths) / max(x.size, 1)
    assert ((x - arrived) ** 2).sum() <= lost * (x**2).sum() * (1 + 1e-12)


def test_what_top_k_sends_arrives_bit_for_bit_and_the_rest_is_kept(first):
    tree = {"w": normal((20, 30), dtype=first), "s": normal((), 1, first)}
    _, decoded, residual = compressing(TopK())(tree, residual_of(tree))
    for leaf, sent, kept in zip(*map(jax.tree.leaves, (tree, decoded, residual)), strict=True):
        leaf, sent, kept = map(np.asarray, (leaf, sent, kept))
        arrived = sent != 0
        assert arrived.sum() == count(leaf.size, 1)
        assert sent[arrived].tobytes() == leaf[arrived].tobytes()
        assert kept.tobytes() == np.where(arrived, 0, leaf).astype(kept.dtype).tobytes()


@pytest.mark.slow
def test_of_a_narrow_leaf_the_residual_keeps_what_the_dtype_cannot_hold():
    tree = jnp.ones(3, jnp.bfloat16)
    residual = jnp.array([0.5, 2.0**-10, 0.25])
    message, decoded, after = compress(TopK(0.5), tree, residual)
    assert message[0]["values"].tolist() == [1.5, 1.25]
    assert decoded.tolist() == [1.5, 0.0, 1.25]
    assert after.tolist() == [0.0, 1 + 2.0**-10, 0.0]
    _, decoded, after = compress(TopK(0.1), tree[:1], residual[1:2])
    assert (decoded.tolist(), after.tolist()) == ([1.0], [2.0**-10])


@pytest.mark.slow
def test_a_fraction_of_1_sends_every_bit_of_a_tree():
    tree = jnp.asarray(np.float32([-0.0, 1e-45, 3.4028235e38, 0.0, -1.1754944e-38, 1.5]))
    assert_same(round_trip(TopK(1), tree), tree)
    assert_same(TopK(1.0).decode(TopK(1.0).encode(tree), like=tree), tree)


def test_of_equal_magnitudes_the_first_are_sent():
    x = jnp.tile(jnp.array([1.0, -1.0]), 200)
    assert round_trip(TopK(), x).tolist() == [1, -1] * 20 + [0] * 360
    (message,) = jax.vmap(TopK().encode)(jnp.tile(x, (3, 1)))
    assert message["places"].tolist() == [list(range(40))] * 3
    assert message["values"].tolist() == [x[:40].tolist()] * 3


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_the_first_to_be_sent(bad, first):
    x = normal((30,), dtype=first, scale=1e30).at[17].set(bad)
    arrived = np.asarray(round_trip(TopK(), x))
    largest = np.argsort(-np.abs(np.delete(np.asarray(x), 17)))[:2]
    largest = largest + (largest >= 17)
    assert set(np.flatnonzero(arrived)) == {17, *largest.tolist()}
    np.testing.assert_array_equal(arrived[17], bad)


@pytest.mark.slow
def test_where_all_that_was_sent_is_not_finite_the_rest_arrives_as_nans():
    x = normal((40,))
    some, many = x.at[:3].set(np.nan), x.at[:5].set(np.inf)
    assert np.isfinite(round_trip(TopK(), some)).sum() == 37
    arrived = np.asarray(round_trip(TopK(), many))
    assert arrived[:4].tolist() == [np.inf] * 4
    assert np.isnan(arrived[4:]).all()
    _, _, residual = compress(TopK(), many, residual_of(many))
    assert not residual.any()


@pytest.mark.parametrize(
    ("fraction", "size", "sent"),
    [
        (0.1, 0, 0),
        (0.1, 1, 1),
        (0.1, 10, 1),
        (0.1, 11, 2),
        (0.07, 100, 7),  # 0.07 * 100 is 7.000000000000001
        (1e-05, 100, 1),
        (1, 7, 7),
        (np.float64(0.5), 7, 4),
    ],
)
def test_top_k_takes_8_bytes_for_each_number_it_sends(fraction, size, sent):
    (message,) = jax.eval_shape(TopK(fraction).encode, normal((1, size, 1)))
    assert layout(message)[1] == [((sent,), jnp.int32), ((sent,), jnp.float32)]
    assert sorted(message) == ["places", "values"]
    assert nbytes(message) == 8 * sent


def test_a_leaf_with_more_numbers_than_an_int32_can_count_is_refused():
    with pytest.raises(ValueError, match="int32"):
        jax.eval_shape(TopK().encode, jax.ShapeDtypeStruct((2**31 + 1,), jnp.float32))


def test_a_message_of_another_fraction_is_refused():
    message = TopK(0.5).encode(jnp.ones(9))
    with pytest.raises(
        ValueError, match=r"5 values and 5 places where `like` has 1 of 9; .* here 0\.1, of"
    ):
        TopK().decode(message, like=jnp.ones(9))
    for part, said in (("places", "5 values and 4 places"), ("values", "4 values and 5 places")):
        short = {**message[0], part: message[0][part][:4]}
        with pytest.raises(ValueError, match=rf"{said} where `like` has 5 of 9"):
            TopK(0.5).decode([short], like=jnp.ones(9))


@pytest.mark.parametrize("fraction", ["x", "0.1", [], True, 0.1j])
def test_a_fraction_that_is_no_number_is_refused(fraction):
    with pytest.raises(TypeError, match=r"`TopK\(fraction=\.\.\.\)` must be a number, got "):
        TopK(fraction)


@pytest.mark.parametrize("fraction", [0, 0.0, -0.1, 1.5, 2, np.nan, np.inf])
def test_a_fraction_that_is_none_is_refused(fraction):
    with pytest.raises(
        ValueError,
        match=rf"`TopK\(fraction=\.\.\.\)` must be above 0 and at most 1, got {fraction}\.$",
    ):
        TopK(fraction=fraction)


# How many a sparse format sends


@pytest.mark.parametrize(
    "most", [300, pytest.param(2000, marks=pytest.mark.slow)], ids=lambda most: f"n <= {most}"
)
def test_a_fraction_of_k_over_n_sends_k(most):
    """Whatever the division left of it; and a decimal sends as many as it says."""
    for n in range(1, most + 1):
        for k in range(1, n + 1):
            assert TopK(fraction=k / n).count(n) == k
    for n in (100, 1000, 2000):
        for percent in range(1, 101):
            assert TopK(fraction=float(f"0.{percent:02}") if percent < 100 else 1.0).count(n) == (
                -(-n * percent // 100)
            )


@pytest.mark.parametrize("kind", [TopK, RandK])
@pytest.mark.every(2)
def test_a_number_is_sent_of_each_leaf_and_of_a_smaller_one_all(kind):
    tree = {"a": jnp.arange(1.0, 10.0), "b": jnp.ones(2), "c": jnp.zeros(0), "d": jnp.ones(())}
    drawn = (jax.random.key(0),) if kind.random else ()
    message = kind(k=3).encode(tree, *drawn)
    assert [part["values"].size for part in message] == [3, 2, 0, 1]
    decoded = kind(k=3).decode(message, like=tree)
    assert_same(decoded["b"], tree["b"])
    assert_same(decoded["d"], tree["d"])
    assert np.count_nonzero(decoded["a"]) == 3
    with pytest.raises(ValueError, match=r"takes `fraction` or `k`, not both.*set the other to N"):
        kind(0.5, 3)
    with pytest.raises(ValueError, match=rf"`{kind.__name__}\(k=...\)` must be at least 1, got 0"):
        kind(k=0)
    with pytest.raises(ValueError, match="decode with the shapes and the `k`, here 2, of the enc"):
        kind(k=2).decode(message, like=tree)
    assert kind() == kind(0.1)
