"""Pushes that come late, twice or out of their time, and controllers that get it wrong."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_ssp.controller import (
    ContractViolation,
    Controller,
    DeltaReady,
    Ends,
    Fence,
    Merge,
    ProtocolError,
    StartClock,
    Token,
    WorkerJoined,
    WorkerLost,
    check_contract,
)
from jax_ssp.controller.rows import Fold
from jax_ssp.controller.tape import Tape
from jax_ssp.controller.weight import weight_of
from jax_ssp.policies import (
    ALL_POLICIES,
    ASP,
    SSP,
    BackupWorkers,
    KAsync,
    KBatchSync,
    KSync,
    Policy,
    Quorum,
)
from tests.helpers.harness import Run, promises, random_run

POLICIES = [*(policy() for policy in ALL_POLICIES), SSP(0), SSP(2, "lazy"), KBatchSync(2)]


def test_the_push_of_a_worker_that_was_lost_is_not_that_of_its_next_stay():
    run = Run(ASP(), workers=2)
    first = run.model.live[0].running
    run.handle(WorkerLost(0))
    (again,) = run.handle(WorkerJoined(0))
    assert (again.clock, again.version) == (first.clock, first.version)
    assert again.token != first.token
    assert run.handle(first.finished()) == [Fence(0, 0, first.token)]
    merge, _ = run.handle(again.finished())
    assert merge.deltas[0].token == again.token
    assert run.handle(again.finished()) == [Fence(0, 0, again.token)]
    report = check_contract(run.drain())
    assert (report.late, report.merged) == (2, 3)
    assert "2 pushes were late" in str(report)


def test_the_push_of_a_cancelled_clock_is_late():
    run = Run(KSync(1), workers=2)
    slow = run.model.live[1].running
    run.finish(0)
    assert run.handle(slow.finished()) == [Fence(1, 0, slow.token)]
    assert check_contract(run.drain()).late == 1


def test_a_late_push_does_not_move_time_backwards_nor_who_may_start():
    run = Run(Quorum(2, grace=5.0), workers=3)
    lost = run.model.live[2].running
    run.handle(WorkerLost(2))
    run.finish(0, after=1.0)
    run.finish(1, after=1.0)
    before = [run.controller.phase(worker) for worker in (0, 1)], run.controller.version
    assert run.handle(lost.finished(), after=1.0) == [Fence(2, 0, lost.token)]
    assert ([run.controller.phase(worker) for worker in (0, 1)], run.controller.version) == before
    with pytest.raises(ProtocolError, match="time runs backwards"):
        run.controller.handle(lost.finished(), run.now - 0.5)


@pytest.mark.parametrize(
    "token", [Token(0, 2), Token(0, -1), Token(1, 0), Token(-1, 0), (0, 0), None, 0], ids=repr
)
def test_a_token_that_was_never_issued_is_illegal(token):
    run = Run(ASP(), workers=2)
    run.handle(WorkerLost(1))
    for worker in (0, 1):
        event = DeltaReady(worker, 7, 0, token)
        with pytest.raises(ProtocolError):
            run.controller.handle(event, 0.0)


@pytest.mark.parametrize("token", [None, 0])
def test_who_waits_has_no_token_to_guess(token):
    run = Run(SSP(0), workers=2)
    run.finish(0)
    with pytest.raises(ProtocolError, match="never issued"):
        run.controller.handle(DeltaReady(0, 1, 0, token), 0.0)


# Any duplication, reordering or delay of pushes changes nothing that is settled.


def again(policy, entries, extra, limits):
    """What another controller answers to the same events, with more pushes among them."""
    ends = Ends(**{name: limits[name] for name in limits if name != "grant_ahead"})
    ahead = limits.get("grant_ahead", False)
    controller, tape = Controller(policy, ends=ends, grant_ahead=ahead), Tape(promises(policy))
    answers = []
    for number, (now, event, _) in enumerate(entries):
        commands = controller.handle(event, now)
        tape.append(now, event, commands)
        answers.append(commands)
        for push in extra.get(number, ()):
            commands = controller.handle(push, now)
            tape.append(now, push, commands)
            assert commands == [Fence(push.worker, push.clock, push.token)]
    return answers, tape


def settled(rows):
    """What is settled, whatever became of it, in order."""
    fold = Fold()
    return [row for entry in rows for row in fold.take(*entry)]


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 2**32),
    data=st.data(),
    limits=st.sampled_from([{}, {"num_clocks": 5}, {"max_updates": 20}, {"grant_ahead": True}]),
)
@pytest.mark.every(23)
def test_pushes_that_come_late_or_twice_change_nothing_that_is_settled(policy, seed, data, limits):
    run = random_run(policy, seed, losses=True, resumes=True, spoiled=0.1, **limits)
    entries = [row for row in run.drain() if not any(type(c) is Fence for c in row.commands)]
    rng = random.Random(seed)
    stopped: dict[int, list[DeltaReady]] = {}  # by row: pushes that are late from there on
    running: dict[int, StartClock] = {}
    for number, (_, event, commands) in enumerate(entries):
        if type(event) is DeltaReady:
            stopped.setdefault(number, []).append(running.pop(event.worker).finished())
        if type(event) is WorkerLost and event.worker in running:
            stopped.setdefault(number, []).append(running.pop(event.worker).finished())
        for command in commands:
            if type(command).__name__ == "Cancel":
                stopped.setdefault(number, []).append(running.pop(command.worker).finished())
            if type(command) is StartClock:
                running[command.worker] = command
    extra: dict[int, list[DeltaReady]] = {}
    for first, pushes in stopped.items():
        for push in pushes:
            for _ in range(data.draw(st.integers(0, 2))):  # how often it comes (again)
                extra.setdefault(rng.randrange(first, len(entries)), []).append(push)
    for pushes in extra.values():
        rng.shuffle(pushes)
    answers, tape = again(policy, entries, extra, limits)
    assert answers == [row.commands for row in entries]
    assert settled(tape) == settled(entries)
    assert check_contract(tape).late == sum(map(len, extra.values()))


# Mutants: a controller that is wrong in one thing is found out by its tape alone.


class IgnoresTokens(Controller):
    """Takes whatever comes from a worker that runs this clock as that of the clock."""

    def handle(self, event, now):
        if type(event) is DeltaReady and event.worker in self._workers:
            event = event._replace(token=self._workers[event.worker].token)
        return super().handle(event, now)


class StartsAhead(Controller):
    """Starts who was granted its next clock without asking the policy."""

    def _ask(self, record, commands):
        if 0 < record.clock < self._limit:
            self._start(record, commands)
        else:
            super()._ask(record, commands)


class WeighsAlike(Controller):
    """Takes every weight for "sum"."""

    def handle(self, event, now):
        commands = super().handle(event, now)
        return [
            c._replace(deltas=tuple(d._replace(weight=1.0) for d in c.deltas))
            if type(c) is Merge
            else c
            for c in commands
        ]


def played(kind, policy, workers=3, clocks=4, **limits):
    """A run in which worker 0 is lost in its first clock, comes back, and its old push comes."""
    controller, running = kind(policy, ends=Ends(num_clocks=clocks), **limits), {}
    tape = Tape(promises(policy))

    def handle(event):
        commands = controller.handle(event, float(len(tape)))
        tape.append(float(len(tape)), event, commands)
        for command in commands:
            if type(command) is StartClock:
                running[command.worker] = command

    for worker in range(workers):
        handle(WorkerJoined(worker))
    late = running.pop(0).finished()
    handle(WorkerLost(0))
    handle(WorkerJoined(0))
    handle(late)
    if controller.phase(0).value != "running":
        return tape  # it was taken for the push of the second incarnation
    while running:
        handle(running.pop(min(running, key=lambda worker: running[worker].token)).finished())
    tape.complete = True
    return tape


@pytest.mark.parametrize("policy", [SSP(2), KAsync(2), Quorum(2, 0.0), BackupWorkers(1)], ids=repr)
@pytest.mark.parametrize(
    ("mutant", "limits", "why"),
    [
        (IgnoresTokens, {}, "late, but not fenced"),
        (WeighsAlike, {}, "base, staleness, lag, weight are"),
    ],
    ids=["ignores tokens", "weighs alike"],
)
def test_a_controller_that_is_wrong_in_one_thing_is_found_out(mutant, limits, why, policy):
    assert check_contract(played(Controller, policy, **limits)).late == 1
    with pytest.raises(ContractViolation, match=why):
        check_contract(played(mutant, policy, **limits))


@pytest.mark.parametrize("policy", [KAsync(2), Quorum(2, 0.0), BackupWorkers(0)], ids=repr)
def test_a_controller_that_starts_granted_clocks_before_the_merge_is_found_out(policy):
    tape = played(Controller, policy, grant_ahead=True)
    assert check_contract(tape).ahead > 0
    with pytest.raises(ContractViolation, match=r"clause 3 .* its own delta 0 waits still"):
        check_contract(played(StartsAhead, policy, grant_ahead=True))


def test_who_waits_for_its_own_deltas_says_so():
    saying = {type(policy) for policy in POLICIES if policy.waits_for_own}
    assert saying == {KAsync, Quorum, BackupWorkers}
    assert not Policy().waits_for_own


@pytest.mark.parametrize("weight", ["mean", "sum", "merged", 0.3, 2])
@pytest.mark.parametrize("policy", [SSP(2), SSP(0), KAsync(2)], ids=repr)
def test_the_weight_of_a_delta_is_said_with_its_merge(policy, weight):
    controller, merges, running = Controller(policy, ends=Ends(num_clocks=3), weight=weight), [], []
    events = [WorkerJoined(worker) for worker in range(3)]
    while events or running:
        event = events.pop(0) if events else running.pop(0).finished()
        for command in controller.handle(event, 0.0):
            running += [command] if type(command) is StartClock else []
            merges += [command] if type(command) is Merge else []
    assert sum(len(merge.deltas) for merge in merges) == 9
    for merge in merges:
        each = weight_of(weight, merge.num_workers, len(merge.deltas))
        assert [delta.weight for delta in merge.deltas] == [each] * len(merge.deltas)


def test_a_weight_is_checked_before_anything():
    with pytest.raises(ValueError, match='"samples", "tokens" or a finite number'):
        Controller(ASP(), weight="most")
