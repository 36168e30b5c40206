"""Who may join a run late, in threads of this process: it is broken off, and goes on with them."""

import dataclasses
import itertools

import pytest

import jax_ssp as ssp
from jax_ssp import faults
from jax_ssp.controller import DeltaReady, Resumed, WorkerDone, WorkerJoined, WorkerLost
from jax_ssp.runtimes.dealing import left_out
from jax_ssp.runtimes.members import NOT_RESUMED
from jax_ssp.runtimes.threads import Threads
from tests.helpers.broken_off import gone_on, whole
from tests.helpers.problems import batches, bits, linear
from tests.runtimes.ray.test_joins import MOMENTUM, data

UPDATES, LATE = 150, 2


@dataclasses.dataclass(frozen=True)
class Joined(ssp.Devices):
    """Two workers begin, and a third joins late, or has joined."""

    vacant: tuple[int, ...] = (LATE,)

    def most(self):
        return LATE + 1

    def open(self, session):
        world = super().open(session)
        given = session.workers, world.executor._running, world.clock, self.recovery
        threads = Threads(*given, self.vacant, [LATE])
        return dataclasses.replace(world, executor=threads)


def spec(*wrong, **how):
    recovery = ssp.Recovery(restarts=0, min_workers=2, backoff=0.01)
    spread = {"num_workers": 2, "workers_per_device": 2, "delay": ssp.delays.Constant(0.003)}
    runtime = Joined(recovery=recovery, faults=wrong, **spread, **how)
    more = {"policy": ssp.SSP(2), "max_updates": UPDATES, "runtime": runtime}
    return linear(step=MOMENTUM, data=data(), **more)


def since(result):
    """Who was lost, why, and who has joined since the run went on."""
    rows = [event for _, event, _ in result.tape]
    first = next(n for n, event in enumerate(rows) if type(event) is Resumed)
    lost = [(each.worker, each.reason) for each in rows[first:] if type(each) is WorkerLost]
    return lost, [each.worker for each in rows[first:] if type(each) is WorkerJoined]


@pytest.fixture(scope="module")
def begun():
    """A run that one has joined late, and the last cut before its middle in which that one is."""
    result, cuts = whole(spec(), clocks=2)
    rows = [type(event) is WorkerJoined and event.worker == LATE for _, event, _ in result.tape]
    middle = (rows.index(True) + len(rows)) // 2
    return result, middle, max((each for each in cuts if each.rows < middle), key=lambda c: c.rows)


def check(result):
    ssp.check_contract(result.tape)
    assert result.data.twice == 0
    assert left_out(result.tape) == []
    again = ssp.train(**{**spec(), "runtime": ssp.Replay(result.tape)})
    assert bits(again.params) == bits(result.params)


def test_one_who_joined_late_goes_on_and_is_one_of_those_who_are_left(begun):
    result, rows, _ = begun
    pushed = [type(each) is DeltaReady and each.worker == 0 for _, each, _ in result.tape]
    result = gone_on(spec(faults.Raise(0, sum(pushed[:rows]) + 5), vacant=()), *begun)
    check(result)
    (lost,), joined = since(result)
    assert (result.status, lost[0], joined) == ("done", 0, [])


@pytest.mark.parametrize("cut", [True, False])
def test_one_for_whom_there_is_no_place_is_left_out_and_joins_when_there_is(
    begun, monkeypatch, cut
):
    monkeypatch.setattr(Threads, "left_out", lambda self: {LATE})
    result, rows, made = begun
    result = gone_on(spec(vacant=()), result, rows, made if cut else None)
    check(result)
    assert since(result) == ([(LATE, NOT_RESUMED)], [LATE])
    assert result.status == "done"


def test_one_whose_own_data_has_ended_is_not_invited_again():
    def own(worker):
        return itertools.islice(batches(worker), 5 if worker == LATE else None)

    own_spec = {**spec(), "data": own}
    result, cuts = whole(own_spec, clocks=2)
    rows = [type(event) is WorkerDone for _, event, _ in result.tape]
    ended = rows.index(True) + 5
    cut = max((each for each in cuts if each.rows < ended), key=lambda made: made.rows)
    again = gone_on({**own_spec, "runtime": spec(vacant=())["runtime"]}, result, ended, cut)
    ssp.check_contract(again.tape)
    assert again.status == "done"
    assert since(again) == ([], [])
