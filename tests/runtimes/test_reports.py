"""What a push reports, what becomes of deltas that are not finite, what of pushes come twice."""

import itertools

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp import delays
from jax_ssp.controller import DeltaReady, Fence
from jax_ssp.delays.draws import DelayDraws
from jax_ssp.runtimes.base import World
from jax_ssp.runtimes.clockwork import VirtualClock
from jax_ssp.runtimes.lazy import OnDemand
from jax_ssp.server.transforms import arrival
from tests.helpers.problems import PARAMS, STEP, batches, bits, linear

RUNTIMES = {
    "virtual": ssp.Virtual(3, delays.Exponential()),
    "in batches": ssp.Virtual(3, delays.Exponential(), batch=2),
    "devices": ssp.Devices(num_workers=3),
}
runtimes = pytest.mark.parametrize("runtime", RUNTIMES.values(), ids=RUNTIMES)


def pushes(result):
    """The pushes that were taken, by worker and clock."""
    return {
        (event.worker, event.clock): event
        for _, event, commands in result.tape
        if type(event) is DeltaReady and not any(type(c) is Fence for c in commands)
    }


# Steps and samples.


@runtimes
@pytest.mark.parametrize(
    ("batch", "examples"),
    [
        ((np.zeros((8, 2), np.float32), np.zeros(8, np.float32)), 8),
        ({"a": np.float32(1), "b": np.zeros((5, 1), np.float32)}, 5),  # the first with examples
        (np.float32(1), 1),
    ],
    ids=["pair", "dict", "number"],
)
@pytest.mark.parametrize(
    "mode",
    [{}, {"local_steps": 3}, {"local_steps": 3, "overlap": 2}, {"local_steps": 2, "overlap": 2}],
    ids=repr,
)
@pytest.mark.every(37)
def test_a_push_says_how_many_steps_and_samples_it_is_of(runtime, batch, examples, mode):
    result = ssp.train(
        ssp.make_step(lambda p, b, key: ((p["w"] ** 2).sum(), {}), optax.sgd(0.1)),
        params={"w": np.ones(2, np.float32)},
        data=lambda worker: itertools.repeat(batch),
        policy=ssp.SSP(1),
        num_clocks=3,
        runtime=runtime,
        **mode,
    )
    steps = mode.get("local_steps", 1)
    assert {(push.steps, push.samples) for push in pushes(result).values()} == {
        (steps, steps * examples)
    }
    assert result.schedule["steps"].tolist() == [steps] * 9
    assert result.schedule["samples"].sum() == 9 * steps * examples
    assert result.not_finite == 0


# Deltas that are not finite.


def spoilt(worker, at=3):
    """The batches, but one of worker 0 is not finite."""
    for number, (x, y) in enumerate(batches(worker)):
        yield x, y * np.float32(np.nan if (worker, number) == (0, at) else 1)


@runtimes
def test_a_clock_that_is_not_finite_is_counted_where_it_is_kept_out(runtime):
    kept_out = ssp.mitigations.skip_nonfinite()
    spec = linear(data=spoilt, policy=ssp.SSP(2), num_clocks=8, delta_tx=kept_out)
    result = ssp.train(runtime=runtime, **spec)
    assert [where for where, push in pushes(result).items() if not push.finite] == [(0, 3)]
    assert (result.status, result.not_finite) == ("done", 1)
    assert "1 clocks gave a delta that is not finite" in result.summary()
    assert [row["clock"] for row in result.history if not row["finite"]] == [3]
    assert result.schedule["finite"].sum() == 23


@runtimes
@pytest.mark.every(3)
def test_whether_a_delta_is_finite_is_looked_at_before_it_is_compressed(runtime):
    wire = ssp.compression.Sign()  # of what is not a number too it sends something
    spec = linear(data=spoilt, policy=ssp.SSP(2), num_clocks=4, delta_wire=wire)
    assert not pushes(ssp.train(runtime=runtime, **spec))[0, 3].finite


@runtimes
def test_a_server_that_is_not_finite_ends_the_run(runtime):
    spec = linear(policy=ssp.SSP(2), num_clocks=500, server_tx=optax.scale(1e30))
    result = ssp.train(runtime=runtime, **spec, max_nonfinite=None)
    assert result.status == "diverged"
    assert result.updates < 100
    assert not np.isfinite(result.params["w"]).all()
    assert ssp.check_contract(result.tape).complete


def test_a_loss_that_is_not_finite_is_no_divergence():
    """Its gradient is: log(-1 - square) is not a number, but its derivative is one."""
    step = ssp.make_step(lambda p, b, key: (jnp.log(-1 - (p["w"] ** 2).sum()), {}), optax.sgd(0.1))
    result = ssp.train(
        step,
        params=PARAMS,
        data=batches,
        num_clocks=4,
        runtime=ssp.Virtual(2),
    )
    assert np.isnan([row["metrics"]["loss"] for row in result.history]).all()
    assert (result.status, result.not_finite, result.updates) == ("done", 0, 8)


def test_a_server_that_its_own_transform_spoils_has_diverged_at_the_end():
    result = ssp.train(
        runtime=ssp.Virtual(2), **linear(num_clocks=3, server_tx=optax.scale(float("inf")))
    )
    assert result.status == "diverged"


# The weights that the controller says are those that the server takes.


@pytest.mark.parametrize("count", [1, 2, 40])
def test_each_delta_of_a_merge_has_its_own_weight(count):
    server = ssp.Server({"w": np.zeros(2, np.float32)})
    weights = [2.0**-number for number in range(count)]
    delta = [{"w": jnp.array([1.0, -1.0])}]
    plain = server.programs(lambda params, delta: delta)
    arrivals = [arrival(weight=each, num_workers=count) for each in weights]
    server.versions.apply(plain, [delta] * count, arrivals)
    np.testing.assert_allclose(server.params["w"], [sum(weights), -sum(weights)], rtol=1e-6)


@pytest.mark.parametrize("weight", ["mean", "sum", "merged", 0.3])
def test_schedule_and_history_read_the_weight_off_the_tape(weight):
    result = ssp.train(
        runtime=RUNTIMES["virtual"],
        **linear(policy=ssp.KAsync(2), num_clocks=4, weight=weight),
    )
    each = {"mean": 1 / 3, "sum": 1.0, "merged": 0.5}.get(weight, weight)
    assert result.schedule["weight"][0] == each
    assert [row["weight"] for row in result.history] == result.schedule["weight"].tolist()
    assert ssp.check_contract(result.tape).merged == 12
    result.tape.header["experiment"]["weight"] = 0.7
    with pytest.raises(ssp.ContractViolation, match=r"has the weight 0\.7"):
        ssp.check_contract(result.tape)


# Pushes that come twice.


class Again(VirtualClock):
    """Each push comes once more, after some others."""

    seen, others = (), 3

    def next_event(self):
        if len(self.seen) > self.others:
            again, *self.seen = self.seen
            return again
        message = super().next_event()
        if message is not None and message.metrics is not None:
            self.seen = [*self.seen, message]
        return message


class Twice(ssp.Virtual):
    clock = Again

    def open(self, session):
        executor = OnDemand(session.workers, session.store)
        delays = DelayDraws(self.delay, self.seed, session.num_workers)
        return World(self.clock(session.num_workers, executor, delays), executor)


class AtOnce(Twice):
    """And at once, when the first may not be settled."""

    class clock(Again):
        others = 0


@pytest.mark.parametrize("policy", [ssp.SSP(2), ssp.BSP(), ssp.KSync(2)], ids=repr)
@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.parametrize("twice", [Twice, AtOnce])
@pytest.mark.every(5)
def test_a_push_that_comes_again_is_on_the_tape_and_nowhere_else(policy, overlap, twice):
    spec = linear(policy=policy, num_clocks=6, overlap=overlap)
    once = ssp.train(runtime=RUNTIMES["virtual"], **spec)
    result = ssp.train(runtime=twice(3, delays.Exponential()), **spec)
    assert ssp.check_contract(result.tape).late > 5
    assert bits(result.params) == bits(once.params)
    assert result.history == once.history
    np.testing.assert_array_equal(result.schedule, once.schedule)
    replayed = ssp.train(runtime=ssp.Replay(result.tape), **spec)
    assert bits(replayed.params) == bits(once.params)
    assert list(replayed.tape) == list(result.tape)


def test_on_devices_the_push_of_a_cancelled_clock_is_fenced():
    spec = linear(policy=ssp.KSync(1), num_clocks=20, step=STEP)
    result = ssp.train(runtime=ssp.Devices(num_workers=3), **spec)
    report = ssp.check_contract(result.tape)
    assert report.cancelled == 40
    again = ssp.train(runtime=ssp.Replay(result.tape), **spec)
    assert bits(again.params) == bits(result.params)
