"""Data that ends: its worker's part is done, the others go on, and nothing of it is lost."""

from __future__ import annotations

import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp.controller import Cancel, Drop, StartClock, WorkerDone

WORLDS = {
    "virtual": lambda workers: ssp.Virtual(workers, ssp.delays.Exponential(1.0)),
    "batch": lambda workers: ssp.Virtual(workers, ssp.delays.Exponential(1.0), batch=4),
    "devices": lambda workers: ssp.Devices(num_workers=workers, workers_per_device=4),
}
POLICIES = [
    ssp.BSP(),
    ssp.SSP(0),
    ssp.SSP(2),
    ssp.SSP(2, adopt="lazy"),
    ssp.ASP(),
    ssp.DSSP(1, 3),
    ssp.PSP(2),
    ssp.KSync(2),
    ssp.KAsync(2),
    ssp.KBatchSync(2),
    ssp.KBatchAsync(2),
    ssp.Softsync(2),
    ssp.BackupWorkers(1),
    ssp.FedBuff(3),
    ssp.Quorum(2),
    ssp.Rennala(3),
    ssp.Ringmaster(3),
]


def loss_fn(params, batch, key):
    return jnp.mean((params["w"] - batch) ** 2), {"examples": jnp.float32(batch.shape[0])}


STEP = ssp.make_step(loss_fn, optax.sgd(0.1))


def batches(*counts, last=None):
    """Worker i has counts[i] batches of two examples; `last` is the size of the very last."""

    def data(worker):
        for number in range(counts[worker]):
            size = last if last and number == counts[worker] - 1 else 2
            yield np.full(size, 1 + number, np.float32)

    return data


def train(runtime, data, **changes):
    spec = {"params": {"w": jnp.float32(0)}, "data": data, "policy": ssp.SSP(2), "num_clocks": 12}
    return ssp.train(STEP, runtime=runtime, **{**spec, **changes})


def proven(result, data, **changes):
    """Check the contract, repeat the run bit for bit, and give it."""
    assert result.tape.complete
    report = ssp.check_contract(result.tape)
    assert (report.merged, report.in_flight) == (result.updates, 0)
    again = train(ssp.Replay(result.tape), data, **changes)
    assert jax.tree.map(np.array_equal, again.params, result.params) == {"w": True}
    assert again.history == result.history
    assert again.ended_by_data == result.ended_by_data
    return result


# Every policy in one world in the quick loop; in all of them in CI.
@pytest.mark.parametrize(
    ("policy", "world"),
    [
        pytest.param(
            *(policy, world),
            id=f"{policy}-{world}",
            marks=[] if i % len(WORLDS) == j else [pytest.mark.slow],
        )
        for i, policy in enumerate(POLICIES)
        for j, world in enumerate(WORLDS)
    ],
)
@pytest.mark.every(13)
def test_the_others_go_on_under_every_policy(policy, world):
    data = batches(3, 12, 7, 12)
    result = proven(train(WORLDS[world](4), data, policy=policy), data, policy=policy)
    assert result.status == "done"
    rows = result.schedule
    clocks = {worker: int((rows["worker"] == worker).sum()) for worker in range(4)}
    if policy.cancels and world == "devices":
        # Clocks may be cancelled before it is known that there is no data for them, up to the last.
        assert clocks[0] >= 3
        assert clocks[2] >= 7
        assert all(clocks[worker] == clock for worker, clock in result.ended_by_data.items())
    else:
        assert clocks == {0: 3, 1: 12, 2: 7, 3: 12}
        assert result.ended_by_data == {0: 3, 2: 7}
    given_up = sum(isinstance(c, Drop | Cancel) for _, _, cs in result.tape for c in cs)
    assert result.updates + given_up == sum(clocks.values())


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("end", [{"num_clocks": 100}, {"num_clocks": None, "max_updates": 1000}])
@pytest.mark.every(3)
def test_a_run_ends_when_the_data_of_all_has_ended(world, end):
    data = batches(10, 12)
    result = proven(train(WORLDS[world](2), data, **end), data, **end)
    assert (result.status, result.updates, result.ended_by_data) == ("done", 22, {0: 10, 1: 12})
    assert "data ended, worker after clocks: 0 after 10, 1 after 12" in result.summary()


def test_exactly_enough_data_is_no_end_by_data():
    data = batches(12, 12)
    result = train(WORLDS["virtual"](2), data)
    assert (result.updates, result.ended_by_data) == (24, {})
    assert "data ended" not in result.summary()


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("overlap", [0, 1, 3])
@pytest.mark.parametrize("adopt", ["rebase", ssp.Mix(0.5)])
@pytest.mark.every(23)
def test_the_last_clock_has_as_many_steps_as_there_are_batches(world, overlap, adopt):
    data = batches(7, 12, 9)
    spec = {"local_steps": 3, "overlap": overlap, "adopt": adopt}
    result = proven(train(WORLDS[world](3), data, **spec), data, **spec)
    assert result.ended_by_data == {0: 3, 1: 4, 2: 3}
    steps = {worker: [] for worker in range(3)}
    for _, event, _ in result.tape:
        if isinstance(event, ssp.controller.DeltaReady):
            steps[event.worker].append((event.steps, event.samples))
    assert steps == {0: [(3, 6), (3, 6), (1, 2)], 1: [(3, 6)] * 4, 2: [(3, 6)] * 3}


def test_a_clock_that_is_run_ahead_whole_takes_no_batch_of_the_next():
    data = batches(7)
    spec = {"local_steps": 2, "overlap": 2, "policy": ssp.BSP()}
    slow = ssp.Devices(num_workers=1, delay=ssp.delays.Constant(0.05))  # it is granted ahead
    result = proven(train(slow, data, **spec), data, **spec)
    assert result.schedule["steps"].tolist() == [2, 2, 2, 1]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    ("local_steps", "steps"), [(1, [1] * 7), (2, [2, 2, 2, 1]), (3, [3, 3, 1]), (4, [4, 2, 1])]
)
@pytest.mark.every(17)
def test_a_smaller_last_batch_is_a_step_as_it_is(world, local_steps, steps):
    data = batches(7, 7, last=1)
    spec = {"local_steps": local_steps}
    result = proven(train(WORLDS[world](2), data, **spec), data, **spec)
    assert result.status == "done"
    for worker in range(2):
        rows = [row for row in result.history if row["worker"] == worker]
        assert [row["metrics"]["examples"] for row in rows] == [2.0] * (len(steps) - 1) + [1.0]
    events = [event for _, event, _ in result.tape]
    made = [e.steps for e in events if type(e) is ssp.controller.DeltaReady and e.worker == 0]
    assert made == steps


def test_what_a_worker_with_little_data_brings_is_what_it_computed():
    """One worker with three batches, by hand."""
    data = batches(3)
    result = train(ssp.Virtual(1), data, local_steps=2)
    w = 0.0
    for batch in (1.0, 2.0, 3.0):
        w += 0.2 * (batch - w)
    np.testing.assert_allclose(result.params["w"], w, rtol=1e-6)
    assert [row["metrics"]["loss"] for row in result.history] == pytest.approx(
        [2.12, (3 - 0.56) ** 2]
    )


def test_weights_are_of_those_who_are_left():
    data = batches(1, 3)
    result = train(ssp.Virtual(2), data, policy=ssp.BSP())
    assert result.schedule["weight"].tolist() == [0.5, 0.5, 1.0, 1.0]


def test_a_worker_that_is_done_starts_nothing_and_a_rejoin_is_no_business_of_its_data():
    result = train(ssp.Virtual(2), batches(2, 12))
    entries = list(result.tape)
    (at,) = (n for n, row in enumerate(entries) if isinstance(row.event, WorkerDone))
    assert entries[at].event[:2] == (0, 2)
    later = [c for row in entries[at:] for c in row.commands if isinstance(c, StartClock)]
    assert later
    assert {start.worker for start in later} == {1}
    assert {start.num_workers for start in later} == {1}


@pytest.mark.parametrize("world", WORLDS)
def test_data_that_is_empty_is_refused_by_name(world):
    with pytest.raises(ValueError, match=r"`data\(worker=1\)` gives no batch at all"):
        train(WORLDS[world](2), batches(12, 0))


def test_a_replay_with_data_that_ends_elsewhere_is_refused():
    data, spec = batches(5, 12), {"local_steps": 2}
    result = train(ssp.Virtual(2), data, **spec)
    replay = ssp.Replay(result.tape)
    with pytest.raises(ssp.TapeMismatch, match=r"in clock 2 `data\(worker=0\)` ended elsewhere"):
        train(replay, batches(6, 12), **spec)
    with pytest.raises(ssp.TapeMismatch, match=r"ended elsewhere .* but here it gives 1 of"):
        train(replay, batches(3, 12), **spec)
    with pytest.raises(ValueError, match=r"`data\(worker=0\)` has ended before clock 2"):
        train(replay, batches(4, 12), **spec)
    even = train(ssp.Virtual(2), batches(4, 12), **spec)
    with pytest.raises(ssp.TapeMismatch, match=r"in clock 2 .* ended elsewhere .* it gives more"):
        train(ssp.Replay(even.tape), batches(6, 12), **spec)


def test_nobody_waits_for_an_iterator_that_has_ended():
    """It is not asked again: an iterator may block, or begin anew, after its end."""

    class Once:
        def __init__(self, worker):
            self.left, self.ended = 2 + worker, threading.Event()

        def __iter__(self):
            return self

        def __next__(self):
            assert not self.ended.is_set(), "it is asked again"
            self.left -= 1
            if self.left < 0:
                self.ended.set()
                raise StopIteration
            return np.ones(2, np.float32)

    for make in WORLDS.values():
        assert train(make(2), Once).ended_by_data == {0: 2, 1: 3}


def test_an_end_while_the_run_stops_is_no_end_by_data():
    class Presses(ssp.Observer):
        def on_clock(self, row):
            if row["updates"] == 4:
                self.stop()

    import signal

    presses = Presses()
    presses.stop = lambda: signal.raise_signal(signal.SIGINT)
    result = train(ssp.Virtual(2), batches(3, 3), observers=[presses])
    assert result.status == "interrupted"
    assert result.tape.complete
