"""Where the numbers of a run stood at a cut, and how its files are cut back to there.

A position is what `MetricsWriter.position` gives: how long `metrics.jsonl` was, with a hash of that
much of it, and how long each TensorBoard file. What is behind it is measured again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax_ssp.checkpoint.claim import METRICS
from jax_ssp.checkpoint.events import EVENTS
from jax_ssp.checkpoint.metrics import decode_rows
from jax_ssp.records import RECORD, TEXT, check_record, whole

START: dict[str, Any] = {
    "bytes": 0,
    "sha256": hashlib.sha256().hexdigest(),
    "updates": -1,
    "events": {},
}
"""Before anything was measured."""
_POSITION = {"bytes": whole(0), "sha256": TEXT, "updates": whole(-1), "events": RECORD}


def rows_up_to(
    folder: Path, position: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What had been measured at a cut, to the last bit: the rows of clocks, and of evaluations.

    Args:
        folder: of the run.
        position: of the cut.

    Raises:
        ValueError: if `metrics.jsonl` does not hold them any more, or the position is none.
        OSError: if it cannot be read.
    """
    check_record("a cut's position", dict(position), _POSITION)
    path, size = folder / METRICS, position["bytes"]
    content = b""
    if size:
        with path.open("rb") as file:
            content = file.read(size)
    if len(content) < size or hashlib.sha256(content).hexdigest() != position["sha256"]:
        raise ValueError(
            f"{path} is not what it was: of its first {size} bytes it has {len(content)}, or others"
        )
    rows: dict[str, list[dict[str, Any]]] = {"clock": [], "eval": []}
    for row in decode_rows(path, content):
        rows[row.pop("kind")].append(row)
    # Cancelled clocks, of no steps, are rows of the file alone.
    return [row for row in rows["clock"] if row["steps"]], rows["eval"]


def cut_back(folder: Path, position: Mapping[str, Any]) -> None:
    """Take away what was measured behind a cut, of which `rows_up_to` gives what is before it."""
    if (folder / METRICS).exists():
        os.truncate(folder / METRICS, position["bytes"])
    for file in folder.glob(EVENTS):
        size = position["events"].get(file.name, 0)
        if not size:
            file.unlink()
        elif size < file.stat().st_size:
            os.truncate(file, size)
