"""`jax-ssp verify`: prove from its tape that a run kept the contract."""

from __future__ import annotations

from pathlib import Path

from jax_ssp.cli.exits import BUG, DONE
from jax_ssp.cli.inputs import tape_of


def verify(run: Path) -> int:
    from jax_ssp.controller import ContractViolation, check_contract

    tape = tape_of(run)
    try:
        print(check_contract(tape))
    except ContractViolation as violation:
        print(violation)
        return BUG
    return DONE
