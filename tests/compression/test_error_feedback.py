"""What a message lost is kept and sent later: nothing is lost over many messages."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_ssp.compression import BFloat16, Int8, Sign, compress, residual_of
from tests.helpers.formats import (
    Drawing,
    assert_same_but_for_sums,
    compiled,
    compressing,
    everyone,
    normal,
    rows,
)
from tests.helpers.formats_in_numpy import wide


@everyone
@pytest.mark.every(7)
def test_what_is_too_small_for_the_format_arrives_in_the_mean(format):
    if isinstance(format, Drawing):
        return  # with one key for all messages the same numbers would never be sent
    delta = jnp.array([1.0, 1.0 + 2.0**-11, 1e-3, -1e-3, 3e-4, 0.0])
    once = compressing(format)(delta, residual_of(delta))[1]
    assert not np.allclose(once, delta, rtol=1e-5, atol=0)

    def body(residual, _):
        _, decoded, residual = compress(format, delta, residual)
        return residual, decoded

    rounds = 4000
    residual, decoded = jax.lax.scan(body, residual_of(delta), length=rounds)
    mean = wide(decoded).mean(axis=0)
    # Of the bounded residual, a share of 1 / rounds is missing, and nothing else.
    np.testing.assert_allclose(mean, delta, rtol=0, atol=1e-3)
    np.testing.assert_allclose(mean + wide(residual) / rounds, delta, rtol=0, atol=4e-6)
    if isinstance(format, (BFloat16, Int8)):  # the residual is much smaller than what is sent
        np.testing.assert_allclose(mean, delta, rtol=0, atol=4e-6)


@rows
@pytest.mark.every(11)
def test_the_residual_stays_within_one_message_s_error(format, numpy, bound, first):
    """|e'| <= bound(x + e), however many messages went before."""
    for dtype in (first, "bfloat16"):

        def body(residual, tree):
            _, _, after = compress(format, tree, residual)
            return after, (residual, after)

        trees = normal((300, 500), dtype=dtype)
        _, (before, after) = jax.lax.scan(body, residual_of(trees[0]), trees)
        for tree, kept, left in zip(wide(trees), wide(before), wide(after), strict=True):
            total = tree + kept
            largest = np.maximum(np.abs(total), np.abs(total - left))
            rounding = largest * float(jnp.finfo(dtype).eps)
            assert np.all(np.abs(left) <= bound(total) * (1 + 1e-5) + rounding)


@compiled
@pytest.mark.every(3)
def test_it_runs_in_scan_and_vmap(format):
    trees = {"w": normal((6, 4, 70)), "b": normal((6, 5), dtype="bfloat16")}
    each = [jax.tree.map(lambda leaf, i=i: leaf[i], trees) for i in range(6)]
    start = residual_of(each[0])

    def body(residual, tree):
        message, decoded, residual = compress(format, tree, residual)
        return residual, (message, decoded, residual)

    compare = functools.partial(assert_same_but_for_sums, format)
    _, scanned = jax.lax.scan(body, start, trees)
    outcomes = jax.vmap(functools.partial(compress, format))(trees, residual_of(trees))
    residual = start
    for number, tree in enumerate(each):
        outcome = compressing(format)(tree, residual)
        residual = outcome[2]
        compare(jax.tree.map(lambda leaf, n=number: leaf[n], scanned), outcome)
        alone = compressing(format)(tree, start)
        compare(jax.tree.map(lambda leaf, n=number: leaf[n], outcomes), alone)


def test_error_feedback_fixes_sign_sgd():
    """Counterexample 2 of Karimireddy et al.: without it, x[0] + x[1] never changes."""

    def step(state, _, feedback):
        x, residual = state
        difference, total = jnp.sign(x[0] - x[1]), jnp.sign(x[0] + x[1])
        slope = difference * jnp.array([1.0, -1.0]) + 0.5 * total  # of |x - y| + |x + y| / 2
        _, sent, residual = compress(Sign(), slope, residual)
        return (x - 0.01 * sent, residual if feedback else residual_of(x)), None

    def descend(feedback):
        start = jnp.array([1.005, 0.995])
        steps = functools.partial(step, feedback=feedback)
        return jax.lax.scan(steps, (start, residual_of(start)), length=400)[0][0]

    np.testing.assert_allclose(descend(feedback=False).sum(), 2, rtol=1e-5)
    np.testing.assert_allclose(descend(feedback=True), 0, atol=0.03)
