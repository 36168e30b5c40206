"""A run which others have joined goes on from its folder, whether there is room for them or not."""

import os
import signal

import pytest

import jax_ssp as ssp
from jax_ssp.controller import DeltaReady, Resumed, WorkerJoined, WorkerLost
from jax_ssp.runtimes.members import NOT_RESUMED
from jax_ssp.runtimes.ray import parties
from jax_ssp.runtimes.ray.actors import Actors
from tests.helpers.problems import linear
from tests.runtimes.ray.test_joins import MOMENTUM, Seen, check, data

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SOON = ssp.Recovery(restarts=0, backoff=0.01, min_workers=2)
HALF = {"resources": {"node:127.0.0.1": 0.5}}  # of something that the one machine has once


def runtime(**more):
    given = {"max_workers": 3, "recovery": SOON, "delay": ssp.delays.Constant(0.02), **more}
    return ssp.Ray(2, **given)


class Since(Seen):
    """What has happened since a term has begun; ends the run, or has it fail."""

    def __init__(self, term, until, fails=False):
        super().__init__(until)
        self.term, self.fails, self.begun = term, fails, term == 0

    def on_entry(self, now, event, commands):
        self.begun |= type(event) is Resumed and event.term == self.term
        if self.begun:  # before that comes what has happened already
            super().on_entry(now, event, commands)
        if self.fails and self.over:
            raise RuntimeError("the power is gone")

    def pushed(self):
        """Who has pushed since the first loss."""
        rows = iter(self.events)
        any(type(each) is WorkerLost for each in rows)  # so far
        return {each.worker for each in rows if type(each) is DeltaReady}

    def whose(self, kind):
        """Of whom there was such an event."""
        return [each.worker for each in self.events if type(each) is kind]


def fails(folder, runtime, until, term=0, **mode):
    """A run that fails then, for a later one to go on with; gives its parts, and what was seen."""
    spec = linear(step=MOMENTUM, data=data(), policy=ssp.SSP(2), num_clocks=10_000, **mode)
    kept = {"checkpoint": ssp.Checkpoints(folder / "run", every=3)}
    seen = Since(term, until, fails=True)
    with pytest.raises(RuntimeError, match="the power is gone"):
        ssp.train(runtime=runtime, observers=[seen], **spec, **kept)
    return spec, kept, seen


def late_has_pushed(seen):
    return seen.count(DeltaReady, 2) == 5


@pytest.mark.parametrize("mode", [{}, {"adopt": ssp.Mix(0.5)}])
def test_who_joined_late_is_there_still_and_one_of_those_who_are_enough(
    tmp_path, monkeypatch, mode
):
    """Worker 0 is lost for good, and two are left, of whom one joined late."""
    spec, kept, _ = fails(tmp_path, runtime(), late_has_pushed, **mode)
    made, worker = {}, Actors.worker

    def seen(self, number, late=False):
        made[number] = worker(self, number, late)
        return made[number]

    class Kills(Since):
        def on_entry(self, now, event, commands):
            super().on_entry(now, event, commands)
            if self.count(DeltaReady, 2) == 3 and 0 in made:
                os.kill(made.pop(0).get("pid", beside=True), signal.SIGKILL)

    monkeypatch.setattr(Actors, "worker", seen)
    kills = Kills(1, lambda seen: {1, 2} <= seen.pushed())
    result = ssp.train(runtime=runtime(), observers=[kills], resume="must", **spec, **kept)
    check(result, spec)
    assert result.status == "early"
    assert kills.whose(WorkerLost) == [0]
    assert kills.whose(WorkerJoined) == []


def test_it_goes_on_where_there_is_no_room_for_who_joined_late_who_comes_when_there_is(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(parties, "ROOM_SECONDS", 1.0)
    spec, kept, _ = fails(tmp_path, runtime(), late_has_pushed)
    *_, seen = fails(tmp_path, runtime(**HALF), lambda seen: {0, 1} <= seen.pushed(), 1)
    assert seen.whose(WorkerLost) == [2]
    assert seen.whose(WorkerJoined) == []
    again = Since(2, late_has_pushed)
    result = ssp.train(runtime=runtime(), observers=[again], resume="must", **spec, **kept)
    check(result, spec)
    assert result.status == "early"
    assert again.whose(WorkerLost) == []
    assert again.whose(WorkerJoined) == [2]
    assert [event.reason for _, event, _ in result.tape if type(event) is WorkerLost] == [
        NOT_RESUMED
    ]
