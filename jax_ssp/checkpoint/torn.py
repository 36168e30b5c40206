"""Whether a run's tape has all the rows that its summary tells of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jax_ssp.checkpoint.claim import SUMMARY, TAPE
from jax_ssp.controller.tape import Tape


def torn(tape: Tape, told: Mapping[str, Any]) -> str:
    """What a tape lacks of what a summary says of it, in words; nothing if it has all.

    Args:
        tape: as it was read.
        told: `tape` of the summary.

    Example:
        >>> torn(Tape({}), {"rows": 5, "complete": True})
        'tape.jsonl.gz breaks off after 0 rows, but summary.json says that 5 lead to the end'
        >>> torn(Tape({}), {"rows": 0, "complete": True})
        'tape.jsonl.gz breaks off after its last row, but summary.json says that there is an end'
    """
    there, rows = len(tape), told["rows"]
    if tape.complete or (there == rows and not told["complete"]):
        return ""
    if there == rows:
        return f"{TAPE} breaks off after its last row, but {SUMMARY} says that there is an end"
    what = "lead to the end" if told["complete"] else "are what the run came to"
    return f"{TAPE} breaks off after {there} rows, but {SUMMARY} says that {rows} {what}"
