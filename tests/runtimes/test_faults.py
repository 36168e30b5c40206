"""What is odd but legal, or goes wrong midway, and must neither spoil a tape nor hang a run."""

from __future__ import annotations

import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jax_ssp as ssp
from jax_ssp.policies import Decision
from jax_ssp.runtimes import devices as devices_module
from jax_ssp.runtimes.worker import Worker


def loss_fn(params, batch, key):
    return jnp.sum((params["w"] - batch) ** 2), {}


def train(**changes):
    spec = {
        "params": {"w": jnp.zeros(2)},
        "data": lambda worker: iter([np.ones(2, np.float32)] * 1000),
        "policy": ssp.SSP(2),
        "runtime": ssp.Virtual(2, ssp.delays.Exponential(1.0)),
        "num_clocks": 6,
    }
    return ssp.train(ssp.make_step(loss_fn, optax.sgd(0.1)), **{**spec, **changes})


def test_numpy_numbers_from_a_delay_model_do_not_reach_the_tape(tmp_path):
    result = train(runtime=ssp.Virtual(2, lambda *about: np.float64(0.5)))
    ssp.write_tape(tmp_path / "tape", result.tape)
    assert [row.now for row in ssp.read_tape(tmp_path / "tape")] == [row.now for row in result.tape]
    assert {type(row.now) for row in result.tape} == {float}


def test_a_worker_that_does_not_adopt_what_it_was_granted_is_found_out(monkeypatch):
    honest = Worker.begin

    def deaf(self, start, snapshot):
        return honest(self, start, snapshot if start.clock == 0 else None)

    monkeypatch.setattr(Worker, "begin", deaf)
    with pytest.raises(ValueError, match="told to read another version"):
        train()


class Normed(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(2, momentum=0.5, rngs=rngs)
        self.out = nnx.Linear(2, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(self.norm(x))


@pytest.mark.parametrize("weight", ["mean", "sum"])
def test_running_statistics_are_averaged_whatever_the_server_does(weight):
    """Four workers that see the same data: the average of their statistics is that of one."""
    batch = np.random.default_rng(0).normal(3.0, 2.0, size=(64, 2)).astype(np.float32)
    outer = optax.chain(optax.scale(-1.0), optax.sgd(0.7, momentum=0.9, nesterov=True))
    step = ssp.make_nnx_step(
        Normed(nnx.Rngs(0)), lambda model, x: (jnp.mean(model(x) ** 2), {}), optax.sgd(1e-3)
    )

    def statistics(workers, **server):
        result = ssp.train(
            step,
            data=lambda worker: iter([batch] * 100),
            policy=ssp.BSP(),
            runtime=ssp.Virtual(workers),
            num_clocks=30,
            **server,
        )
        return {name: np.asarray(result.params[name]) for name in ("norm.mean", "norm.var")}

    alone, together = statistics(1), statistics(4, server_tx=outer, weight=weight)
    np.testing.assert_allclose(alone["norm.mean"], batch.mean(0), rtol=1e-4)
    for name, value in alone.items():
        np.testing.assert_allclose(together[name], value, rtol=1e-4)


def test_a_loss_that_is_not_finite_is_no_divergence_where_the_server_keeps_it_out():
    def data(worker):
        return iter([np.full(2, np.nan if worker == 1 else 1.0, np.float32)] * 100)

    result = train(data=data, server_tx=optax.apply_if_finite(optax.identity(), 1000))
    assert result.status == "done"
    assert np.isfinite(result.params["w"]).all()
    assert train(data=data).status == "diverged"


class DropsWorkerOne(ssp.Policy):
    def ready(self, view):
        mine, others = [], []
        for delta in view.buffered:
            (others if delta.worker == 1 else mine).append(delta)
        return Decision(merge=mine, drop=others, reason="not wanted")


def test_nor_where_the_policy_drops_it():
    def data(worker):
        return iter([np.full(2, np.nan if worker == 1 else 1.0, np.float32)] * 100)

    result = train(data=data, policy=DropsWorkerOne())
    assert (result.status, result.updates) == ("done", 6)


def test_an_iterator_that_waits_after_the_last_batch_does_not_hold_the_run_up():
    release = threading.Event()

    def data(worker):
        for _ in range(6):
            yield np.ones(2, np.float32)
        release.wait(60)

    try:
        assert train(data=data, runtime=ssp.Devices(num_workers=2)).updates == 12
    finally:
        release.set()


def test_an_error_is_raised_though_another_worker_is_stuck(monkeypatch):
    monkeypatch.setattr(devices_module, "CLOSE_SECONDS", 0.1)
    release = threading.Event()

    def data(worker):
        yield np.ones(2, np.float32)
        if worker == 1:
            raise OSError("the disk is gone")
        release.wait(60)
        yield np.ones(2, np.float32)

    try:
        with pytest.raises(OSError, match="the disk is gone"):
            train(data=data, runtime=ssp.Devices(num_workers=2), policy=ssp.ASP())
    finally:
        release.set()


class Interrupts(ssp.Observer):
    def on_clock(self, row):
        if row["updates"] == 3:
            signal.raise_signal(signal.SIGINT)


def test_an_interrupt_is_not_hidden_by_a_target_reached_after_it():
    result = train(
        num_clocks=1000,
        observers=[Interrupts()],
        evaluate=lambda params: {"w": params["w"][0]},
        eval_every=500,
        target="w >= 0.001",
    )
    assert result.status == "interrupted"


def test_every_observer_is_told_the_end_though_one_fails():
    ends = []

    class Notes(ssp.Observer):
        def on_end(self, status):
            ends.append(status)

    class Fails(ssp.Observer):
        def on_end(self, status):
            raise RuntimeError("no end")

    with pytest.raises(RuntimeError, match="no end"):
        train(observers=[Notes(), Fails(), Notes()])
    assert ends == ["done", "done"]


def test_data_split_for_another_number_of_workers_is_refused():
    shards = ssp.data.Shards(np.ones((64, 2), np.float32), 2, num_workers=8)
    with pytest.raises(ValueError, match="split over 8 workers, but the run has 2"):
        train(data=shards)


def test_the_weight_is_as_wide_as_jax_is_set_to():
    with jax.enable_x64(True):
        server = ssp.Server({"w": jnp.zeros(1, jnp.float64)})
        server.merge([{"w": jnp.ones(1, jnp.float64)}] * 3)
        assert float(server.params["w"][0]) == pytest.approx(1.0, abs=1e-15)


def test_a_target_alone_is_looked_at_every_clock():
    result = train(
        num_clocks=1000, evaluate=lambda params: {"w": params["w"][0]}, target="w >= 0.5"
    )
    assert result.status == "target"
    assert result.updates < 20


def test_a_target_that_is_no_metric_names_the_metrics_there_are():
    with pytest.raises(ValueError, match=r"gives: \['w'\]"):
        train(evaluate=lambda params: {"w": params["w"][0]}, target="v >= 1")


@pytest.mark.parametrize("runtime", [ssp.Virtual, ssp.Devices])
def test_a_negative_seed_of_delays_is_refused(runtime):
    with pytest.raises(ValueError, match=r"seed=...\)` must be non-negative, got -1"):
        runtime(seed=-1)


def test_parameters_without_an_array_are_refused():
    with pytest.raises(ValueError, match="`params` must hold at least one array"):
        train(params={})
