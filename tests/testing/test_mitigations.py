"""Transforms that no server could work with are caught, each for what is wrong with it."""

import jax
import jax.numpy as jnp
import optax
import pytest

import jax_ssp as ssp
from jax_ssp.server.transforms import FACTS
from jax_ssp.testing import check_mitigation, deltas


def made(update, init=lambda params: ()):
    return optax.GradientTransformationExtraArgs(init, update)


def scaled(tree, factor):
    return jax.tree.map(lambda leaf: leaf * jnp.asarray(factor, leaf.dtype), tree)


def test_what_is_right_passes():
    check_mitigation(ssp.mitigations.scale_by_staleness(), corrects=True, keeps_out=True)


def flat(updates, state, params=None, **extra):
    return list(updates.values()), state


def widened(updates, state, params=None, **extra):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), updates), state


def narrow(updates, state, params=None, *, staleness):
    """Takes nothing that it does not know."""
    return updates, state


def branches(updates, state, params=None, *, staleness, **extra):
    return scaled(updates, 0.5 if staleness > 3 else 1.0), state


def divides(updates, state, params=None, *, staleness, **extra):
    return scaled(updates, 1 / staleness), state


def grows(updates, state, params=None, **extra):
    return updates, (*state, jnp.zeros(()))


def wants_base(updates, state, params=None, **extra):
    return jax.tree.map(
        lambda u, p, b: u + 0 * (p - b), updates, params, extra["stale_params"]
    ), state


def uphill(updates, state, params=None, **extra):
    return scaled(updates, -1.0), state


SEEN = []


def remembers(updates, state, params=None, **extra):
    SEEN.append(1)
    return scaled(updates, 1.0 / len(SEEN)), state


BROKEN = {
    "another structure": (flat, "Structure, shapes and dtypes are kept"),
    "another dtype": (widened, "Structure, shapes and dtypes are kept"),
    "no extra arguments": (narrow, "TypeError: .*unexpected keyword"),
    "a branch": (branches, "Jitted and scanned .*TracerBool"),
    "a division by 0": (divides, "gives finite numbers"),
    "a state that grows": (grows, "the state has another layout"),
    "its base from the rest": (wants_base, "It needs no `stale_params`, .*KeyError"),
    "uphill": (uphill, "A server takes it. But ValueError: .*uphill"),
    "a state beside the state": (remembers, "what it remembers is in its state alone"),
}


@pytest.mark.parametrize(("update", "said"), BROKEN.values(), ids=BROKEN)
@pytest.mark.every(3)
def test_what_is_wrong_is_caught_and_seen_again(update, said):
    with pytest.raises(AssertionError, match=f"(?s){said}.*See it again: .*seed=3"):
        check_mitigation(made(update), seed=3)


def test_a_transform_is_told_all_that_a_server_tells_it():
    assert set(FACTS) < set(deltas.extras(jnp.int32(1), {}))


def test_the_parameters_are_no_state_that_may_be_given_away():
    """The server donates the state, and these would be deleted with it."""
    keeps = made(
        lambda updates, state, params=None, **extra: (updates, state), lambda params: params
    )
    with pytest.raises(AssertionError, match="Its state is arrays of its own"):
        check_mitigation(keeps)


@pytest.mark.slow
def test_what_is_promised_is_held():
    trace = optax.with_extra_args_support(optax.trace(0.9))
    check_mitigation(trace)
    with pytest.raises(AssertionError, match="spoils nothing that comes after it"):
        check_mitigation(trace, keeps_out=True)
    with pytest.raises(AssertionError, match="A delta that is not stale passes as it is"):
        check_mitigation(made(lambda u, s, p=None, **extra: (scaled(u, 0.5), s)), corrects=True)


@pytest.mark.parametrize("given", [3, None, optax.sgd])
def test_what_is_no_transform_is_a_type_error(given):
    with pytest.raises(TypeError, match=r"`check_mitigation\(transform=...\)` must be an optax"):
        check_mitigation(given)
