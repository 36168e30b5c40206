"""Schedules of local steps: how many steps each clock has, by their definitions."""

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jax_ssp as ssp
from jax_ssp.policies import ALL_SCHEDULES, LocalSteps, as_schedule


def steps_of(local_steps, delay, workers, policy=None, clocks=10):
    """H of each (worker, clock)."""
    runtime = ssp.Virtual(workers, delay, compute=False)
    result = ssp.train(
        policy=policy or ssp.ASP(), runtime=runtime, num_clocks=clocks, local_steps=local_steps
    )
    found = np.zeros((workers, clocks), int)
    for _, _, commands in result.tape:
        for command in commands:
            if type(command).__name__ == "StartClock":
                found[command.worker, command.clock] = command.local_steps
    return found, result


@pytest.mark.parametrize("kind", ALL_SCHEDULES, ids=lambda kind: kind.__name__)
def test_every_schedule_keeps_the_rules_of_the_house(kind):
    schedule = kind()
    assert isinstance(schedule, LocalSteps)
    assert schedule == kind()
    assert hash(schedule) == hash(kind())
    assert type(schedule).__dataclass_params__.frozen
    assert "Example:" in kind.__doc__
    assert "Reference:" in kind.__doc__
    assert max(schedule.usual) == schedule.usual[-1]
    found, _ = steps_of(schedule, ssp.delays.Exponential(), 4, clocks=70)
    assert found.max() <= schedule.usual[-1]
    # A run leaves nothing in the schedule that it was given: the next is the same.
    again, _ = steps_of(schedule, ssp.delays.Exponential(), 4, clocks=70)
    np.testing.assert_array_equal(found, again)
    assert schedule == kind()


@pytest.mark.parametrize("overlap", [0, 1])
def test_what_travels_makes_no_worker_slow(overlap):
    delay = ssp.delays.PerWorker((1.0, 3.0))
    for network in (None, ssp.Network(latency=5.0), ssp.Network(latency=(0.0, 10.0))):
        runtime = ssp.Virtual(2, delay, compute=False, network=network)
        how = {"policy": ssp.ASP(), "num_clocks": 5, "overlap": overlap}
        rows = ssp.train(runtime=runtime, local_steps=ssp.DyLU(12), **how).schedule
        assert rows["steps"][rows["worker"] == 0].tolist() == [12] * 5
        assert rows["steps"][rows["worker"] == 1].tolist() == [12, 4, 4, 4, 4]


@pytest.mark.parametrize("policy", [ssp.ASP(), ssp.BSP(), ssp.KSync(2)], ids=repr)
def test_a_number_is_a_fixed_schedule(policy):
    (one, a), (other, b) = (
        steps_of(each, ssp.delays.Exponential(), 3, policy) for each in (5, ssp.Fixed(5))
    )
    assert set(one.flat) == {5}
    np.testing.assert_array_equal(one, other)
    assert list(a.tape) == list(b.tape)
    assert a.tape.header == b.tape.header
    assert as_schedule(5) == ssp.Fixed(5)
    assert as_schedule(ssp.DyLU(3)) == ssp.DyLU(3)


@pytest.mark.parametrize("value", [1.5, True, "4", None, ssp.ASP()])
def test_what_is_no_schedule_is_a_type_error(value):
    with pytest.raises(TypeError, match=r"^`local_steps` must be an integer, or a schedule such"):
        steps_of(value, ssp.delays.Constant(), 2)


@pytest.mark.parametrize("value", [0, -3])
def test_no_steps_are_refused(value):
    with pytest.raises(ValueError, match=rf"^`local_steps` must be at least 1, got {value}\.$"):
        steps_of(value, ssp.delays.Constant(), 2)


@pytest.mark.parametrize(("h", "switch"), [(8, 3), (1, 1), (2, 100)])
def test_post_local_sgd_takes_one_step_a_clock_and_from_the_switch_on_h(h, switch):
    found, result = steps_of(ssp.PostLocal(h, switch), ssp.delays.Constant(), 3, ssp.BSP())
    expected = [1 if clock < switch else h for clock in range(10)]
    np.testing.assert_array_equal(found, [expected] * 3)
    assert result.seconds == sum(expected)


# DyLU.


@pytest.mark.parametrize("h", [1, 4, 10, 37])
@pytest.mark.parametrize(
    "seconds", [(1.0, 2.0, 4.0), (1.0, 2.5, 3.0), (0.7, 0.7, 0.7), (0.3, 0.9, 33.0), (5.0,)]
)
def test_dylu_gives_steps_in_proportion_to_speed(h, seconds):
    """H_i = max(1, H v_i / max v), rounded half up, once all are measured; until then H."""
    found, result = steps_of(ssp.DyLU(h), ssp.delays.PerWorker(seconds), len(seconds), ssp.BSP())
    assert set(found[:, 0]) == {h}
    for worker, pace in enumerate(seconds):
        # Rational numbers: speeds are 1 / pace, and none is rounded.
        exact = Fraction(h * round(10 * min(seconds)), round(10 * pace))
        exact = math.floor(exact + Fraction(1, 2))
        assert set(found[worker, 1:]) == {max(1, exact)}
    rows = result.schedule[result.schedule["clock"] > 0]
    longest = rows["finish"] - rows["start"]
    # All take as long as the fastest, to half a step; but nobody can do less than a step.
    step = np.array(seconds)[rows["worker"]]
    assert (longest <= np.maximum(h * min(seconds) + step / 2, step) + 1e-9).all()
    assert (longest >= h * min(seconds) - step / 2 - 1e-9).all()


def test_under_dylu_clocks_of_commensurate_devices_take_the_same_time():
    seconds = (1.0, 2.0, 4.0, 8.0)
    _, result = steps_of(ssp.DyLU(8), ssp.delays.PerWorker(seconds), 4)
    rows = result.schedule
    later = rows[rows["clock"] > 0]
    np.testing.assert_allclose(later["finish"] - later["start"], 8.0)
    fixed = ssp.train(
        policy=ssp.BSP(),
        runtime=ssp.Virtual(4, ssp.delays.PerWorker(seconds), compute=False),
        num_clocks=10,
        local_steps=8,
    )
    assert fixed.seconds == 10 * 64
    assert steps_of(ssp.DyLU(8), ssp.delays.PerWorker(seconds), 4, ssp.BSP())[1].seconds == 64 + 72


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 64), st.integers(1, 7), st.floats(1e-6, 1e6))
def test_dylu_gives_equal_workers_exactly_h_whatever_rounding_does(h, workers, seconds):
    found, _ = steps_of(ssp.DyLU(h), ssp.delays.Constant(seconds), workers, clocks=6)
    assert set(found.flat) == {h}


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 64), st.integers(1, 64), st.floats(1e-3, 1e3))
def test_dylu_gives_a_worker_that_is_a_whole_number_of_times_slower_its_share(h, times, unit):
    delay = ssp.delays.PerWorker((unit, unit * times))
    found, _ = steps_of(ssp.DyLU(h), delay, 2, ssp.BSP(), clocks=4)
    assert set(found[1, 1:]) == {max(1, (2 * h + times) // (2 * times))}


def test_dylu_measures_speed_over_all_that_it_remembers():
    """Steps over seconds of the last clocks, not the best, the last or the mean of their paces."""
    burst = ssp.delays.Straggler(worker=1, factor=4.0, burst=1, every=5)
    for memory, clocks in ((1, 12), (3, 20), (100, 20)):
        found, _ = steps_of(ssp.DyLU(8, memory), burst, 3, ssp.BSP(), clocks=clocks)
        assert set(found[[0, 2]].flat) == {8}
        for clock in range(1, clocks):
            kept = range(max(0, clock - memory), clock)
            seconds = sum(found[1, each] * (4.0 if each % 5 == 0 else 1.0) for each in kept)
            pace = seconds / sum(found[1, each] for each in kept)
            assert found[1, clock] == max(1, math.floor(8 / pace + 0.5))
    # A device that is slow for good is known as such once its memory holds nothing else.
    once = ssp.delays.FromTrace(((1.0,), (1.0,) * 6 + (2.0,) * 94))
    found, _ = steps_of(ssp.DyLU(8, memory=4), lambda *a: a[2] * once(*a), 2, ssp.BSP(), clocks=20)
    assert set(found[1, :7]) == {8}
    assert set(found[1, 10:]) == {4}


JITTERS = {
    "log-normal, 0.2": ssp.delays.LogNormal(1.0, 0.2),
    "log-normal, 0.5": ssp.delays.LogNormal(1.0, 0.5),
    "shifted exponential": ssp.delays.ShiftedExponential(0.5, 0.5),
    "exponential": ssp.delays.Exponential(1.0),
}


@dataclasses.dataclass(frozen=True)
class HalfAsMany(LocalSteps):
    """The ideal where worker 0 is known to be twice as slow."""

    def steps(self, view, worker):
        return 4 if worker == 0 else 8


@pytest.mark.parametrize("policy", [ssp.BSP(), ssp.SSP(3)], ids=repr)
@pytest.mark.parametrize("jitter", JITTERS.values(), ids=JITTERS)
@pytest.mark.every(11)
def test_under_jitter_dylu_makes_as_many_steps_a_second_as_it_should(jitter, policy):
    """Of equal devices what a fixed H makes; and of one twice as slow what the ideal makes."""

    def rate(local_steps, delay):
        made = []
        for seed in range(4):
            result = ssp.train(
                policy=policy,
                runtime=ssp.Virtual(8, delay, compute=False, seed=seed),
                num_clocks=100,
                local_steps=local_steps,
            )
            starts = (c for _, _, commands in result.tape for c in commands)
            steps = sum(getattr(start, "local_steps", 0) for start in starts)
            made.append(steps / result.seconds)
        return np.array(made)

    equal = rate(ssp.DyLU(8), jitter) / rate(8, jitter)
    assert equal.min() >= 0.95, equal
    unequal = ssp.delays.Straggler(jitter, worker=0, factor=2.0)
    found = rate(ssp.DyLU(8), unequal) / rate(HalfAsMany(), unequal)
    assert found.min() >= 0.9, found


def test_dylu_takes_the_speed_of_a_clock_from_its_own_steps():
    """Not from its time alone: a clock of few steps is not a fast one."""
    found, _ = steps_of(ssp.DyLU(12), ssp.delays.PerWorker((3.0, 1.0)), 2, ssp.BSP(), clocks=20)
    assert set(found[0, 1:]) == {4}
    assert set(found[1, 1:]) == {12}


def test_dylu_works_under_other_policies_and_with_no_time_at_all():
    for policy in (ssp.SSP(2), ssp.KSync(2), ssp.Ringmaster(2, stops=True), ssp.FedBuff(3)):
        found, result = steps_of(ssp.DyLU(6), ssp.delays.PerWorker((1.0, 2.0, 3.0)), 3, policy)
        assert ssp.check_contract(result.tape).complete
        assert found[0].tolist() == [6] * 10
    found, _ = steps_of(ssp.DyLU(6), ssp.delays.Constant(0.0), 3)
    assert set(found.flat) == {6}
