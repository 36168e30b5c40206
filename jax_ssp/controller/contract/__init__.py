"""Proves from a tape alone that a run kept the contract.

What is proved, and by what:

- *Form* (`form.py`): each message is an event or a command, and each field in its range.
- *Facts* (`controller/facts.py`): what the header promises is what its policy promises, made anew
  from its recorded fields. Of a policy that is not one of ours the header's word has to do, and the
  report says so.
- *Clauses 1 to 5* (`clauses.py`), by a checker that takes nothing from the controller.
- *Limits* (`limits.py`): workers, local steps, overlap, ends, drops, cancelled clocks and timers
  are such as the header and the policy allow.
- *Answers* (`answers.py`, clause 7), where policy and schedule are ours: a controller made anew
  answers every event exactly as the tape says. So what is merged when, who starts when, and every
  seeded choice are the policy's own.

Clause 6, that bound 0 is synchronous training, is about parameters: `replay` shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jax_ssp.checks import shown
from jax_ssp.controller.answers import TapeLike
from jax_ssp.controller.commands import Command
from jax_ssp.controller.contract.answers import Answers
from jax_ssp.controller.contract.book import violation
from jax_ssp.controller.contract.clauses import Clauses
from jax_ssp.controller.contract.limits import Limits
from jax_ssp.controller.contract.report import ContractReport
from jax_ssp.controller.controller import Controller
from jax_ssp.controller.errors import ContractViolation
from jax_ssp.controller.events import Event
from jax_ssp.controller.facts import facts_of
from jax_ssp.controller.form import check_command, check_event
from jax_ssp.records import is_number, short

__all__ = ["ContractReport", "check_contract"]


def check_contract(tape: TapeLike) -> ContractReport:
    """Check the contract on a tape; see the module for what is proved by what.

    Args:
        tape: of a run in any world. A header made by hand may hold no more than `bound`; what it
            lacks is not checked.

    Returns:
        The figures found.

    Raises:
        ContractViolation: naming the clause, the moment, the worker and the clock.

    Example:
        >>> import jax_ssp as ssp
        >>> run = ssp.train(policy=ssp.SSP(2), runtime=ssp.Virtual(4, compute=False), num_clocks=5)
        >>> ssp.check_contract(run.tape).reads
        20
    """
    if not isinstance(getattr(tape, "header", None), Mapping):
        raise TypeError(
            "`check_contract(tape=...)` must be a tape, such as `result.tape` or "
            f"`ssp.read_tape(path)`, got {shown(tape)}."
        )
    try:
        facts = facts_of(tape.header)
        controller = Controller.at_start(facts)
    except ValueError as error:
        raise ContractViolation(f"the header cannot be that of a run: {error}") from error
    clauses = Clauses(facts)
    limits = Limits(facts, clauses)
    answers = None if controller is None else Answers(controller)
    for now, event, commands in tape:
        _check_form(clauses.now, now, event, commands)
        clauses.entry(now, event, commands)
        limits.entry(event, commands)
        if answers is not None:
            answers.entry(now, event, commands)
    clauses.end(tape.complete)
    limits.end(tape.complete)
    if answers is not None:
        answers.end(tape.complete)
    return clauses.report(facts, tape.complete, recomputed=answers is not None)


def _check_form(before: float, now: Any, event: Event, commands: Sequence[Command]) -> None:
    try:
        if not is_number(now):
            raise ValueError(f"{short(now)} is not a time")
        check_event(event, signed=True)
        for command in commands:
            check_command(command, signed=True)
    except ValueError as error:
        clause = 5 if "Timer" in str(error) else 4
        raise violation(clause, before, str(error)) from error
