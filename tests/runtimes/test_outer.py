"""What is measured of merges in a run, in every world, and what is said before it."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp.controller import Merge
from jax_ssp.placement import separate_memory

PARAMS = {"w": jnp.array([1.0, -2.0, 0.5, 3.0], jnp.float32)}
BATCH, CLOCKS = 4, 5


def loss_fn(params, batch, key):
    return jnp.mean((batch @ params["w"] - 1.0) ** 2), {}


STEP = ssp.make_step(loss_fn, optax.sgd(0.05))


def batches(worker):
    rng = np.random.default_rng(worker)
    return iter([rng.normal(size=(BATCH, 4)).astype(np.float32) for _ in range(2 * CLOCKS)])


def train(server_tx, **more):
    spec = {"params": PARAMS, "data": batches, "policy": ssp.BSP(), "runtime": ssp.Virtual(2)}
    spec |= {"local_steps": 2, "num_clocks": CLOCKS}
    return ssp.train(STEP, server_tx=server_tx, **{**spec, **more})


def measured(result):
    """Of each merge its correlation and its effective rate."""
    rows = {row["merge_version"]: row["metrics"] for row in result.history}
    return [
        (rows[each].get("outer/correlation"), rows[each].get("outer/effective_rate"))
        for each in sorted(rows)
    ]


class Versions(ssp.Observer):
    def __init__(self):
        self.seen = []

    def on_version(self, version):
        self.seen.append(np.asarray(version.params["w"], np.float64))


def test_every_merge_but_the_first_says_how_it_goes_with_the_one_before():
    versions, rate = Versions(), 0.7
    result = train(ssp.outer(optax.sgd(rate)), observers=[versions])
    moves = np.diff([np.asarray(PARAMS["w"]), *versions.seen[-CLOCKS:]], axis=0) / rate
    assert measured(result) == [(None, None)] * CLOCKS
    result = train(ssp.outer(optax.sgd(rate), measured=True))
    first, *others = measured(result)
    assert first == (None, None)
    for number, (rho, effective) in enumerate(others, start=1):
        one, other = moves[number], moves[number - 1]
        wanted = one @ other / np.sqrt((one @ one) * (other @ other))
        assert rho == pytest.approx(wanted, abs=1e-4)
        assert effective == pytest.approx(rate)
    report = result.outer
    assert report.merges == CLOCKS - 1
    assert report.correlation == pytest.approx(np.mean([rho for rho, _ in others]))
    assert report.facts()["last_effective_rate"] == pytest.approx(rate)
    assert f"outer optimizer: {report}" in result.summary()


@pytest.mark.parametrize("tx", [ssp.outer(), ssp.outer("auto")], ids=["fixed", "auto"])
@pytest.mark.slow
def test_the_same_is_measured_in_every_world_and_on_any_number_of_devices(tx):
    here = train(tx)
    devices = ssp.Devices(jax.devices()[:2])
    for other in (train(tx, runtime=devices), train(tx, runtime=devices, placement="devices")):
        np.testing.assert_allclose(other.params["w"], here.params["w"], rtol=1e-4, atol=1e-6)
        for one, two in zip(measured(here)[1:], measured(other)[1:], strict=True):
            assert one == pytest.approx(two, rel=1e-3, abs=1e-4)
        again = train(tx, runtime=ssp.Replay(other.tape), placement=None)
        np.testing.assert_allclose(again.params["w"], other.params["w"], rtol=1e-5, atol=1e-6)
    again = train(tx, runtime=ssp.Replay(here.tape))
    np.testing.assert_array_equal(again.params["w"], here.params["w"])
    assert measured(again) == measured(here)


def test_where_nothing_is_measured_nothing_is_said():
    result = train(None)
    assert result.outer is None
    assert "outer" not in result.summary()
    assert not any(name.startswith("outer/") for row in result.history for name in row["metrics"])


# What is said before a run.


def said(server_tx, **more):
    return " / ".join(train(server_tx, **more).remarks)


@pytest.mark.slow
def test_a_momentum_that_remembers_more_merges_than_a_clock_has_steps_is_said():
    heard = said(ssp.outer())
    assert "the server's momentum of 0.9 remembers 10 merges, and a clock has 2 steps" in heard
    assert "the effective rate comes to 7 where they all go the same way" in heard
    assert "has 1 step:" in said(ssp.outer(), local_steps=1)
    for quiet in (ssp.outer(momentum=0.4), ssp.outer("auto"), ssp.outer(optax.sgd(0.7)), None):
        assert "momentum" not in said(quiet)


def test_a_momentum_that_turns_more_than_once_a_round_is_said():
    more = {"local_steps": 10, "num_clocks": 1}
    heard = said(ssp.outer(), policy=ssp.SSP(1), **more)
    assert "a round of 2 workers is 2 of them under SSP" in heard
    assert "delayed_nesterov" in heard
    assert "momentum" not in said(ssp.outer(), **more)
    assert "momentum" not in said(ssp.outer("auto"), policy=ssp.SSP(1), **more)


def test_how_old_a_delta_may_be_is_said_in_clocks_steps_and_samples():
    heard = said(None, policy=ssp.SSP(2))
    assert "5 clocks of each other worker" in heard
    assert f"10 local steps of each, {10 * BATCH} samples of all of them" in heard
    for more in ({"policy": ssp.BSP()}, {"policy": ssp.SSP(2), "local_steps": 1}):
        assert "clocks of each other worker" not in said(None, **more)


def test_that_overlap_saves_no_virtual_time_without_a_network_is_said():
    says, link = "`overlap=1` saves no virtual time", ssp.Network(latency=0.1)
    assert says in said(None, overlap=1)
    assert says in said(None, overlap=1, runtime=ssp.Virtual(2, network=ssp.Network()))
    assert says not in said(None)
    assert says not in said(None, overlap=1, runtime=ssp.Virtual(2, network=link))


def test_that_overlap_hides_nothing_where_workers_keep_all_cores_busy_is_said(monkeypatch):
    cpu = jax.devices("cpu")[0]

    def heard(workers, cores=2, **more):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
        return said(None, runtime=ssp.Devices([cpu] * workers, **more), overlap=1)

    says = "`overlap=1` has nothing to hide: 2 workers share the host's 2 cores"
    assert says in heard(2)
    assert "nothing to hide: 3 workers" in heard(3)
    assert "nothing to hide" not in heard(2, cores=3)
    assert "nothing to hide" not in heard(2, network=ssp.Network(latency=1e-4))
    assert "nothing to hide" not in heard(2, delay=ssp.delays.Constant(1e-4))
    with separate_memory():
        assert "nothing to hide" not in heard(2)


@pytest.mark.slow
def test_both_know_that_fragments_have_their_turns():
    heard = said(ssp.outer(), fragments=3)
    assert "remembers 10 merges, and a fragment is merged every 6 steps" in heard
    assert "momentum" not in said(ssp.outer(), fragments=3, local_steps=4)
    assert "7 clocks of each other worker" in said(None, policy=ssp.SSP(2), fragments=3)


@pytest.mark.parametrize(("bound", "fragments"), [(1, 1), (1, 3), (2, 2)])
def test_no_delta_is_older_than_is_said_and_some_are_as_old(bound, fragments):
    def delay(worker, clock, steps, rng):
        return float(rng.choice([0.01, 1.0, 30.0], p=[0.6, 0.3, 0.1]))

    oldest = 0
    for seed in range(60):
        runtime = ssp.Virtual(2, delay, seed=seed, compute=False)
        how = {"policy": ssp.SSP(bound), "fragments": fragments, "num_clocks": 40}
        merged = []  # by whom, version by version
        for _, _, commands in ssp.train(runtime=runtime, **how).tape:
            for delta in (d for c in commands if isinstance(c, Merge) for d in c.deltas):
                others = [each for each in merged[delta.base :] if each != delta.worker]
                oldest = max(oldest, len(others))
                merged.append(delta.worker)
    assert oldest == 2 * bound + fragments
