"""`jax-ssp verify`: prove from its tape that a run kept the contract."""

from __future__ import annotations

from pathlib import Path

from jax_ssp.cli.exits import BUG, DONE
from jax_ssp.cli.inputs import tape_in
from jax_ssp.config_file import usage_errors


def verify(run: Path) -> int:
    from jax_ssp.controller import ContractViolation, check_contract
    from jax_ssp.tape import read_tape

    with usage_errors():
        tape = read_tape(run if run.is_file() else tape_in(run))
    try:
        print(check_contract(tape))
    except ContractViolation as violation:
        print(violation)
        return BUG
    return DONE
