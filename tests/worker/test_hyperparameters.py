"""Injected hyper-parameters are seen in the rows of a run."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp.checkpoint.metrics import MetricsWriter, read_metrics
from jax_ssp.server.local_store import LocalStore
from jax_ssp.worker.hyperparameters import hyperparameters
from tests.helpers.problems import linear, loss_fn

SCHEDULE = optax.linear_schedule(0.1, 0.0, 10)


def train(optimizer, runtime=None, **others):
    spec = {"policy": ssp.BSP(), "num_clocks": 4, "local_steps": 2}
    runtime = runtime or ssp.Virtual(num_workers=2)
    step = ssp.make_step(loss_fn, optimizer)
    return ssp.train(**linear(step=step, runtime=runtime, **{**spec, **others}))


def column(result, name):
    return [row["metrics"][name] for row in result.history if row["worker"] == 0]


RUNTIMES = {
    "virtual": ssp.Virtual(num_workers=2),
    "together": ssp.Virtual(num_workers=2, batch=2),
    "devices": ssp.Devices(num_workers=2),
}


@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.parametrize("name", RUNTIMES)
@pytest.mark.every(11)
def test_a_clock_says_what_its_steps_have_used(name, overlap):
    optimizer = optax.inject_hyperparams(optax.sgd)(SCHEDULE)
    result = train(optimizer, RUNTIMES[name], overlap=overlap)
    expected = [np.mean([SCHEDULE(2 * clock), SCHEDULE(2 * clock + 1)]) for clock in range(4)]
    np.testing.assert_allclose(column(result, "hyperparams/learning_rate"), expected, rtol=1e-5)


def test_those_of_wrapped_optimizers_are_found_and_have_names_of_their_own():
    inner = optax.inject_hyperparams(optax.sgd)(0.25)
    both = optax.chain(
        optax.inject_hyperparams(optax.clip_by_global_norm)(1.0),
        optax.inject_hyperparams(lambda learning_rate: optax.chain(inner))(0.5),
        optax.masked(optax.inject_hyperparams(optax.sgd)(2.0), {"w": True}),
    )
    found = hyperparameters({"any": [both.init({"w": jnp.zeros(2)})]})
    assert {name: float(value) for name, value in found.items()} == {
        "hyperparams/max_norm": 1.0,
        "hyperparams/learning_rate": 0.5,
        "hyperparams/learning_rate_2": 0.25,
        "hyperparams/learning_rate_3": 2.0,
    }


def test_only_what_is_one_real_number_can_be_drawn():
    @optax.inject_hyperparams
    def scaled(each, factor, times):
        return optax.scale(factor * times)

    state = scaled(jnp.ones(3), 2.0, 3).init({"w": jnp.zeros(3, jnp.bfloat16)})
    found = hyperparameters(state)
    assert {name: (leaf.dtype, float(leaf)) for name, leaf in found.items()} == {
        "hyperparams/factor": (jnp.float32, 2.0),
        "hyperparams/times": (jnp.float32, 3.0),
    }


@pytest.mark.parametrize("placement", [None, "devices"])
@pytest.mark.every(2)
def test_those_of_the_server_are_those_that_a_merge_has_used(placement):
    schedule = optax.linear_schedule(1.0, 0.0, 8)
    result = train(
        optax.sgd(0.1),
        RUNTIMES["devices"],
        server_tx=ssp.outer(optax.inject_hyperparams(optax.sgd)(schedule)),
        delta_tx=ssp.as_given(optax.inject_hyperparams(optax.scale)(0.5)),
        placement=placement,
    )
    expected = [float(schedule(version)) for version in range(4)]
    np.testing.assert_allclose(column(result, "hyperparams/server/learning_rate"), expected)
    assert column(result, "hyperparams/deltas/step_size") == [0.5] * 4


def test_they_are_in_the_rows_of_a_folder_and_in_tensorboard(tmp_path):
    optimizer = optax.inject_hyperparams(optax.sgd)(0.125)
    train(optimizer, observers=[MetricsWriter(tmp_path)])
    rows = read_metrics(tmp_path)
    assert {row["metrics"]["hyperparams/learning_rate"] for row in rows} == {0.125}
    (events,) = tmp_path.glob("events.*")
    assert b"train/hyperparams/learning_rate" in events.read_bytes()


def test_without_any_a_run_reads_none(monkeypatch):
    read, states = [], LocalStore.states.fget
    whole = property(lambda store: read.append(store.version) or states(store))
    monkeypatch.setattr(LocalStore, "states", whole)
    tx = ssp.outer(optax.sgd(0.5, momentum=0.9), measured=False)
    result = train(optax.sgd(0.1, momentum=0.5), server_tx=tx)
    assert set(read) == {0, 4}  # before the run, and for its result
    assert set(result.history[0]["metrics"]) == {"loss"}


@pytest.mark.parametrize("placement", [None, "devices"])
@pytest.mark.every(2)
def test_the_optimizers_own_have_the_same_names_on_the_server(placement):
    """There a merge is a step of it, at the round that the merge begins with."""
    spec = {"optimizer_on": "server", "local_steps": 1, "placement": placement}
    optimizer = optax.inject_hyperparams(optax.sgd)(SCHEDULE)
    result = train(optimizer, RUNTIMES["devices"], **spec)
    expected = [float(SCHEDULE(clock)) for clock in range(4)]
    np.testing.assert_allclose(column(result, "hyperparams/learning_rate"), expected, rtol=1e-6)
    assert set(result.history[0]["metrics"]) == {"loss", "hyperparams/learning_rate"}


@pytest.mark.parametrize("where", ["workers", "server"])
@pytest.mark.every(2)
def test_they_go_by_rounds_under_stale_reads_too(where):
    runtime = ssp.Virtual(num_workers=4, delay=ssp.delays.Exponential())
    spec = {"policy": ssp.SSP(2), "optimizer_on": where, "local_steps": 1, "num_clocks": 6}
    result = train(optax.inject_hyperparams(optax.sgd)(SCHEDULE), runtime, **spec)
    rounds = {}
    for _, _, commands in result.tape:
        for command in commands:
            if type(command).__name__ == "StartClock" and where == "workers":
                rounds[command.worker, command.clock] = command.round
            elif type(command).__name__ == "Merge" and where == "server":
                rounds |= {(d.worker, d.clock): command.round for d in command.deltas}
    assert len(result.history) == 24
    for row in result.history:
        rate, clock = row["metrics"]["hyperparams/learning_rate"], (row["worker"], row["clock"])
        assert rate == pytest.approx(float(SCHEDULE(rounds[clock])), rel=1e-5)
