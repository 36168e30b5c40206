"""How many runs of a sweep go on at once, where nobody says it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from jax_ssp.surroundings import cores

if TYPE_CHECKING:
    from jax_ssp.training.experiment import Experiment

MEMORY = 2**30  # bytes that a process of JAX takes with a small model and its data


class Jobs(NamedTuple):
    """How many at once, and why so many."""

    number: int
    reason: str


def default_jobs(experiments: Sequence[Experiment]) -> Jobs:
    """As many as suit the machine and the runs.

    Runs in virtual time on the CPU do not feel each other; those whose seconds are the wall's would
    each be measured slower, and an accelerator is one run's.
    """
    number = len(experiments)
    if number == 1:
        return Jobs(1, "it is a single run")
    if any(each.runtime.time == "wall" for each in experiments):
        why = "their seconds are the wall's, and at once they would slow each other down"
        return Jobs(1, f"one after the other: {why}")
    if any(each.runtime.computes for each in experiments) and not _computes_on_cpu():
        return Jobs(1, "one after the other: they compute on one accelerator")
    memory = _free_memory()
    fit = number if memory is None else max(1, memory // MEMORY)
    most = min(number, cores(), fit)
    why = (
        f"{cores()} cores" if most < fit else f"{(memory or 0) / 2**30:.1f} GiB of memory are free"
    )
    return Jobs(most, f"{most} at once: {why if most < number else 'all of them'}")


def _computes_on_cpu() -> bool:
    """Whether JAX would take the CPU; asked in another process, since who asks has the device."""
    import jax

    if jax.config.jax_platforms == "cpu":
        return True
    words = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    try:
        answer = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.stdout.strip() == "cpu"


def _free_memory() -> int | None:
    """Bytes that processes may take; None if nobody knows."""
    try:
        with open("/proc/meminfo") as lines:
            free = next(line for line in lines if line.startswith("MemAvailable:"))
        return 1024 * int(free.split()[1])
    except (OSError, StopIteration, ValueError):
        return None
