"""Each mitigation against its paper: the formula in a few lines of NumPy, over several merges."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_ssp.mitigations import (
    clip_outliers,
    delay_compensation,
    delayed_nesterov,
    drop_stale,
    elastic_average,
    outer,
    scale_by_gap,
    scale_by_staleness,
    skip_nonfinite,
)
from tests.helpers import deltas
from tests.helpers.deltas import assert_close, assert_same

SHAPE = (7,)


def vectors(seed=0, length=10):
    """Merges of one vector each."""
    return deltas.merges(jnp.zeros(SHAPE), seed, length)


def numbers(stacked):
    """Deltas, parameters and bases in float64, merge by merge."""
    parts = (stacked.delta, stacked.params, stacked.base)
    return zip(*(np.asarray(part, np.float64) for part in parts), strict=True)


def assert_gives(transform, stacked, expected):
    given, state = deltas.run(transform, stacked)
    np.testing.assert_allclose(np.stack(given), np.stack(expected), rtol=2e-5, atol=1e-7)
    return state


def push(transform, state, *values, **about):
    """Give it deltas of these values, one after the other; what it gives, and the state."""
    given = []
    for value in values:
        delta = jnp.asarray(value, jnp.float32)
        about = {**deltas.extras(jnp.int32(0), delta), **about}
        applied, state = transform.update(delta, state, delta, **about)
        given.append(applied.tolist())
    return given, state


# Delay compensation.


def test_delay_compensation_is_dc_asgd():
    eta, lam = 0.1, 0.04
    expected = []
    for delta, w, backup in numbers(vectors()):
        g = -delta / eta
        expected.append(-eta * (g + lam * g * g * (w - backup)))
    assert_gives(delay_compensation(lam, eta), vectors(), expected)


def test_adaptive_delay_compensation_is_dc_asgd_a():
    eta, lam, m, epsilon = 0.1, 2.0, 0.95, 1e-7
    mean_square, expected = 0.0, []
    for delta, w, backup in numbers(vectors()):
        g = -delta / eta
        mean_square = m * mean_square + (1 - m) * g * g
        lam_t = lam / np.sqrt(mean_square + epsilon)
        expected.append(-eta * (g + lam_t * g * g * (w - backup)))
    assert_gives(delay_compensation(lam, eta, adaptive=True), vectors(), expected)


def test_adaptive_delay_compensation_reads_its_decay_and_epsilon():
    g, lam, m, epsilon = 3.0, 2.0, 0.5, 0.25
    transform = delay_compensation(lam, 1.0, True, m, epsilon)
    applied, _ = transform.update(
        jnp.float32(-g), transform.init(jnp.float32(0)), jnp.float32(1), stale_params=jnp.float32(0)
    )
    lam_t = lam / np.sqrt((1 - m) * g**2 + epsilon)
    np.testing.assert_allclose(applied, -(g + lam_t * g**2), rtol=1e-6)


def test_delay_compensation_of_a_quadratic_is_the_fresh_gradient():
    """On f = w^2 / 2 the Hessian is 1, which g^2 is at |g| = 1: the correction is then exact."""
    eta, base, now = 0.5, 1.0, 0.75
    transform = delay_compensation(lam=1.0, learning_rate=eta)
    delta = jnp.float32(-eta * base)
    applied, _ = transform.update(
        delta, transform.init(delta), jnp.float32(now), stale_params=jnp.float32(base)
    )
    np.testing.assert_allclose(applied, -eta * now, rtol=1e-6)


# The gap.


@pytest.mark.parametrize(
    ("weight", "share"), [("mean", 1 / deltas.NUM_WORKERS), ("sum", 1), (0.5, 0.5)]
)
@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999])
@pytest.mark.every(3)
def test_the_gap_is_counted_in_mean_server_steps(decay, weight, share):
    squares, expected = [], []
    for delta, now, base in numbers(vectors()):
        squares.append(delta**2)
        ages = np.arange(len(squares))[::-1]
        c = share * np.sqrt(np.average(squares, axis=0, weights=decay ** ages.astype(float)))
        expected.append(delta / (1 + np.abs(now - base) / c))
    assert_gives(scale_by_gap(decay, weight=weight), vectors(), expected)


def test_one_gap_for_the_whole_tree_is_of_norms():
    zeros = {"w": jnp.zeros((3, 2)), "b": jnp.zeros(())}
    stacked = deltas.merges(zeros)
    given, _ = deltas.run(scale_by_gap(0.9, False, "sum"), stacked)
    flat = lambda tree: np.concatenate(  # noqa: E731
        [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)]
    )
    squares = []
    for merge, one in zip(deltas.each(stacked), given, strict=True):
        delta, now, base = (flat(merge[part]) for part in ("delta", "params", "base"))
        squares.append(delta @ delta)
        c = np.sqrt(np.average(squares, weights=0.9 ** np.arange(len(squares))[::-1]))
        expected = delta / (1 + np.linalg.norm(now - base) / c)
        np.testing.assert_allclose(flat(one), expected, rtol=1e-5)


@pytest.mark.parametrize("elementwise", [True, False])
def test_equal_steps_make_the_gap_one_and_the_staleness(elementwise):
    """And so it is what `scale_by_staleness` is with 1 + tau."""
    step = jnp.array([0.5, -0.25, 2.0])
    transform = scale_by_gap(elementwise=elementwise, weight="sum")
    state = transform.init(step)
    for tau in (0, 1, 2, 7):
        applied, state = transform.update(
            step, state, tau * step, stale_params=jnp.zeros(3), num_workers=4
        )
        np.testing.assert_allclose(applied, step / (1 + tau), rtol=1e-5)


@pytest.mark.parametrize("elementwise", [True, False])
def test_before_any_step_is_known_the_gap_is_one(elementwise):
    """A delta of zeros moves nothing, wherever its base; no 0 / 0."""
    transform = scale_by_gap(elementwise=elementwise)
    zeros, far = jnp.zeros(2), jnp.array([1e3, 0.0])
    applied, state = transform.update(
        zeros, transform.init(zeros), far, stale_params=zeros, num_workers=4
    )
    assert applied.tolist() == [0.0, 0.0]
    applied, _ = transform.update(far, state, zeros, stale_params=zeros, num_workers=4)
    assert applied.tolist() == far.tolist()


# Elastic averaging.


def test_elastic_average_pulls_the_center_to_the_worker():
    alpha = 0.3
    expected = [alpha * (base + delta - center) for delta, center, base in numbers(vectors())]
    assert_gives(elastic_average(alpha), vectors(), expected)


def test_at_one_the_center_is_where_the_worker_is():
    for delta, center, base in numbers(vectors()):
        tree = [jnp.asarray(part, jnp.float32) for part in (delta, center, base)]
        transform = elastic_average(1.0)
        applied, _ = transform.update(
            tree[0], transform.init(tree[1]), tree[1], stale_params=tree[2]
        )
        np.testing.assert_allclose(tree[1] + applied, base + delta, rtol=1e-5, atol=1e-6)


# Optimizers of the server.


@pytest.mark.parametrize(("n", "c"), [(1, 0.0), (1, 1.0), (3, 0.0), (3, 1 / 3), (4, 0.1), (5, 0.2)])
@pytest.mark.every(3)
def test_delayed_nesterov_is_algorithm_3(n, c):
    epsilon, beta = 0.7, 0.9
    m = total = np.zeros(SHAPE)
    expected = []
    for t, (delta, _, _) in enumerate(numbers(vectors(length=12))):
        g = -delta
        total = total + g
        if (t + 1) % n == 0:
            m = beta * m + total / n
            expected.append(-epsilon * ((1 - c * n + c) * beta * m + g / n))
            total = np.zeros(SHAPE)
        else:
            expected.append(-epsilon * (c * beta * m + g / n))
    assert_gives(delayed_nesterov(epsilon, beta, c, n), vectors(length=12), expected)


def test_delayed_nesterov_of_one_is_nesterov():
    both = delayed_nesterov(0.7, 0.9, 0.0, 1), outer(optax.sgd(0.7, momentum=0.9, nesterov=True))
    (one, _), (other, _) = (deltas.run(transform, vectors()) for transform in both)
    assert_close(one, other, rtol=1e-5)


@pytest.mark.parametrize("c", [0.0, 0.25])
def test_delayed_nesterov_moves_as_far_as_one_step_on_the_average(c):
    """Over N merges with all of the momentum in the last, or, from rest, none of it before."""
    n, stacked = 4, vectors(length=4)
    given, _ = deltas.run(delayed_nesterov(0.7, 0.9, c, n), stacked)
    mean = np.mean(np.asarray(stacked.delta, np.float64), axis=0)
    share = 1 - c * n + c
    np.testing.assert_allclose(np.sum(given, axis=0), 0.7 * (1 + share * 0.9) * mean, rtol=1e-5)


def test_outer_sgd_makes_four_nesterov_steps():
    """On a constant gradient, in closed form: the momentum is a geometric sum."""
    g = np.array([0.5, -2.0])
    transform = outer(optax.sgd(0.7, momentum=0.9, nesterov=True))
    given, _ = push(transform, transform.init(jnp.zeros(2)), *([-g] * 4))
    for t, step in enumerate(given):
        momentum = sum(0.9**k for k in range(t + 1))
        np.testing.assert_allclose(step, -0.7 * (1 + 0.9 * momentum) * g, rtol=1e-5)


def test_outer_adam_is_adam_on_the_negated_delta(standard_promotion):
    lr, b1, b2, epsilon = 0.01, 0.9, 0.999, 1e-8
    m = v = np.zeros(SHAPE)
    expected = []
    for t, (delta, _, _) in enumerate(numbers(vectors()), start=1):
        g = -delta
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        expected.append(-lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + epsilon))
    assert_gives(outer(optax.adam(lr)), vectors(), expected)


def test_outer_sgd_at_one_changes_nothing():
    given, _ = deltas.run(outer(optax.sgd(1.0)), vectors())
    assert_same(given, list(vectors().delta))


def test_outer_passes_on_what_it_is_told():
    given, (count, _) = deltas.run(outer(deltas.Counting.make()), vectors())
    assert int(count) == 10
    np.testing.assert_allclose(given[-1], -np.sum(vectors().delta, axis=0), rtol=1e-5)


# Leaving out.


def test_a_stale_delta_never_reaches_the_inner_transform():
    stacked = vectors(length=20)
    transform = drop_stale(9, deltas.Counting.make())
    state = transform.init(stacked.delta[0])
    total, fresh = np.zeros(SHAPE), 0
    for merge, (delta, _, _) in zip(deltas.each(stacked), numbers(stacked), strict=True):
        before = state
        applied, state = deltas.update(transform, state, merge)
        if int(merge["staleness"]) <= 9:
            total, fresh = total + delta, fresh + 1
            np.testing.assert_allclose(applied, total, rtol=1e-5, atol=1e-6)
        else:
            assert not applied.any()
            assert_same(state, before)
    assert int(state[0]) == fresh
    assert 3 <= fresh <= 17  # both happened


@pytest.mark.parametrize(("staleness", "applied"), [(0, 4.0), (16, 4.0), (17, 0.0), (99, 0.0)])
def test_by_default_a_delta_may_be_sixteen_versions_old(staleness, applied):
    transform = drop_stale()
    given, _ = push(transform, transform.init(jnp.zeros(1)), [4.0], staleness=staleness)
    assert given == [[applied]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.every(3)
def test_a_delta_that_is_not_finite_never_reaches_the_inner_transform(bad):
    transform = skip_nonfinite(deltas.Counting.make())
    good = {"w": jnp.ones(3), "b": jnp.float32(2), "h": jnp.ones(2, jnp.bfloat16)}
    about = deltas.extras(jnp.int32(0), good)
    _, state = transform.update(good, transform.init(good), good, **about)
    for name, leaf in good.items():
        for place in range(leaf.size):
            delta = {**good, name: leaf.ravel().at[place].set(bad).reshape(leaf.shape)}
            applied, after = transform.update(delta, state, good, **about)
            assert_same(applied, jax.tree.map(jnp.zeros_like, good))
            assert_same(after, state)
    applied, (count, _) = transform.update(good, state, good, **about)
    assert_same(applied, jax.tree.map(lambda leaf: leaf + leaf, good))
    assert int(count) == 2


@pytest.mark.slow
def test_however_often_it_happens():
    """Unlike `optax.apply_if_finite`."""
    transform = skip_nonfinite()
    given, _ = push(transform, transform.init(jnp.zeros(1)), *[[np.nan]] * 50, [1.0])
    assert given == [[0.0]] * 50 + [[1.0]]


def test_what_is_left_out_has_the_dtype_of_what_is_not():
    """An inner transform may widen."""
    widen = optax.stateless(lambda updates, _: jax.tree.map(lambda u: u.astype("float32"), updates))
    delta = jnp.ones(2, jnp.bfloat16)
    for transform in (skip_nonfinite(widen), drop_stale(3, widen)):
        for staleness in (0, 9):
            applied, _ = transform.update(
                delta * jnp.inf if staleness else delta, transform.init(delta), staleness=staleness
            )
            assert applied.dtype == jnp.float32


# Outliers.


def scaled_norms(seed=3, length=60):
    """Norms around 1, with an outlier now and then, and one infinite, one NaN, one 0."""
    rng = np.random.default_rng(seed)
    norms = np.exp(0.3 * rng.normal(size=length)) * np.where(rng.random(length) < 0.2, 20, 1)
    norms[[20, 30, 40]] = np.inf, np.nan, 0.0
    return norms


@pytest.mark.parametrize("action", ["shrink", "reject"])
@pytest.mark.parametrize(("factor", "window"), [(3.0, 32), (1.5, 3), (2.0, 6), (1.0, 1)])
@pytest.mark.every(11)
def test_outliers_are_those_far_above_the_median(action, factor, window):
    """The rules again, with a list as the window."""
    transform = clip_outliers(factor, window, action)
    direction = {"w": jnp.array([0.6, 0.0]), "b": jnp.float32(0.8)}  # of norm 1
    state = transform.init(direction)
    last, in_a_row, outliers = [], 0, 0
    for norm in scaled_norms():
        delta = jax.tree.map(lambda leaf: leaf * jnp.float32(norm), direction)  # noqa: B023
        applied, state = transform.update(delta, state)
        enough = len(last) >= min(window, 5)
        limit = factor * np.median(last[-window:]) if enough else np.inf
        expected = norm
        if not np.isfinite(norm):
            expected = 0.0
        elif norm > limit:
            outliers += 1
            expected = limit if action == "shrink" else 0.0
            in_a_row += 1
        if expected > 0 or norm == 0:
            in_a_row = 0
        if expected > 0:
            last.append(expected)
        if in_a_row == window:
            last, in_a_row = [], 0
        assert_close(applied, jax.tree.map(lambda leaf: leaf * jnp.float32(expected), direction))  # noqa: B023
    assert outliers >= 5


def test_nothing_is_an_outlier_before_five_are_known():
    transform = clip_outliers()
    state = transform.init(jnp.zeros(1))
    given, state = push(transform, state, [1.0], [1e3], [1.0], [1e6], [1.0])
    assert given == [[1.0], [1e3], [1.0], [1e6], [1.0]]
    assert push(transform, state, [1e6])[0] == [[3.0]]


def test_zeros_do_not_make_everything_an_outlier():
    transform = clip_outliers(factor=2.0, window=4)
    state = transform.init(jnp.zeros(1))
    _, state = push(transform, state, *[[1.0]] * 4, *[[0.0]] * 20)
    assert push(transform, state, [1.5], [9.0])[0] == [[1.5], [2.0]]


@pytest.mark.parametrize(("action", "within"), [("shrink", 24), ("reject", 12)])
def test_norms_that_grow_for_good_are_let_through_in_the_end(action, within):
    transform = clip_outliers(factor=2.0, window=8, action=action)
    state = transform.init(jnp.zeros(1))
    _, state = push(transform, state, *[[1.0]] * 8)
    given, state = push(transform, state, *[[10.0]] * within)
    assert given[0] == [2.0 if action == "shrink" else 0.0]
    assert given[-1] == [10.0]
    assert push(transform, state, [10.0])[0] == [[10.0]]


def test_an_outlier_now_and_then_is_rejected_however_many_there_are():
    transform = clip_outliers(factor=2.0, window=4, action="reject")
    state = transform.init(jnp.zeros(1))
    given, _ = push(transform, state, *[[1.0]] * 5, *[[1.0], [50.0]] * 20)
    assert given[5:] == [[1.0], [0.0]] * 20


def test_infinities_say_nothing_about_the_usual_norm():
    """However many are rejected, what was usual before still is."""
    transform = clip_outliers(factor=2.0, window=2, action="reject")
    state = transform.init(jnp.zeros(1))
    given, _ = push(transform, state, [1.0], [1.0], *[[np.inf]] * 5, [50.0], [1.0])
    assert given[2:] == [[0.0]] * 6 + [[1.0]]


def test_half_precision_does_not_lose_a_norm():
    """In bfloat16 a sum of 1000 ones ends at 256."""
    transform = clip_outliers(factor=1.0, window=1)
    ones = jnp.ones(1000, jnp.bfloat16)
    _, state = transform.update(ones, transform.init(ones))
    np.testing.assert_allclose(state.norms, np.sqrt(1000), rtol=1e-6)


# Half precision.


@pytest.mark.parametrize(
    "make",
    [
        lambda: delay_compensation(2.0, 0.1, adaptive=True),
        lambda: delayed_nesterov(),
        lambda: scale_by_gap(),
        lambda: elastic_average(),
    ],
    ids=["delay_compensation", "delayed_nesterov", "scale_by_gap", "elastic_average"],
)
@pytest.mark.every(5)
def test_half_precision_is_rounded_once(make):
    """The sums are taken in float32: the same as from the widened numbers, rounded at the end."""
    half = deltas.merges(jnp.zeros(200, jnp.bfloat16), length=30)
    full = deltas.merges(jnp.zeros(200, jnp.bfloat16), length=30)
    for name in ("delta", "params", "base"):
        setattr(full, name, getattr(full, name).astype(jnp.float32))
    (given, state), (expected, state_of_full) = (deltas.run(make(), each) for each in (half, full))
    assert_close(state, state_of_full)
    for one, other in zip(given, expected, strict=True):
        assert one.dtype == jnp.bfloat16
        np.testing.assert_allclose(
            np.asarray(one, np.float32), other.astype(jnp.bfloat16).astype(np.float32), rtol=4e-3
        )


# What is refused.

NAN, INF = float("nan"), float("inf")
OUTSIDE = {
    "scale_by_staleness(exponent=...)": (
        lambda bad: scale_by_staleness(bad),
        *("must be (finite|non-negative)", [-0.5, -1, NAN, INF]),
    ),
    "scale_by_staleness(shape=...)": (
        lambda bad: scale_by_staleness(shape=bad),
        *('must be "inverse", "polynomial", "exponential" or "threshold"', ["linear"]),
    ),
    "scale_by_staleness(threshold=...)": (
        lambda bad: scale_by_staleness(threshold=bad),
        *("must be non-negative", [-1]),
    ),
    "drop_stale(max_staleness=...)": (lambda bad: drop_stale(bad), "must be non-negative", [-1]),
    "delay_compensation(lam=...)": (
        lambda bad: delay_compensation(bad),
        *("must be (finite|non-negative)", [-0.1, NAN, INF]),
    ),
    "delay_compensation(learning_rate=...)": (
        lambda bad: delay_compensation(learning_rate=bad),
        *("must be (finite|positive)", [0, -0.1, NAN, INF]),
    ),
    "delay_compensation(decay=...)": (
        lambda bad: delay_compensation(decay=bad),
        *("must be at least 0 and less than 1", [1, -0.1, NAN]),
    ),
    "delay_compensation(epsilon=...)": (
        lambda bad: delay_compensation(epsilon=bad),
        *("must be (finite|positive)", [0.0, -1e-7, NAN]),
    ),
    "scale_by_gap(decay=...)": (
        lambda bad: scale_by_gap(bad),
        *("must be at least 0 and less than 1", [1.0, -0.1, NAN]),
    ),
    "scale_by_gap(weight=...)": (
        lambda bad: scale_by_gap(weight=bad),
        *('must be "mean", "sum" or a number|must be (finite|positive)', ["all", 0, -1.0, INF]),
    ),
    "delayed_nesterov(learning_rate=...)": (
        lambda bad: delayed_nesterov(bad),
        *("must be (finite|positive)", [0, -0.7, NAN]),
    ),
    "delayed_nesterov(momentum=...)": (
        lambda bad: delayed_nesterov(momentum=bad),
        *("must be at least 0 and less than 1", [1, -0.9, INF]),
    ),
    "delayed_nesterov(activation=...)": (
        lambda bad: delayed_nesterov(activation=bad, buffer=4),
        *(r"must be between 0 and 0\.25, 1 / buffer at 4", [0.26, -0.1]),
    ),
    "delayed_nesterov(buffer=...)": (
        lambda bad: delayed_nesterov(buffer=bad),
        *("must be at least 1", [0, -4]),
    ),
    "elastic_average(alpha=...)": (
        lambda bad: elastic_average(bad),
        *("must be above 0 and at most 1", [0, -0.5, 1.5, NAN]),
    ),
    "clip_outliers(factor=...)": (
        lambda bad: clip_outliers(bad),
        *("must be at least 1|must be finite", [0.5, 0, -3, NAN]),
    ),
    "clip_outliers(window=...)": (
        lambda bad: clip_outliers(window=bad),
        *("must be at least 1", [0, -32]),
    ),
    "clip_outliers(action=...)": (
        lambda bad: clip_outliers(action=bad),
        *('must be "shrink" or "reject"', ["drop"]),
    ),
}
NOT_NUMBERS = [field for field in OUTSIDE if "shape" not in field and "action" not in field]
FLAGS = {
    "delay_compensation(adaptive=...)": lambda bad: delay_compensation(adaptive=bad),
    "scale_by_gap(elementwise=...)": lambda bad: scale_by_gap(elementwise=bad),
}
INNER = {
    "drop_stale(inner=...)": lambda bad: drop_stale(inner=bad),
    "skip_nonfinite(inner=...)": skip_nonfinite,
    "outer(optimizer)": outer,
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, bad) for field, row in OUTSIDE.items() for bad in row[2]]
)
def test_a_value_that_makes_no_sense_is_refused(field, value):
    make, must, _ = OUTSIDE[field]
    with pytest.raises(ValueError, match=must) as caught:
        make(value)
    assert str(caught.value).startswith(f"`{field}` must be ")
    assert f"got {value!r}" in str(caught.value)


@pytest.mark.parametrize("field", NOT_NUMBERS)
@pytest.mark.parametrize("value", [True, None, [1]])
def test_what_is_not_a_number_is_refused(field, value):
    with pytest.raises(TypeError) as caught:
        OUTSIDE[field][0](value)
    assert str(caught.value).startswith(f"`{field}` must be a")
    assert f"got {value!r}" in str(caught.value)


@pytest.mark.parametrize(
    "field", ["scale_by_staleness(threshold=...)", "drop_stale(max_staleness=...)"]
)
def test_versions_are_whole(field):
    with pytest.raises(TypeError, match=r"must be an integer, got 2\.5"):
        OUTSIDE[field][0](2.5)


@pytest.mark.parametrize("field", FLAGS)
def test_a_flag_is_true_or_false(field):
    with pytest.raises(TypeError, match=r"must be True or False, got 2\.0") as caught:
        FLAGS[field](2.0)  # the value of another argument, say
    assert str(caught.value).startswith(f"`{field}`")


@pytest.mark.parametrize("field", INNER)
@pytest.mark.parametrize("value", [0.7, "sgd", optax.sgd])
def test_what_is_not_a_transform_is_refused(field, value):
    with pytest.raises(TypeError, match=r"such as `optax\.sgd\(0\.7\)`, got") as caught:
        INNER[field](value)
    assert str(caught.value).startswith(f"`{field}` must be an optax ")
