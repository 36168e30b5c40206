"""The proof: it accepts what is good, with the right figures, and names what is broken."""

import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_ssp.controller import (
    Cancel,
    ContractViolation,
    Controller,
    DeltaReady,
    Drop,
    Ends,
    Fence,
    Merge,
    Resumed,
    StartAhead,
    StartClock,
    StopRequested,
    StopWorker,
    TimerFired,
    Token,
    WorkerJoined,
    WorkerLost,
    check_contract,
)
from jax_ssp.controller.tape import Entry, Tape
from jax_ssp.policies import (
    ASP,
    BSP,
    SSP,
    Decision,
    KBatchAsync,
    KBatchSync,
    KSync,
    Policy,
    Ringmaster,
)
from tests.helpers.harness import MOST_WORKERS, Forgetful, Run, random_run


@dataclass(frozen=True)
class Batches(Policy):
    """Merges four deltas at a time, as one version."""

    def ready(self, view):
        return Decision(merge=tuple(view.buffered) if len(view.buffered) == 4 else ())


POLICIES = [
    *(BSP(), SSP(1), SSP(3), ASP(), SSP(2, "lazy"), Forgetful(1), Batches()),
    *(KSync(2), KBatchSync(3), KBatchAsync(3), Ringmaster(2, stops=True)),
]
LIMITS = [{}, {"num_clocks": 6}, {"max_updates": 25}, {"max_samples": 60, "round_samples": 9}]


def edited(tape, entries, complete=True):
    """A tape with the header of this one and other rows."""
    other = Tape(tape.header)
    for entry in entries:
        other.append(*entry)
    other.complete = complete
    return other


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
@pytest.mark.parametrize("limits", LIMITS, ids=repr)
def test_accepts_a_good_tape_and_finds_its_figures(policy, limits):
    for seed in range(5):
        run = random_run(policy, seed, losses=True, grant_ahead=seed % 2 == 0, **limits)
        model, report = run.model, check_contract(run.drain())
        taus = model.stalenesses
        assert report.bound == policy.guaranteed_bound
        assert (report.reads, report.ahead) == (model.reads, model.grants)
        assert report.max_start_lag == max(model.start_lags)
        assert report.max_lag == model.max_lag
        assert report.max_staleness == max(taus)
        assert report.mean_staleness == pytest.approx(sum(taus) / len(taus))
        assert (report.merged, report.dropped) == (len(taus), model.dropped)
        assert (report.cancelled, report.late) == (model.cancels, model.late)
        assert report.staleness_bound == policy.guaranteed_staleness(MOST_WORKERS)
        assert report.versions == model.version
        assert (report.in_flight, report.complete) == (0, True)


def test_a_synchronous_tape_shows_no_staleness_and_a_stale_one_does():
    assert check_contract(random_run(BSP(), 0).drain()).max_staleness == 0
    ssp = check_contract(random_run(SSP(3), 0, events=200).drain())
    assert (ssp.max_start_lag, ssp.max_lag) == (3, 4)
    assert "bound 3 clocks" in str(ssp)
    assert "ahead" not in str(ssp)


def test_what_is_granted_ahead_counts_once_it_is_started():
    run = Run(SSP(2), workers=2, grant_ahead=True)  # both may go on with clock 1
    assert check_contract(run.tape).max_start_lag == 0
    run.finish(0)  # and worker 0 with clock 2, while worker 1 has finished none
    report = check_contract(run.tape)
    assert (report.reads, report.ahead) == (3, 3)
    assert (report.max_start_lag, report.max_lag) == (1, 1)
    assert "3 reads checked, bound 2 clocks, 3 clocks granted ahead" in str(report)
    assert "none declared" in str(check_contract(random_run(ASP(), 0).drain()))


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_accepts_a_tape_that_breaks_off(policy):
    whole = random_run(policy, seed=4, losses=True).drain()
    entries = list(whole)
    for length in range(0, len(entries), 7):
        report = check_contract(edited(whole, entries[:length], complete=False))
        pushed = sum(isinstance(event, DeltaReady) for _, event, _ in entries[:length])
        assert report.in_flight == pushed - report.merged - report.dropped - report.late
        assert not report.complete
    assert "breaks off" in str(report)


def test_a_bound_is_proved_only_where_it_was_kept():
    run = random_run(ASP(), seed=5, events=100)
    tape, kept = run.drain(), max(run.model.start_lags)
    assert kept > 2
    tape.header["bound"] = kept
    assert check_contract(tape).bound == kept
    tape.header["bound"] = kept - 1
    with pytest.raises(ContractViolation, match=r"clause 1 .* has finished only"):
        check_contract(tape)


def test_to_wait_for_clocks_is_not_enough_when_merging_is_late():
    run = Run(Batches(), workers=2)
    for worker in (0, 1, 0):  # the lag is at most 1, but clock 2 reads what covers nothing
        run.finish(worker)
    run.tape.header["bound"] = 1
    with pytest.raises(ContractViolation, match=r"clause 2 .* version 0 covers 0 < 1"):
        check_contract(run.tape)


# Tampering. Under SSP(1) worker 0 waits from row 3 to row 4, where slow worker 1 finishes clock 0.


def slow_worker(policy, **options):
    run = Run(policy, workers=2, **options)
    for worker in (0, 0, 1, 0, 1, 0, 1):
        run.finish(worker, after=1.0)
    return run.drain()


EAGER, LAZY, BATCH = slow_worker(SSP(1)), slow_worker(SSP(3, "lazy")), slow_worker(Batches())
ALONE = Run(SSP(1), workers=1).drain()
# In row 4 worker 1 is started with clock 1, and granted clock 2, which it starts in row 6. Row 9 is
# the stop, by which both grants are void.
AHEAD = slow_worker(SSP(2), grant_ahead=True)


def changed(tape, row, kind, change, last=False):
    """The tape with the first command of a kind in one row put through `change`.

    With `last` what follows in that row is left out.
    """
    entries = list(tape)
    commands = entries[row].commands
    at = next(number for number, command in enumerate(commands) if isinstance(command, kind))
    commands[at : None if last else at + 1] = change(commands[at])
    return edited(tape, entries)


def start(tape, row, **fields):
    return changed(tape, row, StartClock, lambda start: [start._replace(**fields)])


def ahead(tape, row, **fields):
    return changed(tape, row, StartAhead, lambda ahead: [ahead._replace(**fields)])


def merge(tape, row, **fields):
    return changed(tape, row, Merge, lambda merge: [merge._replace(**fields)])


def delta(tape, row, **fields):
    return changed(
        tape, row, Merge, lambda m: [m._replace(deltas=(m.deltas[0]._replace(**fields),))]
    )


def event(tape, row, **fields):
    entries = list(tape)
    entries[row] = entries[row]._replace(event=entries[row].event._replace(**fields))
    return edited(tape, entries)


def added(tape, row, *commands):
    entries = list(tape)
    entries[row].commands.extend(commands)
    return edited(tape, entries)


def too_old(tape):
    """Worker 0 reads version 2 in clock 2, and what is said about it afterwards is true."""
    read = start(tape, 4, version=2)
    return event(delta(read, 5, base=2, staleness=1), 5, version=2)


def overtaken(tape):
    """Worker 0's first two deltas are merged in the wrong order."""
    return changed(
        tape,
        5,
        Merge,
        lambda merge: [merge._replace(deltas=merge.deltas[1::-1] + merge.deltas[2:])],
    )


def between(tape):
    """Worker 0 reads version 2 when 3 is the newest and it holds 1; no bound forbids that."""
    tape = start(tape, 4, version=2)
    tape.header["bound"] = None
    return tape


def after_a_stop(tape, row=2):
    entries = list(tape)
    stop = Entry(entries[row].now, StopRequested("enough"), [])
    return edited(tape, [*entries[:row], stop, *entries[row:]])


def granted_after_a_stop():
    stop = Entry(0.0, StopRequested("enough"), [StartAhead(0, 1, 1)])
    return edited(EAGER, [*list(EAGER)[:2], stop], complete=False)


def own_delta_waits():
    """Worker 0 goes on at once, though its policy is said to have it wait for the merge."""
    run = Run(KBatchAsync(2), workers=2)
    run.finish(0)
    run.tape.header["waits_for_own"] = True
    return run.tape


def without_a_reason():
    """Worker 0 has a grant and is stopped; worker 1 is started nevertheless."""
    run = Run(SSP(2), workers=2, grant_ahead=True)
    run.finish(0)
    run.finish(1)
    return changed(run.tape, 2, StartClock, lambda start: [StopWorker(0)], last=True)


def k_sync():
    """In row 4 worker 1 is the second to push: 2 is cancelled, and all start clock 1."""
    run = Run(KSync(2), workers=3)
    for worker in (0, 1, 2, 0):
        run.finish(worker, after=1.0)
    return run.drain()


def cancel(row, **fields):
    return changed(K_SYNC, row, Cancel, lambda cancel: [cancel._replace(**fields)])


def cancelled_while_a_delta_waits():
    run = Run(KBatchSync(4), workers=2)
    for worker in (0, 0, 0):
        run.finish(worker)
    return added(run.tape, 4, Cancel(0, 3, "why not", Token(0, 4)))


def kept_after_a_cancel():
    """Worker 2 is said to run on what it held before it was cancelled."""
    run = Run(KSync(1), workers=2)
    run.finish(0)
    run.tape.header["bound"] = None
    return changed(run.tape, 2, StartClock, lambda start: [start._replace(version=0)])


def dropped(merge, reason, token=None):
    (delta,) = merge.deltas
    return Drop(delta.worker, delta.clock, reason, token or delta.token)


def dropped_as(token):
    return changed(EAGER, -1, Merge, lambda merge: [dropped(merge, "too old", token)])


def late(*commands):
    """Worker 0's first push comes again after row 3, and is answered so."""
    entries = list(EAGER)
    push = Entry(entries[3].now, entries[2].event, list(commands))
    return edited(EAGER, [*entries[:4], push, *entries[4:]])


K_SYNC, OWN = k_sync(), slow_worker(KBatchAsync(3))


def as_stale_as(allowed):
    tape = slow_worker(ASP())
    tape.header["max_staleness"] = allowed
    return tape


NEXT = {"local_steps": 1, "pending": (), "num_workers": 2, "weight": 0.5, "token": Token(0, 3)}
OLD, NEWEST, TERM = Token(0, 0), Token(0, 2), Token(1, 2)  # of worker 0 in row 3 of EAGER
EARLY = StartClock(worker=0, clock=2, version=2, **NEXT)
LATE = StartClock(worker=0, clock=5, version=9, **NEXT)
AGAIN = Merge(3, list(EAGER)[2].commands[0].deltas, num_workers=2)
LOSS = Entry(9.0, WorkerLost(5), [])
ALARM = Entry(9.0, TimerFired(9.0), [])
BROKEN = [
    (1, "finished only 0", "start ahead of its gate", added(EAGER, 3, EARLY)),
    (1, "it has finished 1 clocks", "start of a later clock", start(EAGER, 2, clock=2)),
    (1, "is not waiting", "start of one that runs", start(EAGER, 2, worker=1)),
    (1, "is not waiting", "start of a stranger", start(EAGER, 2, worker=9)),
    (1, "is not waiting", "start of one that was stopped", added(EAGER, 11, LATE)),
    (2, "covers 0 < 1", "version that is too old", too_old(EAGER)),
    (2, "no such version", "version that is yet to come", start(EAGER, 4, version=4)),
    (2, "no such version", "version below zero", start(EAGER, 4, version=-1)),
    (2, "but it was granted 3", "version that was not granted", event(EAGER, 5, version=2)),
    (3, r"own deltas \(0, 1\)", "own deltas forgotten", start(LAZY, 3, pending=())),
    (3, r"own deltas \(0, 1\)", "own delta forgotten", start(LAZY, 3, pending=(1,))),
    (3, r"own deltas \(\)", "own delta invented", start(EAGER, 2, pending=(0,))),
    (4, "not under way", "delta merged twice", added(EAGER, 3, AGAIN)),
    (4, "never settled", "delta never merged", changed(EAGER, -1, Merge, lambda merge: [])),
    (
        4,
        "not under way",
        "delta merged, then dropped",
        added(EAGER, 3, Drop(0, 1, "old", NEWEST)),
    ),
    (4, "no reason", "no reason", changed(EAGER, -1, Merge, lambda m: [dropped(m, "")])),
    (4, "overtakes its own", "delta that overtakes", overtaken(BATCH)),
    (4, "was not started", "delta of a clock not run", event(EAGER, 5, clock=3)),
    (4, "not fenced", "delta of one that waits", event(EAGER, 4, worker=0, clock=2)),
    (4, "lag, weight are", "wrong base", delta(EAGER, 3, base=0)),
    (4, "lag, weight are", "wrong staleness", delta(EAGER, 4, staleness=0)),
    (4, "lag, weight are", "wrong lag", delta(EAGER, 3, lag=1)),
    (4, "lag, weight are", "wrong weight", delta(EAGER, 3, weight=1.0)),
    (4, "not under way", "merged under another token", delta(EAGER, 3, token=Token(0, 1))),
    (4, "not under way", "dropped under another token", dropped_as(Token(0, 1))),
    (
        4,
        "but the next token is Token",
        "start with a token given before",
        start(EAGER, 2, token=OLD),
    ),
    (4, "but the next token is Token", "start of another term", start(EAGER, 2, token=Token(1, 2))),
    (4, "is late, but not fenced", "late push merged", event(EAGER, 3, token=OLD)),
    (4, "late, but not fenced", "late push fenced under another token", late(Fence(0, 0, NEWEST))),
    (4, "late, but not fenced", "late push fenced and more", late(Fence(0, 0, OLD), StopWorker(0))),
    (4, "late, but not fenced", "late push not answered", late()),
    (4, "was not started", "push under a token to come", event(EAGER, 3, token=Token(0, 9))),
    (4, "was not started", "push under a token of another term", event(EAGER, 3, token=TERM)),
    (4, "is not late", "fence of a push that is not late", added(EAGER, 3, Fence(0, 1, NEWEST))),
    (4, "is not late", "fence of no push", added(EAGER, 1, Fence(0, 0, OLD))),
    (4, "it was to make 1 steps", "more steps than it was to make", event(EAGER, 3, steps=2)),
    (4, "it was to make 1 steps", "a clock without steps", event(EAGER, 3, steps=0)),
    (4, "it was to make 1 steps", "samples below zero", event(EAGER, 3, samples=-1)),
    (4, "there are 2 workers", "wrong num_workers", merge(EAGER, 3, num_workers=3)),
    (4, "after 1", "version left out", merge(EAGER, 3, version=7)),
    (4, "joins twice", "second join", event(EAGER, 1, worker=0)),
    (4, "backwards from 1.0", "time", edited(EAGER, [e._replace(now=1 - e.now) for e in EAGER])),
    (4, "lost but not here", "loss of a stranger", edited(EAGER, [*EAGER, LOSS])),
    (2, "neither the newest", "version neither newest nor held", between(EAGER)),
    (3, "there are 2 workers", "wrong number of workers", start(EAGER, 2, num_workers=3)),
    (3, r"has the weight 0\.5", "wrong weight of own deltas", start(EAGER, 2, weight=1.0)),
    (3, "there are 2 workers", "clock without steps", start(EAGER, 2, local_steps=0)),
    (4, "of nothing", "merge of nothing", added(EAGER, 3, Merge(3, (), num_workers=2))),
    (5, "is not waiting", "stop of a stranger", added(EAGER, 2, StopWorker(9))),
    (5, "is not waiting", "stop of one that runs", added(EAGER, 2, StopWorker(1))),
    (5, "the timer is set to None", "timer never set", edited(EAGER, [*EAGER, ALARM])),
    (5, "the run is ending", "start after a stop", after_a_stop(EAGER)),
    (5, "the run ends, but 2 workers", "end before the end", edited(EAGER, list(EAGER)[:6])),
    (5, "nobody runs", "nobody runs", changed(ALONE, 0, StartClock, lambda start: [])),
    (1, "Ahead.*does not run", "grant to a stranger", ahead(AHEAD, 4, worker=9)),
    (1, "Ahead.*does not run", "grant to one that waits", added(EAGER, 3, StartAhead(0, 3, 1))),
    (1, "Ahead.*does not run", "grant of the clock that runs", ahead(AHEAD, 4, clock=1)),
    (1, "Ahead.*does not run", "grant of a later clock", ahead(AHEAD, 4, clock=4)),
    (1, "Ahead.*it was granted", "grant given twice", added(AHEAD, 4, StartAhead(1, 2, 1))),
    (3, "Ahead.*no steps", "grant without steps", ahead(AHEAD, 4, local_steps=0)),
    (5, "Ahead.*the run is ending", "grant after a stop", granted_after_a_stop()),
    (1, "Clock.*it was granted", "fewer steps than granted", ahead(AHEAD, 4, local_steps=2)),
    (5, "the run is ending", "grant void without a reason", without_a_reason()),
    (4, "Cancel.*does not run that", "cancel of a stranger", cancel(4, worker=9)),
    (4, "Cancel.*does not run that", "cancel of one that waits", cancel(4, worker=0)),
    (4, "Cancel.*does not run that", "cancel of another clock", cancel(4, clock=1)),
    (4, "Cancel.*does not run that", "cancel under another token", cancel(4, token=OLD)),
    (
        4,
        "Cancel.*does not run that",
        "cancel twice",
        added(K_SYNC, 4, Cancel(2, 0, "twice", NEWEST)),
    ),
    (4, "Cancel.*no reason", "cancel without a reason", cancel(4, reason="")),
    (4, "Cancel.*an earlier delta", "cancel before its time", cancelled_while_a_delta_waits()),
    (1, "finished only 0", "cancel left out", changed(K_SYNC, 4, Cancel, lambda cancel: [])),
    (2, "neither the newest", "version kept after a cancel", kept_after_a_cancel()),
    (2, "allowed are 1", "delta staler than allowed", as_stale_as(1)),
    (3, "its own delta 0 waits still", "start before its own are settled", own_delta_waits()),
    (3, r"own deltas \(\)", "own deltas read after all", start(OWN, 3, pending=(1,))),
]


@pytest.mark.parametrize(
    ("clause", "why", "tape"),
    [pytest.param(c, why, tape, id=name) for c, why, name, tape in BROKEN],
)
def test_names_the_clause_that_is_broken(clause, why, tape):
    with pytest.raises(ContractViolation, match=f"^clause {clause} broken at .* s: .*{why}"):
        check_contract(tape)


def moved(message, field, by):
    """With this number changed; of a token, the grant."""
    value = getattr(message, field)
    changed = value._replace(grant=value.grant + by) if field == "token" else value + by
    return message._replace(**{field: changed})


def mutated(command, rng, policy):
    """This command with one checked field changed; None if it has none."""
    other = rng.choice((-3, -2, -1, 1, 2, 3))
    match command:
        case StartClock():
            if rng.random() < 0.25:
                most = command.pending[:-1] if command.pending else (command.clock - 1,)
                return command._replace(pending=most)
            # Who does not read its own may keep a version as well as adopt the newest, and of a
            # clock that is cancelled nobody says what was read.
            told = policy.reads_own and not policy.cancels
            fields = ("worker", "clock", "weight", "token", "round") + ("version",) * told
            return moved(command, rng.choice(fields), other)
        case Merge():
            field = rng.choice(("version", "num_workers", "round", *command.deltas[0]._fields))
            if field in command._fields:
                return moved(command, field, other)
            deltas = list(command.deltas)
            at = rng.randrange(len(deltas))
            deltas[at] = moved(deltas[at], field, other)
            return command._replace(deltas=tuple(deltas))
        case StartAhead():
            return command._replace(clock=command.clock + other)
        case Cancel() | Drop():
            if rng.random() < 0.25:
                return command._replace(reason="")
            return moved(command, rng.choice(("worker", "clock", "token")), other)
        case Fence():
            return moved(command, rng.choice(command._fields), other)
    return None


@settings(deadline=None)
@given(
    policy=st.sampled_from(POLICIES),
    limits=st.sampled_from(LIMITS),
    grant_ahead=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_any_single_change_of_what_a_whole_run_did_is_noticed(policy, limits, grant_ahead, seed):
    rng = random.Random(seed)
    options = {"grant_ahead": grant_ahead, "losses": seed % 2 == 0, **limits}
    tape = random_run(policy, seed, events=30, **options).drain()
    entries = list(tape)
    places = [(row, at) for row, entry in enumerate(entries) for at in range(len(entry.commands))]
    for row, at in rng.sample(places, k=min(8, len(places))):
        original = entries[row].commands[at]
        change = mutated(original, rng, policy)
        if change is not None:
            entries[row].commands[at] = change
            with pytest.raises(ContractViolation):
                check_contract(edited(tape, entries))
            entries[row].commands[at] = original
    assert check_contract(edited(tape, entries)).complete


def gone_on(resumes, workers=3):
    """Two workers begin a run, which is resumed if it is to be; then others join."""
    ends = Ends(max_updates=9)
    controller = Controller(SSP(1), ends=ends)
    tape = Tape(
        {
            "policy": "SSP(bound=1, adopt='eager')",
            "num_workers": 2,
            "max_staleness": SSP(1).guaranteed_staleness(2),
        }
    )
    events = [WorkerJoined(0), WorkerJoined(1)]
    events += [Resumed(1, None, 9, None, None)] if resumes else []
    for now, event in enumerate([*events, *map(WorkerJoined, range(2, workers))]):
        tape.append(float(now), event, controller.handle(event, float(now)))
    return tape


def test_more_workers_than_the_header_says_are_there_only_once_the_run_is_resumed():
    for workers in (2, 3, 5):
        report = check_contract(gone_on(resumes=True, workers=workers))
        assert report.staleness_bound == SSP(1).guaranteed_staleness(workers)
    with pytest.raises(ContractViolation, match="worker 2 joins, but the header says 2"):
        check_contract(gone_on(resumes=False))
