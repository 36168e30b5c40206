"""When a run is saved, what that asks of its workers, and when it stops waiting for them."""

from functools import partial
from types import SimpleNamespace

import pytest

from jax_ssp.controller.events import Token
from jax_ssp.runtimes import saving
from jax_ssp.runtimes.saving import Saving
from jax_ssp.runtimes.threads import Threads


class Executor:
    """Workers that are all kept once `ready`; counts what it is asked for."""

    def __init__(self):
        self.armed, self.ready = [], False

    def arm(self, on):
        self.armed.append(on)

    def kept(self, running):
        return [] if self.ready else None

    def settle(self, seconds):
        pass


@pytest.fixture
def loop(monkeypatch):
    monkeypatch.setattr(saving, "cut", lambda loop, states: SimpleNamespace(rows=loop.rows))
    return SimpleNamespace(
        clock=SimpleNamespace(has_more=False),
        executor=Executor(),
        store=object(),
        fold=SimpleNamespace(running={}),
        tape=[],
        rows=7,
    )


def made(**about):
    """One that is told the time, and the cuts that it makes."""
    time, cuts = SimpleNamespace(now=0.0), []
    return Saving(cuts.append, now=lambda: time.now, **about), time, cuts


def test_workers_keep_what_they_are_from_when_a_save_is_due_until_it_is_made(loop):
    mine, time, cuts = made(seconds=60.0)
    mine.look(loop)
    time.now = 60.0
    mine.look(loop)
    mine.look(loop)
    assert (loop.executor.armed, mine.armed, cuts) == ([True, True], True, [])
    loop.executor.ready = True
    mine.look(loop)
    assert (loop.executor.armed[-1], mine.armed, len(cuts)) == (False, False, 1)
    time.now = 119.0
    mine.look(loop)
    assert len(cuts) == 1
    time.now = 120.0
    mine.look(loop)
    assert (loop.executor.armed[-1], len(cuts)) == (False, 2)


def test_nothing_is_saved_of_what_happens_again(loop):
    mine, time, cuts = made(seconds=60.0)
    loop.clock.has_more, loop.executor.ready, time.now = True, True, 100.0
    mine.look(loop)
    assert (loop.executor.armed, cuts, mine.suspended) == ([], [], False)
    mine.suspend()
    mine.look(loop)
    assert (loop.executor.armed, cuts, mine.suspended) == ([], [], True)


def test_who_is_asked_to_end_waits_for_the_last_save_as_long_as_the_grace(loop):
    mine, time, cuts = made(grace=30.0)
    assert mine.left == 30.0
    mine.suspend()
    for time.now in (0.0, 10.0, 29.0):
        mine.suspend()  # asked again, it has no longer
        mine.look(loop)
        assert (mine.suspended, mine.left) == (False, 30.0 - time.now)
    time.now = 30.0
    mine.look(loop)
    assert (mine.suspended, mine.left, cuts) == (True, 0.0, [])


def test_who_is_asked_to_end_ends_with_the_last_save(loop):
    mine, _, cuts = made()
    mine.suspend()
    loop.executor.ready = True
    mine.look(loop)
    assert (mine.suspended, len(cuts)) == (True, 1)


def kept(running=None, began=None, given=1, **about):
    """What a world of threads has kept of its only worker, which runs the clock of this token."""
    worker = SimpleNamespace(began=began, keep=lambda: "as it is")
    stay = {"index": 0, "worker": worker, "gone": False, "inherits": None}
    stay |= {"done": 1, "given": given, **about}
    crew = SimpleNamespace(stays=[SimpleNamespace(**stay)])
    starts = {} if running is None else {0: SimpleNamespace(token=running)}
    return Threads.kept(SimpleNamespace(_crew=crew, _state=partial(Threads._state, None)), starts)


def test_of_who_runs_a_clock_only_what_it_was_before_that_clock_is_kept():
    now = Token(0, 5)
    assert kept(now, began=(now, "before")) == ["before"]
    assert kept(now) is None  # begun before anybody asked
    assert kept(now, began=(Token(0, 4), "before")) is None
    assert kept(now, worker=None) is None
    assert kept() == ["as it is"]
    assert kept(given=2) is None  # it begins a clock just now, or ends one
    assert kept(gone=True) == kept(worker=None) == [None]
