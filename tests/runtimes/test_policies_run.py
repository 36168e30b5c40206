"""Every policy in every world; cancelled clocks; what the server asks of workers for it."""

import itertools
import threading
import time

import jax
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp import delays
from jax_ssp.controller import Cancel, Controller, DeltaReady, Ends, Fence, TimerFired
from jax_ssp.controller.tape import Tape
from jax_ssp.policies import ALL_POLICIES, ALL_SCHEDULES
from jax_ssp.runtimes.base import LOOK, World
from jax_ssp.runtimes.lazy import Nothing
from jax_ssp.runtimes.loop import Loop
from jax_ssp.runtimes.wall import WallClock
from jax_ssp.server.local_store import LocalStore
from tests.helpers.problems import (
    DIMENSION,
    PARAMS,
    TOLD,
    batches,
    bits,
    distance,
    linear,
    loss_fn,
    numbers,
)
from tests.helpers.stores import storing

RUNTIMES = {
    "devices": ssp.Devices(num_workers=4, delay=delays.ShiftedExponential(shift=0.0, mean=0.002)),
    "virtual": ssp.Virtual(4, delays.Exponential()),
}
CANCELLING = [ssp.KSync(2), ssp.KBatchSync(3), ssp.Ringmaster(2, stops=True)]
POLICIES = [*(policy() for policy in ALL_POLICIES), *CANCELLING]
ON_DEVICES = [*CANCELLING, ssp.Quorum(), ssp.VAP(), ssp.DSSP(), ssp.KBatchAsync()]
MOMENTUM = ssp.make_step(loss_fn, optax.sgd(0.05, momentum=0.5))
# With all that a worker keeps and that the server asks for.
FULL = {
    "step": MOMENTUM,
    "delta_wire": ssp.compression.Int8(block=4),
    "delta_tx": ssp.mitigations.delay_compensation(0.04, 0.05),
}


# On real devices those that do something there which others do not; in CI all.
TABLE = [
    pytest.param(
        *(policy, runtime),
        id=f"{policy!r}-{name}",
        marks=[pytest.mark.slow] if name == "devices" and policy not in ON_DEVICES else [],
    )
    for policy in dict.fromkeys(POLICIES)
    for name, runtime in RUNTIMES.items()
]


@pytest.mark.parametrize(("policy", "runtime"), TABLE)
@pytest.mark.every(17)
def test_a_policy_trains_keeps_its_word_and_replays_to_the_last_bit(policy, runtime):
    spec = linear(policy=policy, num_clocks=16, **FULL)
    result = ssp.train(runtime=runtime, **spec)
    assert distance(result.params) < 0.8 * distance(PARAMS)
    report = ssp.check_contract(result.tape)
    assert report.complete
    assert report.merged + report.dropped + report.cancelled == 64
    assert report.staleness_bound == policy.guaranteed_staleness(4)
    again = ssp.train(runtime=ssp.Replay(result.tape), **spec)
    assert bits(again.params) == bits(result.params)
    assert bits(again.residuals) == bits(result.residuals)
    assert list(again.tape) == list(result.tape)
    assert again.history == result.history


@pytest.mark.parametrize("schedule", ALL_SCHEDULES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("runtime", RUNTIMES.values(), ids=RUNTIMES)
@pytest.mark.every(4)
def test_a_schedule_of_local_steps_trains_and_replays(schedule, runtime):
    spec = linear(policy=ssp.SSP(2), num_clocks=12, local_steps=schedule(h=3))
    result = ssp.train(runtime=runtime, **spec)
    assert distance(result.params) < 0.8 * distance(PARAMS)
    again = ssp.train(runtime=ssp.Replay(result.tape), **spec)
    assert bits(again.params) == bits(result.params)
    with pytest.raises(ssp.TapeMismatch, match="local_steps"):
        ssp.train(runtime=ssp.Replay(result.tape), **{**spec, "local_steps": 2})


# Cancelled clocks.


def reference(tape, rate=0.05, momentum=0.5):
    """The same training in NumPy: a cancelled clock takes its batch, and leaves all else alone."""
    workers = tape.header["num_workers"]
    params = {0: np.zeros(DIMENSION)}
    feeds = [batches(worker) for worker in range(workers)]
    velocity = [np.zeros(DIMENSION) for _ in range(workers)]
    running, pushed = {}, {}
    for _, event, commands in tape:
        if any(isinstance(command, Fence) for command in commands):
            continue  # a cancelled clock was computed to its end
        if isinstance(event, DeltaReady):
            worker, base = event.worker, running.pop(event.worker)
            x, y = next(feeds[worker])
            velocity[worker] = momentum * velocity[worker] + 2 * x.T @ (x @ base - y) / len(y)
            pushed[worker, event.clock] = -rate * velocity[worker]
        for command in commands:
            kind = type(command).__name__
            if kind == "Merge":
                total = sum(pushed[d.worker, d.clock] for d in command.deltas)
                params[command.version] = params[command.version - 1] + total / command.num_workers
            elif kind == "StartClock":
                running[command.worker] = params[command.version]
            elif kind == "Cancel":
                del running[command.worker]
                next(feeds[command.worker])
    return params[max(params)]


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("policy", CANCELLING, ids=repr)
@pytest.mark.every(4)
def test_of_a_cancelled_clock_only_the_batch_is_gone(policy, batch):
    runtime = ssp.Virtual(4, delays.Exponential(), batch=batch)
    result = ssp.train(runtime=runtime, **linear(policy=policy, num_clocks=20, step=MOMENTUM))
    assert ssp.check_contract(result.tape).cancelled > 5
    np.testing.assert_allclose(result.params["w"], reference(result.tape), rtol=2e-4, atol=2e-5)


def test_a_cancelled_clock_is_seen_in_the_schedule_and_by_observers():
    rows = []

    class Watch(ssp.Observer):
        def on_clock(self, row):
            rows.append(row)

    runtime = ssp.Virtual(3, delays.PerWorker((1.0, 2.0, 5.0)))
    result = ssp.train(
        runtime=runtime, observers=[Watch()], **linear(policy=ssp.KSync(2), num_clocks=4)
    )
    late = result.schedule[result.schedule["worker"] == 2]
    assert late["start"].tolist() == [0.0, 2.0, 4.0, 6.0]
    assert late["finish"].tolist() == [2.0, 4.0, 6.0, 8.0]
    assert late["merge_version"].tolist() == [-1] * 4
    assert [row["merge_version"] for row in rows if row["worker"] == 2] == [-1] * 4
    assert "4 clocks cancelled" in str(ssp.check_contract(result.tape))
    assert (result.seconds, result.updates) == (8.0, 8)


def test_on_devices_nobody_waits_for_the_delay_of_a_cancelled_clock():
    began = time.perf_counter()
    slow = delays.PerWorker((0.001, 0.001, 300.0))
    runtime = ssp.Devices(num_workers=3, delay=slow)
    result = ssp.train(runtime=runtime, **linear(policy=ssp.KSync(2), num_clocks=5))
    assert ssp.check_contract(result.tape).cancelled == 5
    assert time.perf_counter() - began < 100


def test_clocks_cancelled_while_they_compute_are_thrown_away():
    """Without delays the slow one's programs are still running when it is cancelled."""
    spec = linear(policy=ssp.KSync(1), num_clocks=30, step=MOMENTUM)
    result = ssp.train(runtime=ssp.Devices(num_workers=4), **spec)
    report = ssp.check_contract(result.tape)
    assert report.merged + report.cancelled == 120
    assert report.cancelled >= 30
    np.testing.assert_allclose(result.params["w"], reference(result.tape), rtol=2e-4, atol=2e-5)


def test_who_is_cancelled_again_and_again_begins_the_newest_clock_only():
    """While worker 3 is held up its next clocks are started and cancelled: it passes them over."""
    held, readers = threading.Event(), []

    def data(worker):
        for number in itertools.count():
            if worker == 3 and number == 1:
                held.wait(60)
            yield next(source[worker])

    source = [batches(worker) for worker in range(4)]

    class Count(ssp.Observer):
        def on_entry(self, now, event, commands):
            if any(isinstance(c, Cancel) and c.clock == 30 for c in commands):
                held.set()

    class Counts(LocalStore):
        """Who begins a clock after one that was cancelled reads a version anew."""

        def snapshot(self, version):
            readers.append(threading.current_thread().name)
            return super().snapshot(version)

    result = ssp.train(
        runtime=storing(ssp.Devices(num_workers=4), Counts),
        observers=[Count()],
        **linear(policy=ssp.KSync(3), num_clocks=40, step=MOMENTUM, data=data),
    )
    assert 0 < readers.count("ssp-worker-3") < 20
    np.testing.assert_allclose(result.params["w"], reference(result.tape), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("grace", [0.0, 0.0005, 0.002])
@pytest.mark.every(3)
def test_timers_and_deltas_that_come_at_one_time_on_devices(grace):
    runtime = ssp.Devices(num_workers=4, delay=delays.Exponential(mean=0.001))
    spec = linear(policy=ssp.Quorum(k=2, grace=grace), num_clocks=60)
    result = ssp.train(runtime=runtime, **spec)
    assert ssp.check_contract(result.tape).merged == 240
    again = ssp.train(runtime=ssp.Replay(result.tape), **spec)
    assert bits(again.params) == bits(result.params)


def test_a_timer_set_anew_while_the_old_one_fires_is_kept():
    clock = WallClock(0)
    clock.set_timer(clock.now() - 1)
    assert clock.next_event() is LOOK  # that it may be due, no more
    anew = clock.now() - 0.5
    clock.set_timer(anew)  # before the loop asks, under its lock
    assert clock.due() == TimerFired(anew)
    clock.set_timer(clock.now() + 3600)
    assert clock.due() is None
    clock.set_timer(None)
    assert clock.due() is None


def test_whether_a_timer_is_due_is_asked_once_more_under_the_lock():
    answers = [TimerFired(1.0), None]  # another thread sets it anew in between

    class Late(WallClock):
        def due(self):
            return answers.pop(0)

    loop = Loop(Controller(ssp.ASP(), ends=Ends(num_clocks=1)), None, Tape({}))
    loop.enter(World(Late(0), Nothing()))
    loop.take(None)
    assert (answers, list(loop.tape)) == ([], [])


def test_mixing_and_cancelling_share_no_memory_that_is_used_again():
    size = 70_000  # large enough for its memory to be used again
    result = ssp.train(
        ssp.make_step(lambda p, b, key: (((p["w"] - b) ** 2).sum(), {}), optax.sgd(0.1)),
        params={"w": np.zeros(size, np.float32)},
        data=lambda worker: itertools.repeat(np.float32(worker)),
        policy=ssp.KSync(2),
        adopt=ssp.Mix(0.5),
        num_clocks=40,
        runtime=ssp.Devices(num_workers=4, delay=delays.Exponential(mean=0.003)),
    )
    assert ssp.check_contract(result.tape).cancelled > 0


@pytest.mark.parametrize("adopt", ["rebase", ssp.Mix(0.5)], ids=repr)
@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.every(5)
def test_a_bad_batch_costs_the_clock_that_has_it_and_no_other(adopt, overlap):
    def data(worker):
        for number, (x, y) in enumerate(batches(worker)):
            yield x, y * np.float32(np.nan if (worker, number) == (0, 7) else 1)

    result = ssp.train(
        runtime=ssp.Virtual(2),
        **linear(data=data, policy=ssp.SSP(2), num_clocks=20, local_steps=2, overlap=overlap),
        adopt=adopt,
        delta_tx=ssp.mitigations.skip_nonfinite(),
    )
    bad = [row["clock"] for row in result.history if not np.isfinite(row["metrics"]["loss"])]
    assert result.status == "done"
    assert len(bad) <= 2  # the clock, and with overlap perhaps the one it was begun for
    assert distance(result.params) < 0.8 * distance(PARAMS)


def test_a_worker_that_keeps_a_bad_step_to_itself_does_not_end_the_run():
    def data(worker):
        for number, (x, y) in enumerate(batches(worker)):
            yield x, y * np.float32(np.nan if (worker, number) == (0, 3) else 1)

    step = ssp.make_step(loss_fn, optax.apply_if_finite(optax.sgd(0.05), 5))
    result = ssp.train(
        runtime=ssp.Virtual(2), **linear(step=step, data=data, policy=ssp.ASP(), num_clocks=9)
    )
    assert result.status == "done"


# Deltas one by one.


def by_staleness():
    """Multiplies a delta by 1 + its staleness."""

    def update(updates, state, params=None, *, staleness, **extras):
        factor = (1 + staleness).astype(np.float32)
        return jax.tree.map(lambda leaf: leaf * factor, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


@pytest.mark.parametrize("runtime", [ssp.Virtual(3, delays.Exponential())], ids=repr)
@pytest.mark.parametrize(
    "policy", [ssp.KBatchAsync(3), ssp.Softsync(1), ssp.ASP(), ssp.Quorum(2, 0.1)], ids=repr
)
def test_each_delta_of_a_merge_is_told_its_own_staleness(policy, runtime):
    powers = [[2.0 ** -(3 * clock + worker) for clock in range(6)] for worker in range(3)]
    result = ssp.train(
        TOLD,
        params={"w": np.float32(0)},
        data=numbers(powers),
        policy=policy,
        runtime=runtime,
        num_clocks=6,
        weight="sum",
        delta_tx=by_staleness(),
    )
    merged = result.schedule[result.schedule["merge_version"] >= 0]
    assert merged["staleness"].max() > 0
    expected = sum(
        powers[row["worker"]][row["clock"]] * (1 + int(row["staleness"])) for row in merged
    )
    np.testing.assert_allclose(result.params["w"], expected, rtol=1e-6)


BASES = optax.GradientTransformationExtraArgs(
    lambda params: optax.EmptyState(),
    lambda updates, state, params=None, *, stale_params, **extras: (stale_params, state),
)


@pytest.mark.parametrize("runtime", RUNTIMES.values(), ids=RUNTIMES)
@pytest.mark.parametrize("stage", ["delta_tx", "server_tx"])
@pytest.mark.parametrize(
    "mode",
    [
        {"policy": ssp.ASP()},
        {"policy": ssp.SSP(3, "lazy")},
        {"policy": ssp.SSP(2), "overlap": 1, "local_steps": 2},
        {"policy": ssp.KBatchAsync(1)},
        {"policy": ssp.ASP(), "placement": "devices"},
        {"policy": ssp.ASP(), "snapshot_wire": ssp.compression.BFloat16()},
    ],
    ids=lambda mode: " ".join(map(str, mode.values())),
)
@pytest.mark.every(29)
def test_the_base_that_a_transform_gets_is_what_the_worker_had(mode, stage, runtime):
    """In place of each delta its base is merged: the parameters say what the bases were."""
    rate, steps = 2.0**-5, mode.get("local_steps", 1)
    result = ssp.train(
        TOLD,
        params={"w": np.float32(1)},
        data=numbers([[0.5] * 6 * steps] * 4),
        runtime=runtime,
        num_clocks=6,
        weight=rate,
        **{stage: BASES if stage == "delta_tx" else optax.chain(BASES, optax.scale(rate))},
        **mode,
    )
    params, bases = [1.0], {}
    for _, _, commands in result.tape:
        for command in commands:
            if type(command).__name__ == "Merge":
                (delta,) = command.deltas
                params.append(params[-1] + rate * bases[delta.worker, delta.clock])
            elif type(command).__name__ == "StartClock":
                own = rate * 0.5 * steps * len(command.pending)
                bases[command.worker, command.clock] = params[command.version] + own
    tolerance = 5e-3 if "snapshot_wire" in mode else 1e-5
    np.testing.assert_allclose(result.params["w"], params[-1], rtol=tolerance)


def test_a_delta_that_is_dropped_brings_no_statistics():
    params = {"w": np.zeros(2, np.float32), "mean": np.zeros(2, np.float32)}
    averaged = {"w": False, "mean": True}
    server = ssp.Server(
        params, delta_tx=ssp.mitigations.skip_nonfinite(), weight="sum", averaged=averaged
    )
    good = jax.tree.map(np.ones_like, params)
    bad = {"w": np.array([1.0, np.nan], np.float32), "mean": np.full(2, np.nan, np.float32)}
    server.merge([good, bad], num_workers=2)
    assert server.params["w"].tolist() == [1.0, 1.0]
    assert server.params["mean"].tolist() == [0.5, 0.5]
    still = {
        "w": np.zeros(2, np.float32),
        "mean": np.ones(2, np.float32),
    }  # not dropped: so it came
    server.merge([still], num_workers=2)
    assert server.params["mean"].tolist() == [1.0, 1.0]


def test_the_weight_merged_is_the_mean_over_a_merge():
    server = ssp.Server({"w": np.zeros(2, np.float32)}, weight="merged")
    delta = {"w": np.array([1.0, 2.0], np.float32)}
    server.merge([delta, delta, delta, delta], num_workers=100)
    assert server.params["w"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("runtime", RUNTIMES.values(), ids=RUNTIMES)
def test_norms_are_those_of_the_deltas_pushed(runtime):
    spec = linear(policy=ssp.VAP(limit=0.3), num_clocks=6, weight="sum")
    result = ssp.train(runtime=runtime, **spec)
    norms = {e.worker: [] for _, e, _ in result.tape if isinstance(e, DeltaReady)}
    for _, event, _ in result.tape:
        if isinstance(event, DeltaReady):
            norms[event.worker].append(event.norm)
    assert all(len(each) == 6 for each in norms.values())
    # The first delta of a worker that started at 0 is known: the gradient there.
    for worker, each in norms.items():
        x, y = next(batches(worker))
        gradient = -2 * x.T @ y / len(y)
        assert each[0] == pytest.approx(np.linalg.norm(0.05 * gradient), rel=1e-5)


def test_the_norm_of_half_precision_does_not_overflow():
    result = ssp.train(
        ssp.make_step(
            lambda p, b, key: (300.0 * p["w"].sum().astype("float32"), {}), optax.sgd(1.0)
        ),
        params={"w": np.zeros(100, np.float16)},
        data=lambda worker: itertools.repeat(np.float32(0)),
        policy=ssp.VAP(),
        num_clocks=1,
        runtime=ssp.Virtual(1),
    )
    (norm,) = [e.norm for _, e, _ in result.tape if isinstance(e, DeltaReady)]
    assert norm == pytest.approx(3000.0)


def test_without_need_no_norms_are_computed():
    result = ssp.train(runtime=ssp.Virtual(2), **linear(policy=ssp.ASP(), num_clocks=3))
    assert {e.norm for _, e, _ in result.tape if isinstance(e, DeltaReady)} == {0.0}


def test_nothing_is_cancelled_by_who_does_not_say_so():
    for policy in POLICIES:
        if not policy.cancels:
            runtime = ssp.Virtual(4, delays.Exponential(), compute=False)
            tape = ssp.train(policy=policy, runtime=runtime, num_clocks=10).tape
            assert not any(isinstance(c, Cancel) for _, _, commands in tape for c in commands)


@pytest.mark.parametrize("policy", [ssp.KSync(5), ssp.KAsync(5), ssp.Quorum(5), ssp.Softsync(5)])
def test_more_deltas_than_workers_are_refused(policy):
    with pytest.raises(ValueError, match=rf"`{type(policy).__name__}\(.=5\)` .* at most 4"):
        ssp.train(policy=policy, runtime=ssp.Virtual(4, compute=False), num_clocks=3)
