"""Runs that are resumed: terms, ends, who goes on, and controllers that get it wrong."""

import math
from dataclasses import astuple, dataclass

import pytest

from jax_ssp.controller import (
    ContractViolation,
    Controller,
    DeltaReady,
    Drop,
    Ends,
    Fence,
    Merge,
    ProtocolError,
    Resumed,
    StartClock,
    StopRequested,
    Token,
    WorkerDone,
    WorkerJoined,
    WorkerLost,
    check_contract,
)
from jax_ssp.controller.commands import NOT_FINITE
from jax_ssp.controller.rows import Fold
from jax_ssp.controller.tape import Tape
from jax_ssp.policies import ASP, BSP, SSP, VAP, Decision, KBatchSync, Policy, Rennala
from tests.helpers.harness import Run, promises
from tests.helpers.terms import without_terms


def to_the_end(run):
    while running := run.model.running():
        run.finish(running[0], 0.5)
    return run


def test_a_resume_that_changes_no_end_is_not_to_be_seen():
    whole = to_the_end(Run(SSP(1), workers=3, num_clocks=4))
    broken = Run(SSP(1), workers=3, num_clocks=4)
    while running := broken.model.running():
        broken.finish(running[0], 0.5)
        assert broken.resume() == []
    assert list(without_terms(broken.tape)) == list(without_terms(whole.tape))
    assert check_contract(broken.tape).merged == 12


def test_what_runs_goes_on_under_its_token_and_new_grants_bear_the_term():
    run = Run(ASP(), workers=2)
    old = run.running(0)
    run.resume()
    (_, start) = run.handle(old.finished())
    assert (start.token, run.controller.term) == (Token(1, 2), 1)
    assert run.handle(old.finished()) == [Fence(0, 0, old.token)]


def test_of_an_old_term_any_number_may_have_been_granted():
    run = Run(ASP(), workers=2)
    run.resume()
    run.finish(0)
    assert run.handle(DeltaReady(0, 5, 3, Token(0, 999))) == [Fence(0, 5, Token(0, 999))]
    for token in (Token(1, 3), Token(1, 1), Token(2, 0), Token(0, -1)):
        with pytest.raises(ProtocolError, match="never issued"):
            run.controller.handle(DeltaReady(0, 5, 3, token), run.now)
    assert check_contract(run.drain()).late == 1


def test_a_grant_that_is_on_no_tape_is_not_the_next_terms_of_the_same_number():
    run = Run(ASP(), workers=2)
    run.resume()
    (_, start) = run.finish(0)
    old = start.finished()._replace(token=Token(0, start.token.grant))
    assert run.handle(old) == [Fence(0, start.clock, old.token)]
    done = WorkerDone(0, start.clock, old.token)
    assert run.handle(done) == [Fence(0, start.clock, old.token)]
    assert run.running(0) == start
    assert check_contract(run.drain()).late == 1


@pytest.mark.parametrize("policy", [SSP(1, "lazy"), BSP(), KBatchSync(2), Rennala(3)], ids=repr)
@pytest.mark.parametrize("ended", ["interrupted", "clocks", "updates"])
def test_a_run_that_had_ended_goes_on(policy, ended):
    limits = {"interrupted": {}, "clocks": {"num_clocks": 3}, "updates": {"max_updates": 7}}[ended]
    run = Run(policy, workers=2, **limits)
    for _ in range(5):
        run.finish(run.model.running()[0], 0.5)
    if ended == "interrupted":
        run.handle(StopRequested("interrupted"))
    to_the_end(run)
    assert run.controller.done
    commands = run.resume(Ends(num_clocks=20))
    starts = [command for command in commands if isinstance(command, StartClock)]
    assert {start.worker for start in starts} == {0, 1}
    assert all(start.version == run.controller.version for start in starts)  # adopted anew
    assert run.controller.ended is None
    to_the_end(run)
    assert [run.controller.clock(worker) for worker in (0, 1)] == [20, 20]
    run.tape.complete = True
    check_contract(run.tape)


def test_ends_that_are_there_already_leave_nothing_to_do():
    run = to_the_end(Run(ASP(), workers=2, max_updates=5))
    assert run.resume() == []
    assert (run.controller.ended, run.controller.done) == ("max_updates", True)


def test_who_is_gone_stays_gone_until_it_joins():
    run = Run(SSP(1), workers=2, num_clocks=3)
    run.handle(WorkerLost(1))
    to_the_end(run)
    run.resume(Ends(num_clocks=5))
    assert list(run.controller.workers) == [0]
    run.finish(0)
    (start,) = run.handle(WorkerJoined(1))
    assert start.clock == 4


@pytest.mark.parametrize(
    ("ends", "why"),
    [
        (Ends(num_clocks=2), "`num_clocks` is lowered to 2, and 3 are done"),
        (Ends(max_updates=3), "`max_updates` is lowered to 3, and 4 are done"),
    ],
    ids=["clocks", "updates"],
)
def test_ends_are_not_lowered_below_what_is_done(ends, why):
    run = Run(ASP(), workers=2, num_clocks=9, max_updates=20)
    for worker in (0, 0, 1, 1):
        run.finish(worker)
    ends = Ends(ends.num_clocks or 9, ends.max_updates or 20)
    event = Resumed(1, *astuple(ends))
    with pytest.raises(ProtocolError, match=why):
        run.controller.handle(event, run.now)
    tape = Tape(header(num_clocks=9, max_updates=20))
    for row in run.tape:
        tape.append(*row)
    tape.append(run.now, event, [])
    with pytest.raises(ContractViolation, match=why):
        check_contract(tape)


def header(**ends):
    told = {"weight": "mean", "optimizer_on": "workers"}
    return {**promises(ASP()), "experiment": {**told, **dict.fromkeys(vars(Ends())), **ends}}


def test_a_tape_that_was_complete_is_gone_on_with():
    run = Run(ASP(), workers=1, num_clocks=2)
    to_the_end(run)
    run.tape.complete, run.tape.params = True, "abc"
    run.tape.reopen()
    assert (run.tape.complete, run.tape.params) == (False, None)
    run.resume(Ends(num_clocks=3))
    to_the_end(run)
    run.tape.complete = True
    assert check_contract(run.tape).merged == 3
    fold = Fold()
    assert sum(len(fold.take(*row)) for row in run.tape) == 3


# Mutants: a controller that is wrong in one thing is found out by its tape alone.


class JumpsATerm(Controller):
    """Takes any later term for the next one."""

    def _resume(self, event):
        self.term = event.term - 1
        return super()._resume(event)


class GrantsInTheFirstTerm(Controller):
    """Grants under the term that the run began with."""

    def handle(self, event, now):
        changed = super().handle(event, now)
        for at, command in enumerate(changed):
            if type(command) is StartClock:
                changed[at] = command._replace(token=command.token._replace(term=0))
                self._workers[command.worker].token = changed[at].token
        return changed


class StartsAfterTheEnd(Controller):
    """Takes a loss for the beginning of a new term."""

    def handle(self, event, now):
        if type(event) is WorkerLost and self.ended:
            ended = super().handle(event, now)
            self.ended, self._limit = None, 99
            for record in self._workers.values():
                self._start(record, ended)
            return ended
        return super().handle(event, now)


class MergesTwice(Controller):
    """Merges what comes under an old term, though its worker runs under a new one."""

    def _fence(self, event, now):
        if event.token.term < self.term:
            self.version += 1
            merged = self._last.deltas[0]._replace(
                worker=event.worker, clock=event.clock, token=event.token
            )
            return self._last._replace(version=self.version, deltas=(merged,))
        return super()._fence(event, now)

    def handle(self, event, now):
        commands = super().handle(event, now)
        self._last = next((c for c in commands if type(c) is Merge), self._last)
        return commands

    _last = None


class MergesWhatIsNotFinite(Controller):
    """Looks at no number."""

    def handle(self, event, now):
        if type(event) is DeltaReady:
            event = event._replace(finite=True)
        return super().handle(event, now)


class KeepsItsVersion(Controller):
    """Has no worker adopt anew."""

    def _drop_bad(self, owner, push, commands):
        held = owner.version, owner.held_coverage
        super()._drop_bad(owner, push, commands)
        owner.version, owner.held_coverage = held


def played(kind, policy, *events):
    """A run of two workers in which this happens; a number is a worker that finishes."""
    controller, tape = kind(policy, ends=Ends(num_clocks=99)), Tape(promises(policy))
    running, before = {}, {}
    for event in (WorkerJoined(0), WorkerJoined(1), *events):
        if event == "again":
            event = before[0].finished()
        elif event == "bad":
            event = running.pop(0).finished(finite=False)
        elif isinstance(event, int):
            before[event] = running.pop(event)
            event = before[event].finished()
        commands = controller.handle(event, float(len(tape)))
        tape.append(float(len(tape)), event, commands)
        running |= {c.worker: c for c in commands if type(c) is StartClock}
    return tape


RESUMED = Resumed(1, 99, None, None, None)
MUTANTS = {
    JumpsATerm: (SSP(3), (0, Resumed(3, 99, None, None, None)), r"clause 4 .* in term 0"),
    GrantsInTheFirstTerm: (SSP(3), (0, RESUMED, 1), r"clause 4 .* the next token is Token\(term=1"),
    StartsAfterTheEnd: (
        SSP(3),
        (StopRequested("enough"), 0, WorkerLost(1)),
        "clause [15] .*(the run is ending|is not waiting)",
    ),
    MergesTwice: (SSP(3), (0, RESUMED, "again"), "late, but not fenced"),
    MergesWhatIsNotFinite: (SSP(3), ("bad", 1), "is not finite, but not dropped at once"),
    KeepsItsVersion: (SSP(3, "lazy"), (1, "bad", 1), "neither the newest"),
}


@pytest.mark.parametrize("kind", MUTANTS, ids=lambda kind: kind.__name__)
def test_a_controller_that_is_wrong_in_one_thing_is_found_out(kind):
    policy, events, why = MUTANTS[kind]
    right = tuple(event._replace(term=1) if type(event) is Resumed else event for event in events)
    check_contract(played(Controller, policy, *right))
    with pytest.raises(ContractViolation, match=why):
        check_contract(played(type(kind.__name__, (kind,), {}), policy, *events))


# What is not finite.


@dataclass(frozen=True)
class Threes(Policy):
    """Merges three at a time; who waits reads its own."""

    def ready(self, view):
        first = tuple(view.buffered)[:3]
        return Decision(merge=first if len(first) == 3 else ())


def test_what_is_not_finite_is_dropped_out_of_turn_and_counts_as_settled():
    run = Run(Threes(), workers=3)
    run.finish(0)
    (drop, start) = run.finish(0, finite=False)
    assert drop == Drop(0, 1, NOT_FINITE, drop.token)
    assert (start.clock, start.pending) == (2, (0,))
    (start,) = run.finish(0)
    assert start.pending == (0, 2)
    (merge, *_) = run.finish(1)
    assert [delta[:2] for delta in merge.deltas] == [(0, 0), (0, 2), (1, 0)]
    assert run.controller.coverage == 0
    run.handle(WorkerLost(2))
    run.handle(WorkerLost(1))
    assert run.controller.coverage == 3
    assert check_contract(run.drain()).dropped == 1


def test_nobody_waits_for_the_norm_of_what_is_not_finite():
    run = Run(VAP(4.0), workers=2)
    start = run.running(0)
    drop, again = run.handle(start.finished(norm=math.inf, finite=False))
    assert (drop, again.clock) == (Drop(0, 0, NOT_FINITE, start.token), 1)


@pytest.mark.parametrize("policy", [BSP(), KBatchSync(2), Rennala(2), SSP(0)], ids=repr)
def test_nobody_hangs_if_none_is_finite(policy):
    run = Run(policy, workers=3, num_clocks=4)
    while running := run.model.running():
        run.finish(running[0], 0.5, finite=False)
    assert run.controller.done
    assert (run.controller.version, run.controller.min_clock) == (0, 4)
