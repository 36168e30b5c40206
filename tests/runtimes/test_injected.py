"""Injected faults: every policy and mode keeps its promise, and a replay repeats them."""

import signal
import threading
from itertools import islice

import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp import delays, faults
from jax_ssp.controller import Cancel, DeltaReady, StopRequested, WorkerLost
from jax_ssp.policies import ALL_POLICIES
from tests.helpers.problems import batches, bits, linear, loss_fn

CANCELLING = [ssp.KSync(2), ssp.KBatchSync(3), ssp.Ringmaster(2, stops=True)]
POLICIES = [*(policy() for policy in ALL_POLICIES), *CANCELLING]
FAULTS = {
    "crash": [faults.Crash(1, 3)],
    "crash at once": [faults.Crash(0, 0), faults.Crash(2, 1)],
    "hang": [faults.Hang(1, 3)],
    "slow": [faults.Slow(1, 3, seconds=20.0)],
    "nan": [faults.NaN(1, 3), faults.NaN(2, 3)],
    "all": [faults.NaN(0, 2), faults.Slow(1, 1), faults.Crash(2, 4), faults.Hang(3, 5)],
}
MODES = {
    "batch": {"batch": 2, "step": ssp.make_step(loss_fn, optax.sgd(0.05, momentum=0.5))},
    "overlap": {"overlap": 1, "local_steps": 3},
    "mix": {"overlap": 2, "local_steps": 3, "adopt": ssp.Mix(0.5)},
    "lossy": {"delta_wire": ssp.compression.Int8(block=4)},
    "steps": {"local_steps": ssp.PostLocal(3, switch=2)},
}
KINDS = pytest.mark.parametrize("kind", FAULTS)


def events(result, kind):
    return [(now, event) for now, event, _ in result.tape if type(event) is kind]


def run(kind, batch=1, **changes):
    """A run with these faults, its replay, and what they must have in common."""
    spec = linear(**{"num_clocks": 8, **changes})
    runtime = ssp.Virtual(4, delays.Exponential(), batch=batch, faults=FAULTS[kind])
    result = ssp.train(runtime=runtime, **spec)
    report = ssp.check_contract(result.tape)
    assert report.merged == result.updates
    again = ssp.train(runtime=ssp.Replay(result.tape), **spec)
    assert bits(again.params) == bits(result.params)
    assert bits(again.states.workers) == bits(result.states.workers)
    np.testing.assert_array_equal(again.schedule, result.schedule)
    assert repr((again.status, again.history)) == repr((result.status, result.history))  # NaNs too
    return result


@pytest.mark.parametrize("kind", ["crash", "hang", "nan"])
@pytest.mark.parametrize("policy", POLICIES, ids=repr)
@pytest.mark.every(37)
def test_the_contract_holds_under_every_policy(policy, kind):
    result = run(kind, policy=policy)
    assert result.status in ("done", "stopped", "diverged")
    if kind == "crash":
        assert result.status == "done"
    lost = {event.worker for _, event in events(result, WorkerLost)}
    assert lost <= {fault.worker for fault in FAULTS[kind] if isinstance(fault, faults.Crash)}


@KINDS
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.every(17)
def test_the_contract_holds_in_every_mode(mode, kind):
    run(kind, policy=ssp.SSP(2), **MODES[mode])


@pytest.mark.parametrize("kind", ["crash", "crash at once", "hang", "slow"])
@pytest.mark.every(5)
def test_the_clockwork_alone_has_the_same_schedule(kind):
    spec = {"policy": ssp.ASP(), "num_clocks": 8}
    runtime = {"num_workers": 4, "delay": delays.Exponential(), "faults": FAULTS[kind]}
    alone = ssp.train(runtime=ssp.Virtual(**runtime, compute=False), **spec).schedule
    computed = ssp.train(runtime=ssp.Virtual(**runtime), **linear(**spec)).schedule
    columns = [name for name in alone.dtype.names if name != "samples"]
    np.testing.assert_array_equal(alone[columns], computed[columns])


def test_the_clockwork_alone_has_deltas_that_are_not_finite():
    runtime = ssp.Virtual(4, compute=False, faults=FAULTS["nan"])
    rows = ssp.train(runtime=runtime, policy=ssp.ASP(), num_clocks=8).schedule
    assert len(rows) == 32
    assert {(row["worker"], row["clock"]) for row in rows[~rows["finite"]]} == {(1, 3), (2, 3)}


@pytest.mark.parametrize("policy", [ssp.BSP(), ssp.SSP(2), ssp.KAsync(2), ssp.KSync(2)], ids=repr)
@pytest.mark.parametrize("kind", ["crash", "crash at once", "nan"])
@pytest.mark.every(7)
def test_devices_play_them_too(policy, kind):
    spec = linear(num_clocks=8, policy=policy)
    result = ssp.train(runtime=ssp.Devices(num_workers=4, faults=FAULTS[kind]), **spec)
    ssp.check_contract(result.tape)
    again = ssp.train(runtime=ssp.Replay(result.tape), **spec)
    assert bits(again.params) == bits(result.params)
    assert again.status == result.status


# What each does.


def test_a_crash_loses_the_worker_when_its_clock_would_have_ended():
    spec = {"policy": ssp.BSP(), "num_clocks": 6}
    delay = delays.Constant(1.0)
    result = ssp.train(runtime=ssp.Virtual(3, delay, faults=[faults.Crash(2, 4)]), **linear(**spec))
    assert events(result, WorkerLost) == [(5.0, WorkerLost(2, "an injected fault"))]
    assert result.updates == 3 * 4 + 2 * 2
    assert [row["clock"] for row in result.history if row["worker"] == 2] == [0, 1, 2, 3]


def test_a_slow_clock_ends_later_and_no_other():
    spec = {"policy": ssp.ASP(), "num_clocks": 4}
    fine, slow = (
        ssp.train(runtime=ssp.Virtual(2, faults=wrong), **linear(**spec)).schedule
        for wrong in ((), [faults.Slow(1, 2, seconds=0.5)])
    )
    took = [sorted((row["worker"], row["clock"], row["finish"]) for row in s) for s in (fine, slow)]
    later = [b[2] - a[2] for a, b in zip(*took, strict=True)]
    assert later == [0, 0, 0, 0, 0, 0, 0.5, 0.5]


def test_who_hangs_does_nothing_any_more_even_where_its_clock_is_cancelled():
    spec = linear(policy=ssp.KSync(2), num_clocks=8)
    result = ssp.train(runtime=ssp.Virtual(3, faults=[faults.Hang(0, 2)]), **spec)
    assert result.status == "done"
    assert [event.clock for _, event in events(result, DeltaReady) if event.worker == 0] == [0, 1]
    cancelled = {c.clock for *_, answer in result.tape for c in answer if type(c) is Cancel}
    assert {2, 3, 4, 5} <= cancelled


def test_a_hung_thread_ends_with_the_run():
    ended = []

    class Stops(ssp.Observer):
        def on_end(self, status):
            ended.append(status)

    spec = linear(policy=ssp.KSync(2), num_clocks=8)
    runtime = ssp.Devices(num_workers=3, faults=[faults.Hang(0, 2)])
    assert ssp.train(runtime=runtime, observers=[Stops()], **spec).status == "done"
    assert ended == ["done"]


def test_a_slow_clock_takes_longer_on_devices_too():
    runtime = ssp.Devices(num_workers=2, faults=[faults.Slow(1, 2, seconds=0.1)])
    rows = ssp.train(runtime=runtime, **linear(policy=ssp.ASP(), num_clocks=4)).schedule
    took = {(row["worker"], row["clock"]): row["finish"] - row["start"] for row in rows}
    assert took[1, 2] >= 0.1


@pytest.mark.slow
def test_who_hangs_on_devices_holds_the_run_up_until_it_is_interrupted():
    """All others wait for it at the bound; a second interrupt need not wait."""
    wait = threading.Event()

    class Presses(ssp.Observer):
        def on_entry(self, now, event, commands):
            if type(event) is DeltaReady and event.clock == 3:  # nobody can get further
                signal.raise_signal(signal.SIGINT)
            if type(event) is StopRequested:
                wait.set()

    def press():
        assert wait.wait(60)
        signal.raise_signal(signal.SIGINT)

    second = threading.Thread(target=press)
    second.start()
    runtime = ssp.Devices(num_workers=2, faults=[faults.Hang(1, 2)])
    spec = linear(policy=ssp.SSP(1), num_clocks=6)
    with pytest.raises(KeyboardInterrupt) as caught:
        ssp.train(runtime=runtime, observers=[Presses()], **spec)
    second.join()
    kept = caught.value.result
    assert (kept.status, kept.updates) == ("interrupted", 6)
    again = ssp.train(runtime=ssp.Replay(kept.tape), **spec)
    assert bits(again.params) == bits(kept.params)


@pytest.mark.parametrize("wire", [None, ssp.compression.TopK(0.5)], ids=repr)
@pytest.mark.every(2)
def test_a_delta_that_is_not_finite_is_reported_and_can_be_skipped(wire):
    result = ssp.train(
        runtime=ssp.Virtual(3, faults=[faults.NaN(1, 2)]),
        server_tx=ssp.mitigations.skip_nonfinite(),
        delta_wire=wire,
        **linear(num_clocks=5),
    )
    wrong = [
        (event.worker, event.clock) for _, event in events(result, DeltaReady) if not event.finite
    ]
    assert wrong[0] == (1, 2)
    assert result.tape.header["nan"] == [[1, 2]]
    assert wire is not None or (wrong == [(1, 2)] and np.isfinite(result.params["w"]).all())


@pytest.mark.parametrize("runtime", [ssp.Virtual, ssp.Devices])
def test_an_error_that_is_raised_ends_the_run(runtime):
    wrong = [faults.Raise(2, 3, OSError("the disk is gone"))]
    with pytest.raises(OSError, match="the disk is gone") as caught:
        ssp.train(runtime=runtime(num_workers=3, faults=wrong), **linear(num_clocks=5))
    assert caught.value.result.status == "failed"


def test_all_are_lost():
    runtime = ssp.Virtual(2, faults=[faults.Crash(0, 1), faults.Crash(1, 2)])
    result = ssp.train(runtime=runtime, **linear(num_clocks=5))
    assert len(events(result, WorkerLost)) == 2
    assert (result.status, result.updates) == ("stopped", 3)
    again = ssp.train(runtime=ssp.Replay(result.tape), **linear(num_clocks=5))
    assert again.status == "stopped"


@pytest.mark.parametrize(
    "ends",
    [{"num_clocks": 3}, {"max_updates": 2}, {"data": lambda worker: islice(batches(worker), 3)}],
)
def test_who_is_lost_leaves_the_others_to_come_to_an_end(ends):
    runtime = ssp.Virtual(2, faults=[faults.Crash(0, 1)])
    spec = {**linear(num_clocks=None if "max_updates" in ends else 5), **ends}
    result = ssp.train(runtime=runtime, **spec)
    assert result.status == "done"


# What they may be.


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: faults.Crash(-1, 0), ValueError, r"`Crash\(worker=...\)` must be non-negative"),
        (lambda: faults.NaN(0, 1.5), TypeError, r"`NaN\(clock=...\)`"),
        (lambda: faults.Slow(0, 0, -1.0), ValueError, r"`Slow\(seconds=...\)`"),
        (lambda: faults.Slow(0, 0, float("nan")), ValueError, r"`Slow\(seconds=...\)`"),
        (lambda: faults.Raise(0, 0, "no"), TypeError, r"`Raise\(error=...\)` must be an exception"),
        (lambda: ssp.Virtual(2, faults=3), TypeError, r"`Virtual\(faults=...\)` must be a list of"),
        (lambda: ssp.Devices(faults=[3]), TypeError, r"faults=...\)\[0\]` must be a fault"),
        (
            lambda: ssp.Virtual(2, faults=[faults.Hang(2, 0)]).count(),
            ValueError,
            r"`Virtual\(faults=...\)` names worker 2 .* there are 2 workers, counted from 0",
        ),
    ],
)  # fmt: skip
def test_what_is_no_fault_is_told(make, error, message):
    with pytest.raises(error, match=message):
        make()
