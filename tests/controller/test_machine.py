"""The controller under any schedule, with every policy, judged by a brute-force model."""

import copy
import math
from dataclasses import astuple, dataclass

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from jax_ssp.controller import (
    DeltaReady,
    Ends,
    ProtocolError,
    Resumed,
    StopRequested,
    TimerFired,
    Token,
    WorkerDone,
    WorkerJoined,
    WorkerLost,
    check_contract,
)
from jax_ssp.policies import (
    ALL_POLICIES,
    ASP,
    BSP,
    DSSP,
    PSP,
    SSP,
    VAP,
    BackupWorkers,
    Decision,
    FedBuff,
    KAsync,
    KBatchAsync,
    KBatchSync,
    KSync,
    Policy,
    Quorum,
    Rennala,
    Ringmaster,
    Softsync,
)
from tests.helpers.harness import MOST_WORKERS, Forgetful, Run, done


@dataclass(frozen=True)
class Impatient(Policy):
    """Cancels whoever runs on a version that is not the newest, but every third clock."""

    @property
    def cancels(self):
        return True

    def ready(self, view):
        return Decision(
            merge=tuple(view.buffered),
            cancel=[
                worker
                for worker in view.workers
                if view.is_running(worker)
                and view.held_version(worker) < view.version
                and view.clock(worker) % 3
            ],
            reason="a newer version is there",
        )


@dataclass(frozen=True)
class Fussy(Policy):
    """Merges in batches, drops what is stale by then, and adopts at every second clock."""

    batch: int = 3
    max_staleness: int = 1

    def ready(self, view):
        if len(view.buffered) < self.batch:
            return Decision()
        oldest = view.version - self.max_staleness
        return Decision(
            merge=[delta for delta in view.buffered if delta.version >= oldest],
            drop=[delta for delta in view.buffered if delta.version < oldest],
            reason=f"more than {self.max_staleness} versions old",
        )

    def adopts(self, view, worker):
        return view.clock(worker) % 2 == 0

    def local_steps(self, view, worker):
        return 1 + (view.clock(worker) + view.version) % 3


@dataclass(frozen=True)
class Moody(Policy):
    """Merges two at a time, and refuses now and then without a word about until when."""

    def admit(self, view, worker):
        return view.clock(worker) == view.min_clock or (view.clock(worker) + view.version) % 3 > 0

    def ready(self, view):
        first_two = tuple(view.buffered)[:2]
        return Decision(merge=first_two if len(first_two) == 2 else ())


def must_wait(policy, run, worker):
    """Whether the policy has to keep this worker back, from the model's facts alone."""
    model = run.model
    incarnation = model.live[worker]
    clock = incarnation.clock
    match policy:
        case BSP() | SSP() | KSync():
            return model.coverage(model.version) < clock - policy.guaranteed_bound
        case ASP() | Fussy() | Impatient() | Ringmaster() | Rennala():
            return False
        case KBatchSync() | KBatchAsync() | FedBuff() | Softsync():
            return False
        case Quorum() | KAsync() | BackupWorkers():
            return any(delta.worker == worker for delta in model.buffered)
        case Moody():
            return clock > model.min_clock and (clock + model.version) % 3 == 0
    return not copy.deepcopy(run.controller.policy).admit(run.controller, worker)


def state_of(value):
    """Everything that an object holds, down to plain values, for comparing before with after."""
    if isinstance(value, dict):
        return [(state_of(key), state_of(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [state_of(item) for item in value]
    if type(value).__module__.startswith("jax_ssp.controller") and not hasattr(value, "value"):
        slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
        names = [*slots, *getattr(value, "__dict__", ())]
        return [(name, state_of(getattr(value, name))) for name in names]
    return value


class Schedules(RuleBasedStateMachine):
    """Joins, losses, returns, finished clocks, timers, stops and nonsense, in any order."""

    def __init__(self, policy, grant_ahead):
        super().__init__()
        self.policy, self.grant_ahead = copy.deepcopy(policy), grant_ahead

    @initialize(
        workers=st.integers(1, 4),
        num_clocks=st.none() | st.integers(1, 6),
        total=st.none()
        | st.tuples(st.sampled_from(("max_updates", "max_steps")), st.integers(1, 30))
        | st.tuples(st.just("max_samples"), st.integers(1, 90)),
        round_samples=st.sampled_from((0, 7, 12)),
        reads_own=st.sampled_from((True, True, False)),
    )
    def begin(self, workers, num_clocks, total, round_samples, reads_own):
        self.run = Run(
            self.policy,
            workers=workers,
            grant_ahead=self.grant_ahead,
            num_clocks=num_clocks,
            round_samples=round_samples,
            reads_own=reads_own,
            **({} if total is None else {total[0]: total[1]}),
        )

    @rule(
        picks=st.lists(st.integers(0, 11), min_size=1, max_size=8),
        after=st.sampled_from((0, 1)),
        spoiled=st.sampled_from((0, 0, 1, 2, 12)),
    )
    def finish(self, picks, after, spoiled):
        for pick in picks:
            if running := self.run.model.running():
                self.run.finish(running[pick % len(running)], after, finite=pick >= spoiled)

    @rule(
        worker=st.integers(0, MOST_WORKERS - 1),
        after=st.sampled_from((0, 1)),
        drops=st.booleans(),
    )
    def come_or_go(self, worker, after, drops):
        here = worker in self.run.model.live
        lost = WorkerLost(worker, "it is tested", drops)
        self.run.handle(lost if here else WorkerJoined(worker), after)

    @rule(pick=st.integers(0, 11), after=st.sampled_from((0, 1)))
    def data_ends(self, pick, after):
        if running := self.run.model.running():
            start = self.run.model.live[running[pick % len(running)]].running
            self.run.handle(done(start), after)

    @precondition(lambda self: self.run.model.starts)
    @rule(pick=st.integers(0, 99), ends=st.booleans(), after=st.sampled_from((0, 1)))
    def late(self, pick, ends, after):
        """A push comes once more, or after its worker was lost or its clock cancelled."""
        model = self.run.model
        start = model.starts[pick % len(model.starts)]
        event = done(start) if ends else start.finished()
        if model.is_late(event):
            controller = self.run.controller
            before = [each for each in state_of(controller) if each[0] != "now"]
            self.run.handle(event, after)
            assert [each for each in state_of(controller) if each[0] != "now"] == before

    @precondition(lambda self: self.run.model.timer is not None)
    @rule()
    def fire_timer(self):
        self.run.fire_timer()

    @precondition(lambda self: len(self.run.tape) > 30)
    @rule()
    def stop(self):
        self.run.handle(StopRequested("enough"))

    @rule(
        changes=st.tuples(*[st.sampled_from((0, 0, 1, 5, -1, -3, None))] * 4),
        after=st.sampled_from((0, 1)),
    )
    def resume(self, changes, after):
        """Another process goes on, to ends that may be others, or tries to."""
        model, controller = self.run.model, self.run.controller
        before = astuple(model.ends)
        ends = [
            None if None in (most, change) else max(1, most + change)
            for most, change in zip(before, changes, strict=True)
        ]
        clocks = [stay.clock + bool(stay.running) for stay in model.live.values()]
        clocks += [stay.clock for stay in model.gone]
        done = (max(clocks, default=0), *model.totals[model.version])
        lowered = [
            here is not None and here < most and here < least
            for here, most, least in zip(ends, before, done, strict=True)
        ]
        if any(lowered):
            self.refuses(Resumed(model.term + 1, *ends), self.run.now + after)
            return
        changes_nothing = tuple(ends) == before and controller.ended is None
        state = state_of(controller)
        commands = self.run.resume(Ends(*ends), after)
        if changes_nothing:  # its rows are those of a run that was never stopped
            assert commands == []
            of_terms = ("now", "term", "_first")
            there = [each for each in state if each[0] not in of_terms]
            assert [each for each in state_of(controller) if each[0] not in of_terms] == there

    @rule(worker=st.integers(0, MOST_WORKERS - 1), other=st.integers(1, 3))
    def nonsense(self, worker, other):
        model = self.run.model
        here = model.live.get(worker)
        start = here and here.running
        impossible = [TimerFired((model.timer or 0.0) + other)]
        impossible.append(WorkerJoined(worker) if here else WorkerLost(worker))
        term = model.term
        impossible += [Resumed(each, *astuple(model.ends)) for each in (term, term + 1 + other, -1)]
        impossible += [Resumed(term + 1, *[each] * 4) for each in (0, -other, 1.5, True)]
        never = [Token(term, len(model.starts) - 1 + other), Token(term, -other), None]
        never += [Token(term + other, 0), Token(-other, 0), Token(0, -other)]
        impossible += [DeltaReady(worker, 0, 0, token) for token in never]
        impossible += [WorkerDone(worker, 0, token) for token in never]
        if start:
            impossible.append(done(start)._replace(clock=start.clock + other))
            impossible.append(start._replace(clock=start.clock + other).finished())
            impossible.append(start.finished(version=start.version + other))
        for event in impossible:
            self.refuses(event, self.run.now + 1)
        for now in (self.run.now - other, math.nan):
            self.refuses(StopRequested("too late"), now)
            self.refuses(WorkerLost(worker) if here else WorkerJoined(worker), now)

    def refuses(self, event, now):
        controller = self.run.controller
        before = state_of(controller)
        with pytest.raises(ProtocolError) as caught:
            controller.handle(event, now)
        assert state_of(controller) == before
        message = str(caught.value)
        assert repr(event) in message
        assert f"version {self.run.model.version}" in message
        worker = getattr(event, "worker", None)
        incarnation = self.run.model.live.get(worker)
        if incarnation:
            phase = (
                "running"
                if incarnation.running
                else "finished"
                if incarnation.stopped
                else "waiting"
            )
            assert f"worker {worker} {phase}, clock {incarnation.clock}" in message
        elif worker is not None:
            assert f"worker {worker} not live" in message

    @invariant()
    def what_it_shows_is_so(self):
        controller, model = self.run.controller, self.run.model
        assert controller.version == model.version
        merged = controller.updates, controller.total_steps, controller.samples
        assert merged == model.totals[model.version]
        assert controller.round == model.round(model.version)
        assert controller.min_clock == model.min_clock
        assert controller.num_workers == len(model.live)
        assert list(controller.buffered) == model.buffered
        assert list(controller.workers) == list(model.live)
        assert controller.done == (not (model.running() or model.waiting() or model.buffered))
        if model.live:
            assert controller.coverage == model.coverage(model.version)
        for worker, incarnation in model.live.items():
            assert controller.clock(worker) == incarnation.clock
            assert controller.is_running(worker) == bool(incarnation.running)
            assert controller.held_version(worker) == (
                -1 if incarnation.held is None else incarnation.held
            )
            waiting = [delta for delta in model.buffered if delta.worker == worker]
            assert controller.buffered_of(worker) <= len(waiting)
            if incarnation.running:
                assert controller.held_coverage(worker) <= model.coverage(incarnation.held)

    @invariant()
    def nobody_waits_in_vain(self):
        waiting = self.run.model.waiting()
        assert all(must_wait(self.policy, self.run, worker) for worker in waiting)
        assert not (waiting and self.run.model.ended)

    def teardown(self):
        if hasattr(self, "run"):
            model = self.run.model
            report = check_contract(self.run.drain())
            assert report.complete
            assert report.in_flight == 0
            assert (report.reads, report.versions) == (model.reads, model.version)
            assert report.ahead == model.grants
            assert self.grant_ahead or not model.grants
            assert report.merged + report.dropped == len(model.pushes)
            assert (report.merged, report.steps, report.samples) == model.totals[model.version]
            assert (report.cancelled, report.late) == (model.cancels, model.late)


POLICIES = [
    *(policy() for policy in ALL_POLICIES),
    *(SSP(bound, adopt) for bound in (0, 1, 3, 7) for adopt in ("eager", "lazy")),
    *(DSSP(0, 2), DSSP(2, 2), PSP(1, 0), PSP(5, 1), VAP(0.01)),
    *(KSync(2), KSync(9), KAsync(1), KAsync(3), KBatchSync(1), KBatchSync(5), KBatchAsync(7)),
    *(Softsync(2), BackupWorkers(0), BackupWorkers(2), Rennala(1), Rennala(7), FedBuff(2)),
    *(Ringmaster(1), Ringmaster(2, stops=True), Ringmaster(1, stops=True)),
    *(Quorum(3, 1.5), Quorum(1, 0.0), Fussy(), Moody(), Forgetful(2), Impatient()),
]


SCHEDULES = [
    pytest.param(policy, ahead, id=f"{policy!r}{' ahead' * ahead}")
    for policy in dict.fromkeys(POLICIES)
    for ahead in ((False,) if policy.cancels else (False, True))
]


def try_schedules(policy, grant_ahead, examples):
    run_state_machine_as_test(
        lambda: Schedules(policy, grant_ahead),
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


@pytest.mark.parametrize(("policy", "grant_ahead"), SCHEDULES[::10])  # the slow ones take all
@pytest.mark.every(3)
def test_any_schedule(policy, grant_ahead):
    try_schedules(policy, grant_ahead, examples=12)


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "grant_ahead"), SCHEDULES)
def test_many_more_schedules(policy, grant_ahead):
    try_schedules(policy, grant_ahead, examples=40)


def test_what_is_not_an_event_is_a_type_error():
    with pytest.raises(TypeError, match="must be an event, got 'hello'"):
        Run(ASP(), workers=1).controller.handle("hello", 0.0)
