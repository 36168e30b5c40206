"""What a header promises is what its policy does, and what the rows must keep to."""

import math
from dataclasses import dataclass

import pytest

from jax_ssp.controller import (
    Cancel,
    ContractViolation,
    Controller,
    Drop,
    Merge,
    SetTimer,
    StopRequested,
    StopWorker,
    WorkerJoined,
    check_contract,
)
from jax_ssp.controller.ends import Ends
from jax_ssp.controller.tape import Tape
from jax_ssp.policies import (
    ALL_POLICIES,
    ASP,
    BSP,
    SSP,
    DyLU,
    Fixed,
    KSync,
    LocalSteps,
    Policy,
    PostLocal,
    Quorum,
)
from jax_ssp.runtimes.plan import describe
from tests.controller.test_mutations import POLICIES, WORKERS, finish, header_of
from tests.helpers.harness import Run


def whole_run(policy=None, known=True, **options):
    """A tape of a run that came to its own end, with the header that `train` writes."""
    policy = SSP(1) if policy is None else policy
    options = {"num_clocks": 4, **options}
    run = Run(policy, workers=WORKERS, **options)
    finish(run)
    return with_header(run.tape, header_of(policy, known, **options))


def with_header(tape, header, rows=None, complete=True):
    other = Tape(header)
    for row in tape if rows is None else rows:
        other.append(*row)
    other.complete = complete
    return other


def changed(tape, **changes):
    """The tape with other values in its header; those of `experiment` as `experiment__name`."""
    header = {**tape.header, "experiment": dict(tape.header["experiment"])}
    for key, value in changes.items():
        where, _, name = key.rpartition("__")
        (header[where] if where else header)[name or key] = value
    return with_header(tape, header)


@pytest.mark.parametrize("policy", [p for p in POLICIES if type(p) in ALL_POLICIES], ids=repr)
def test_a_run_of_each_policy_is_proved_and_its_answers_recomputed(policy):
    report = check_contract(whole_run(policy, local_steps=PostLocal(h=2, switch=2)))
    assert (report.policy, report.recomputed, report.complete) == (repr(policy), True, True)
    assert f"promised of {policy}, every answer recomputed" in str(report)


def test_what_a_policy_that_is_not_ours_promises_is_said_to_be_declared():
    report = check_contract(whole_run(known=False))
    assert (report.policy, report.recomputed) == (None, False)
    assert "promised as the header declares it" in str(report)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"bound": 50}, "says bound 50, but by SSP.* it is 1"),
        ({"bound": None}, "says bound None"),
        ({"bound": 0}, "says bound 0"),
        ({"bound": math.nan}, "'bound' is nan"),
        ({"bound": True}, "'bound' is True"),
        ({"bound": -(10**30)}, "'bound' is -1000"),
        ({"max_staleness": None}, "says max_staleness None"),
        ({"max_staleness": 10**6}, "says max_staleness"),
        ({"reads_own": False}, "says reads_own False"),
        (
            {"experiment__optimizer_on": "server"},
            "reads_own true, but the optimizer is on the server",
        ),
        ({"experiment__optimizer_on": "host"}, "'optimizer_on' is 'host'"),
        ({"round_samples": None}, "'round_samples' is None"),
        ({"round_samples": -1}, "'round_samples' is -1"),
        ({"experiment__max_samples": 0}, "'max_samples' is 0"),
        ({"experiment__num_epochs": 1.5}, "'num_epochs' is 1.5"),
        ({"waits_for_own": True}, "says waits_for_own True"),
        ({"gives_weights": True}, "says gives_weights True"),
        ({"policy": "BSP()"}, r"policy 'BSP\(\)', and .*SSP"),
        ({"policy": "SSP(bound=50, adopt='eager')"}, "says policy"),
        ({"experiment__policy": describe(SSP(50))}, "says policy"),
        ({"experiment__policy": {"type": "Mine", "bound": 50}}, "says policy"),
        ({"experiment__policy": {"type": "SSP", "bound": -1, "adopt": "eager"}}, "cannot be"),
        ({"experiment__policy": {"type": "SSP", "bound": 1}}, "its fields are"),
        ({"experiment__policy": {"type": "SSP", "bound": [1], "adopt": "eager"}}, "cannot be"),
        ({"experiment__policy": {"type": ["SSP"]}}, "'policy' is"),
        ({"num_workers": 5}, "says 5 workers, and 4"),
        ({"experiment__num_workers": 3}, "says 4 workers, and 3"),
        ({"experiment__local_steps": {"type": "Fixed", "h": 0}}, "cannot be"),
        ({"experiment__local_steps": {"type": "DyLU"}}, "its fields are"),
        ({"devices": [["cpu", 0]]}, "must name the devices"),
        ({"experiment": None}, "'experiment' is None"),
        ({"nan": None}, "'nan' is None"),
        ({"nan": [[1]]}, "'nan' is"),
        ({"nan": [[1, -3]]}, "'nan' is"),
        ({"nan": [[1, 2, 3]]}, "'nan' is"),
    ],
    ids=repr,
)
def test_a_header_that_contradicts_itself_is_refused(changes, why):
    tape = whole_run()
    check_contract(tape)
    with pytest.raises(ContractViolation, match=f"^the header cannot be that of a run: .*{why}"):
        check_contract(changed(tape, **changes))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"experiment__num_clocks": 100}, "stopped after 4 clocks of 100 for no reason"),
        ({"experiment__num_clocks": None}, "for no reason"),
        ({"experiment__num_clocks": 3}, "each has 3 clocks"),
        ({"experiment__max_updates": 5}, "5 deltas are merged"),
        ({"experiment__max_steps": 5}, "5 local steps are merged"),
        ({"experiment__max_samples": 20}, "20 samples are merged"),
        ({"round_samples": 9}, "is of round"),
        ({"experiment__local_steps": 2}, "clocks have 2 steps"),
        ({"experiment__weight": "sum"}, "merged alone has the weight 1.0"),
        ({"experiment__weight": 0.5}, "merged alone has the weight 0.5"),
        ({"num_workers": 3, "experiment__num_workers": 3, "max_staleness": 6}, "the header says 3"),
        (
            {"num_workers": 5, "experiment__num_workers": 5, "max_staleness": 12},
            "worker 4 was never there",
        ),
    ],
    ids=repr,
)
@pytest.mark.parametrize("known", [True, False])
def test_rows_that_are_not_those_of_the_header_are_refused(changes, why, known):
    tape = whole_run(known=known)
    or_else = "|by SSP" if known else ""  # an answer may differ before
    with pytest.raises(ContractViolation, match=f"^clause . broken at .*({why}{or_else})"):
        check_contract(changed(tape, **changes))


def test_an_empty_tape_is_not_a_complete_run():
    tape = whole_run()
    with pytest.raises(ContractViolation, match="worker 0 was never there"):
        check_contract(with_header(tape, tape.header, rows=[]))
    check_contract(with_header(tape, tape.header, rows=[], complete=False))
    stopped = [(0.0, StopRequested("interrupted"), [])]
    check_contract(with_header(tape, tape.header, rows=stopped))


def edited(tape, edit):
    rows = [(now, event, list(commands)) for now, event, commands in tape]
    edit(rows)
    return with_header(tape, tape.header, rows)


def last_merge_dropped(rows):
    _, event, commands = rows[-1]
    assert type(commands[0]) is Merge
    commands[0] = Drop(event.worker, event.clock, "oops", event.token)


def a_timer(at):
    def edit(rows):
        rows[3][2].append(SetTimer(at))

    return edit


def test_where_all_are_done_nothing_is_left_behind_though_the_tape_breaks_off():
    tape = whole_run(known=False)
    rows = [(now, event, list(commands)) for now, event, commands in tape]
    assert type(rows[-1][2].pop(0)) is Merge
    with pytest.raises(ContractViolation, match="was never settled, and all are done"):
        check_contract(with_header(tape, tape.header, rows, complete=False))


def a_clock_cancelled(rows):
    start = rows[1][2][0]
    rows[1][2].append(Cancel(start.worker, start.clock, "why not", start.token))


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (last_merge_dropped, "drops nothing"),
        (a_timer(9.0), "sets no timer"),
        (a_timer(None), "sets no timer"),
        (a_clock_cancelled, "cancels nothing"),
    ],
)
def test_a_policy_does_nothing_that_it_never_does(edit, why):
    with pytest.raises(ContractViolation, match=why):
        check_contract(edited(whole_run(), edit))


@pytest.mark.parametrize("at", [math.inf, -math.inf, math.nan, "tomorrow", True, [1.0], 10**400])
@pytest.mark.parametrize("header", [{"bound": None}, {}], ids=repr)
def test_a_timer_that_never_comes_keeps_nobody_alive(at, header):
    class Rows(list):
        complete = False

        def __init__(self, header, *rows):
            super().__init__(rows)
            self.header = header

    with pytest.raises(ContractViolation, match=r"clause 5 .*SetTimer\(at=...\)"):
        check_contract(Rows(header, (0.0, WorkerJoined(0), [SetTimer(at)])))
    check_contract(Rows(header, (0.0, WorkerJoined(0), [SetTimer(1.0)])))
    with pytest.raises(ContractViolation, match=r"nobody runs and the timer is at 1e\+300"):
        check_contract(Rows(header, (0.0, WorkerJoined(0), [SetTimer(1e300)])))


@pytest.mark.parametrize("now", [math.inf, math.nan, 10**400, None, "0", True])
def test_a_time_is_a_finite_number(now):
    rows = [(now, WorkerJoined(0), [StopWorker(0)])]
    tape = type("Rows", (list,), {"header": {}, "complete": False})(rows)
    with pytest.raises(ContractViolation, match="is not a time"):
        check_contract(tape)


# Answers that keep every clause, and are not the policy's.


def test_what_the_clauses_allow_and_the_policy_does_not_do_is_found_by_its_answers():
    """Quorum(2) with another grace merges later; the clauses alone cannot know."""
    slow = Run(Quorum(2, grace=2.0), workers=WORKERS, num_clocks=3)
    finish(slow)
    options = {"num_clocks": 3}
    rows = list(slow.tape)
    check_contract(with_header(slow.tape, header_of(Quorum(2, 2.0), True, **options), rows))
    check_contract(with_header(slow.tape, header_of(Quorum(2, 0.25), False, **options), rows))
    with pytest.raises(ContractViolation, match=r"clause 7 broken .* is answered .* and by Quorum"):
        check_contract(with_header(slow.tape, header_of(Quorum(2, 0.25), True, **options), rows))


@pytest.mark.parametrize(
    ("one", "two"),
    [(ASP(), KSync(1)), (SSP(3), SSP(2)), (BSP(), KSync(3)), (SSP(2), SSP(2, "lazy"))],
    ids=repr,
)
def test_the_answers_of_another_policy_are_not_those_of_this_one(one, two):
    tape = whole_run(one, num_clocks=5)
    with pytest.raises(ContractViolation):
        check_contract(with_header(tape, header_of(two, True, num_clocks=5)))


# What is not ours.


def test_a_users_policy_of_a_name_of_ours_is_not_taken_for_ours():
    @dataclass(frozen=True)
    class SSP(Policy):
        slack: int = 7

        def __repr__(self):
            return f"SSP(slack={self.slack})"

    told = describe(SSP())
    assert told == {"type": f"{__name__}.SSP", "slack": 7}
    tape = whole_run(ASP())
    changes = {"policy": "SSP(slack=7)", "experiment__policy": told}
    assert check_contract(changed(tape, **changes)).policy is None
    assert describe(ASP()) == {"type": "ASP"}


def test_a_schedule_that_is_not_ours_leaves_the_clauses():
    @dataclass(frozen=True)
    class Odd(LocalSteps):
        def steps(self, view, worker):
            return 1 + view.clock(worker) % 2

    tape = whole_run(SSP(1), local_steps=Odd())
    report = check_contract(tape)
    assert (report.policy, report.recomputed) == (repr(SSP(1)), False)
    assert check_contract(whole_run(SSP(1), local_steps=DyLU(h=3))).recomputed
    assert check_contract(whole_run(SSP(1), local_steps=Fixed(3))).recomputed


def test_of_a_short_header_by_hand_the_text_of_the_policy_is_enough():
    tape = whole_run(SSP(1))
    short = {"policy": "SSP(bound=1, adopt='eager')"}
    report = check_contract(with_header(tape, short))
    assert (report.bound, report.policy, report.recomputed) == (1, repr(SSP(1)), False)
    with pytest.raises(ContractViolation, match="says bound 9"):
        check_contract(with_header(tape, {**short, "bound": 9}))
    assert check_contract(with_header(tape, {})).bound is None
    assert check_contract(with_header(tape, {"bound": 1})).bound == 1


@pytest.mark.parametrize("most", [None, 3])
def test_workers_join_later_only_where_the_header_says_so(most):
    header = {"num_workers": 2, "bound": 1} | ({} if most is None else {"max_workers": most})
    tape = Tape(header)
    controller = Controller(SSP(1), ends=Ends(num_clocks=1))
    for worker in range(3):
        event = WorkerJoined(worker)
        tape.append(0.0, event, controller.handle(event, now=0.0))
    if most is None:
        with pytest.raises(ContractViolation, match="worker 2 joins, but the header says 2"):
            check_contract(tape)
    else:
        check_contract(tape)
