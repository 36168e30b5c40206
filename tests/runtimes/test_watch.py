"""Whom a run waits for is said: soon enough, not too often, and nothing false."""

from __future__ import annotations

import io
import math
import queue
import signal
import threading

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp.runtimes import watch as watch_module
from jax_ssp.runtimes.watch import Watch, describe
from jax_ssp.worker.waits import Waiting

PATIENCE = 30.0  # for what takes no time at all (seconds)


class Hears(ssp.Observer):
    def __init__(self):
        self.heard = queue.SimpleQueue()

    def on_wait(self, waits):
        self.heard.put(list(waits))


@pytest.fixture
def clock():
    class Clock:
        now = 0.0

        def __call__(self):
            return self.now

    return Clock()


def hanging(clock, since=0.0, limit=8.0):
    return Watch(lambda: [Waiting(2, "hangs", clock() - since, limit)], clock=clock)


def said(watch, clock, until):
    """The times of all that is said, looking once a second."""
    times = []
    for clock.now in range(1, until + 1):
        if watch.look():
            times.append(clock.now)
    return times


def test_a_hang_is_said_after_eight_seconds_and_then_ever_more_seldom(clock):
    assert said(hanging(clock), clock, 100) == [8, 16, 32, 64]


def test_what_takes_as_long_as_it_takes_is_no_hang(clock):
    assert said(hanging(clock, limit=math.inf), clock, 1000) == []


def test_a_clock_may_compute_for_a_minute(clock):
    assert said(hanging(clock, limit=60.0), clock, 100) == [60]


def test_what_began_just_now_is_no_hang(clock):
    assert said(hanging(clock, since=20.0), clock, 40) == [28, 36]


def test_as_long_as_something_happens_nobody_hangs(clock):
    watch = hanging(clock)
    for clock.now in range(100):
        watch.happened()
        assert not watch.look()


def test_who_asks_for_the_end_hears_soon_what_it_waits_for(clock):
    watch = hanging(clock, limit=math.inf)
    clock.now = 3.0
    watch.asked_to_end()
    assert not watch.look()
    clock.now = 4.0
    assert watch.look() == [Waiting(2, "hangs", 4.0, math.inf)]
    clock.now = 5.0
    assert not watch.look()


def test_many_are_summed_up():
    waits = [Waiting(number, "computes", float(number)) for number in range(6)]
    line = describe(waits, ending=True)
    assert line.startswith("to end, the run waits (interrupt again to end at once): worker 5 comp")
    assert line.endswith("(2 s); and 2 more")


@pytest.fixture
def soon(monkeypatch):
    for name in ("QUIET_SECONDS", "GRACE_SECONDS", "LOOK_SECONDS"):
        monkeypatch.setattr(watch_module, name, 0.01)
    for module in ("worker.waits", "runtimes.running", "runtimes.loop"):
        monkeypatch.setattr(f"jax_ssp.{module}.QUIET_SECONDS", 0.01)


def loss_fn(params, batch, key):
    return jnp.sum((params["w"] - batch) ** 2), {}


def train(**changes):
    spec = {
        "params": {"w": jnp.zeros(2)},
        "data": lambda worker: iter([np.ones(2, np.float32)] * 1000),
        "policy": ssp.BSP(),
        "num_clocks": 6,
    }
    return ssp.train(ssp.make_step(loss_fn, optax.sgd(0.1)), **{**spec, **changes})


def named(heard, what):
    """Wait until somebody is said to do that; gives who."""
    while True:
        for waiting in heard.get(timeout=PATIENCE):
            if what in waiting.doing:
                return waiting.worker


WORLDS = [ssp.Devices(num_workers=4), ssp.Virtual(4)]


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("runtime", WORLDS, ids=["devices", "virtual"])
def test_a_worker_whose_data_hangs_is_named(runtime):
    release, watcher, found = threading.Event(), Hears(), []

    def data(worker):
        for number in range(1000):
            if (worker, number) == (2, 3):
                assert release.wait(PATIENCE)
            yield np.ones(2, np.float32)

    def listen():
        found.append(named(watcher.heard, "waits for batch 3 of its data"))
        release.set()

    thread = threading.Thread(target=listen)
    thread.start()
    result = train(data=data, runtime=runtime, observers=[watcher])
    thread.join()
    assert (found, result.status, result.updates) == ([2], "done", 24)


@pytest.mark.usefixtures("soon")
def test_an_observer_that_hangs_is_named():
    watcher = Hears()

    class Slow(ssp.Observer):
        def on_clock(self, row):
            if row["updates"] == 4:
                assert named(watcher.heard, "Slow.on_clock runs") is None

        def on_end(self, status):
            assert named(watcher.heard, "Slow.on_end runs") is None

    assert train(observers=[Slow(), watcher], runtime=WORLDS[0]).status == "done"


@pytest.mark.usefixtures("soon")
def test_an_injected_delay_is_named_and_an_interrupt_cuts_it_short():
    delay = ssp.delays.PerWorker((0.0, 3600.0))
    watcher = Hears()

    def press():
        if named(watcher.heard, "sleeps the injected delay of clock 0") == 1:
            signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    result = train(runtime=ssp.Devices(num_workers=2, delay=delay), observers=[watcher])
    thread.join()
    assert (result.status, result.tape.complete) == ("interrupted", True)
    assert result.updates == 2


@pytest.mark.usefixtures("soon")
@pytest.mark.slow
def test_an_interrupt_says_what_the_end_waits_for_and_the_second_does_not_wait(monkeypatch):
    monkeypatch.setattr("jax_ssp.runtimes.crew.CLOSE_SECONDS", 0.1)
    monkeypatch.setattr("jax_ssp.worker.waits.QUIET_SECONDS", math.inf)  # till it is asked
    release, hangs, watcher = threading.Event(), threading.Event(), Hears()

    def data(worker):
        for number in range(1000):
            if (worker, number) == (2, 3):
                hangs.set()
                release.wait(PATIENCE)
            yield np.ones(2, np.float32)

    def press():
        assert hangs.wait(PATIENCE)
        signal.raise_signal(signal.SIGINT)
        if named(watcher.heard, "waits for batch 3 of its data") == 2:
            signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt) as caught:
        train(runtime=WORLDS[0], data=data, observers=[watcher])
    release.set()
    thread.join()
    kept = caught.value.result
    # Prefetching, the third clock of worker 2 is not handed over.
    assert (kept.status, kept.version) == ("interrupted", 2)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("runtime", WORLDS, ids=["devices", "virtual"])
def test_without_an_observer_that_shows_it_a_line_goes_to_standard_error(runtime, monkeypatch):
    seen = io.StringIO()  # can be read while another thread writes, which loses what capfd holds
    monkeypatch.setattr("sys.stderr", seen)

    def data(worker):
        for number in range(1000):
            while (worker, number) == (2, 3) and "worker 2 waits" not in seen.getvalue():
                pass
            yield np.ones(2, np.float32)

    assert train(data=data, runtime=runtime).status == "done"
    assert "jax_ssp: all wait: worker 2 waits for batch 3 of its data (" in seen.getvalue()


@pytest.mark.usefixtures("soon")
@pytest.mark.slow
def test_an_evaluation_that_hangs_is_named_to_who_wants_the_end_and_left_behind(monkeypatch):
    monkeypatch.setattr("jax_ssp.runtimes.evaluation.CLOSE_SECONDS", 0.1)
    release, watcher = threading.Event(), Hears()

    def evaluate(params):
        if params["w"][0] > 0:
            signal.raise_signal(signal.SIGINT)
            release.wait(PATIENCE)
        return {}

    def press():
        assert named(watcher.heard, "the last versions are evaluated") is None
        signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt) as caught:
        train(runtime=WORLDS[0], evaluate=evaluate, observers=[watcher])
    release.set()
    thread.join()
    assert (caught.value.result.updates, caught.value.result.tape.complete) == (24, True)


@pytest.mark.usefixtures("soon")
def test_nothing_is_said_of_compilation_and_evaluation():
    watcher = Hears()

    def evaluate(params):
        threading.Event().wait(0.1)
        return {}

    train(observers=[watcher], evaluate=evaluate, runtime=ssp.Virtual(2))
    watcher.heard.put([])
    # Of others something may be said: what should take no time takes longer on a busy machine.
    doing = [waiting.doing for waits in iter(watcher.heard.get, []) for waiting in waits]
    assert [each for each in doing if "compile" in each or "evaluate" in each] == []


@pytest.mark.parametrize("slept", [2.0, 70.0])
def test_time_in_which_nobody_could_look_is_nobodys(slept):
    now = [0.0]
    waits = [Waiting(1, "computes clock 3", 70.0, 60.0)]
    watch = Watch(lambda: waits, clock=lambda: now[0])
    now[0] = 70.0
    watch.slept(slept)  # since its last look, at which all was well
    assert watch.look() == ([] if slept == 70.0 else waits)
    now[0] = 140.0  # and with 70 s that it has seen go by
    assert watch.look() == ([] if slept == 2.0 else waits)
