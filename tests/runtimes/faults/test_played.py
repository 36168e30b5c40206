"""Every kind of fault in every world: what the tape shows, the contract, and a replay of it all."""

import os
import signal
import threading
import time
from collections import Counter
from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp import delays, faults
from jax_ssp.controller import (
    Cancel,
    Controller,
    DeltaReady,
    Fence,
    Token,
    WorkerJoined,
    WorkerLost,
)
from jax_ssp.runtimes.loop import Loop
from jax_ssp.server.local_store import LocalStore
from tests.helpers.problems import bits, linear, loss_fn
from tests.helpers.stores import storing

MOMENTUM = ssp.make_step(loss_fn, optax.sgd(0.05, momentum=0.5))
ON = {
    "virtual": lambda wrong: ssp.Virtual(3, delays.Exponential(), faults=wrong),
    "batch": lambda wrong: ssp.Virtual(3, delays.Exponential(), batch=2, faults=wrong),
    "devices": lambda wrong: ssp.Devices(num_workers=3, delay=delays.Constant(0.005), faults=wrong),
}
WORLDS = pytest.mark.parametrize("world", ON)


def run(world, wrong, **changes):
    """A run with these faults, its contract, and its replay."""
    spec = linear(**{"step": MOMENTUM, "policy": ssp.SSP(2), "num_clocks": 6, **changes})
    result = ssp.train(runtime=ON[world](wrong), **spec)
    assert ssp.check_contract(result.tape).merged == result.updates
    again = ssp.train(runtime=ssp.Replay(result.tape), **spec)
    assert bits(again.params) == bits(result.params)
    np.testing.assert_array_equal(again.schedule, result.schedule)
    assert again.tape.header == result.tape.header
    assert list(again.tape) == list(result.tape)
    assert result.tape.header["faults"] == faults.in_words(wrong)
    return result


def events(result, kind):
    return [(now, event) for now, event, _ in result.tape if type(event) is kind]


def fenced(result):
    return [c for _, _, commands in result.tape for c in commands if type(c) is Fence]


def settled(result):
    """What a run came to, but for what was fenced."""
    rows = [row for row in result.tape if not any(type(c) is Fence for c in row.commands)]
    return rows, bits(result.params), result.schedule.tobytes()


# What the tape shows of each.


@WORLDS
@pytest.mark.parametrize("after", [0.0, 0.01])
@pytest.mark.every(3)
def test_a_push_that_is_reported_twice_is_fenced_the_second_time(world, after):
    result = run(world, [faults.Duplicate(1, 2, after=after)])
    pushes = Counter(event.token for _, event in events(result, DeltaReady))
    assert [c[:2] for c in fenced(result)] == [(1, 2)]
    assert Counter(pushes.values()) == {1: 17, 2: 1}
    assert result.updates == 18


@WORLDS
@pytest.mark.every(2)
def test_a_push_that_comes_when_its_worker_is_lost_is_fenced(world):
    result = run(world, [faults.Late(1, 2, seconds=0.001)])
    ((lost, _),) = events(result, WorkerLost)
    ((came, _),) = [e for e in events(result, DeltaReady) if (e[1].worker, e[1].clock) == (1, 2)]
    assert came >= lost + 0.001
    assert [c[:2] for c in fenced(result)] == [(1, 2)]
    assert result.updates == 6 + 6 + 2


@WORLDS
@pytest.mark.every(2)
def test_a_push_that_comes_when_its_clock_is_cancelled_is_fenced(world):
    """K-sync cancels who is slowest: worker 0, which would have pushed late anyway."""
    wrong = [faults.Slow(0, 2, seconds=9.0), faults.Late(0, 2, seconds=0.0)]
    result = run(world, wrong, policy=ssp.KSync(2))
    cancelled = {c.token for _, _, commands in result.tape for c in commands if type(c) is Cancel}
    (fence, *_) = [c for c in fenced(result) if c[:2] == (0, 2)]
    assert fence.token in cancelled
    assert not events(result, WorkerLost)


@WORLDS
@pytest.mark.parametrize("kind", [faults.LostPush, faults.Hang])
@pytest.mark.every(4)
def test_who_never_reports_is_waited_for_no_more_once_it_is_cancelled(world, kind):
    result = run(world, [kind(0, 2)], policy=ssp.KSync(2))
    assert result.status == "done"
    assert {e.clock for _, e in events(result, DeltaReady) if e.worker == 0} <= {0, 1}
    assert max(e.clock for _, e in events(result, DeltaReady)) == 5


@WORLDS
@pytest.mark.parametrize("phase", ["step", "push", "join"])
@pytest.mark.every(4)
def test_who_is_lost_has_not_pushed(world, phase):
    where = faults.Crash(1, phase="join") if phase == "join" else faults.Crash(1, 2, phase=phase)
    result = run(world, [where])
    pushed = [e.clock for _, e in events(result, DeltaReady) if e.worker == 1]
    assert pushed == ([] if phase == "join" else [0, 1])
    assert [e.worker for _, e in events(result, WorkerLost)] == [1]


def test_who_is_lost_at_once_takes_no_time():
    result = run("virtual", [faults.Crash(1, phase="join")])
    assert [now for now, _ in events(result, WorkerLost)] == [0.0]


@WORLDS
@pytest.mark.every(2)
def test_in_the_clock_that_runs_at_a_time(world):
    result = run(world, [faults.Crash(1, at=0.0), faults.Slow(0, at=0.0, seconds=0.02)])
    assert [e.worker for _, e in events(result, WorkerLost)] == [1]
    rows = result.schedule
    first = rows[(rows["worker"] == 0) & (rows["clock"] == 0)]
    assert (first["finish"] - first["start"] >= 0.02).all()


def test_at_a_time_it_is_the_clock_that_runs_then():
    wrong = [faults.Crash(1, at=2.5), faults.Duplicate(0, at=1.0), faults.Slow(2, at=3.5)]
    runtime = ssp.Virtual(3, delays.Constant(1.0), faults=wrong)
    result = ssp.train(runtime=runtime, **linear(policy=ssp.ASP(), num_clocks=6))
    assert [now for now, _ in events(result, WorkerLost)] == [3.0]
    assert [c[:2] for c in fenced(result)] == [(0, 0)]
    rows = result.schedule[result.schedule["worker"] == 2]
    assert list(rows["finish"]) == [1.0, 2.0, 3.0, 5.0, 6.0, 7.0]


def test_where_the_clock_of_a_time_is_cancelled_it_is_the_next():
    wrong = [faults.Slow(0, 0, seconds=9.0), faults.Crash(0, at=0.5)]
    runtime = ssp.Virtual(3, delays.PerWorker((0.9, 1.0, 1.0)), faults=wrong)
    result = ssp.train(runtime=runtime, **linear(policy=ssp.KSync(2), num_clocks=6))
    assert events(result, WorkerLost) == [(1.9, WorkerLost(0, "an injected fault"))]


@WORLDS
@pytest.mark.every(2)
def test_a_process_at_a_time_is_struck_once_whoever_runs(world, monkeypatch):
    struck = []
    monkeypatch.setattr(faults.Stopped, "act", lambda self: struck.append(self.at))
    run(world, [faults.Stopped(at=0.0), faults.Stopped(at=1e9)])
    assert struck == [0.0]


@WORLDS
@pytest.mark.parametrize(
    "wrong",
    [
        [faults.Crash(1, 2, back_after=0.004)],
        [faults.Crash(1, 2, phase="push", back_after=0.0), faults.Crash(1, 2, nth=2)],
        [faults.Crash(2, phase="join", back_after=0.001)],
        [faults.Late(1, 2, seconds=0.02, back_after=0.004), faults.NaN(0, 3)],
        [faults.Crash(worker, 1, back_after=0.003) for worker in range(3)],  # nobody is there
    ],
    ids=lambda wrong: " ".join(faults.in_words(wrong)),
)
@pytest.mark.parametrize("policy", [ssp.SSP(2), ssp.BSP(), ssp.KSync(2)], ids=repr)
@pytest.mark.every(29)
def test_who_is_lost_is_here_again(world, wrong, policy):
    result = run(world, wrong, policy=policy, server_tx=ssp.mitigations.skip_nonfinite())
    joined = Counter(e.worker for _, e in events(result, WorkerJoined))
    lost = Counter(e.worker for _, e in events(result, WorkerLost))
    again = {f.worker for f in wrong if getattr(f, "back_after", None) is not None}
    assert result.status == "done"
    assert joined.keys() == {0, 1, 2}
    if type(policy) is not ssp.KSync:  # which may cancel the clock
        assert {worker for worker in joined if joined[worker] == 2} == again
        assert lost.keys() == again


@WORLDS
@pytest.mark.parametrize("kind", [faults.Crash, faults.Late])
@pytest.mark.every(2)
def test_nothing_is_kept_for_a_push_that_is_lost_with_its_worker(world, kind):
    stores = []

    class Kept(LocalStore):
        def __init__(self, *args):
            super().__init__(*args)
            stores.append(self)

    result = ssp.train(
        runtime=storing(ON[world]([kind(1, 2, phase="push")]), Kept),
        **linear(policy=ssp.SSP(2), num_clocks=6),
    )
    (store,) = stores
    lost = next(c for *_, cs in result.tape for c in cs if c[:2] == (1, 2))
    assert lost.version < store.version == 14
    for version in range(store.version):
        with pytest.raises(LookupError):
            store.snapshot(version)


# What is settled does not depend on what is fenced.


@pytest.mark.parametrize("policy", [ssp.BSP(), ssp.SSP(1), ssp.KAsync(2), ssp.KSync(2)], ids=repr)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.every(3)
def test_duplicates_in_any_order_change_nothing(policy, batch):
    twice = [
        faults.Duplicate(worker, clock, after=after)
        for worker in range(3)
        for clock, after in enumerate((0.0, 3.5, 0.3, 1.7, 0.0))
    ]
    spec = linear(step=MOMENTUM, policy=policy, num_clocks=6)
    plain, doubled = (
        ssp.train(runtime=ssp.Virtual(3, delays.Exponential(), batch=batch, faults=each), **spec)
        for each in ((), twice)
    )
    assert len(fenced(doubled)) > 5
    assert settled(plain) == settled(doubled)


@pytest.mark.parametrize("seconds", [0.0, 0.7, 1.9])
@pytest.mark.every(3)
def test_a_late_push_is_as_good_as_none(seconds):
    lost, late = (
        run("virtual", [kind]) for kind in (faults.Crash(1, 2), faults.Late(1, 2, seconds=seconds))
    )
    assert fenced(late)
    assert settled(lost) == settled(late)


def test_what_comes_late_finds_another_stay_of_its_worker():
    """With a worker that is back by then, and runs the same clock under another token."""
    wrong = [faults.Late(1, 2, seconds=2.2, back_after=1.0)]
    runtime = ssp.Virtual(3, delays.Constant(1.0), compute=False, faults=wrong)
    result = ssp.train(runtime=runtime, policy=ssp.ASP(), num_clocks=6)
    ssp.check_contract(result.tape)
    assert [now for now, e in events(result, WorkerJoined) if e.worker == 1] == [0.0, 4.0]
    (fence,) = fenced(result)
    tokens = [e.token for _, e in events(result, DeltaReady) if (e.worker, e.clock) == (1, 2)]
    assert fence.token == min(tokens)
    again = ssp.train(runtime=ssp.Replay(result.tape), policy=ssp.ASP(), num_clocks=6)
    assert list(again.tape) == list(result.tape)


def test_who_comes_back_is_struck_again_only_if_that_is_said():
    def losses(*wrong):
        wrong = [faults.Slow(0, 1, seconds=9.0), *wrong]
        runtime = ssp.Virtual(2, delays.Constant(1.0), compute=False, faults=wrong)
        result = ssp.train(runtime=runtime, policy=ssp.ASP(), num_clocks=6)
        return [now for now, _ in events(result, WorkerLost)]

    first = faults.Crash(1, 2, back_after=0.5)
    assert losses(first) == [3.0]
    assert losses(first, faults.Crash(1, 2, nth=2)) == [3.0, 4.5]
    assert losses(first, faults.Crash(1, phase="join", nth=2)) == [3.0, 3.5]


def test_a_fault_strikes_nobody_who_is_away():
    wrong = [faults.Crash(1, 2, back_after=3.0), faults.Crash(1, at=4.0)]
    runtime = ssp.Virtual(2, delays.Constant(1.0), compute=False, faults=wrong)
    result = ssp.train(runtime=runtime, policy=ssp.ASP(), num_clocks=9)
    assert [now for now, _ in events(result, WorkerLost)] == [3.0]


# What is raised, and what strikes the process.


@WORLDS
@pytest.mark.parametrize(
    "where",
    [
        {"worker": 1, "clock": 2},
        {"worker": 1, "clock": 2, "phase": "push"},
        {"worker": 1, "phase": "join"},
        {"phase": "merge", "nth": 3},
    ],
    ids=str,
)
@pytest.mark.every(5)
def test_an_error_ends_the_run_where_it_is_raised(world, where):
    spec = linear(policy=ssp.SSP(2), num_clocks=6)
    with pytest.raises(OSError, match="gone") as caught:
        ssp.train(runtime=ON[world]([faults.Raise(**where, error=OSError("gone"))]), **spec)
    kept = caught.value.result
    ssp.check_contract(kept.tape)
    if where.get("phase") == "merge":
        assert kept.version == 2


@WORLDS
@pytest.mark.every(2)
def test_memory_runs_out_as_it_does_in_jax(world):
    wrong = [faults.OutOfMemory(1, 2, size=1024)]
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"RESOURCE_EXHAUSTED.* 1024 bytes"):
        ssp.train(runtime=ON[world](wrong), **linear(policy=ssp.SSP(2), num_clocks=6))


@WORLDS
@pytest.mark.every(2)
def test_the_process_is_asked_to_end_in_a_merge(world, monkeypatch):
    sent = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    run(
        world,
        [faults.Terminate(phase="merge", nth=2), faults.Kill(1, 3), faults.Kill(1, 4, life=1)],
    )
    assert sent == [(os.getpid(), signal.SIGTERM), (os.getpid(), signal.SIGKILL)]


@pytest.mark.parametrize(
    ("phase", "kind", "seconds"),
    [
        ("step", faults.HoldLock, 0.3),
        ("step", faults.Stopped, 0.3),
        ("push", faults.HoldLock, 0.3),
        ("push", faults.Stopped, 0.3),
        pytest.param("step", faults.Stopped, 20.0, marks=pytest.mark.slow),
        pytest.param("push", faults.HoldLock, 20.0, marks=pytest.mark.slow),
    ],
)
@pytest.mark.every(3)
def test_nobody_is_suspected_while_nobody_can_do_anything(phase, kind, seconds):
    said = []

    class Hears(ssp.Observer):
        def on_wait(self, waits):
            said.append(waits)

    runtime = ssp.Devices(num_workers=2, faults=[kind(1, 2, phase=phase, seconds=seconds)])
    began = time.monotonic()
    result = ssp.train(
        runtime=runtime, observers=[Hears()], **linear(policy=ssp.SSP(1), num_clocks=5)
    )
    assert time.monotonic() - began >= seconds
    assert (result.status, result.updates, said) == ("done", 10, [])
    assert not events(result, WorkerLost)


def test_the_lock_is_held_against_all_other_threads():
    runs, over, moments = threading.Event(), threading.Event(), []

    def goes_on():
        while not over.is_set():
            moments.append(time.monotonic())
            runs.set()

    other = threading.Thread(target=goes_on)
    other.start()
    runs.wait()
    faults.HoldLock(0, 0, seconds=0.4).act()
    ended = time.monotonic()
    over.set()
    other.join()
    assert np.diff([*moments, ended]).max() >= 0.4


# What may go where.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: faults.Crash(1), r'`Crash\(clock=...\)`: it is missing; phase "step" needs it'),
        (lambda: faults.Crash(1, 2, phase="merge"), r'`Crash\(phase=...\)` must be "step", "push"'),
        (lambda: faults.Crash(1, 2, at=3.0), r"`Crash\(at=...\)`: it stands in place of `clock`"),
        (lambda: faults.Hang(at=3.0), r"`Hang\(worker=...\)`: it is missing: whose clock is it"),
        (lambda: faults.Hang(1, 2, phase="push"), r'`Hang\(phase=...\)` must be "step" or "join"'),
        (lambda: faults.NaN(1, at=3.0), r"`NaN\(at=...\)`: it strikes no moment"),
        (lambda: faults.NaN(1, 2, nth=2), r"`NaN\(nth=...\)`: it is always the first time"),
        (lambda: faults.Raise(1, 2, phase="save"), r'phase "save" has none; leave it out'),
        (lambda: faults.Crash(1, 2, phase="join"), r'`Crash\(clock=...\)`: phase "join" has none'),
        (lambda: faults.SaveFails(at=2.0), r"`SaveFails\(at=...\)`: it strikes no moment"),
        (lambda: faults.Duplicate(1, 2, phase="step"), r'`Duplicate\(phase=...\)` must be "push"'),
        (lambda: faults.Kill(), r"`Kill\(worker=...\)`: it is missing"),
        (lambda: faults.Slow(1, 2, nth=0), r"`Slow\(nth=...\)` must be at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_late_push_leaves_nothing_in_the_store():
    dropped = []
    store = SimpleNamespace(drop=dropped.append)
    loop = Loop(Controller(ssp.BSP()), store, ssp.Tape({}))
    late, twice = Token(0, 3), Token(0, 4)
    loop.records.metrics[twice] = {}  # its first report has come, and is needed
    for token in (late, twice):
        loop._carry_out([Fence(0, 0, token)], 0.0, iter(()))
    assert dropped == [late]
