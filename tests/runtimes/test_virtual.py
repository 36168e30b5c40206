"""Virtual time keeps the clockwork's recursion exactly, and one seed gives one run."""

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jax_ssp as ssp
from jax_ssp import delays
from jax_ssp.controller import DeltaReady
from jax_ssp.policies import Decision
from tests.helpers.problems import TOLD, batches, linear, numbers

QUICK = settings(deadline=None, max_examples=60)


def jittery(worker, clock, steps, rng):
    """Delays of all kinds: zero, whole numbers (so that many coincide), anything."""
    kind = rng.integers(4)
    if kind == 0:
        return 0.0
    return float(rng.integers(1, 4)) if kind < 3 else float(rng.exponential())


def run(policy, num_workers=4, num_clocks=8, delay=jittery, seed=0, **others):
    runtime = ssp.Virtual(num_workers, delay, seed, compute=False)
    return ssp.train(policy=policy, runtime=runtime, num_clocks=num_clocks, **others)


def drawn(delay, seed, num_workers, num_clocks, steps=1):
    """The delays of a run, drawn here: [worker, clock]."""
    streams = [np.random.default_rng([seed, worker]) for worker in range(num_workers)]
    clocks = range(num_clocks)
    return np.array([[delay(w, c, steps, rng) for c in clocks] for w, rng in enumerate(streams)])


def recursion(durations, bound):
    """Start and finish of every clock, [worker, clock] each, if a start waits for nothing but
    the worker's own last clock and, with a bound s, everybody's clock c - s - 1."""
    starts, finishes = np.zeros_like(durations), np.zeros_like(durations)
    for clock in range(durations.shape[1]):
        if clock > 0:
            starts[:, clock] = finishes[:, clock - 1]
        if bound is not None and clock > bound:
            slowest = finishes[:, clock - bound - 1].max()
            starts[:, clock] = np.maximum(starts[:, clock], slowest)
        finishes[:, clock] = starts[:, clock] + durations[:, clock]
    return starts, finishes


def times(result):
    """The same from the schedule of a run."""
    rows = result.schedule
    shape = rows["worker"].max() + 1, rows["clock"].max() + 1
    starts, finishes = np.full(shape, np.nan), np.full(shape, np.nan)
    starts[rows["worker"], rows["clock"]] = rows["start"]
    finishes[rows["worker"], rows["clock"]] = rows["finish"]
    return starts, finishes


def assert_times(result, expected):
    for found, wanted in zip(times(result), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)  # to the last bit


@QUICK
@given(
    bound=st.integers(0, 7),
    num_workers=st.integers(1, 9),
    num_clocks=st.integers(1, 12),
    seed=st.integers(0, 2**31),
    adopt=st.sampled_from(["eager", "lazy"]),
    local_steps=st.integers(1, 3),
)
def test_a_clock_starts_exactly_when_the_bound_allows(
    bound, num_workers, num_clocks, seed, adopt, local_steps
):
    result = run(ssp.SSP(bound, adopt), num_workers, num_clocks, seed=seed, local_steps=local_steps)
    durations = drawn(jittery, seed, num_workers, num_clocks, local_steps)
    assert_times(result, recursion(durations, bound))
    assert len(result.schedule) == num_workers * num_clocks
    assert ssp.check_contract(result.tape).max_start_lag <= bound


@QUICK
@given(num_workers=st.integers(1, 9), seed=st.integers(0, 2**31))
def test_bsp_is_ssp_at_bound_0_and_asp_waits_for_nobody(num_workers, seed):
    durations = drawn(jittery, seed, num_workers, 8)
    together, at_bound_0, alone = (
        run(policy, num_workers, seed=seed) for policy in (ssp.BSP(), ssp.SSP(0), ssp.ASP())
    )
    assert_times(together, recursion(durations, 0))
    assert list(together.tape) == list(at_bound_0.tape)
    assert_times(alone, recursion(durations, None))
    assert set(together.schedule["staleness"]) == {0}


def test_one_seed_gives_one_tape_and_another_another():
    one, again, other = (
        list(run(ssp.SSP(2), delay=delays.Exponential(), seed=seed).tape) for seed in (3, 3, 4)
    )
    assert one == again
    assert one != other


def test_the_delays_do_not_depend_on_the_schedule():
    def noting(worker, clock, steps, rng):
        seconds = delays.Exponential()(worker, clock, steps, rng)
        assert seen.setdefault((worker, clock), seconds) == seconds
        return seconds

    seen = {}
    policies = [ssp.BSP(), ssp.SSP(1), ssp.SSP(4, "lazy"), ssp.ASP()]
    schedules = [run(policy, delay=noting).schedule for policy in policies]
    assert len(seen) == 4 * 8
    assert len({schedule["start"].tobytes() for schedule in schedules}) == len(policies)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf"), -math.inf])
def test_a_delay_that_makes_no_sense_is_an_error_that_names_the_clock(seconds):
    def bad(worker, clock, steps, rng):
        return seconds if (worker, clock) == (2, 3) else 1.0

    with pytest.raises(ValueError, match=rf"delay\(worker=2, clock=3.* must be .*, got {seconds}"):
        run(ssp.SSP(1), delay=bad)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"`Virtual\(num_workers=...\)` must be at least 1, got 0"):
        ssp.Virtual(num_workers=0)
    with pytest.raises(TypeError, match=r"`Virtual\(delay=...\)` must be a function .* got 1.5"):
        ssp.Virtual(delay=1.5)


MODELS = [
    delays.Constant(0.5),
    delays.PerWorker((1.0, 2.0, 3.0, 0.0)),
    delays.Exponential(2.0),
    delays.ShiftedExponential(0.5, 2.0),
    delays.Pareto(0.5, 1.5),
    delays.LogNormal(1.0, 1.0),
    delays.Straggler(delays.Exponential(), worker=1, factor=5.0, burst=1, every=3),
    delays.FromTrace(((1.0, 2.0), (0.5,), (3.0,), (1.0, 1.0, 7.0))),
]


def test_the_table_of_delay_models_is_complete():
    classes = {value for value in vars(delays).values() if isinstance(value, type)}
    models = {kind for kind in classes if issubclass(kind, delays.Delay)} - {delays.Delay}
    assert {type(model) for model in MODELS} == models


@pytest.mark.parametrize("delay", MODELS, ids=lambda delay: type(delay).__name__)
@pytest.mark.parametrize("local_steps", [1, 3])
def test_each_delay_model_runs(delay, local_steps):
    result = run(ssp.SSP(1), delay=delay, local_steps=local_steps)
    assert_times(result, recursion(drawn(delay, 0, 4, 8, local_steps), 1))


def test_the_clockwork_alone_computes_nothing():
    result = run(ssp.SSP(1))
    assert (result.params, result.history, result.evaluations) == (None, [], [])
    assert (result.status, result.updates, result.version) == ("done", 32, 32)
    assert result.seconds == result.schedule["finish"].max()


def test_with_gradients_time_passes_as_without():
    runtime = ssp.Virtual(num_workers=4, delay=jittery, seed=5)
    result = ssp.train(policy=ssp.SSP(2), runtime=runtime, num_clocks=8, **linear())
    for row, alone in zip(result.tape, run(ssp.SSP(2), seed=5).tape, strict=True):
        event = row.event._replace(samples=0) if type(row.event) is DeltaReady else row.event
        commands = [c._replace(round=0) if hasattr(c, "round") else c for c in row.commands]
        assert (row.now, event, commands) == alone
    assert result.params is not None
    assert len(result.history) == 32


# Timers.


@dataclass(frozen=True)
class EverySoOften(ssp.Policy):
    """Merges what there is at whole multiples of a period, and at no other time."""

    period: float = 2.5

    def ready(self, view):
        if view.now % self.period == 0:
            return Decision(merge=tuple(view.buffered))
        return Decision(wake=(view.now // self.period + 1) * self.period)


@pytest.mark.parametrize("ends", [{"num_clocks": 9}, {"num_clocks": None, "max_updates": 25}])
@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.parametrize("policy", [ssp.SSP(2), ssp.BSP(), ssp.ASP(), EverySoOften()], ids=repr)
def test_watched_or_not_the_clockwork_runs_the_same(policy, overlap, ends):
    """Unwatched it has a loop of its own, which is shorter."""
    alone, watched = (
        run(policy, overlap=overlap, observers=observers, **ends)
        for observers in ((), [ssp.Observer()])
    )
    assert list(alone.tape) == list(watched.tape)
    assert alone.tape.complete
    for field in ("status", "updates", "version", "seconds"):
        assert getattr(alone, field) == getattr(watched, field)


def test_a_timer_comes_when_it_was_asked_for():
    delay = delays.PerWorker((1.0, 0.75, 4.0))
    result = run(EverySoOften(), num_workers=3, num_clocks=5, delay=delay)
    fired = [(now, event.at) for now, event, _ in result.tape if hasattr(event, "at")]
    assert fired == [(2.5, 2.5), (10.0, 10.0), (12.5, 12.5), (17.5, 17.5)]
    # Worker 0 finishes at 1, 2, .., 5, worker 1 at 0.75, .., 3.75, worker 2 at 4, 8, .., 20.
    merged = [
        (now, len(command.deltas))
        for now, _, commands in result.tape
        for command in commands
        if hasattr(command, "deltas")
    ]
    # At 5 worker 0 finishes before the timer fires: a clock's end comes first, and is merged there.
    assert merged == [(2.5, 5), (5.0, 6), (10.0, 1), (12.5, 1), (17.5, 1), (20.0, 1)]
    assert result.updates == 15
    ssp.check_contract(result.tape)


def test_a_timer_that_is_replaced_does_not_fire():
    class Nervous(ssp.Policy):
        """Asks for another time at each event until the third, then merges there."""

        def __init__(self):
            object.__setattr__(self, "asked", deque([5.0, 2.25, 3.5]))

        def ready(self, view):
            if view.now in (2.25, 5.0):
                raise AssertionError("a timer fired that was replaced")
            if not self.asked:
                return Decision(merge=tuple(view.buffered))
            return Decision(wake=self.asked.popleft())

    delay = delays.PerWorker((1.0, 1.5, 2.0))
    result = run(Nervous(), num_workers=3, num_clocks=1, delay=delay)
    assert [now for now, event, _ in result.tape if hasattr(event, "at")] == []
    assert result.updates == 3


def test_what_a_worker_reads_is_decided_by_the_schedule_alone():
    # Worker 0 is twice as fast; what worker w pushes in clock c is 2 ** (3 w + c).
    result = ssp.train(
        TOLD,
        params={"w": np.float32(0)},
        data=numbers([[1, 2, 4], [8, 16, 32]]),
        policy=ssp.ASP(),
        runtime=ssp.Virtual(num_workers=2, delay=delays.PerWorker((1.0, 2.0))),
        num_clocks=3,
        weight="sum",
    )
    read = {(row["worker"], row["clock"]): row["metrics"]["read"] for row in result.history}
    # At 2 s worker 1 pushes before worker 0: it started its clock earlier.
    assert read == {(0, 0): 0, (1, 0): 0, (0, 1): 1, (1, 1): 9, (0, 2): 11, (1, 2): 31}
    assert float(result.params["w"]) == 63


@pytest.mark.parametrize("batch", [1, 2])
def test_an_error_in_the_data_names_the_worker(batch):
    def data(worker):
        for number, each in enumerate(batches(worker)):
            if (worker, number) == (1, 4):
                raise OSError("the disk is gone")
            yield each

    with pytest.raises(OSError, match="the disk is gone") as caught:
        ssp.train(runtime=ssp.Virtual(2, batch=batch), **linear(data=data, num_clocks=8))
    assert caught.value.__notes__[:-1] == ["in `data(worker=1)`, batch 4"]
