"""Grants given ahead: who gets them and when, what they hold, and what makes them void."""

from dataclasses import dataclass

import pytest

from jax_ssp.controller import (
    Merge,
    StartAhead,
    StartClock,
    StopRequested,
    StopWorker,
    WorkerJoined,
    WorkerLost,
)
from jax_ssp.policies import (
    ALL_POLICIES,
    ASP,
    BSP,
    SSP,
    BackupWorkers,
    DyLU,
    Policy,
    PostLocal,
)
from tests.helpers.harness import Run, commands_of, random_run


def answer(commands):
    """Commands in short: their kinds, and for starts worker and clock."""
    short = {Merge: "merge", StartClock: "start", StartAhead: "ahead", StopWorker: "stop"}
    return [(short[type(c)], *(c[:2] if type(c) is not Merge else ())) for c in commands]


def test_who_is_started_is_granted_its_next_clock():
    run = Run(ASP(), grant_ahead=True)
    assert answer(run.handle(WorkerJoined(0))) == [("start", 0, 0), ("ahead", 0, 1)]
    assert answer(run.finish(0)) == [("merge",), ("start", 0, 1), ("ahead", 0, 2)]


def test_a_grant_asks_nobody_and_the_start_waits_as_without():
    run = Run(SSP(1), workers=2, grant_ahead=True)
    assert answer(run.finish(0)) == [("merge",), ("start", 0, 1), ("ahead", 0, 2)]
    assert answer(run.finish(0)) == [("merge",)]
    assert run.model.waiting() == [0]
    released = [("start", 0, 2), ("ahead", 0, 3), ("start", 1, 1), ("ahead", 1, 2)]
    assert answer(run.finish(1)) == [("merge",), *released]


def test_the_start_adopts_what_is_newest_then():
    run = Run(SSP(3), workers=2, grant_ahead=True)
    run.finish(1)
    (_, start, _) = run.finish(0)
    assert (start.clock, start.version, start.pending) == (1, 2, ())


def test_at_a_barrier_everybody_runs_ahead_and_starts_with_the_merge():
    run = Run(BSP(), workers=2, grant_ahead=True)
    assert run.finish(0) == []
    assert run.model.live[0].ahead.clock == 1
    started = [("start", 0, 1), ("ahead", 0, 2), ("start", 1, 1), ("ahead", 1, 2)]
    merge, *rest = run.finish(1)
    assert answer(rest) == started
    assert [(delta.clock, delta.staleness) for delta in merge.deltas] == [(0, 0), (0, 0)]


POLICIES = [*(policy() for policy in ALL_POLICIES), SSP(0), SSP(2, "lazy"), BackupWorkers(0)]


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
@pytest.mark.every(13)
def test_grants_change_nothing_else(policy):
    for seed in range(20):
        with_grants = random_run(policy, seed, losses=True, grant_ahead=True).tape
        without = random_run(policy, seed, losses=True).tape
        granted = list(commands_of(with_grants, StartAhead))
        assert not granted if policy.cancels else len(granted) > 10
        for entry, other in zip(with_grants, without, strict=True):
            assert entry.event == other.event
            assert [c for c in entry.commands if type(c) is not StartAhead] == other.commands


# Local steps: only what is sure is granted.


@dataclass(frozen=True)
class Growing(Policy):
    """Gives more steps with every version."""

    def local_steps(self, view, worker):
        return 10 + view.version


@pytest.mark.parametrize(
    ("policy", "local_steps", "granted", "started"),
    [
        (ASP(), 4, [4, 4, 4], [4, 4, 4]),
        (ASP(), PostLocal(h=3, switch=2), [1, 3, 3], [1, 1, 3]),
        (ASP(), DyLU(h=5), [1, 1, 1], [5, 5, 5]),
        (Growing(), 4, [1, 1, 1], [10, 11, 12]),
    ],
    ids=repr,
)
def test_of_the_next_clock_so_many_steps_are_granted_as_it_will_have(
    policy, local_steps, granted, started
):
    run = Run(policy, workers=1, grant_ahead=True, local_steps=local_steps)
    for _ in range(2):
        run.finish(0, after=1.0)
    assert [c.local_steps for c in commands_of(run.tape, StartAhead)] == granted
    assert [c.local_steps for c in commands_of(run.tape, StartClock)] == started


# The end.


@pytest.mark.parametrize("policy", [ASP(), BSP()], ids=repr)
def test_nobody_is_granted_a_clock_after_the_last(policy):
    run = Run(policy, workers=1, grant_ahead=True, num_clocks=2)
    assert answer(run.finish(0)) == [("merge",), ("start", 0, 1)]
    assert answer(run.finish(0)) == [("merge",), ("stop", 0)]


def test_a_stop_request_voids_a_grant():
    run = Run(ASP(), workers=2, grant_ahead=True)
    assert run.handle(StopRequested("enough")) == []
    assert answer(run.finish(0)) == [("merge",), ("stop", 0)]
    assert answer(run.handle(WorkerJoined(7))) == [("stop", 7)]


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
