"""Faults that are drawn: the same each time, with the mean that was asked for."""

import numpy as np
import pytest

import jax_ssp as ssp
from jax_ssp import faults


def test_the_same_seed_draws_the_same_faults_and_another_others():
    drawn = [faults.Poisson(10.0, ("crash", "slow"), seed=s).drawn(4) for s in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_worker_has_its_faults_however_many_others_there_are():
    few, many = (faults.Poisson(10.0).drawn(count) for count in (2, 5))
    assert few == [fault for fault in many if fault.worker < 2]


def test_the_mean_time_between_failures_is_what_was_asked_for():
    drawn = faults.Poisson(10.0, until=1e5).drawn(1)
    gaps = np.diff([fault.at for fault in drawn])
    assert 0.97 < gaps.mean() / 10.0 < 1.03
    assert 0.95 < gaps.std() / 10.0 < 1.05  # as of an exponential distribution


def test_in_clocks_no_clock_is_struck_twice():
    drawn = faults.Poisson(0.5, ("nan",), per="clocks", until=50).drawn(3)
    places = [(fault.worker, fault.clock) for fault in drawn]
    assert len(set(places)) == len(places) > 75
    assert max(clock for _, clock in places) < 50


def test_each_kill_ends_another_life():
    drawn = faults.Poisson(5.0, ("kill", "terminate"), until=100.0).drawn(8)
    assert [fault.life for fault in drawn] == list(range(len(drawn)))
    assert [fault.at for fault in drawn] == sorted(fault.at for fault in drawn)
    assert {fault.worker for fault in drawn} == {None}


def test_what_is_drawn_is_played_and_named_in_the_header():
    schedule = faults.Poisson(4.0, ("crash", "nan"), per="clocks", until=8, seed=2)
    runtime = ssp.Virtual(4, compute=False, faults=[schedule])
    result = ssp.train(runtime=runtime, policy=ssp.ASP(), num_clocks=8)
    lost = {event.worker for _, event, _ in result.tape if type(event).__name__ == "WorkerLost"}
    assert lost == {f.worker for f in schedule.drawn(4) if isinstance(f, faults.Crash)} != set()
    assert result.tape.header["faults"] == faults.in_words([schedule])
    assert result.tape.header["nan"] == [
        [f.worker, f.clock] for f in schedule.drawn(4) if isinstance(f, faults.NaN)
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mtbf": 0}, r"`Poisson\(mtbf=...\)` must be positive"),
        ({"kinds": ()}, "at least one kind"),
        ({"kinds": ("nan",)}, 'nan strikes clocks and no moments; give `per="clocks"`'),
        ({"kinds": ("kill",), "per": "clocks"}, "kill strikes the process, which has no clocks"),
        ({"kinds": ("disk_full",)}, "disk_full strikes saves, by their number"),
        ({"until": 1e9}, "100000 faults of a worker at most"),
    ],
)
def test_what_cannot_be_drawn_is_told(given, message):
    with pytest.raises(ValueError, match=message):
        faults.Poisson(**{"mtbf": 3.0, **given})
