"""Each shape of `scale_by_staleness` does what its paper says, staleness by staleness."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp.mitigations import scale_by_staleness

# How to make it, and its factor at staleness tau in NumPy.
SHAPES = {
    "inverse": (lambda: scale_by_staleness(), lambda tau: 1 / max(1, tau)),
    "square root": (lambda: scale_by_staleness(0.5), lambda tau: 1 / np.sqrt(max(1, tau))),
    "steep": (lambda: scale_by_staleness(exponent=2.5), lambda tau: max(1, tau) ** -2.5),
    "off": (lambda: scale_by_staleness(0.0), lambda tau: 1.0),
    "polynomial": (lambda: scale_by_staleness(shape="polynomial"), lambda tau: 1 / (1 + tau)),
    "FedBuff": (lambda: scale_by_staleness(0.5, "polynomial"), lambda tau: 1 / np.sqrt(1 + tau)),
    "exponential": (
        lambda: scale_by_staleness(0.01, "exponential"),
        lambda tau: np.exp(-0.01 * tau),
    ),
    "threshold": (
        lambda: scale_by_staleness(shape="threshold"),
        lambda tau: 1 if tau <= 4 else 1 / (tau - 4 + 1),
    ),
    "soft threshold": (
        lambda: scale_by_staleness(0.25, "threshold", threshold=2),
        lambda tau: 1 if tau <= 2 else 1 / (0.25 * (tau - 2) + 1),
    ),
}
everyone = pytest.mark.parametrize(("make", "factor"), SHAPES.values(), ids=SHAPES)
DELTA = {"w": np.array([4.0, -8.0], np.float32), "b": np.float32(0.5)}


def extras(staleness):
    """What the server passes, and something that a later version of it may pass."""
    others = {"lag": jnp.int32(1), "worker": jnp.int32(2), "num_workers": jnp.int32(4)}
    return {"staleness": staleness, **others, "phase_of_the_moon": jnp.float32(0.3)}


def apply(transform, delta, staleness):
    return transform.update(delta, transform.init(delta), delta, **extras(staleness))


def assert_close(tree, expected):
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    for leaf, other in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
        assert leaf.dtype == jnp.float32
        np.testing.assert_allclose(leaf, other, rtol=3e-6)


@everyone
@pytest.mark.parametrize("tau", [0, 1, 2, 3, 4, 5, 17, 4000])
def test_a_delta_is_scaled_as_numpy_would(make, factor, tau):
    scaled, _ = apply(make(), jax.tree.map(jnp.asarray, DELTA), jnp.int32(tau))
    assert_close(scaled, jax.tree.map(lambda leaf: np.float32(leaf * factor(tau)), DELTA))


@everyone
def test_it_composes_before_and_after_others(make, factor):
    delta = jax.tree.map(jnp.asarray, DELTA)
    norm = np.sqrt(16.0 + 64.0 + 0.25)
    before = optax.chain(make(), optax.clip_by_global_norm(1.0), optax.scale(3.0))
    after = optax.chain(optax.clip_by_global_norm(1.0), make(), optax.trace(0.9))
    for tau in (0, 3):
        clip = min(1.0, 1 / (norm * factor(tau)))
        expected = jax.tree.map(lambda leaf, c=clip, t=tau: 3 * leaf * factor(t) * c, DELTA)
        assert_close(apply(before, delta, jnp.int32(tau))[0], expected)
        expected = jax.tree.map(lambda leaf, t=tau: leaf / norm * factor(t), DELTA)
        assert_close(apply(after, delta, jnp.int32(tau))[0], expected)


@everyone
@pytest.mark.every(3)
def test_a_server_takes_it(make, factor):
    server = ssp.Server({"w": jnp.zeros(2)}, make(), weight="sum")
    server.merge([{"w": jnp.array([4.0, -8.0])}], staleness=3)
    np.testing.assert_allclose(server.params["w"], np.array([4, -8]) * factor(3), rtol=1e-6)


@pytest.mark.parametrize("shape", ["inverse", "polynomial", "exponential", "threshold"])
def test_without_an_exponent_nothing_changes_by_a_single_bit(shape):
    transform = scale_by_staleness(exponent=0, shape=shape)
    delta = {"w": jnp.asarray(np.random.default_rng(0).normal(size=50).astype(np.float32))}
    for tau in (0, 1, 7, 123):
        scaled, _ = apply(transform, delta, jnp.int32(tau))
        np.testing.assert_array_equal(scaled["w"], delta["w"])


def test_other_dtypes_stay_what_they_are():
    delta = {"w": jnp.full(2, 3, jnp.bfloat16)}
    scaled, _ = apply(scale_by_staleness(), delta, jnp.int32(2))
    assert scaled["w"].dtype == jnp.bfloat16
    assert scaled["w"].astype(jnp.float32).tolist() == [1.5, 1.5]


def test_it_has_no_state():
    assert jax.tree.leaves(scale_by_staleness().init(DELTA)) == []


def test_staleness_must_be_given():
    with pytest.raises(TypeError, match="staleness"):
        scale_by_staleness().update(DELTA, optax.EmptyState())
