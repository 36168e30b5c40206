"""A run with faults that is broken off goes on with them, to the same bits as if it never was."""

import pytest

import jax_ssp as ssp
from jax_ssp import delays, faults
from jax_ssp.controller import WorkerLost
from tests.helpers.broken_off import gone_on, whole
from tests.helpers.problems import bits, linear
from tests.helpers.terms import without_terms

WRONG = [
    faults.Duplicate(0, 1, after=2.5),
    faults.Late(1, 2, seconds=3.0),
    faults.Slow(2, 2, seconds=1.5),
    faults.NaN(0, 3),
    faults.Crash(2, at=5.0),
    faults.Slow(0, at=4.0, seconds=2.0),
    faults.Duplicate(3, at=3.0, after=1.0),
]


def spec(**changes):
    runtime = ssp.Virtual(4, delays.Exponential(), faults=changes.pop("faults", WRONG))
    return linear(**{"runtime": runtime, "policy": ssp.SSP(2), "num_clocks": 6, **changes})


def told(result):
    return without_terms(result.tape), bits(result.params), repr(result.history)


@pytest.mark.parametrize("cuts", [True, False])
@pytest.mark.every(2)
def test_it_is_the_same_wherever_it_is_broken_off(cuts):
    given = spec(server_tx=ssp.mitigations.skip_nonfinite())
    result, made = whole(given)
    for rows in range(2, len(result.tape), 3):
        cut = max((c for c in made if c.rows <= rows), key=lambda c: c.rows, default=None)
        assert told(gone_on(given, result, rows, cut if cuts else None)) == told(result), rows


LATENCY = ssp.Network(latency=0.1)
AT_A_TIME = {
    "crash": lambda worker: faults.Crash(worker, at=0.2 + worker, back_after=0.5),
    "slow": lambda worker: faults.Slow(worker, at=0.2 + worker, seconds=0.5),
    "late": lambda worker: faults.Late(worker, at=0.2 + worker, back_after=0.5),
    "hang": lambda worker: faults.Hang(worker, at=2.0 + worker),
}


@pytest.mark.parametrize("kind", AT_A_TIME)
@pytest.mark.parametrize(
    ("policy", "network"), [(ssp.KSync(2), None), (ssp.Ringmaster(1, stops=True), LATENCY)]
)
@pytest.mark.every(2)
def test_what_strikes_at_a_time_strikes_the_next_clock_if_one_is_cancelled(kind, policy, network):
    wrong = [AT_A_TIME[kind](worker) for worker in range(4)]
    assert_it_goes_on(timing(wrong, policy, network))


def timing(wrong, policy, network=None, delay=None):
    delay = delay or delays.Exponential()
    runtime = ssp.Virtual(4, delay, compute=False, faults=wrong, network=network)
    return {"runtime": runtime, "policy": policy, "num_clocks": 7}


def assert_it_goes_on(given):
    result = ssp.train(**given)
    for rows in range(1, len(result.tape), 3):
        again = gone_on(given, result, rows, None)
        assert without_terms(again.tape) == without_terms(result.tape), rows
        assert (again.status, again.seconds) == (result.status, result.seconds)
    return result


@pytest.mark.parametrize("network", [None, LATENCY], ids=["", "network"])
def test_who_is_lost_is_not_struck_by_what_comes_in_the_same_clock(network):
    wrong = [faults.Late(0, 1), faults.Crash(0, at=1.5, back_after=0.5)]
    result = assert_it_goes_on(timing(wrong, ssp.SSP(2), network, delays.Constant()))
    (loss,) = result.losses
    assert (loss.clock, loss.back_after) == (1, None)


def test_what_strikes_the_process_strikes_though_a_clock_is_cancelled(monkeypatch):
    struck = []
    monkeypatch.setattr(faults.HoldLock, "act", lambda self: struck.append(self.at))
    wrong = [faults.HoldLock(at=at) for at in (0.5, 1.0, 1.5, 2.0)]
    ssp.train(**timing(wrong, ssp.KSync(2), delay=delays.PerWorker((1.0, 1.5, 9.0, 9.0))))
    assert struck == [0.5, 1.0, 1.5, 2.0]


def test_a_kill_strikes_one_life_and_nothing_is_raised_twice(monkeypatch):
    struck = []
    monkeypatch.setattr(faults.Kill, "act", lambda self: struck.append(self.life))
    monkeypatch.setattr(faults.HoldLock, "act", lambda self: struck.append("lock"))
    wrong = [faults.Kill(1, 2), faults.HoldLock(0, 1), faults.Kill(1, 3, life=1)]
    given = spec(faults=wrong)
    result, _ = whole(given)
    assert struck == ["lock", 0] or struck == [0, "lock"]
    ended = [event for _, event, _ in result.tape]
    (rows,) = [n for n, e in enumerate(ended) if getattr(e, "clock", None) == 2 and e.worker == 1]
    struck.clear()
    assert told(gone_on(given, result, rows, None)) == told(result)  # that clock still runs
    assert struck == [1]


@pytest.mark.parametrize("kind", [faults.Crash, faults.Late])
@pytest.mark.every(2)
def test_who_was_lost_on_devices_is_not_lost_again(kind):
    runtime = ssp.Devices(num_workers=3, faults=[kind(1, 2), faults.Duplicate(0, 1)])
    given = linear(runtime=runtime, policy=ssp.BSP(), num_clocks=5)
    result, _ = whole(given)
    for rows in range(3, len(result.tape), 2):
        again = gone_on(given, result, rows, None)
        assert bits(again.params) == bits(result.params)
        lost = [event for _, event, _ in again.tape if type(event) is WorkerLost]
        assert [event.worker for event in lost] == [1], rows


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_whose_workers_are_all_away_waits_for_who_comes_again(workers):
    wrong = [faults.Crash(worker, 2, back_after=50.0) for worker in range(workers)]
    runtime = ssp.Virtual(workers, delays.Exponential(), faults=wrong)
    given = linear(runtime=runtime, policy=ssp.SSP(2), num_clocks=4)
    result, _ = whole(given)
    assert any(isinstance(event, WorkerLost) for _, event, _ in result.tape)
    for rows in range(2, len(result.tape)):
        assert told(gone_on(given, result, rows, None)) == told(result), rows
