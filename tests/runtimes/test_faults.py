"""What is odd but legal, or goes wrong midway, and must neither spoil a tape nor hang a run."""

from __future__ import annotations

import dataclasses
import functools
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
from jax_ssp.runtimes import crew
from jax_ssp.server.local_store import LocalStore
from tests.helpers.stores import storing
from tests.helpers.threads import none_is_left_behind


def loss_fn(params, batch, key):
    return jnp.sum((params["w"] - batch) ** 2), {}


STEP = ssp.make_step(loss_fn, optax.sgd(0.1))


def train(**changes):
    spec = {
        "params": {"w": jnp.zeros(2)},
        "data": lambda worker: iter([np.ones(2, np.float32)] * 1000),
        "policy": ssp.SSP(2),
        "runtime": ssp.Virtual(2, ssp.delays.Exponential(1.0)),
        "num_clocks": 6,
    }
    return ssp.train(**{"step": STEP, **spec, **changes})


def test_numpy_numbers_from_a_delay_model_do_not_reach_the_tape(tmp_path):
    result = train(runtime=ssp.Virtual(2, lambda *about: np.float64(0.5)))
    ssp.write_tape(tmp_path / "tape", result.tape)
    assert [row.now for row in ssp.read_tape(tmp_path / "tape")] == [row.now for row in result.tape]
    assert {type(row.now) for row in result.tape} == {float}


def test_a_worker_that_does_not_adopt_what_it_was_granted_is_found_out():
    class Behind(LocalStore):
        """Gives the version that was asked for first, again and again."""

        first = None

        def snapshot(self, version):
            self.first = self.first or super().snapshot(version)
            return self.first.hold()

    runtime = storing(ssp.Virtual(2, ssp.delays.Exponential(1.0)), Behind)
    with pytest.raises(ValueError, match="told to read another version"):
        train(runtime=runtime)


class Normed(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(2, momentum=0.5, rngs=rngs)
        self.out = nnx.Linear(2, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(self.norm(x))


@pytest.mark.parametrize("weight", ["mean", "sum"])
@pytest.mark.every(2)
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


def test_a_loss_that_is_not_finite_is_no_divergence_where_it_may_go_on():
    def data(worker):
        return iter([np.full(2, np.nan if worker == 1 else 1.0, np.float32)] * 100)

    result = train(data=data, max_nonfinite=None)
    assert result.status == "done"
    assert np.isfinite(result.params["w"]).all()
    assert train(data=data, max_nonfinite=2).status == "diverged"


class DropsWorkerOne(ssp.Policy):
    def ready(self, view):
        mine, others = [], []
        for delta in view.buffered:
            (others if delta.worker == 1 else mine).append(delta)
        return Decision(merge=mine, drop=others, reason="not wanted")


def test_nor_where_the_policy_drops_it():
    def data(worker):
        return iter([np.full(2, np.nan if worker == 1 else 1.0, np.float32)] * 100)

    result = train(data=data, policy=DropsWorkerOne(), max_nonfinite=None)
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
    monkeypatch.setattr(crew, "CLOSE_SECONDS", 0.1)
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


# What ends a run early keeps what it has.

WORLDS = {
    "devices": ssp.Devices(num_workers=2),
    "virtual": ssp.Virtual(2, ssp.delays.Exponential(1.0)),
    "batch": ssp.Virtual(2, batch=2),
}


class Fails(ssp.Observer):
    """Raises in one of its methods, from the tenth update on."""

    def __init__(self, error, method="on_clock"):
        self.error, self.updates = error, 0
        fail = self.fail if method != "on_clock" else self.on_clock
        setattr(self, method, fail)

    def on_clock(self, row):
        self.updates = row["updates"]
        if row["updates"] >= 10 and vars(self).get("on_clock"):
            raise self.error

    def fail(self, *_):
        if self.updates >= 10:
            raise self.error


def failing_data(error):
    def data(worker):
        for number in range(1000):
            if worker == 1 and number == 10:
                raise error
            yield np.ones(2, np.float32)

    return {"data": data}


def failing_step(error):
    """A step that fails while it runs, in the device's program."""

    def loss_fn(params, batch, key):
        def check(batch):
            if batch[0] > 1:
                raise error
            return batch

        batch = jax.pure_callback(check, batch, batch, vmap_method="sequential")
        return jnp.sum((params["w"] - batch) ** 2), {}

    def data(worker):
        for number in range(1000):
            yield np.full(2, 2 if (worker, number) == (1, 10) else 1, np.float32)

    return {"step": ssp.make_step(loss_fn, optax.sgd(0.1)), "data": data}


def failing_trace(error):
    """A step that fails when it is traced for a batch of another shape."""

    def loss_fn(params, batch, key):
        if batch.shape == (3,):
            raise error
        return jnp.sum((params["w"] - batch) ** 2), {}

    def data(worker):
        for number in range(1000):
            yield np.ones(3 if (worker, number) == (1, 10) else 2, np.float32)

    return {"step": ssp.make_step(loss_fn, optax.sgd(0.1)), "data": data}


def failing_evaluation(error):
    def evaluate(params):
        if params["w"][0] > 0.65:
            raise error
        return {}

    return {"evaluate": evaluate, "eval_every": 1}


def failing_policy(error):
    class Broken(ssp.Policy):
        def ready(self, view):
            if view.version >= 10:
                raise error
            return super().ready(view)

    return {"policy": Broken()}


def failing_delay(error):
    def delay(worker, clock, steps, rng):
        if clock == 10:
            raise error
        return 1e-4

    return {"delay": delay}


def failing_observer(error):
    return {"observers": [Fails(error)]}


FAULTS = {
    "data": failing_data,
    "step": failing_step,
    "trace": failing_trace,
    "evaluation": failing_evaluation,
    "policy": failing_policy,
    "delay": failing_delay,
    **{
        method: functools.partial(
            lambda error, method: {"observers": [Fails(error, method)]}, method=method
        )
        for method in ("on_clock", "on_entry")
    },
}


class Ends(ssp.Observer):
    def __init__(self):
        self.ends = []

    def on_end(self, status):
        self.ends.append(status)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.every(29)
def test_what_ends_a_run_early_keeps_what_it_has(fault, world):
    class Own(ValueError):
        """An error of the user's."""

    runtime, watcher = WORLDS[world], Ends()
    change = FAULTS[fault](Own("no more"))
    if "delay" in change:
        runtime = dataclasses.replace(runtime, delay=change.pop("delay"))
    observers = [watcher, *change.pop("observers", [])]
    kind = Exception if fault == "step" else Own  # what a program raises, JAX wraps
    with none_is_left_behind(), pytest.raises(kind, match="no more") as caught:
        train(**{"num_clocks": 100, "runtime": runtime, "observers": observers, **change})
    kept = caught.value.result
    assert any("`.result` is the `Result` up to there" in note for note in caught.value.__notes__)
    assert (kept.status, watcher.ends, kept.tape.complete) == ("failed", ["failed"], False)
    assert 10 <= kept.updates < 200
    # The parameters are those of the last version: each delta moved them by a tenth of 0.2 (1 - w).
    assert len(kept.history) >= kept.version == kept.updates
    w = [0.0]
    for row in kept.history[: kept.updates]:
        w.append(w[-1] + 0.5 * 0.2 * (1 - w[row["base_version"]]))
    np.testing.assert_allclose(kept.params["w"], w[-1], rtol=1e-5)
    assert "failed" in kept.summary()
    report = ssp.check_contract(kept.tape)
    assert report.merged >= kept.updates


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("error", [MemoryError("full"), KeyboardInterrupt("now"), SystemExit(3)])
@pytest.mark.every(4)
def test_errors_of_every_kind_are_raised_as_they_are(error, world):
    with pytest.raises(type(error)) as caught:
        train(num_clocks=100, runtime=WORLDS[world], **failing_data(error))
    assert caught.value is error
    assert error.result.updates >= 10
    assert error.result.status == ("interrupted" if type(error) is KeyboardInterrupt else "failed")


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("code", [0, None])
@pytest.mark.parametrize("fault", [failing_data, failing_evaluation, failing_observer])
@pytest.mark.every(5)
def test_an_exit_in_user_code_is_no_success(fault, code, world):
    with pytest.raises(RuntimeError, match=r"`sys\.exit` was called in a run") as caught:
        train(num_clocks=100, runtime=WORLDS[world], **fault(SystemExit(code)))
    assert caught.value.result.status == "failed"


def test_a_replay_that_fails_keeps_what_it_has():
    whole = train(num_clocks=100)
    with pytest.raises(OSError, match="gone") as caught:
        train(num_clocks=100, runtime=ssp.Replay(whole.tape), **failing_data(OSError("gone")))
    kept = caught.value.result
    assert kept.history == whole.history[: len(kept.history)]
    assert kept.updates >= 10


def test_a_failing_transform_of_the_server_leaves_the_version_before():
    def update(updates, state, params=None, **extra):
        def check(leaf, version):
            if version == 10:
                raise ArithmeticError("no more")
            return leaf

        leaf = jax.pure_callback(check, updates["w"], updates["w"], state)
        return {"w": leaf}, state + 1

    tx = optax.GradientTransformationExtraArgs(lambda params: jnp.zeros((), jnp.int32), update)
    with pytest.raises(Exception, match="no more") as caught:
        train(num_clocks=100, server_tx=tx)
    kept = caught.value.result
    assert 0.5 < float(kept.params["w"][0]) < 1
    assert 9 <= kept.version == kept.updates <= 11


@pytest.mark.parametrize("method", ["on_start", "on_entry", "on_clock", "on_eval", "on_end"])
def test_an_observer_that_fails_keeps_nobody_else_from_hearing_and_hides_nothing(method):
    told = []

    class Hears(ssp.Observer):
        def __getattribute__(self, name):
            if name.startswith("on_") and name != "on_wait":
                return lambda *what: told.append(name)
            return super().__getattribute__(name)

    class Bad(ssp.Observer):
        pass

    def fail(self, *_):
        raise LookupError("first")

    def fail_too(self, status):
        raise OSError("second")

    setattr(Bad, method, fail)
    later = type("Later", (ssp.Observer,), {"on_end": fail_too})
    with pytest.raises((LookupError, OSError)) as caught:
        train(observers=[Bad(), later(), Hears()], evaluate=lambda params: {})
    assert type(caught.value) is (OSError if method == "on_end" else LookupError)
    notes = "; ".join(caught.value.__notes__)
    assert ("first" if method == "on_end" else "second") in notes
    assert f"in Bad.{method}" in notes
    assert told.count("on_end") == told.count("on_start") == 1
    assert method in told
    status = caught.value.result.status
    assert status == ("done" if method == "on_end" else "failed")


def test_what_is_merged_is_in_the_history_though_an_observer_fails():
    class Fails(ssp.Observer):
        def on_clock(self, row):
            raise LookupError("at the first row of the merge")

    with pytest.raises(LookupError) as caught:
        train(observers=[Fails()], policy=ssp.BSP())
    kept = caught.value.result
    assert (kept.version, kept.updates, len(kept.history)) == (1, 2, 2)


def test_what_observers_are_given_is_theirs():
    class Takes(ssp.Observer):
        def on_start(self, info):
            info.clear()

        def on_clock(self, row):
            row.pop("metrics").clear()
            row.clear()

        def on_eval(self, row):
            row.pop("metrics").clear()
            row.clear()

        def on_entry(self, now, event, commands):
            assert isinstance(commands, tuple)

    spec = {"evaluate": lambda params: {"w": params["w"][0]}, "eval_every": 1}
    alone = train(**spec)
    watched = train(**spec, observers=[Takes(), Takes()])
    assert watched.history == alone.history
    assert watched.evaluations == alone.evaluations


@pytest.mark.parametrize("world", WORLDS)
def test_an_interrupt_before_the_first_clock_ends_it_with_the_parameters_as_they_are(world):
    def data(worker):
        signal.raise_signal(signal.SIGINT) if worker == 1 else None
        return iter([np.ones(2, np.float32)] * 1000)

    watcher = Ends()
    result = train(data=data, runtime=WORLDS[world], observers=[watcher])
    assert (result.status, result.updates, watcher.ends) == ("interrupted", 0, ["interrupted"])
    np.testing.assert_array_equal(result.params["w"], np.zeros(2))
    assert result.tape.complete
    assert ssp.check_contract(result.tape).reads == 0
    assert train(runtime=ssp.Replay(result.tape)).status == "interrupted"


@pytest.mark.parametrize("world", WORLDS)
def test_an_interrupt_while_the_last_version_is_evaluated_is_not_lost(world):
    def evaluate(params):
        if params["w"][0] > 0.5:
            signal.raise_signal(signal.SIGINT)
        return {}

    if world == "devices":
        pytest.skip("it is evaluated in a thread that gets no signals")
    result = train(evaluate=evaluate, num_clocks=12, runtime=WORLDS[world])
    assert (result.status, result.updates) == ("interrupted", 24)


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


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("target", ["m >= 0.5", "m <= 0.5"])
def test_what_is_not_finite_reaches_no_target(value, target):
    assert train(evaluate=lambda params: {"m": value}, target=target).status == "done"


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


@dataclasses.dataclass(frozen=True)
class Stubborn(Exception):
    """An error that takes neither notes nor attributes, and cannot be printed."""

    def __str__(self):
        raise LookupError


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("fault", ["data", "policy", "delay", "on_clock", "on_entry"])
@pytest.mark.every(5)
def test_an_error_that_takes_no_attribute_ends_a_run_all_the_same(fault, world):
    runtime, change = WORLDS[world], FAULTS[fault](Stubborn())
    if "delay" in change:
        runtime = dataclasses.replace(runtime, delay=change.pop("delay"))
    with pytest.raises(RuntimeError, match="ended by Stubborn") as caught:
        train(**{"num_clocks": 100, "runtime": runtime, **change})
    assert type(caught.value.__cause__) is Stubborn
    assert caught.value.result.updates >= 10
    assert caught.value.result.status == "failed"


def exits(code):
    def leave(*_):
        raise SystemExit(code)

    return leave


@pytest.mark.parametrize("code", [None, 0, False, 256])
@pytest.mark.parametrize(
    "change",
    [
        lambda leave: {"data": leave},
        lambda leave: {"evaluate": leave},
        lambda leave: {"step": ssp.make_step(leave, optax.sgd(0.1))},
        lambda leave: {"server_tx": optax.GradientTransformation(leave, leave)},
        lambda leave: {"data": lambda worker: (leave() for _ in range(1))},
    ],
    ids=["data", "evaluate", "step", "transform", "batch"],
)
def test_sys_exit_before_the_first_clock_is_no_success_either(change, code):
    with pytest.raises(RuntimeError, match=r"sys\.exit"):
        train(**change(exits(code)))
    with pytest.raises(SystemExit):
        train(**change(exits(3)))
