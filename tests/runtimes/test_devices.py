"""Real threads: they overlap, they end with the run, and what goes wrong in one is told."""

import itertools
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp import delays
from jax_ssp.controller import WorkerJoined
from jax_ssp.policies import Decision, Wait
from jax_ssp.runtimes.base import World
from jax_ssp.runtimes.running import Running
from jax_ssp.runtimes.threads import Threads
from jax_ssp.runtimes.wall import WallClock
from jax_ssp.worker.warmup import Warmup
from tests.helpers.problems import DIMENSION, PARAMS, batches, bits, linear, loss_fn, merges
from tests.helpers.threads import none_is_left_behind

JITTER = delays.ShiftedExponential(shift=0.0, mean=0.002)
PATIENCE = 60.0  # seconds after which something that must happen did not


@pytest.fixture(autouse=True)
def no_thread_is_left_behind():
    with none_is_left_behind():
        yield


def train(runtime=None, policy=None, **others):
    policy = ssp.SSP(2) if policy is None else policy
    return ssp.train(
        policy=policy,
        runtime=ssp.Devices(delay=JITTER) if runtime is None else runtime,
        **linear(**{"num_clocks": 8, **others}),
    )


class Call(ssp.Observer):
    """Calls a function at each row of one hook."""

    def __init__(self, hook, function):
        setattr(self, hook, function)


# Placement.


def places(result):
    return [index for _, index in result.tape.header["devices"]]


@pytest.mark.parametrize(
    ("runtime", "expected"),
    [
        (ssp.Devices(), [0, 1, 2, 3]),
        (ssp.Devices(num_workers=3), [0, 1, 2]),
        (ssp.Devices(workers_per_device=2), [0, 0, 1, 1, 2, 2, 3, 3]),
        (ssp.Devices(workers_per_device=2, num_workers=5), [0, 0, 1, 1, 2]),
        (ssp.Devices(cpu_devices=4), [0, 1, 2, 3]),
        (ssp.Devices(cpu_devices=2), [0, 1]),
        (ssp.Devices(cpu_devices=2, workers_per_device=2, num_workers=3), [0, 0, 1]),
    ],
    ids=repr,
)
@pytest.mark.every(4)
def test_workers_are_placed_on_the_devices_there_are(runtime, expected):
    result = train(runtime, num_clocks=3)
    assert places(result) == expected
    assert result.updates == 3 * len(expected)
    assert runtime.count() == len(expected)
    ssp.check_contract(result.tape)


class Gpu:
    platform = "gpu"

    def addressable_memories(self):
        return []


@pytest.mark.parametrize(("gpus", "workers", "on"), [(2, 2, "gpu"), (3, 2, "gpu"), (1, 2, "cpu")])
def test_the_cpu_is_split_only_where_there_is_too_little_else(monkeypatch, gpus, workers, on):
    cpus, accelerators = jax.devices(), [Gpu() for _ in range(gpus)]
    there = {"cpu": cpus, "gpu": accelerators}
    monkeypatch.setattr(jax, "local_devices", lambda backend="gpu": there[backend])
    devices = ssp.Devices(cpu_devices=workers, num_workers=workers).worker_devices()
    assert devices == (accelerators if on == "gpu" else cpus)[:workers]


def test_without_the_cpu_backend_it_cannot_be_split(monkeypatch):
    def no_cpu(backend="gpu"):
        if backend == "cpu":
            raise RuntimeError("Unknown backend cpu")
        return [Gpu()]

    monkeypatch.setattr(jax, "local_devices", no_cpu)
    with pytest.raises(ValueError, match=r"needs the CPU backend.*add it to JAX_PLATFORMS"):
        ssp.Devices(cpu_devices=2).count()


@pytest.mark.parametrize(
    ("number", "begin", "expected"),
    [
        pytest.param(3, "", "3", marks=pytest.mark.slow),
        (3, "jax.config.update('jax_num_cpu_devices', 2)", "3"),
        pytest.param(2, "jax.config.update('jax_num_cpu_devices', 3)", "2", marks=pytest.mark.slow),
        (2, "jax.numpy.zeros(1)", "ValueError"),
    ],
)
@pytest.mark.slow
def test_jax_gets_the_devices_if_it_has_not_started(number, begin, expected):
    program = f"""
import jax, jax_ssp as ssp
from tests.helpers.problems import linear
{begin}
try:
    run = linear(runtime=ssp.Devices(cpu_devices={number}), num_clocks=1)
    print(ssp.train(**run).tape.header["num_workers"])
except ValueError as error:
    print("ValueError", "Run it with JAX_NUM_CPU_DEVICES={number} in the env" in str(error))
"""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "-1"}
    words = [sys.executable, "-c", program]
    root = Path(ssp.__file__).parents[1]
    done = subprocess.run(words, env=environment, cwd=root, capture_output=True, text=True)
    assert done.stdout.split() == ([expected, "True"] if expected == "ValueError" else [expected])


def test_a_list_of_devices_may_name_one_twice():
    first, second, third, _ = jax.devices()
    result = train(ssp.Devices([third, first, third, third, second]), num_clocks=3)
    assert places(result) == [2, 0, 2, 2, 1]
    assert result.updates == 15


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ssp.Devices(num_workers=5), r"`Devices\(num_workers=5\)` needs 5 places, but "
         r"there are 4 devices with 1 each\. Ask for fewer workers, set `workers_per_device`"),
        (lambda: ssp.Devices(num_workers=9, workers_per_device=2), r"needs 9 places, but .* 2 e"),
        (lambda: ssp.Devices(jax.devices()[:1], num_workers=2), r"there are 1 devices with 1 each"),
        (lambda: ssp.Devices(num_workers=0), r"`Devices\(num_workers=...\)` must be at least 1"),
        (lambda: ssp.Devices(workers_per_device=0), r"`Devices\(workers_per_device=...\)` must be"),
        (lambda: ssp.Devices(cpu_devices=0), r"`Devices\(cpu_devices=...\)` must be at least 1"),
        (lambda: ssp.Devices(cpu_devices=8), r"`Devices\(cpu_devices=8\)` comes too late: JAX has "
         r"started with 4 CPU devices.*JAX_NUM_CPU_DEVICES=8.*workers_per_device.*Virtual\(num_w"),
        (lambda: ssp.Devices(cpu_devices=5, num_workers=4), r"cpu_devices=5\)` comes too late"),
        (lambda: ssp.Devices(cpu_devices=2, num_workers=3), r"there are 2 devices with 1 each"),
        (lambda: ssp.Devices([]), r"`Devices\(devices=...\)` must name at least one device"),
    ],
)  # fmt: skip
def test_devices_that_are_not_there_are_told(make, message):
    with pytest.raises(ValueError, match=message):
        train(make())


def test_workers_on_the_cpu_share_what_is_compiled(compilations):
    steps = [ssp.make_step(loss_fn, optax.sgd(rate, momentum=0.9)) for rate in (0.01, 0.02)]
    counts = []
    for step in (steps[0], steps[1], steps[1]):  # at first JAX's own small programs too
        compilations()
        ssp.train(runtime=ssp.Devices(), **{**linear(num_clocks=4, policy=ssp.ASP()), "step": step})
        counts.append(compilations())
    server = 1  # its merge
    assert counts[2] == server  # the workers' programs are kept
    assert counts[1] - server == 2  # the clock, and the first state


# What goes wrong.


def failing(worker, clock, **others):
    """Devices on which one clock of one worker goes wrong."""
    error = ArithmeticError("the step went wrong")
    return ssp.Devices(faults=[ssp.faults.Raise(worker, clock, error)], **others)


@pytest.mark.parametrize("clock", [0, 5])
def test_an_error_in_a_step_is_raised_and_names_the_worker(clock):
    ends = []
    with pytest.raises(ArithmeticError, match="the step went wrong") as caught:
        train(failing(2, clock), observers=[Call("on_end", ends.append)])
    assert caught.value.__notes__[:-1] == ["in worker 2 of jax_ssp"]
    assert ends == ["failed"]


def test_an_error_while_compiling_is_raised_and_names_the_worker(monkeypatch):
    def broken(self):
        raise ArithmeticError("it does not compile")

    monkeypatch.setattr(Warmup, "compile", broken)
    with pytest.raises(ArithmeticError, match="it does not compile") as caught:
        train()
    assert caught.value.__notes__[:-1] == ["in worker 0 of jax_ssp"]


def test_an_error_in_the_data_is_raised_and_names_the_worker():
    def data(worker):
        for number, batch in enumerate(batches(worker)):
            if (worker, number) == (1, 4):
                raise OSError("the disk is gone")
            yield batch

    with pytest.raises(OSError, match="the disk is gone") as caught:
        train(data=data)
    assert caught.value.__notes__[:-1] == ["in `data(worker=1)`, batch 4", "in worker 1 of jax_ssp"]


@pytest.mark.parametrize("runtime", [ssp.Devices(), ssp.Virtual(4)], ids=["devices", "virtual"])
def test_workers_that_share_an_iterator_are_refused(runtime):
    shared = batches(0)
    one_each = [batches(0), batches(1), batches(2)]
    message = r"an iterator of its own, but workers {} got the same; make it anew in each call"
    for data, workers in (
        (lambda worker: shared, "0 and 1"),
        (lambda w: one_each[w % 3], "0 and 3"),
    ):
        with pytest.raises(ValueError, match=message.format(workers)):
            train(runtime, data=data)
    one_list = list(itertools.islice(batches(0), 8))  # whose iterators are not the same
    assert train(runtime, data=lambda worker: one_list).updates == 32


@pytest.mark.parametrize("runtime", [ssp.Devices(), ssp.Virtual(4)], ids=["devices", "virtual"])
@pytest.mark.parametrize("local_steps", [1, 2])
@pytest.mark.every(3)
def test_data_that_fills_the_same_arrays_again_trains_on_each_batch(runtime, local_steps):
    def data(worker):
        buffers = np.zeros((4, DIMENSION), np.float32), np.zeros(4, np.float32)
        for batch in batches(worker):
            for buffer, values in zip(buffers, batch, strict=True):
                buffer[:] = values
            yield buffers

    same, expected = (
        train(runtime, ssp.BSP(), data=data, local_steps=local_steps) for data in (data, batches)
    )
    assert bits(same.params) == bits(expected.params)


def test_an_error_in_an_observer_or_in_the_evaluation_is_raised():
    def fail(*_):
        raise ArithmeticError("not now")

    with pytest.raises(ArithmeticError, match="not now"):
        train(observers=[Call("on_clock", fail)])
    with pytest.raises(ArithmeticError, match="not now"):
        train(evaluate=fail, eval_every=1)
    with pytest.raises(ArithmeticError, match="not now"):
        train(evaluate=fail)


def test_a_failing_run_does_not_wait_for_injected_delays():
    hour = delays.PerWorker((0.0, 3600.0, 3600.0, 3600.0))
    with pytest.raises(ArithmeticError, match="the step went wrong"):
        train(failing(0, 1, delay=hour))


# Evaluation.


def test_evaluation_stops_nobody():
    clocks, moved_on = itertools.count(1), threading.Event()
    evaluated, begun = itertools.count(), threading.Event()

    def data(worker):
        for number, batch in enumerate(batches(worker)):
            assert number < 4 or begun.wait(PATIENCE), "the first evaluation never began"
            yield batch

    def on_clock(row):
        if next(clocks) >= 40:
            moved_on.set()

    def evaluate(params):
        # Version 0 is evaluated before anybody starts, the next one after 4 deltas.
        if next(evaluated) > 0:
            begun.set()
            assert moved_on.wait(PATIENCE), "the workers waited for the evaluation"
        return {}

    result = train(
        evaluate=evaluate,
        eval_every=1,
        num_clocks=12,
        data=data,
        observers=[Call("on_clock", on_clock)],
    )
    zeroth, first, *_, last = result.evaluations
    # What is due every 4 deltas is passed over if a newer version comes before its turn.
    assert zeroth["updates"] == 0
    assert first["updates"] in range(4, 41, 4)
    assert sum(row["passed_over"] for row in result.evaluations) > 0
    assert 3 <= len(result.evaluations) <= 6
    assert last["version"] == result.version == 48


@pytest.mark.parametrize("eval_every", [None, 1, 3, 1000])
@pytest.mark.every(4)
def test_the_last_version_is_always_evaluated(eval_every):
    seen, rows = [], []

    def evaluate(params):
        seen.append(bits(params))
        return {"first": params["w"][0]}

    observer = Call("on_eval", rows.append)
    result = train(evaluate=evaluate, eval_every=eval_every, observers=[observer])
    assert result.evaluations[-1]["version"] == result.version
    assert result.evaluations[-1]["time"] == result.seconds
    assert seen[-1] == bits(result.params)
    assert result.metrics == {"first": float(result.params["w"][0])}
    assert rows == result.evaluations
    assert len(seen) == len(rows)
    versions = [row["version"] for row in rows]
    assert versions == sorted(set(versions))
    if eval_every in (None, 1000):
        assert versions == [0, result.version]


# Ends.


def distance(params):
    return {"distance": np.linalg.norm(np.asarray(params["w"]) - np.arange(DIMENSION))}


def test_a_target_ends_the_run():
    result = train(evaluate=distance, eval_every=1, target="distance <= 2.0", num_clocks=100_000)
    assert result.status == "target"
    assert any(row["metrics"]["distance"] <= 2 for row in result.evaluations)
    assert result.updates < 400_000
    assert result.tape.complete
    assert ssp.check_contract(result.tape).merged == result.updates


@pytest.mark.parametrize("policy", [ssp.ASP(), ssp.SSP(1), ssp.BSP()], ids=repr)
@pytest.mark.every(3)
def test_max_updates_ends_the_run(policy):
    result = train(policy=policy, num_clocks=None, max_updates=30)
    # A barrier is never split.
    assert result.updates == (32 if policy == ssp.BSP() else 30)
    assert result.status == "done"
    report = ssp.check_contract(result.tape)
    assert (report.merged, report.complete) == (result.updates, True)
    dropped = result.schedule[result.schedule["merge_version"] < 0]
    assert len(dropped) == report.dropped <= 3


def interrupt(times=1):
    """An observer that presses Ctrl-C once ten clocks are merged."""
    seen = itertools.count(1)

    def on_clock(row):
        if next(seen) == 10:
            heard = signal.getsignal(signal.SIGINT).__self__
            for number in range(1, times + 1):
                pressed = -math.inf
                while (
                    heard.count < number
                ):  # until the main thread has seen it: two at once are one
                    if time.monotonic() > pressed + 1:  # again: it may just have begun to wait
                        os.kill(os.getpid(), signal.SIGINT)
                        pressed = time.monotonic()
                    time.sleep(0)

    return Call("on_clock", on_clock)


@pytest.mark.parametrize("runtime", [None, ssp.Virtual(4)], ids=["devices", "virtual"])
@pytest.mark.every(2)
def test_the_first_interrupt_ends_the_run_whole(runtime):
    before = signal.getsignal(signal.SIGINT)
    result = train(runtime, num_clocks=100_000, evaluate=distance, observers=[interrupt()])
    assert result.status == "interrupted"
    assert 10 <= result.updates < 400_000
    assert result.tape.complete
    report = ssp.check_contract(result.tape)
    assert (report.merged, report.in_flight) == (result.updates, 0)
    assert len(result.evaluations) == 2
    assert signal.getsignal(signal.SIGINT) is before
    again = train(ssp.Replay(result.tape), num_clocks=100_000)
    assert (bits(again.params), again.status) == (bits(result.params), "interrupted")


def test_the_second_interrupt_ends_it_at_once_and_keeps_what_there_is():
    before = signal.getsignal(signal.SIGINT)
    ends = []
    with pytest.raises(KeyboardInterrupt) as caught:
        train(num_clocks=100_000, observers=[interrupt(times=2), Call("on_end", ends.append)])
    assert ends == ["interrupted"]
    assert signal.getsignal(signal.SIGINT) is before
    kept = caught.value.result
    assert (kept.status, kept.tape.complete) == ("interrupted", False)
    assert kept.updates >= 10
    assert bits(kept.params) == bits(train(ssp.Replay(kept.tape), num_clocks=100_000).params)


def test_a_run_outside_the_main_thread_works_too():
    results = []
    thread = threading.Thread(target=lambda: results.append(train(policy=ssp.BSP())))
    thread.start()
    thread.join()
    assert bits(results[0].params) == bits(train(policy=ssp.BSP()).params)


@pytest.mark.parametrize("runtime", [None, ssp.Virtual(4)], ids=["devices", "virtual"])
def test_a_loss_that_is_not_finite_ends_the_run(runtime):
    def data(worker):
        for number, batch in enumerate(batches(worker)):
            poison = np.float32(np.nan if worker == 1 and number >= 3 else 1)
            yield jax.tree.map(lambda leaf, by=poison: leaf * by, batch)

    result = train(runtime, data=data, num_clocks=300)
    assert result.status == "diverged"
    assert result.tape.complete
    assert ssp.check_contract(result.tape).merged == result.updates < 4 * 300
    first = next(row for row in result.history if not math.isfinite(row["metrics"]["loss"]))
    assert (first["worker"], first["clock"]) == (1, 3)


# Time.


@pytest.mark.parametrize("local_steps", [1, 2])
@pytest.mark.every(2)
def test_an_injected_delay_is_how_long_a_clock_takes_at_least(local_steps):
    result = train(ssp.Devices(delay=JITTER, seed=5), local_steps=local_steps)
    took = np.zeros((4, 8))
    for row in result.schedule:
        took[row["worker"], row["clock"]] = row["finish"] - row["start"]
    streams = [np.random.default_rng([5, worker]) for worker in range(4)]
    clocks = range(8)
    drawn = [[JITTER(w, c, local_steps, rng) for c in clocks] for w, rng in enumerate(streams)]
    assert (took >= drawn).all()
    assert (np.diff([now for now, _, _ in result.tape]) >= 0).all()
    assert result.seconds >= np.sum(drawn, axis=1).max()


def test_a_delay_that_makes_no_sense_is_an_error_that_names_the_clock():
    def bad(worker, clock, steps, rng):
        return -1.0 if (worker, clock) == (1, 2) else 0.0

    with pytest.raises(ValueError, match=r"delay\(worker=1, clock=2, .*, got -1\.0"):
        train(ssp.Devices(delay=bad))


class Later(ssp.Policy):
    """A barrier that opens some time after the last worker has come: only a timer can do that."""

    period = 0.004

    def __init__(self):
        object.__setattr__(self, "opens", None)

    def admit(self, view, worker):
        clock = view.clock(worker)
        return view.version >= clock or Wait(version=clock)

    def ready(self, view):
        if len(view.buffered) < view.num_workers:
            return Decision()
        opens = view.now + self.period if self.opens is None else self.opens
        object.__setattr__(self, "opens", opens if view.now < opens else None)
        if view.now < opens:
            return Decision(wake=opens)
        return Decision(merge=sorted(view.buffered))


def test_a_timer_comes_and_no_earlier_than_it_was_asked_for():
    spec = linear(num_clocks=8)
    result = ssp.train(policy=Later(), runtime=ssp.Devices(delay=JITTER), **spec)
    fired = [(now, event.at) for now, event, _ in result.tape if hasattr(event, "at")]
    assert len(fired) == 7  # what is left when all are done is merged at once
    assert all(now >= at for now, at in fired)
    last = result.schedule["finish"].reshape(8, 4).max(axis=1)
    assert [at for _, at in fired] == [pushed + Later.period for pushed in last[:-1]]
    assert [len(merge.deltas) for merge in merges(result.tape)] == [4] * 8
    ssp.check_contract(result.tape)
    again = ssp.train(policy=Later(), runtime=ssp.Replay(result.tape), **spec)
    assert bits(again.params) == bits(result.params)


def test_workers_compute_at_the_same_time():
    """Each batch waits until all four workers want one: one after the other, none would end."""
    barrier = threading.Barrier(4, timeout=PATIENCE)

    def data(worker):
        for number, batch in enumerate(batches(worker)):
            if number > 0:  # the first is drawn before the run begins
                barrier.wait()
            yield batch

    result = train(ssp.Devices(), policy=ssp.BSP(), num_clocks=5, data=data)
    assert result.updates == 20
    assert not np.array_equal(result.params["w"], PARAMS["w"])


def test_nothing_is_pushed_before_all_have_joined():
    """Or its delta would count more, and the clock at which the others join would be later."""
    finished, events = threading.Event(), []

    class Slowly(WallClock):
        def next_event(self):
            if self.joining == 3:  # one has joined; its first clock ends before the next one does
                assert finished.wait(PATIENCE)
            return super().next_event()

    class Noticed(Threads):
        @property
        def report(self):
            return self.noticed

        @report.setter
        def report(self, take):
            self.noticed = lambda *what: (finished.set(), take(*what))

    class Slow(ssp.Devices):
        def open(self, session):
            clock = Slowly(session.num_workers)
            running = Running(session, clock)
            return World(clock, Noticed(session.workers, running, clock))

    seen = Call("on_entry", lambda now, event, commands: events.append(event))
    result = train(Slow(), ssp.ASP(), num_clocks=3, observers=[seen])
    assert [type(event) for event in events[:4]] == [WorkerJoined] * 4
    assert result.updates == 12
    assert set(result.schedule["weight"]) == {0.25}
