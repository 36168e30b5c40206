"""A worker whose data has ended, to the controller and to the contract."""

import pytest

from jax_ssp.controller import (
    ContractViolation,
    Controller,
    Token,
    WorkerDone,
    WorkerJoined,
    check_contract,
)
from jax_ssp.controller.tape import Tape
from jax_ssp.policies import ASP


def with_last(tape, **fields):
    """The same tape, but for fields of its last event."""
    other = Tape(tape.header)
    *entries, last = tape
    for entry in entries:
        other.append(*entry)
    other.append(last.now, last.event._replace(**fields), last.commands)
    other.complete = True
    return other


def with_steps(*made):
    """One worker, granted two steps a clock, that makes so many."""
    controller, tape = Controller(ASP(), local_steps=2), Tape({"bound": None})

    def tell(event, now):
        commands = controller.handle(event, now)
        tape.append(now, event, commands)
        return commands[-1] if commands else None

    start = tell(WorkerJoined(0), 0.0)
    for number, steps in enumerate(made, start=1):
        start = tell(start.finished(steps=steps), float(number))
    tell(WorkerDone(0, start.clock, start.token), 9.0)
    tape.complete = True
    return tape


@pytest.mark.parametrize("made", [(2, 2), (2, 1), (1, 1), (2, 2, 1, 1)])
def test_the_last_clocks_of_data_that_ends_may_be_short(made):
    assert check_contract(with_steps(*made)).merged == len(made)


@pytest.mark.parametrize("made", [(1, 2), (1, 1, 1), (2, 1, 2), (1, 1, 2)])
def test_only_the_last_ones(made):
    with pytest.raises(ContractViolation, match=r"clause 4 .* its worker's data had ended before"):
        check_contract(with_steps(*made))


def test_a_worker_is_done_in_the_clock_that_it_was_given():
    tape = with_steps(2)
    with pytest.raises(ContractViolation, match=r"clause 4 .* that clock was not started"):
        check_contract(with_last(tape, clock=5))
    with pytest.raises(ContractViolation, match=r"clause 4 .* late, but not fenced"):
        check_contract(with_last(tape, token=Token(0, 0)))
