"""Who makes no progress is evicted; who was merely not looked at is not."""

import itertools
import threading

import hypothesis.strategies as st
import optax
import pytest
from hypothesis import given

import jax_ssp as ssp
from jax_ssp import faults
from jax_ssp.controller import Fence, WorkerLost
from jax_ssp.runtimes.health import FAR_APART, FINE, LEAST, MARGIN, PATIENCE, Busy, Health
from jax_ssp.server.local_store import LocalStore
from tests.helpers.problems import bits, linear, loss_fn
from tests.helpers.stores import storing

MOMENTUM = ssp.make_step(loss_fn, optax.sgd(0.02, momentum=0.5))
PATIENT = 60.0  # seconds, which no test takes
LONG = 1.0  # seconds, which no clock takes but one that hangs


def busy(**clocks):
    return {int(name[1:]): Busy(clock, steps=1) for name, clock in clocks.items()}


def looks(health, times, workers, at=busy(w0=0)):  # noqa: B008
    return [health.look(now, at, workers) for now in times]


def test_who_takes_as_long_as_may_be_is_evicted_and_no_sooner():
    health = Health(tick=1.0)
    verdicts = looks(health, range(31), workers=2)
    assert [each.hangs for each in verdicts] == [None] * 30 + [0]


def test_the_limit_is_three_times_the_slowest_step_that_was_seen_and_half_a_minute_at_least():
    health = Health()
    assert health.limit(steps=4) == LEAST
    health.finished(60.0, steps=3)
    health.finished(1.0, steps=1)
    assert health.limit(steps=4) == MARGIN * 4 * 20
    assert Health(deadline=2.5).limit(steps=4) == 2.5


def test_progress_begins_anew():
    health, now = Health(deadline=3.0), 0.0
    for clock in range(20):
        for _ in range(3):  # from the first look at it on, it counts
            assert health.look(now, busy(w0=clock), workers=2) == FINE
            now += 1


def test_one_is_evicted_at_a_time_the_longest_first():
    health = Health(deadline=3.0)
    health.look(0.0, busy(w1=0), workers=3)
    looks(health, (1, 2), 3, busy(w0=0, w1=0))
    assert health.look(3.0, busy(w0=0, w1=0), workers=3).hangs == 1
    assert health.look(4.0, busy(w0=0), workers=2).hangs == 0


def test_where_all_are_suspect_the_limit_is_doubled_a_few_times():
    health = Health(deadline=4.0)
    told = [
        (now, verdict)
        for now in range(100)
        if (verdict := health.look(float(now), busy(w0=0, w1=0), workers=2)) != FINE
    ]
    assert [now for now, verdict in told if verdict.all_since is not None] == [4, 8, 16]
    assert len([now for now, verdict in told if verdict.all_since is not None]) == PATIENCE
    assert next(now for now, verdict in told if verdict.hangs is not None) == 32


def test_progress_of_anybody_ends_the_patience():
    health = Health(deadline=4.0)
    looks(health, range(5), 1)
    assert health.limit(1) == 8
    health.finished(0.1, steps=1)
    assert health.limit(1) == 4


@pytest.mark.parametrize("how", ["excused", "compiles"])
def test_what_does_not_count_is_not_counted(how):
    health = Health(deadline=3.0)
    compiling = {0: Busy(0, 1, counts=how == "excused")}
    for now in range(50):
        verdict = health.look(float(now), compiling, workers=2, excused=how == "excused")
        assert verdict == FINE
    verdicts = looks(health, range(50, 54), 2)
    assert [each.hangs for each in verdicts] == [None, None, 0, 0]


TICKS = st.floats(min_value=0.0, max_value=FAR_APART - 0.01)
FAR = st.floats(min_value=FAR_APART + 0.01, max_value=1e9)


@given(st.lists(st.one_of(TICKS, FAR), max_size=60), st.floats(min_value=0.5, max_value=60.0))
def test_only_time_that_was_looked_at_counts(gaps, deadline):
    """However long the process is stopped, and how often, nobody is suspect for that."""
    health, now, counted = Health(deadline=deadline), 0.0, 0.0
    health.look(now, busy(w0=0), workers=2)
    for gap in gaps:
        before, now = now, now + gap
        counted += now - before if gap < FAR_APART and now - before <= FAR_APART else 0.0
        verdict = health.look(now, busy(w0=0), workers=2)
        assert verdict.hangs == (0 if counted >= deadline else None)


@given(
    st.lists(
        st.tuples(
            st.floats(min_value=0.0, max_value=6.0),
            st.dictionaries(st.integers(0, 3), st.integers(0, 1), max_size=4),
        ),
        max_size=60,
    )
)
def test_who_has_run_its_clock_for_less_than_the_limit_is_never_evicted(story):
    health, now = Health(deadline=5.0), 0.0
    since: dict[int, tuple[int, float]] = {}
    for gap, clocks in story:
        now += gap
        at = {worker: Busy(clock, 1) for worker, clock in clocks.items()}
        since = {
            worker: since[worker] if since.get(worker, (None, 0.0))[0] == clock else (clock, now)
            for worker, clock in clocks.items()
        }
        verdict = health.look(now, at, workers=4)
        if verdict.hangs is not None:
            assert now - since[verdict.hangs][1] >= 5.0
        if verdict.all_since is not None:
            assert len(clocks) == 4


# In threads.


def devices(workers=2, **recovery):
    spread = {"num_workers": workers, "workers_per_device": workers}
    return ssp.Devices(**spread, recovery=ssp.Recovery(backoff=0.001, **recovery))


def trained(runtime, **changes):
    spec = linear(**{"step": MOMENTUM, "num_clocks": 8, "policy": ssp.BSP(), **changes})
    result = ssp.train(runtime=runtime, **spec)
    ssp.check_contract(result.tape)
    again = ssp.train(runtime=ssp.Replay(result.tape), **spec)
    assert bits(again.params) == bits(result.params)
    return result


def losses(result):
    return [event for _, event, _ in result.tape if type(event) is WorkerLost]


def test_who_hangs_in_its_data_is_evicted_and_nobody_waits_for_it():
    release, first = threading.Event(), threading.Event()

    def data(worker):
        for number, batch in zip(itertools.count(), linear()["data"](worker), strict=False):
            if (worker, number) == (1, 3) and not first.is_set():
                first.set()
                release.wait(PATIENT)
            yield batch

    try:
        result = trained(devices(deadline=LONG), data=data)
    finally:
        release.set()
    assert result.status == "done"
    (lost,) = losses(result)
    assert (lost.worker, lost.reason) == (1, "hang: it waits for batch 3 of its data")


def test_who_alone_hangs_is_given_time_and_then_evicted():
    spread = {"num_workers": 1}
    recovery = ssp.Recovery(backoff=0.001, deadline=0.1)  # which is doubled three times
    result = trained(ssp.Devices(**spread, faults=[faults.Hang(0, 2)], recovery=recovery))
    assert (result.status, result.updates) == ("done", 8)
    assert [event.worker for event in losses(result)] == [0]
    assert losses(result)[0].reason == "hang: it computes clock 2"


def test_what_comes_from_a_thread_that_wakes_up_is_late_and_changes_nothing():
    """Worker 1 hangs in its push, is evicted and comes again; then the first thread goes on."""
    woken, fenced = threading.Event(), threading.Event()

    class Hangs(LocalStore):
        struck = False

        def push(self, event, payload, metrics):
            if (event.worker, event.clock) == (1, 2) and not self.struck:
                type(self).struck = True
                assert woken.wait(PATIENT)
            super().push(event, payload, metrics)

    class Sees(ssp.Observer):
        def on_entry(self, now, event, commands):
            if type(event) is WorkerLost:
                woken.set()
            if any(type(command) is Fence for command in commands):
                fenced.set()

    def data(worker):
        for number, batch in zip(itertools.count(), linear()["data"](worker), strict=False):
            if (worker, number) == (0, 5):
                assert fenced.wait(PATIENT)
            yield batch

    runtime = storing(devices(deadline=LONG), Hangs)
    result = trained(runtime, data=data, observers=[Sees()])
    assert result.status == "done"
    fences = [c for *_, commands in result.tape for c in commands if type(c) is Fence]
    assert [fence[:2] for fence in fences] == [(1, 2)]
    assert ssp.check_contract(result.tape).late == 1
    assert [event.worker for event in losses(result)] == [1]
