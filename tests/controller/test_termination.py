"""How a run ends, and what ends it early."""

from dataclasses import dataclass, fields

import pytest

from jax_ssp.controller import (
    ContractViolation,
    Controller,
    Drop,
    Ends,
    Merge,
    PolicyError,
    SetTimer,
    StartClock,
    StopRequested,
    StopWorker,
    WorkerJoined,
    WorkerLost,
    check_contract,
)
from jax_ssp.controller.tape import Tape
from jax_ssp.policies import (
    ASP,
    BSP,
    SSP,
    Decision,
    Delta,
    KAsync,
    Policy,
    PostLocal,
    Quorum,
    Wait,
)
from tests.helpers.harness import Forgetful, Run, commands_of, random_run

BUILT_IN = [ASP(), BSP(), SSP(2), SSP(2, "lazy")]
ON_ARRIVAL = [ASP(), SSP(1), SSP(3, "lazy")]


@dataclass(frozen=True)
class Hoard(Policy):
    """Merges nothing before the end; a wake-up call is set far away."""

    def ready(self, view):
        return Decision(wake=1e9)


@pytest.mark.parametrize("policy", BUILT_IN, ids=repr)
def test_every_worker_finishes_num_clocks(policy):
    run = random_run(policy, seed=1, workers=3, events=100, num_clocks=5)
    starts = [(start.worker, start.clock) for start in commands_of(run.tape, StartClock)]
    assert sorted(starts) == [(worker, clock) for worker in range(3) for clock in range(5)]
    assert sorted(commands_of(run.tape, StopWorker)) == [(0,), (1,), (2,)]
    assert run.controller.done
    assert run.controller.ended is None
    assert run.controller.updates == 15


@pytest.mark.parametrize("policy", ON_ARRIVAL, ids=repr)
@pytest.mark.parametrize("max_updates", [1, 7])
def test_max_updates_is_exact_when_merging_on_arrival(policy, max_updates):
    run = random_run(policy, seed=2, workers=4, events=100, max_updates=max_updates)
    assert run.controller.updates == max_updates
    assert run.controller.ended == "max_updates"
    assert run.controller.done
    drops = list(commands_of(run.tape, Drop))
    assert len(drops) + max_updates == len(run.model.pushes)
    assert all("max_updates" in drop.reason for drop in drops)


TOTALS = {"max_updates": 0, "max_steps": 1, "max_samples": 2}  # and where a model counts them


@pytest.mark.parametrize("losses", [False, True], ids=["", "losses"])
@pytest.mark.parametrize("policy", [*ON_ARRIVAL, BSP(), KAsync(2), Quorum(2, 0.5)], ids=repr)
@pytest.mark.parametrize("name", TOTALS)
def test_a_run_ends_with_the_first_merge_that_reaches_a_total(name, policy, losses):
    most = {"max_updates": 13, "max_steps": 25, "max_samples": 61}[name]
    limits = {name: most, "local_steps": PostLocal(h=2, switch=2), "round_samples": 11}
    run = random_run(policy, seed=5, workers=4, events=120, losses=losses, **limits)
    totals = [each[TOTALS[name]] for each in run.model.totals]
    assert totals[-2] < most <= totals[-1]
    assert (run.controller.ended, run.controller.done) == (name, True)
    controller = run.controller
    assert run.model.totals[-1] == (controller.updates, controller.total_steps, controller.samples)
    drops = list(commands_of(run.tape, Drop))
    assert all(drop.reason == f"the run has ended by {name}" for drop in drops)
    assert len(drops) + run.controller.updates == len(run.model.pushes)
    run.tape.complete = True
    assert check_contract(run.tape).samples == run.controller.samples


def test_the_total_that_is_reached_first_ends_the_run():
    run = random_run(ASP(), seed=2, events=100, max_updates=50, max_steps=90, max_samples=30)
    assert run.controller.ended == "max_samples"
    assert 30 <= run.controller.samples < 30 + 4


def test_what_is_dropped_or_cancelled_counts_for_nothing():
    run = random_run(Forgetful(1), seed=1, events=60, max_steps=10, round_samples=4)
    assert run.controller.total_steps == run.controller.updates == 10
    merged = [push for push in run.model.pushes if push.merged_in is not None]
    assert sum(push.samples for push in merged) == run.controller.samples
    assert any(push.dropped for push in run.model.pushes)


def test_a_round_is_of_the_version_that_is_read():
    run = Run(SSP(3, "lazy"), workers=2, round_samples=5)
    rounds = []
    for worker in (0, 0, 1, 1, 0, 1, 0):  # 2 examples a clock of worker 0, and 3 of worker 1
        *merges, start = run.finish(worker)
        rounds.append((merges[0].round, start.round, start.version))
    # Nobody has to adopt, so all go on with what they hold, and the round of that.
    assert rounds == [
        (0, 0, 0),
        (0, 0, 0),
        (0, 0, 0),
        (1, 0, 0),
        (2, 0, 0),
        (2, 0, 0),
        (3, 3, 7),
    ]


@pytest.mark.parametrize("max_updates", [5, 8])
def test_max_updates_never_splits_a_barrier(max_updates):
    run = random_run(BSP(), seed=3, workers=4, events=100, max_updates=max_updates)
    assert [len(merge.deltas) for merge in commands_of(run.tape, Merge)] == [4, 4]
    assert run.controller.done


def test_max_updates_empties_the_buffer_and_the_timer():
    @dataclass(frozen=True)
    class OldestOfThree(Policy):
        def ready(self, view):
            three = len(view.buffered) >= 3
            return Decision(merge=tuple(view.buffered)[:three], wake=9.0)

    run = Run(OldestOfThree(), workers=3, max_updates=1)
    assert SetTimer(9.0) in run.finish(0)
    run.finish(1)
    *settled, timer = [c for c in run.finish(2) if not isinstance(c, StopWorker)]
    assert [type(command) for command in settled] == [Merge, Drop, Drop]
    assert timer == SetTimer(None)


@pytest.mark.parametrize("policy", [*BUILT_IN, Hoard()], ids=repr)
def test_a_stop_request_lets_running_clocks_finish_and_merges_them(policy):
    run = Run(policy, workers=3)
    run.finish(0)
    run.handle(StopRequested("target reached"))
    assert run.controller.ended == "target reached"
    for worker in run.model.running():
        assert not run.controller.done
        run.finish(worker)
    assert run.controller.done
    assert not list(commands_of(run.tape, Drop))
    assert run.controller.updates == len(run.model.pushes) >= 3
    assert run.model.timer is None


def test_a_stop_request_releases_who_waits():
    run = Run(BSP(), workers=2)
    assert run.finish(0) == []
    assert run.handle(StopRequested("enough")) == [StopWorker(0)]


def test_the_first_reason_to_end_is_kept():
    run = Run(ASP(), workers=2, max_updates=1)
    run.handle(StopRequested("first"))
    run.handle(StopRequested("second"))
    run.finish(0)
    assert run.controller.ended == "first"
    run.finish(1)
    assert run.controller.updates == 2, "after a stop request what is still pushed is merged"


def test_a_stop_request_may_give_any_reason():
    run = Run(ASP(), workers=1)
    run.handle(StopRequested("max_updates"))
    run.finish(0)
    assert run.controller.updates == 1


@pytest.mark.parametrize("end", ["num_clocks", "max_updates", "stop"])
def test_who_joins_after_the_end_is_stopped_at_once(end):
    limits = {} if end == "stop" else {end: 1}
    run = Run(ASP(), workers=1, **limits)
    run.handle(StopRequested("enough")) if end == "stop" else None
    run.finish(0)
    assert run.handle(WorkerJoined(5)) == [StopWorker(5)]
    assert run.controller.done


def test_when_everybody_is_lost_their_deltas_are_still_merged():
    run = Run(BSP(), workers=3)
    run.finish(1)
    run.finish(0)
    assert run.handle(WorkerLost(0)) == []
    assert run.handle(WorkerLost(1)) == []
    (merge,) = run.handle(WorkerLost(2))
    assert [delta[:2] for delta in merge.deltas] == [(0, 0), (1, 0)]
    assert merge.num_workers == 2
    assert run.controller.done
    run.tape.complete = True
    assert check_contract(run.tape).merged == 2


def test_what_a_worker_pushed_can_be_lost_with_it():
    run = Run(BSP(), workers=3)
    run.finish(1)
    run.finish(0)
    (drop,) = run.handle(WorkerLost(0, "it hung", drops=True))
    assert drop[:3] == Drop(0, 0, "its worker was lost", None)[:3]
    (merge, *_) = run.finish(2)
    assert [delta[:2] for delta in merge.deltas] == [(1, 0), (2, 0)]
    assert check_contract(run.tape).dropped == 1
    rows = [row._replace(commands=[]) if drop in row.commands else row for row in run.tape]
    kept = Tape(run.tape.header)
    for row in rows:
        kept.append(*row)
    with pytest.raises(ContractViolation, match=r"clause 4 .*\(0, 0\) is not dropped"):
        check_contract(kept)


def test_when_everybody_is_lost_the_timer_is_cancelled():
    run = Run(Hoard(), workers=1)
    assert run.finish(0)[0] == SetTimer(1e9)
    merge, timer = run.handle(WorkerLost(0))
    assert isinstance(merge, Merge)
    assert timer == SetTimer(None)


def test_a_run_goes_on_when_somebody_comes_back():
    run = Run(BSP(), workers=2, num_clocks=3)
    run.finish(0)
    run.finish(1)
    run.handle(WorkerLost(0))
    run.handle(WorkerLost(1))
    (start,) = run.handle(WorkerJoined(1))
    assert (start.clock, start.version, start.pending) == (1, 1, ())


def test_a_lost_worker_holds_nobody_back():
    run = Run(SSP(1), workers=2)
    run.finish(0)
    assert [type(command) for command in run.finish(0)] == [Merge]
    (start,) = run.handle(WorkerLost(1))
    assert (start.worker, start.clock, start.num_workers) == (0, 2, 1)


def test_lost_worker_counts_once_in_a_merge():
    run = Run(Hoard(), workers=2)
    run.finish(0)
    run.finish(0)
    run.finish(1)
    run.handle(WorkerLost(0))
    (merge, _) = run.handle(WorkerLost(1))
    assert len(merge.deltas) == 3
    assert merge.num_workers == 2


def misbehaves(**hooks):
    return type("Misbehaves", (Policy,), {name: staticmethod(hook) for name, hook in hooks.items()})


def merges(*deltas):
    return misbehaves(ready=lambda view: Decision(merge=deltas))()


def latest_first(view):
    return Decision(merge=tuple(view.buffered)[::-1] if len(view.buffered) == 2 else ())


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (misbehaves(admit=lambda view, worker: False)(), r"lets nobody run; waiting: \[0\]"),
        (misbehaves(admit=lambda view, worker: Wait(coverage=1))(), "lets nobody run"),
        (misbehaves(admit=lambda view, worker: Wait(coverage=0))(), "coverage 0, which is there"),
        (misbehaves(admit=lambda view, worker: Wait(version=0))(), "version 0, which is there"),
        (misbehaves(local_steps=lambda view, worker: 0)(), "gives worker 0 0 local steps"),
        (misbehaves(ready=lambda view: None)(), "gives None, not a `Decision`"),
        (merges((0, 0)), r"settles \(0, 0\), which is not buffered"),
        (merges(Delta(3, 0, 0)), r"settles Delta\(worker=3.*not buffered"),
        (merges(Delta(0, 0, 0), Delta(0, 0, 0)), "not buffered"),
        (misbehaves(ready=latest_first)(), r"settles Delta\(worker=0, clock=1.*before an earlier"),
        (
            misbehaves(ready=lambda view: Decision(drop=tuple(view.buffered)))(),
            r"drops Delta\(worker=0.*without a reason",
        ),
    ],
)
def test_an_illegal_decision_stops_the_run(policy, message):
    controller = Controller(policy)
    with pytest.raises(PolicyError, match=message):  # noqa: PT012
        (start,) = controller.handle(WorkerJoined(0), 0.0)
        for now in (1.0, 2.0):
            *_, start = controller.handle(start.finished(), now)


@pytest.mark.parametrize("usual", [1, 9])
def test_a_policy_that_never_settles_anything_is_stopped(usual):
    class Hoards(Policy):
        def ready(self, view):
            return Decision()

        def usual_merge(self, num_workers):
            return usual

    most = 64 * max(usual, 2)
    run = Run(Hoards(), workers=2)
    for count in range(most):
        assert run.finish(count % 2)
    with pytest.raises(PolicyError, match=f"settles none of {most + 1} buffered deltas"):
        run.finish(0)


def test_a_policy_that_waits_for_its_timer_may_hoard():
    class Sleeps(Policy):
        def ready(self, view):
            return Decision(wake=1e6)

    run = Run(Sleeps(), workers=1)
    for _ in range(200):
        run.finish(0)
    assert len(run.controller.buffered) == 200


@pytest.mark.parametrize(
    ("kind", "name"),
    [(Controller, "local_steps"), *((Ends, column.name) for column in fields(Ends))],
)
@pytest.mark.parametrize("value", [0, -3])
def test_limits_are_at_least_one(kind, name, value):
    must = rf"`{kind.__name__}\({name}=\.\.\.\)` must be at least 1, got {value}\."
    given = (ASP(),) if kind is Controller else ()
    with pytest.raises(ValueError, match=must):
        kind(*given, **{name: value})


def test_the_default_of_local_steps_is_the_run_s():
    run = Run(ASP(), workers=1, local_steps=8)
    assert next(commands_of(run.tape, StartClock)).local_steps == 8
    assert run.controller.scheduled_steps(0) == 8
