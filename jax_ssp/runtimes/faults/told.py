"""What a runtime is given as its faults, and what the header of a tape says of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from jax_ssp import checks
from jax_ssp.runtimes.faults.base import SAVE, Fault
from jax_ssp.runtimes.faults.clocks import NaN
from jax_ssp.runtimes.faults.schedule import Schedule, expanded
from jax_ssp.runtimes.faults.words import in_words


def check_faults(field: str, faults: Any) -> tuple[Fault | Schedule, ...]:
    """The faults of a runtime, if they are such."""
    found = checks.several(field, faults, "a list of faults, such as `[ssp.faults.Crash(2, 5)]`")
    for number, fault in enumerate(found):
        if not isinstance(fault, Schedule):
            what = "a fault, such as `ssp.faults.Crash`"
            checks.instance(f"{field}[{number}]", fault, Fault, what)
    return found


def check_workers(runtime: str, faults: Iterable[Fault | Schedule], num_workers: int) -> None:
    """Raise ValueError if a fault is of a worker that the run does not have."""
    for fault in faults:
        worker = None if isinstance(fault, Schedule) else fault.worker
        if worker is not None and worker >= num_workers:
            raise ValueError(
                f"`{runtime}(faults=...)` names worker {worker} ({fault}), but there are "
                f"{num_workers} workers, counted from 0. Name one of them, or ask for more."
            )


def check_no_saves(faults: Iterable[Fault | Schedule]) -> None:
    """Raise ValueError if a fault strikes saves, of a run that is not saved while it goes."""
    for fault in faults:
        if isinstance(fault, Fault) and fault.phase == SAVE:
            raise ValueError(
                f"the runtime's `faults` name a save ({fault}), but the run is not saved while it "
                "goes: give `checkpoint=ssp.Checkpoints(...)`, or leave it out."
            )


def told(faults: Sequence[Fault | Schedule], num_workers: int) -> dict[str, Any]:
    """What the header of a tape says of faults; nothing if there are none.

    `faults` are all of them in words; `nan` are the clocks (worker, clock) whose deltas are made
    not finite, which no event shows.

    Example:
        >>> from jax_ssp.runtimes.faults import Crash
        >>> told([NaN(1, 3), Crash(0, 2)], num_workers=2)
        {'faults': ['nan:1:3', 'crash:0:2'], 'nan': [[1, 3]]}
        >>> told([], num_workers=2)
        {}
    """
    spoiled = [each for each in expanded(faults, num_workers) if isinstance(each, NaN)]
    found = {
        "faults": in_words(faults),
        "nan": sorted([each.worker or 0, each.clock or 0] for each in spoiled),
    }
    return {name: value for name, value in found.items() if value}
