"""The outer optimizer: Nesterov by its formulas, what is measured, and the rate that is kept."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp.mitigations import correlation
from jax_ssp.mitigations.correlation import measures
from jax_ssp.mitigations.outer import NesterovState, OuterState
from jax_ssp.server.server import Server

PARAMS = {"w": jnp.array([1.0, -2.0, 0.5, 3.0], jnp.float32), "b": jnp.float32(0.5)}
DELTAS = [
    {"w": np.random.default_rng(seed).normal(size=4).astype(np.float32), "b": np.float32(seed / 9)}
    for seed in range(12)
]
DILOCO = optax.sgd(0.7, momentum=0.9, nesterov=True)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(np.float64)


def cosine(one, other):
    one, other = flat(one), flat(other)
    return one @ other / np.sqrt((one @ one) * (other @ other))


def applied(tx, deltas=DELTAS, params=PARAMS):
    """What the transform makes of each delta, and what is measured then."""
    update, state = jax.jit(tx.update), jax.jit(tx.init)(params)
    made = []
    for delta in deltas:
        given, state = update(jax.tree.map(jnp.asarray, delta), state, params)
        known = state.measured if isinstance(state, OuterState) else None
        made.append((flat(given), {} if known is None else measures(known)))
    return made


# Nesterov's momentum.


def nesterov(deltas, rate, momentum, corrects=False):
    m, out = 0.0, []
    for t, delta in enumerate(map(flat, deltas)):
        m = momentum * m - delta
        counted = m / (1 - momentum ** (t + 1)) if corrects else m
        out.append(-rate * (-delta + momentum * counted))
    return out


@pytest.mark.parametrize("corrects", [False, True])
@pytest.mark.parametrize(("rate", "momentum"), [(0.7, 0.9), (0.1, 0.5), (1.0, 0.0)])
@pytest.mark.every(7)
def test_it_is_nesterovs_momentum_by_its_formula(rate, momentum, corrects):
    tx = ssp.outer(learning_rate=rate, momentum=momentum, bias_correction=corrects)
    for (made, _), wanted in zip(
        applied(tx), nesterov(DELTAS, rate, momentum, corrects), strict=True
    ):
        np.testing.assert_allclose(made, wanted, rtol=1e-5, atol=1e-6)


def test_by_default_it_is_what_optax_has_at_dilocos_settings():
    for (own, _), (optaxs, _) in zip(applied(ssp.outer()), applied(ssp.outer(DILOCO)), strict=True):
        np.testing.assert_allclose(own, optaxs, rtol=1e-6, atol=1e-6)


def test_corrected_a_first_merge_goes_as_far_as_all_that_are_the_same():
    tx = ssp.outer(learning_rate=0.1, momentum=0.8, bias_correction=True)
    same = [DELTAS[1]] * 6
    for made, _ in applied(tx, same):
        np.testing.assert_allclose(made, 0.1 / (1 - 0.8) * flat(DELTAS[1]), rtol=1e-5)


# What is measured.


@pytest.mark.parametrize(
    ("tx", "rate", "momentum"),
    [
        (ssp.outer(DILOCO), 0.7, 0.9),
        (ssp.outer(optax.sgd(0.5, momentum=0.5)), 0.5, 0.5),
        (ssp.outer(learning_rate=0.2, momentum=0.8), 0.2, 0.8),
        (ssp.outer(optax.sgd(0.4), measured=True), 0.4, 0.0),
        (ssp.outer(optax.chain(optax.identity(), optax.sgd(0.3, momentum=0.9))), 0.3, 0.9),
    ],
    ids=["diloco", "heavy ball", "own", "none", "chained"],
)
@pytest.mark.every(5)
def test_correlation_and_effective_rate_are_by_their_formulas(tx, rate, momentum):
    (_, first), *others = applied(tx)
    assert first == {}
    for (_, found), delta, before in zip(others, DELTAS[1:], DELTAS, strict=False):
        rho = cosine(delta, before)
        assert found["outer/correlation"] == pytest.approx(rho, abs=1e-5)
        wanted = rate * (1 + momentum / (1 - momentum * rho))
        assert found["outer/effective_rate"] == pytest.approx(wanted, rel=1e-4)


def test_an_effective_rate_is_how_far_a_merge_goes_along_its_own_delta():
    """Over many deltas of an autoregression, whose lags correlate by powers of the first."""
    rng, rho, delta, along = np.random.default_rng(0), 0.6, np.zeros(900), []
    deltas = []
    for _ in range(90):
        delta = rho * delta + np.sqrt(1 - rho**2) * rng.normal(size=900)
        deltas.append({"w": delta.astype(np.float32)})
    made = applied(ssp.outer(), deltas, {"w": jnp.zeros(900)})
    for (given, _), each in zip(made[45:], deltas[45:], strict=True):
        along.append(given @ flat(each) / (flat(each) @ flat(each)))
    told = [found["outer/effective_rate"] for _, found in made[45:]]
    assert np.mean(along) == pytest.approx(0.7 * (1 + 0.9 / (1 - 0.9 * rho)), rel=0.08)
    assert np.mean(told) == pytest.approx(np.mean(along), rel=0.08)


@pytest.mark.parametrize(
    "tx",
    [
        optax.lion(0.1),
        optax.sgd(optax.linear_schedule(1.0, 0.0, 9), momentum=0.9),
        optax.inject_hyperparams(optax.sgd)(learning_rate=0.5, momentum=0.9),
        optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.5, momentum=0.9)),
    ],
    ids=["lion", "schedule", "injected", "clipped"],
)
@pytest.mark.every(5)
def test_of_an_optimizer_whose_rate_is_not_one_number_only_the_correlation_is_told(tx):
    *_, (_, found) = applied(ssp.outer(tx))
    assert set(found) == {"outer/correlation"}


def test_nothing_is_measured_or_kept_where_there_is_no_momentum_or_where_it_is_not_wanted():
    for tx in (
        ssp.outer(optax.sgd(0.5)),
        ssp.outer(momentum=0.0),
        ssp.outer(DILOCO, measured=False),
        ssp.outer(measured=False),
    ):
        state = tx.init(PARAMS)
        assert not isinstance(state, OuterState)
    assert isinstance(ssp.outer(momentum=0.0).init(PARAMS), NesterovState)


def test_a_merge_that_moves_nothing_has_no_correlation_and_leaves_the_next_none():
    none = jax.tree.map(np.zeros_like, DELTAS[0])
    found = [each for _, each in applied(ssp.outer(), [*DELTAS[:2], none, *DELTAS[2:4]])]
    assert [bool(each) for each in found] == [False, True, False, False, True]


# The rate that is kept.


@pytest.mark.slow
def test_auto_keeps_the_effective_rate_whatever_the_correlation():
    rng = np.random.default_rng(1)
    for rho in (0.0, 0.5, 0.9):
        delta, deltas = rng.normal(size=900), []
        for _ in range(50):
            delta = rho * delta + np.sqrt(1 - rho**2) * rng.normal(size=900)
            deltas.append({"w": delta.astype(np.float32)})
        params = {"w": jnp.zeros(900)}
        for tx, kept in (
            (ssp.outer("auto"), 0.7 * 1.9),
            (ssp.outer("auto", effective_rate=0.5), 0.5),
            (ssp.outer("auto", learning_rate=0.1, momentum=0.5), 0.1 * 1.5),
        ):
            told = [each["outer/effective_rate"] for _, each in applied(tx, deltas, params)[20:]]
            assert np.mean(told) == pytest.approx(kept, rel=0.08)


def test_auto_takes_the_rate_by_the_mean_of_past_correlations():
    made, m, weight, velocity = applied(ssp.outer("auto")), 0.0, 0.0, 0.0
    for t, (given, _) in enumerate(made):
        if t > 1:
            m = 0.9 * m + 0.1 * cosine(DELTAS[t - 1], DELTAS[t - 2])
            weight = 0.9 * weight + 0.1
        rate = 1.33 / (1 + 0.9 / (1 - 0.9 * (m / weight if weight else 0.0)))
        velocity = 0.9 * velocity - flat(DELTAS[t])
        wanted = -rate * (0.9 * velocity - flat(DELTAS[t]))
        np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-5)


def test_a_state_in_pieces_knows_what_is_measured_over_all_of_them():
    halves = [{"w": PARAMS["w"][:2]}, {"w": PARAMS["w"][2:]}]
    whole, tx = {"w": PARAMS["w"]}, ssp.outer("auto")
    states, state = list(map(tx.init, halves)), tx.init(whole)
    for delta in DELTAS[:5]:
        parts = [{"w": delta["w"][:2]}, {"w": delta["w"][2:]}]
        pairs = [tx.update(part, each) for part, each in zip(parts, states, strict=True)]
        states = correlation.pooled([each for _, each in pairs])
        given, state = tx.update({"w": delta["w"]}, state)
        joined = np.concatenate([part["w"] for part, _ in pairs])
        np.testing.assert_allclose(joined, given["w"], rtol=1e-5)
        for each in states:
            for name, value in measures(state.measured).items():
                assert measures(each.measured)[name] == pytest.approx(value, rel=1e-4)
        assert states[0].measured.sums is states[1].measured.sums


OUTERS = {"fixed": ssp.outer(), "auto": ssp.outer("auto"), "of sgd": ssp.outer(DILOCO)}


@pytest.mark.parametrize("tx", OUTERS.values(), ids=OUTERS)
@pytest.mark.slow
def test_a_server_on_several_devices_is_the_same_server(tx):
    one, two = Server(PARAMS, tx), Server(PARAMS, tx, device=jax.devices()[:2])
    for delta in DELTAS[:6]:
        one.merge([delta])
        two.merge([delta])
    np.testing.assert_allclose(one.params["w"], two.params["w"], rtol=1e-5)
    pieces, _ = two.states
    (whole,) = correlation.found(one.states[0])
    for known in correlation.found(pieces):
        np.testing.assert_allclose(known.sums, whole.sums, rtol=1e-5)


# What cannot be.


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"optimizer": "best"},
            TypeError,
            r"`outer\(optimizer\)` must be an optax optimizer .* got",
        ),
        ({"optimizer": DILOCO, "momentum": 0.5}, ValueError, r"`outer\(momentum=...\)` is of its"),
        ({"optimizer": DILOCO, "bias_correction": True}, ValueError, r"`outer\(bias_correction"),
        ({"optimizer": 3}, TypeError, r"`outer\(optimizer\)` must be an optax optimizer"),
        ({"learning_rate": 0}, ValueError, r"`outer\(learning_rate=...\)` must be positive, got 0"),
        ({"momentum": 1.0}, ValueError, r"`outer\(momentum=...\)` must be"),
        ({"effective_rate": 1.0}, ValueError, r'`outer\("auto"\)` keeps'),
        (
            {"optimizer": "auto", "effective_rate": 1.0, "learning_rate": 1.0},
            ValueError,
            "in place",
        ),
        ({"optimizer": "auto", "measured": False}, ValueError, "leave `measured` out"),
        ({"measured": "yes"}, TypeError, r"`outer\(measured=...\)` must be"),
    ],
)
def test_what_cannot_be_is_refused_by_name(arguments, error, message):
    with pytest.raises(error, match=message):
        ssp.outer(**arguments)
