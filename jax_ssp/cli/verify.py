"""`jax-ssp verify`: prove from its tape that a run kept the contract."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jax_ssp.cli.inputs import tape_of
from jax_ssp.failures import BUG, DONE


def declare(commands: Any) -> None:
    about = "prove from its tape that a run kept the contract"
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
    return DONE
