"""The rules of adoption, from their equations."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jax_ssp as ssp
from jax_ssp.layout import Layout, Statistic
from jax_ssp.worker.adopt import check_adopt, entered, gone_on, mixed

PARAMS = {"w": np.zeros(2, np.float32), "mean": np.zeros(2, np.float32)}
LAYOUT = Layout.of(PARAMS, {"w": False, "mean": True})
share = st.floats(0, 1, width=32, allow_subnormal=False)
number = st.floats(-8, 8, width=32, allow_subnormal=False)


def params(w, mean):
    return {"w": jnp.full(2, w, jnp.float32), "mean": jnp.full(2, mean, jnp.float32)}


def delta(w, value, move):
    statistic = Statistic(jnp.full(2, value, jnp.float32), jnp.full(2, move, jnp.float32))
    return {"w": jnp.full(2, w, jnp.float32), "mean": statistic}


@settings(max_examples=50, deadline=None)
@given(alpha=share, values=st.lists(number, min_size=8, max_size=8))
def test_a_mix_takes_a_share_of_where_the_worker_was(alpha, values):
    old_w, old_mean, base_w, base_mean, one, two, first, last = values
    moves = delta(one, first, 0.0), delta(two, last, 0.0)
    carried = mixed(
        LAYOUT, np.float32(alpha), params(old_w, old_mean), params(base_w, base_mean), *moves
    )
    local = old_w + one + two
    reached = base_w + carried["w"]
    np.testing.assert_allclose(reached, alpha * local + (1 - alpha) * base_w, rtol=1e-4, atol=1e-4)
    # A statistic is where the last move has brought it, and stays between there and the base.
    value = np.asarray(carried["mean"].value)
    expected = alpha * last + (1 - alpha) * base_mean
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-4)
    assert ((min(last, base_mean) <= value) & (value <= max(last, base_mean))).all()
    np.testing.assert_allclose(carried["mean"].move, value - base_mean, atol=1e-5)


def test_a_bad_clock_is_not_carried_over():
    nan = delta(np.nan, np.nan, np.nan)
    carried = mixed(LAYOUT, np.float32(0.5), params(2, 4), params(1, 1), nan)
    np.testing.assert_array_equal(carried["w"], np.full(2, 0.5, np.float32))
    np.testing.assert_array_equal(carried["mean"].value, np.full(2, 2.5, np.float32))
    after = gone_on(LAYOUT, params(2, 4), nan)
    np.testing.assert_array_equal(after["w"], np.full(2, 2, np.float32))
    np.testing.assert_array_equal(after["mean"], np.full(2, 4, np.float32))


def test_progress_that_is_rebased_keeps_what_is_trained_and_its_statistics_enter_by_their_rule():
    carried = entered(LAYOUT, params(10, 10), delta(1, 3, 2))
    np.testing.assert_array_equal(carried["w"], np.ones(2, np.float32))
    # 10 + 2 lies beyond both what the base has (10) and what was seen (3), so it stays at 10.
    np.testing.assert_array_equal(carried["mean"].value, np.full(2, 10, np.float32))
    np.testing.assert_array_equal(carried["mean"].move, np.zeros(2, np.float32))


@pytest.mark.parametrize("adopt", ["rebase", ssp.Mix(0.5)])
def test_a_rule_is_one(adopt):
    assert check_adopt(adopt) is adopt


@pytest.mark.parametrize("adopt", ["mix", None, 0.5, ssp.Mix])
def test_what_is_no_rule_is_refused(adopt):
    with pytest.raises((ValueError, TypeError), match=r'`adopt` must be "rebase" or `ssp\.Mix'):
        check_adopt(adopt)
