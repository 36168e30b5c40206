"""A store in another process, which gets everything as bytes, gives the same bits as one here."""

import jax
import numpy as np
import pytest

import jax_ssp as ssp
from jax_ssp import delays
from tests.helpers.broken_off import gone_on, whole
from tests.helpers.problems import bits, linear
from tests.helpers.store_process import StoreProcess, elsewhere, made
from tests.runtimes.test_modes import MODES, fits

POLICIES = {
    "ssp": ssp.SSP(2),
    "lazy": ssp.SSP(2, "lazy"),
    "bsp": ssp.BSP(),
    "kasync": ssp.KAsync(2),
    "ksync": ssp.KSync(2),
}
TRANSFORMS = {
    "plain": {},
    "staleness": {"delta_tx": ["jax_ssp.mitigations:scale_by_staleness", {"exponent": 1.0}]},
    "bases": {
        "delta_tx": ["jax_ssp.mitigations:delay_compensation", {"lam": 1e-3, "learning_rate": 0.05}]
    },
}
QUICK = {
    ("all", "lazy", "bases"),
    ("plain", "kasync", "bases"),
    ("fragments", "ssp", "bases"),
    ("overlap 1 of 3", "ssp", "staleness"),
    ("devices", "ksync", "plain"),
}
TABLE = [
    pytest.param(mode, policy, how, marks=[] if each in QUICK else [pytest.mark.slow])
    for each in ((m, p, h) for m in MODES for p in POLICIES for h in TRANSFORMS)
    for mode, policy, how in [each]
    if fits(MODES[mode], POLICIES[policy])
]


@pytest.fixture(scope="module")
def process():
    process = StoreProcess(cpu_devices=len(jax.devices()))
    yield process
    process.close()


def spec_of(mode, policy, how):
    transforms = {name: made(recipe) for name, recipe in TRANSFORMS[how].items()}
    return linear(policy=POLICIES[policy], num_clocks=8, **MODES[mode], **transforms)


def assert_same(result, other):
    assert np.isfinite(other.params["w"]).all()
    assert bits(result.params) == bits(other.params)
    assert bits(result.masters) == bits(other.masters)
    assert bits(result.states) == bits(other.states)
    assert bits(result.residuals) == bits(other.residuals)
    assert list(result.tape) == list(other.tape)
    assert result.tape.params == other.tape.params
    assert result.history == other.history
    assert result.evaluations == other.evaluations


@pytest.mark.parametrize(("mode", "policy", "how"), TABLE)
@pytest.mark.every(11)
def test_a_store_in_another_process_gives_the_same_bits(mode, policy, how, process):
    spec = {
        **spec_of(mode, policy, how),
        "evaluate": lambda params: {"norm": float(np.linalg.norm(params["w"]))},
        "eval_every": 3,
    }
    runtime = ssp.Virtual(4, delays.Exponential())
    here = ssp.train(runtime=runtime, **spec)
    there = ssp.train(runtime=elsewhere(runtime, process, **TRANSFORMS[how]), **spec)
    assert_same(there, here)


@pytest.mark.parametrize(
    ("mode", "policy"),
    [
        ("plain", "lazy"),
        pytest.param("all", "lazy", marks=pytest.mark.slow),
        pytest.param("plain", "ksync", marks=pytest.mark.slow),
    ],
)
def test_what_threads_have_pushed_there_is_replayed_here(mode, policy, process):
    spec = spec_of(mode, policy, "bases")
    runtime = ssp.Devices(num_workers=4, delay=delays.ShiftedExponential(shift=0.0, mean=0.002))
    there = ssp.train(runtime=elsewhere(runtime, process, **TRANSFORMS["bases"]), **spec)
    here = ssp.train(runtime=ssp.Replay(there.tape), **spec)
    assert_same(there, here)


@pytest.mark.slow
def test_a_run_with_its_store_elsewhere_goes_on_to_the_same_bits(process):
    """The other store is opened anew, and is given what the first one had saved."""
    spec = spec_of("all", "lazy", "bases")
    runtime = ssp.Virtual(4, delays.Exponential())
    result, cuts = whole({**spec, "runtime": runtime}, clocks=2)
    there = elsewhere(runtime, process, **TRANSFORMS["bases"])
    cut = cuts[-1]
    other = gone_on({**spec, "runtime": there}, result, cut.rows + 3, cut)
    assert bits(other.params) == bits(result.params)
    assert bits(other.states) == bits(result.states)
    assert other.history == result.history
