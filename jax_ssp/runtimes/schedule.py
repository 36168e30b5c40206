"""What a tape says of each settled clock, as one table."""

from __future__ import annotations

from operator import attrgetter

import numpy as np

from jax_ssp.controller.rows import Fold
from jax_ssp.controller.tape import Tape

SCHEDULE_DTYPE = np.dtype(
    [
        ("worker", np.int32),
        ("clock", np.int32),
        ("steps", np.int32),
        ("start", np.float64),
        ("finish", np.float64),
        ("base_version", np.int32),
        ("merge_version", np.int32),
        ("staleness", np.int32),
        ("lag", np.int32),
        ("weight", np.float64),
        ("samples", np.int64),
        ("tokens", np.int64),
        ("finite", np.bool_),
        ("computed", np.float64),
        ("computing", np.float64),
    ]
)


def schedule(tape: Tape) -> np.ndarray:
    """One row a settled clock, in the order in which they were merged, dropped or cancelled.

    Args:
        tape: of a run.

    Returns:
        A structured array with columns `worker, clock, steps` (made; 0: cancelled), `start, finish`
        (seconds), `base_version, merge_version` (-1: dropped or cancelled), `staleness` (versions),
        `lag` (clocks), `weight, samples, tokens, finite` (whether every number of the delta was),
        `computed` (when the steps were done; then the delta travels), `computing` (seconds for
        which they were computed).
    """
    fold = Fold()
    columns = attrgetter(*SCHEDULE_DTYPE.names)
    rows = [columns(row) for entry in tape for row in fold.take(*entry)]
    return np.array(rows, dtype=SCHEDULE_DTYPE)
