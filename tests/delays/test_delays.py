"""Delay models against their closed forms."""

import math
import subprocess
import sys

import numpy as np
import pytest
import tyro

import jax_ssp as ssp
from jax_ssp.controller import StartClock, Token
from jax_ssp.delays import (
    Constant,
    Delay,
    Exponential,
    FromTrace,
    LogNormal,
    Pareto,
    PerWorker,
    ShiftedExponential,
    Straggler,
)
from jax_ssp.delays.draws import DelayDraws

MODELS = [
    Constant(0.5),
    PerWorker((1.0, 2.0)),
    Exponential(2.0),
    ShiftedExponential(shift=1.0, mean=2.0),
    Pareto(minimum=1.0, shape=3.0),
    LogNormal(median=2.0, sigma=0.5),
    Straggler(Exponential(1.0), worker=1),
    FromTrace(((0.5, 0.75), (2.0,))),
]


def draw(delay: Delay, count: int, steps: int = 1, worker: int = 0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.array([delay(worker, clock, steps, rng) for clock in range(count)])


@pytest.mark.parametrize("delay", MODELS, ids=lambda delay: type(delay).__name__)
@pytest.mark.parametrize("steps", [1, 3])
def test_every_model_gives_seconds_and_repeats_with_its_seed(delay, steps):
    seconds = draw(delay, 50, steps)
    assert np.all(np.isfinite(seconds))
    assert np.all(seconds > 0)
    assert all(type(delay(0, 0, steps, np.random.default_rng(0))) is float for _ in range(2))
    np.testing.assert_array_equal(seconds, draw(delay, 50, steps))
    assert hash(delay) == hash(delay)


@pytest.mark.parametrize(
    ("delay", "quantile", "mean", "variance"),
    [
        (Exponential(2.0), lambda q: -2.0 * math.log(1 - q), 2.0, 4.0),
        (ShiftedExponential(1.0, 2.0), lambda q: 1.0 - 2.0 * math.log(1 - q), 3.0, 4.0),
        (Pareto(2.0, 5.0), lambda q: 2.0 * (1 - q) ** (-1 / 5), 2.5, 4 * 5 / (16 * 3)),
        (
            LogNormal(2.0, 0.5),
            lambda q: 2.0 * math.exp(0.5 * {0.1: -1.2815516, 0.5: 0.0, 0.9: 1.2815516}[q]),
            2.0 * math.exp(0.125),
            4.0 * math.exp(0.25) * (math.exp(0.25) - 1),
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Delay) else "",
)
def test_quantiles_mean_and_sums_follow_the_closed_forms(delay, quantile, mean, variance):
    seconds = draw(delay, 20_000)
    for q in (0.1, 0.5, 0.9):
        assert np.mean(seconds <= quantile(q)) == pytest.approx(q, abs=0.012)  # at least 3.4 sigma
    assert seconds.mean() == pytest.approx(mean, rel=0.03)

    sums = draw(delay, 10_000, steps=8)  # independent draws: means and variances add up
    assert sums.mean() == pytest.approx(8 * mean, rel=0.02)
    assert sums.var() == pytest.approx(8 * variance, rel=0.1)


def test_a_heavy_tail_without_a_mean_is_allowed():
    seconds = draw(Pareto(minimum=1.0, shape=0.9), 20_000)
    assert seconds.min() >= 1.0
    assert np.median(seconds) == pytest.approx(2 ** (1 / 0.9), rel=0.03)


def test_fixed_times_are_exact():
    rng = np.random.default_rng(0)
    assert Constant(0.25)(3, 9, 1, rng) == 0.25
    assert Constant(0.25)(3, 9, 6, rng) == 1.5
    assert Constant(0.0)(0, 0, 1, rng) == 0.0
    assert PerWorker((1.0, 2.5))(1, 0, 2, rng) == 5.0
    assert LogNormal(2.0, 0.0)(0, 0, 3, rng) == 6.0


def test_a_straggler_is_slow_always_or_in_bursts_at_exact_clocks():
    always = Straggler(worker=1, factor=3.0)
    assert draw(always, 3, worker=1).tolist() == [3.0, 3.0, 3.0]
    assert draw(always, 3, worker=0).tolist() == [1.0, 1.0, 1.0]

    bursts = Straggler(Constant(0.5), worker=0, factor=4.0, burst=2, every=5)
    slow = [clock for clock, seconds in enumerate(draw(bursts, 12)) if seconds == 2.0]
    assert slow == [0, 1, 5, 6, 10, 11]
    assert draw(bursts, 12, worker=2).tolist() == [0.5] * 12


def test_a_straggler_does_not_change_what_is_drawn():
    base = Exponential(1.0)
    slowed = draw(Straggler(base, worker=0, factor=2.0, burst=1, every=2), 6)
    np.testing.assert_array_equal(slowed, draw(base, 6) * [2, 1, 2, 1, 2, 1])


def test_stragglers_nest():
    both = Straggler(Straggler(Constant(1.0), worker=0, factor=2.0), worker=1, factor=3.0)
    rng = np.random.default_rng(0)
    assert [both(worker, 0, 1, rng) for worker in range(3)] == [2.0, 3.0, 1.0]


def test_a_trace_is_repeated_and_ignores_steps_if_it_has_none():
    trace = FromTrace(((0.5, 0.75), (2.0,)))
    assert draw(trace, 5, steps=4).tolist() == [0.5, 0.75, 0.5, 0.75, 0.5]
    assert draw(trace, 2, worker=1).tolist() == [2.0, 2.0]


def test_a_trace_of_one_h_predicts_another():
    """The mean grows with the steps, the jitter with their root; the measured ones stay exact."""
    rng = np.random.default_rng(0)
    took = 4 * 0.1 + 2 * 0.02 * rng.standard_normal(500)  # of 4 steps of 0.1 +- 0.02 s
    trace = FromTrace((tuple(took), (2.0, 2.0)), ((4,) * 500, (4, 8)))
    assert draw(trace, 500, steps=4).tolist() == took.tolist()
    assert trace.step_seconds == (pytest.approx(took.mean() / 4), pytest.approx(4 / 12))
    for steps in (1, 16):
        found = draw(trace, 500, steps=steps)
        assert found.mean() == pytest.approx(0.1 * steps, rel=0.02)
        assert found.std() == pytest.approx(0.02 * np.sqrt(steps), rel=0.1)
    assert draw(trace, 2, worker=1, steps=4)[0] == 2.0  # where it was measured
    assert draw(FromTrace(((0.0, 1.0),), ((1, 1),)), 1, steps=4)[0] == pytest.approx(1.0)
    assert draw(FromTrace(((0.0, 4.0),), ((1, 9),)), 1, steps=100)[0] >= 0.0


@pytest.mark.parametrize("steps", [1, 16])
def test_h_is_swept_from_a_run_of_one_h_over_the_network(steps):
    """What is fitted is the time of steps alone: the network is that of the next rehearsal."""
    network = ssp.Network(0.3, bandwidth=8.0, server_bandwidth=12.0, params_bytes=4.0)
    how = {"policy": ssp.SSP(1), "num_clocks": 20}
    truth = PerWorker((0.5, 0.8, 0.6))

    def seconds(delay, steps, links=network):
        runtime = ssp.Virtual(3, delay, compute=False, network=links)
        return ssp.train(runtime=runtime, local_steps=steps, **how)

    measured = seconds(truth, 4)
    trace = FromTrace.from_schedule(measured.schedule)
    assert trace.step_seconds == pytest.approx(truth.seconds)
    assert seconds(trace, steps).seconds == pytest.approx(seconds(truth, steps).seconds)
    faster = ssp.Network(0.1, params_bytes=4.0)
    one, other = (seconds(delay, steps, faster).seconds for delay in (trace, truth))
    assert one == pytest.approx(other)


def test_a_cancelled_clock_says_nothing_of_a_steps_time():
    runtime = ssp.Virtual(3, PerWorker((1.0, 1.0, 5.0)), compute=False)
    rows = ssp.train(runtime=runtime, policy=ssp.KSync(2), num_clocks=3).schedule
    with pytest.raises(ValueError, match="an entry for worker 2"):
        FromTrace.from_schedule(rows[rows["clock"] < 2]).check(3)


def test_a_schedule_plays_back_as_measured():
    columns = [("worker", np.int32), ("clock", np.int32), ("start", float), ("finish", float)]
    schedule = np.array(
        [(1, 0, 0.0, 2.0), (0, 1, 1.5, 2.0), (1, 1, 2.5, 3.0), (0, 0, 0.5, 1.5)], columns
    )
    assert FromTrace.from_schedule(schedule) == FromTrace(((1.0, 0.5), (2.0, 0.5)))
    with pytest.raises(ValueError, match=r"the columns \['finish'\], got \['worker', 'clock', 'st"):
        FromTrace.from_schedule(schedule[["worker", "clock", "start"]])
    with pytest.raises(ValueError, match="got none of worker 0"):
        FromTrace.from_schedule(schedule[schedule["worker"] == 1])
    with pytest.raises(ValueError, match="got none of worker 0"):
        FromTrace.from_schedule(schedule[:0])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Constant(-1.0), r"`Constant\(seconds=...\)` must be non-negative, got -1.0."),
        (lambda: Constant(math.nan), r"`Constant\(seconds=...\)` must be finite, got nan."),
        (
            lambda: PerWorker((1.0, -2.0)),
            r"`PerWorker\(seconds=...\)\[1\]` must be non-negative, got -2\.0\.",
        ),
        (lambda: Exponential(-1), r"`Exponential\(mean=...\)` must be positive, got -1\."),
        (lambda: Exponential(0.0), r"`Exponential\(mean=...\)` must be positive, got 0.0"),
        (lambda: Exponential(math.inf), r"`Exponential\(mean=...\)` must be finite, got inf"),
        (lambda: ShiftedExponential(-1.0, 1.0), r"Exponential\(shift=...\)` must be non-negative"),
        (lambda: ShiftedExponential(0.0, 0.0), r"Exponential\(mean=...\)` must be positive"),
        (lambda: Pareto(0.0, 1.0), r"`Pareto\(minimum=...\)` must be positive"),
        (lambda: Pareto(1.0, -1.0), r"`Pareto\(shape=...\)` must be positive"),
        (lambda: LogNormal(0.0, 1.0), r"`LogNormal\(median=...\)` must be positive"),
        (lambda: LogNormal(1.0, -1.0), r"`LogNormal\(sigma=...\)` must be non-negative"),
        (lambda: Straggler(worker=-1), r"`Straggler\(worker=...\)` must be non-negative, got -1"),
        (lambda: Straggler(factor=0.0), r"`Straggler\(factor=...\)` must be positive"),
        (lambda: Straggler(burst=1), r"must be given together"),
        (lambda: Straggler(every=1), r"must be given together"),
        (
            lambda: Straggler(burst=0, every=2),
            r"`Straggler\(burst=...\)` must be at least 1, got 0",
        ),
        (lambda: Straggler(burst=3, every=2), r"1 <= burst <= every, got burst=3, every=2"),
        (
            lambda: FromTrace(((1.0,),), ((1, 2),)),
            r"`FromTrace\(steps=...\)` must have a number for each of `seconds`, got \[2\] of them",
        ),
        (lambda: FromTrace(((1.0,),), ((0,),)), r"`FromTrace\(steps=...\)\[0\]\[0\]` must be at"),
        (lambda: FromTrace(((1.0,), ())), r"`FromTrace\(seconds=...\)` must .* none of worker 1"),
        (
            lambda: FromTrace(((1.0, math.nan),)),
            r"`FromTrace\(seconds=...\)\[0\]\[1\]` must be finite",
        ),
        (lambda: draw(PerWorker((1.0,)), 1, worker=1), r"an entry for worker 1, got 1 entries"),
        (lambda: draw(FromTrace(((1.0,),)), 1, worker=2), r"an entry for worker 2, got 1 entries"),
    ],
)
def test_errors_name_the_field_and_the_value(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_the_base_class_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Delay()


def test_delays_are_read_from_the_command_line():
    assert tyro.cli(Pareto, args=["--minimum", "0.5", "--shape", "2"]) == Pareto(0.5, 2.0)
    assert tyro.cli(PerWorker, args=["--seconds", "1", "2.5"]) == PerWorker((1.0, 2.5))
    args = ["--base.mean", "2", "--burst", "1", "--every", "3"]
    default = Straggler(Exponential(1.0))
    assert tyro.cli(Straggler, default=default, args=args) == Straggler(
        Exponential(2.0), burst=1, every=3
    )


def test_the_module_needs_no_jax():
    program = "import sys, jax_ssp.delays.random; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    "delay",
    [Exponential(2.0), ShiftedExponential(1.0, 2.0), Pareto(1.0, 3.0), LogNormal(2.0, 0.5)],
    ids=repr,
)
def test_delays_drawn_ahead_are_those_drawn_one_by_one(delay):
    rngs = [np.random.default_rng(3) for _ in range(2)]
    one_by_one = [delay(0, clock, 1, rngs[0]) for clock in range(100)]
    assert delay.ahead(0, 60, rngs[1]) + delay.ahead(0, 40, rngs[1]) == one_by_one


def test_a_subclass_that_changes_a_delay_is_not_drawn_ahead():
    class Twice(Exponential):
        def __call__(self, worker, clock, steps, rng):
            return 2 * super().__call__(worker, clock, steps, rng)

    start = StartClock(0, 0, 1, 0, (), 1, 1.0, Token(0, 0))
    once, twice = (DelayDraws(model(), 0, 1).draw(start) for model in (Exponential, Twice))
    assert twice == 2 * once


class Mine:
    """A model of somebody else, which draws ahead for all workers but one."""

    def __call__(self, worker, clock, steps, rng):
        return float(rng.random(steps).sum())

    def ahead(self, worker, count, rng):
        return rng.random(count).tolist() if worker else None


@pytest.mark.parametrize("delay", [Mine(), Mine().__call__, Exponential()], ids=["", "call", "own"])
def test_a_run_draws_what_each_worker_would_alone(delay):
    draws = DelayDraws(delay, 7, 2)
    start = StartClock(0, 0, 1, 0, (), 1, 1.0, Token(0, 0))
    drawn = [
        [draws.draw(start._replace(worker=worker, clock=clock)) for worker in (0, 1)]
        for clock in range(70)
    ]
    rngs = [np.random.default_rng([7, worker]) for worker in (0, 1)]
    assert drawn == [
        [delay(worker, clock, 1, rngs[worker]) for worker in (0, 1)] for clock in range(70)
    ]


class Uniform:
    """A model of somebody else, which draws ahead for all workers."""

    def __call__(self, worker, clock, steps, rng):
        return float(rng.random(steps).sum())

    def ahead(self, worker, count, rng):
        return rng.random(count).tolist()


@pytest.mark.parametrize("policy", [ssp.SSP(2), ssp.BSP(), ssp.KAsync(3)], ids=repr)
def test_a_run_is_the_same_whether_its_delays_are_drawn_ahead_or_not(policy):
    ahead, one_by_one = (
        ssp.train(
            policy=policy,
            runtime=ssp.Virtual(6, delay, seed=5, compute=False),
            num_clocks=40,
            progress=False,
        )
        for delay in (Uniform(), Uniform().__call__)
    )
    assert list(ahead.tape) == list(one_by_one.tape)


@pytest.mark.parametrize(
    ("gives", "message"),
    [
        ([0.5, -1.0], "must be non-negative, got -1.0"),
        ([0.5, math.nan], "finite"),
        ([math.inf, 1.0], "finite"),
        ([1e18, 1e18], None),
        ([1, np.float64(2)], None),
        ([0.5, True], "number"),
    ],
    ids=repr,
)
def test_what_is_drawn_ahead_is_checked(gives, message):
    class Given(Exponential):
        def __call__(self, worker, clock, steps, rng):
            raise AssertionError("it is drawn ahead")

        def ahead(self, worker, count, rng):
            return (gives * count)[:count]

    draws, start = DelayDraws(Given(), 0, 1), StartClock(0, 0, 1, 0, (), 1, 1.0, Token(0, 0))
    if message is not None:
        with pytest.raises((ValueError, TypeError), match=message):
            draws.draw(start)
        return
    drawn = [draws.draw(start) for _ in gives]
    assert drawn == gives
    assert set(map(type, drawn)) == {float}


def test_too_few_delays_drawn_ahead_are_refused():
    class Few(Exponential):
        def __call__(self, worker, clock, steps, rng):
            return 1.0

        def ahead(self, worker, count, rng):
            return [1.0] * (count - 1)

    draws, start = DelayDraws(Few(), 0, 1), StartClock(0, 0, 1, 0, (), 1, 1.0, Token(0, 0))
    with pytest.raises(ValueError, match=r"ahead\(worker=0, count=32, .* so many delays, got 31"):
        draws.draw(start)
