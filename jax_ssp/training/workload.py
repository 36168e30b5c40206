"""What an experiment trains: a model with its data and optimizer, built when a run needs it."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass

from jax_ssp.checks import instance
from jax_ssp.runtimes.task import Task


@dataclass(frozen=True)
class Workload(ABC):
    """A model with its data and optimizer. Subclass it as a frozen dataclass with your fields."""

    @abstractmethod
    def build(self, num_workers: int, seed: int) -> Task:
        """Make the task; equal arguments must give equal tasks."""


# Kept, so that the runs of a sweep share what is compiled for one step.
@functools.lru_cache(maxsize=8)
def build(workload: Workload, num_workers: int, seed: int) -> Task:
    """The task of a workload, which is built once."""
    task = workload.build(num_workers, seed)
    name = f"{type(workload).__name__}.build(...)"
    return instance(name, task, Task, "an `ssp.Task`")
