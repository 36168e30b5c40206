"""Grants given ahead: who gets them and when, what they hold, and what makes them void."""

from dataclasses import dataclass, field

import pytest
from harness import Run, commands_of, random_run

from jax_ssp.controller import (
    Merge,
    PolicyError,
    StartAhead,
    StartClock,
    StopRequested,
    StopWorker,
    WorkerJoined,
    WorkerLost,
)
from jax_ssp.policies import ASP, BSP, SSP, Policy, Wait


def answer(commands):
    """Commands in short: their kinds, and for starts worker and clock."""
    short = {Merge: "merge", StartClock: "start", StartAhead: "ahead", StopWorker: "stop"}
    return [(short[type(c)], *(c[:2] if type(c) is not Merge else ())) for c in commands]


def test_who_is_started_is_granted_its_next_clock_and_is_started_with_it_unasked():
    run = Run(ASP(), grant_ahead=True)
    assert answer(run.handle(WorkerJoined(0))) == [("start", 0, 0), ("ahead", 0, 1)]
    assert answer(run.finish(0)) == [("merge",), ("start", 0, 1), ("ahead", 0, 2)]


def test_who_is_refused_waits_while_it_runs_and_is_granted_when_released():
    run = Run(SSP(1), workers=2, grant_ahead=True)
    assert answer(run.finish(0)) == [("merge",), ("start", 0, 1)]
    # The grant of a worker that is released comes before what the event's own worker gets.
    assert answer(run.finish(1)) == [("merge",), ("ahead", 0, 2), ("start", 1, 1), ("ahead", 1, 2)]


def test_who_finishes_before_it_is_released_asks_and_waits_as_without_grants():
    run = Run(SSP(1), workers=2, grant_ahead=True)
    run.finish(0)
    assert answer(run.finish(0)) == [("merge",)]
    assert run.model.waiting() == [0]
    released = [("start", 0, 2), ("start", 1, 1), ("ahead", 1, 2)]
    assert answer(run.finish(1)) == [("merge",), *released]


def test_a_loss_releases_who_runs():
    run = Run(SSP(1), workers=2, grant_ahead=True)
    run.finish(0)
    assert answer(run.handle(WorkerLost(1))) == [("ahead", 0, 2)]


def test_the_start_adopts_what_is_newest_then():
    run = Run(SSP(3), workers=2, grant_ahead=True)
    run.finish(1)
    (_, start, _) = run.finish(0)
    assert (start.clock, start.version, start.pending) == (1, 2, ())


@pytest.mark.parametrize("policy", [BSP(), SSP(0), SSP(0, "lazy")], ids=repr)
def test_at_bound_0_nobody_is_granted_anything(policy):
    for seed in range(20):
        with_grants = random_run(policy, seed, losses=True, grant_ahead=True)
        without = random_run(policy, seed, losses=True)
        assert list(with_grants.tape) == list(without.tape)


@pytest.mark.parametrize("policy", [ASP(), SSP(2), SSP(2, "lazy")], ids=repr)
def test_grants_change_nothing_else(policy):
    for seed in range(20):
        with_grants = random_run(policy, seed, losses=True, grant_ahead=True).tape
        without = random_run(policy, seed, losses=True).tape
        assert len(list(commands_of(with_grants, StartAhead))) > 10
        for entry, other in zip(with_grants, without, strict=True):
            assert entry.event == other.event
            assert [c for c in entry.commands if type(c) is not StartAhead] == other.commands


# What a policy is asked.


@dataclass(frozen=True)
class Asked(Policy):
    """Admits everybody and notes what it saw."""

    seen: list[tuple] = field(default_factory=list, compare=False)

    def note(self, hook, view, worker):
        clocks = [view.clock(other) for other in range(view.num_workers)]
        self.seen.append((hook, worker, clocks, view.min_clock, view.coverage))

    def admit(self, view, worker):
        self.note("admit", view, worker)
        return True

    def adopts(self, view, worker):
        self.note("adopts", view, worker)
        return True

    def local_steps(self, view, worker):
        self.note("local_steps", view, worker)
        return 10 + view.version


def test_a_policy_that_is_asked_ahead_sees_the_clock_that_runs_as_finished():
    policy = Asked()
    run = Run(policy, workers=2, grant_ahead=True)
    policy.seen.clear()
    run.finish(0)
    assert policy.seen == [
        ("adopts", 0, [1, 0], 0, 0),
        ("admit", 0, [2, 0], 0, 0),
        ("local_steps", 0, [2, 0], 0, 0),
    ]
    assert [run.controller.clock(worker) for worker in (0, 1)] == [1, 0]


def test_local_steps_are_decided_with_the_grant():
    run = Run(Asked(), workers=2, grant_ahead=True)
    (_, *commands) = run.finish(0)  # the policy now gives 11
    assert [command.local_steps for command in commands] == [10, 11]


def test_without_grants_nobody_is_asked_twice():
    policy = Asked()
    run = Run(policy, workers=1)
    run.finish(0)
    first = ["admit", "local_steps"]  # a worker without a version adopts, unasked
    assert [hook for hook, *_ in policy.seen] == [*first, "admit", "adopts", "local_steps"]


def refuses_ahead(answer):
    def admit(view, worker):
        return view.clock(worker) == view.min_clock or answer

    return type("Refuses", (Policy,), {"admit": staticmethod(admit)})()


def test_who_is_refused_without_a_reason_is_asked_after_every_event():
    run = Run(refuses_ahead(False), workers=2, grant_ahead=True)
    run.finish(0)
    # Worker 1 has yet to finish clock 0, so that worker 0 has to wait with clock 1, run or not.
    assert run.model.waiting() == [0]
    assert answer(run.handle(WorkerLost(1))) == [("start", 0, 1)]


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (refuses_ahead(Wait(coverage=0)), "coverage 0, which is there"),
        (refuses_ahead(Wait(version=0)), "version 0, which is there"),
        (
            type(
                "NoSteps", (Policy,), {"local_steps": lambda self, view, worker: 1 - view.clock(0)}
            )(),
            "gives worker 0 0 local steps",
        ),
    ],
)
def test_an_illegal_decision_ahead_stops_the_run(policy, message):
    with pytest.raises(PolicyError, match=message):
        Run(policy, workers=1, grant_ahead=True)


# The end.


def test_nobody_is_granted_a_clock_after_the_last():
    run = Run(ASP(), workers=1, grant_ahead=True, num_clocks=2)
    assert answer(run.finish(0)) == [("merge",), ("start", 0, 1)]
    assert answer(run.finish(0)) == [("merge",), ("stop", 0)]


def test_a_stop_request_voids_a_grant():
    run = Run(ASP(), workers=2, grant_ahead=True)
    assert run.handle(StopRequested("enough")) == []
    assert answer(run.finish(0)) == [("merge",), ("stop", 0)]
    assert answer(run.handle(WorkerJoined(7))) == [("stop", 7)]


def test_after_a_stop_request_who_waits_while_it_runs_is_left_running():
    run = Run(SSP(1), workers=2, grant_ahead=True)
    run.finish(0)
    assert run.model.not_granted() == [0]
    assert run.handle(StopRequested("enough")) == []
    assert answer(run.finish(1)) == [("merge",), ("stop", 1)], "nor is it asked when released"
    assert answer(run.finish(0)) == [("merge",), ("stop", 0)]


def test_the_last_update_voids_a_grant():
    run = Run(ASP(), workers=2, grant_ahead=True, max_updates=1)
    assert answer(run.finish(0)) == [("merge",), ("stop", 0)]
    drop, *stop = run.finish(1)
    assert "max_updates" in drop.reason
    assert answer(stop) == [("stop", 1)]


def test_a_lost_worker_s_grant_is_void_when_it_comes_back():
    run = Run(SSP(2), workers=2, grant_ahead=True)
    run.finish(0)
    assert run.model.live[0].ahead.clock == 2
    run.handle(WorkerLost(0))
    assert answer(run.handle(WorkerJoined(0))) == [("start", 0, 1), ("ahead", 0, 2)]
