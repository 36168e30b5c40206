"""`jax-ssp verify`: prove from its tape that a run kept the contract; its checkpoints are whole."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jax_ssp.checkpoint.claim import SUMMARY
from jax_ssp.cli.inputs import tape_of
from jax_ssp.failures import BUG, DONE

if TYPE_CHECKING:
    from jax_ssp.controller.tape import Tape


def declare(commands: Any) -> None:
    about = "prove from its tape that a run kept the contract, and that its checkpoints are whole"
    parser = commands.add_parser("verify", help=about)
    parser.add_argument("run", type=Path, help="a run's folder, or a tape")
    parser.set_defaults(command=verify)


def verify(options: argparse.Namespace, rest: list[str]) -> int:
    from jax_ssp.controller import ContractViolation, check_contract

    tape = tape_of(options.run)
    try:
        print(check_contract(tape))
    except ContractViolation as violation:
        print(violation)
        return BUG
    return max(_verify_data(options.run, tape), _verify_checkpoints(options.run, tape))


def _verify_data(run: Path, tape: Tape) -> int:
    """Say what became of the samples, where the data was dealt; by the tape, as in the summary."""
    if "data" not in tape.header:
        return DONE
    from jax_ssp.runtimes.dealing import report_of

    report, file = report_of(tape), run / SUMMARY
    print(f"data: {report}")
    told = json.loads(file.read_text()).get("data") if file.is_file() else None
    if told is None or told == report.facts():
        return DONE
    print(f"{file} says otherwise of the data: {told}")
    return BUG


def _verify_checkpoints(run: Path, tape: Tape) -> int:
    """Check each file of the checkpoints of a run's folder, if there are any."""
    from jax_ssp.checkpoint.claim import STEPS
    from jax_ssp.checkpoint.steps import Steps

    steps = Steps(run / STEPS, keep=1)
    problems = steps.problems()
    readable = steps.all()
    problems += [
        f"the checkpoint {step.path} is damaged: it is of row {step.rows}, and the tape has "
        f"{len(tape)} rows"
        for step in readable
        if step.rows > len(tape)
    ]
    if problems:
        print("\n".join(problems))
        return BUG
    if readable:
        rows = ", ".join(str(step.rows) for step in readable)
        print(f"checkpoints whole: those of rows {rows}")
    return DONE
