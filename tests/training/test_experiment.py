"""An experiment says all that decides a run, and is what runs."""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp.mitigations import scale_by_staleness


@dataclass(frozen=True)
class Line(ssp.Workload):
    """A line through points."""

    slope: float = 2.0
    rate: float = 0.2

    def build(self, num_workers: int, seed: int) -> ssp.Task:
        x = np.random.default_rng(seed).normal(size=32).astype(np.float32)

        def loss_fn(params, batch, key):
            return jnp.mean((batch * (params["slope"] - self.slope)) ** 2), {}

        return ssp.Task(
            step=ssp.make_step(loss_fn, optax.sgd(self.rate)),
            params={"slope": jnp.zeros(())},
            data=ssp.data.Shards(x, 4, num_workers, seed),
            evaluate=lambda params: {"error": abs(params["slope"] - self.slope)},
        )


CLOCKWORK = ssp.Virtual(num_workers=4, compute=False)


def test_it_runs_the_clockwork_alone_without_a_workload():
    result = ssp.Experiment(runtime=CLOCKWORK, num_clocks=7, target="error <= 1").run()
    assert (result.status, result.updates, result.params) == ("done", 28, None)
    assert ssp.check_contract(result.tape).bound == 3


def test_it_trains_what_its_fields_say():
    experiment = ssp.Experiment(
        name="line",
        workload=Line(slope=3.0),
        policy=ssp.SSP(bound=1),
        server_tx=ssp.configured(optax.scale, step_size=0.5),
        runtime=ssp.Virtual(num_workers=2),
        num_clocks=40,
        max_updates=60,
        local_steps=2,
        weight="sum",
        eval_every=10,
        seed=3,
    )
    result = experiment.run()
    assert result.updates == 60
    assert result.metrics["error"] < 0.01
    assert [row["updates"] for row in result.evaluations] == [0, 20, 40, 60]
    # And it is what `train` does with the same parts.
    task = Line(slope=3.0).build(2, 3)
    by_hand = ssp.train(
        task.step,
        params=task.params,
        data=task.data,
        policy=ssp.SSP(bound=1),
        runtime=ssp.Virtual(num_workers=2),
        server_tx=optax.scale(0.5),
        num_clocks=40,
        max_updates=60,
        local_steps=2,
        weight="sum",
        seed=3,
    )
    assert by_hand.params["slope"] == result.params["slope"]


def test_its_optimizer_may_be_on_the_server():
    """One worker with plain SGD is the same wherever the optimizer lives."""
    on_workers = ssp.Experiment(
        workload=Line(), runtime=ssp.Virtual(num_workers=1), policy=ssp.BSP(), num_clocks=4
    )
    on_server = dataclasses.replace(on_workers, optimizer_on="server")
    ends = [each.run().params["slope"] for each in (on_workers, on_server)]
    assert ends[0] == pytest.approx(float(ends[1]), rel=1e-6)
    both = dataclasses.replace(on_server, server_tx=ssp.configured(optax.trace, decay=0.5))
    with pytest.raises(ValueError, match=r"`server_tx` and `optimizer_on=.server.` cannot both"):
        both.run()


def test_the_target_ends_it():
    experiment = ssp.Experiment(
        workload=Line(), num_clocks=500, eval_every=1, target="error <= 0.1"
    )
    result = experiment.run()
    assert result.status == "target"
    assert result.updates < 2000


def test_a_replay_takes_the_place_of_its_runtime():
    experiment = ssp.Experiment(
        workload=Line(),
        runtime=ssp.Virtual(num_workers=3, delay=ssp.delays.Exponential()),
        num_clocks=10,
    )
    result = experiment.run()
    again = experiment.run(runtime=ssp.Replay(result.tape))
    assert again.params["slope"].tobytes() == result.params["slope"].tobytes()
    other = dataclasses.replace(experiment, workload=Line(rate=0.1))
    with pytest.raises(ssp.TapeMismatch, match="step"):
        other.run(runtime=ssp.Replay(result.tape))


def test_observers_are_told():
    class Counting(ssp.Observer):
        clocks = 0

        def on_clock(self, row):
            self.clocks += 1

    counting = Counting()
    ssp.Experiment(runtime=CLOCKWORK, num_clocks=5).run([counting])
    assert counting.clocks == 20


# --- describe -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Odd(ssp.Workload):
    """Fields that JSON has no words for."""

    clip: float = math.inf
    sizes: tuple[int, ...] = (3, 4)
    inner: Line = field(default_factory=Line)
    rates: Any = field(default_factory=lambda: {"dense": 0.5, 1: None})
    call: Any = scale_by_staleness

    def build(self, num_workers: int, seed: int) -> ssp.Task:
        raise NotImplementedError


def a_delay(worker, clock, steps, rng):
    return 1.0


EXPERIMENTS = [
    ssp.Experiment(),
    ssp.Experiment(workload=Odd(), policy=ssp.SSP(bound=2, adopt="lazy"), weight=0.5),
    ssp.Experiment(
        runtime=ssp.Virtual(delay=a_delay), server_tx=ssp.configured(optax.scale, step_size=2.0)
    ),
    ssp.Experiment(
        policy=ssp.BSP(),
        runtime=ssp.Devices(delay=ssp.delays.Straggler(base=ssp.delays.Pareto(1.0, 2.0))),
    ),
]


def assert_describes(facts, config):
    """Every field, however deep, is there."""
    assert set(facts) == {"type", *(each.name for each in dataclasses.fields(config))}
    assert facts["type"] == type(config).__name__
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        if dataclasses.is_dataclass(value):
            assert_describes(facts[each.name], value)
        elif isinstance(value, (str, int)):
            assert facts[each.name] == value


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_its_description_is_complete_strict_json_and_the_same_in_every_process(experiment):
    facts = experiment.describe()
    text = json.dumps(facts, allow_nan=False)
    assert json.loads(text) == facts
    assert " at 0x" not in text
    assert_describes({"type": "Experiment", **facts}, experiment)


def test_descriptions_differ_where_experiments_do():
    def described(**fields):
        return ssp.Experiment(**fields).describe()

    assert described(policy=ssp.SSP(2))["policy"] != described(policy=ssp.SSP(3))["policy"]
    assert described(policy=ssp.BSP())["policy"] != described(policy=ssp.ASP())["policy"]
    one, other = (ssp.configured(scale_by_staleness, exponent=each) for each in (1.0, 2.0))
    assert described(server_tx=one) != described(server_tx=other)
    assert described(workload=Odd())["workload"] == {
        "type": "Odd",
        "clip": "inf",
        "sizes": [3, 4],
        "inner": {"type": "Line", "slope": 2.0, "rate": 0.2},
        "rates": {"dense": 0.5, "1": None},
        "call": "<function scale_by_staleness>",
    }


# --- mistakes -----------------------------------------------------------------------------------

MISTAKES = {
    "no workload": ({}, ValueError, r"`Experiment\(workload=...\)` is missing"),
    "not a workload": ({"workload": 3}, TypeError, "must be an `ssp.Workload`, got 3"),
    "a bare transform": ({"server_tx": optax.sgd(0.1)}, TypeError, "`ssp.configured"),
    "no end": ({"workload": Line(), "num_clocks": None}, ValueError, "give `num_clocks`, `max_up"),
    "a target of no kind": ({"workload": Line(), "target": "error"}, ValueError, "must read like"),
    "no such weight": ({"workload": Line(), "weight": "median"}, ValueError, "got 'median'"),
}


@pytest.mark.parametrize(("fields", "kind", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_name_the_field_and_the_remedy(fields, kind, message):
    with pytest.raises(kind, match=message):
        ssp.Experiment(**{"num_clocks": 3, **fields}).run()


def test_a_target_needs_something_that_evaluates():
    @dataclass(frozen=True)
    class Silent(Line):
        def build(self, num_workers: int, seed: int) -> ssp.Task:
            return dataclasses.replace(super().build(num_workers, seed), evaluate=None)

    with pytest.raises(ValueError, match="`eval_every` and `target` need `evaluate`"):
        ssp.Experiment(workload=Silent(), num_clocks=3, target="error <= 1").run()
    assert ssp.Experiment(workload=Silent(), num_clocks=3).run().evaluations == []
