"""What an experiment trains: a model with its data and optimizer, built when a run needs it."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass

from jax_ssp.checks import instance
from jax_ssp.runtimes.task import Task


@dataclass(frozen=True)
class Workload(ABC):
    """A model with its data and optimizer. Subclass it as a frozen dataclass with your fields.

    Example:
        >>> import numpy as np, optax, jax_ssp as ssp
        >>> @dataclass(frozen=True)
        ... class Half(ssp.Workload):
        ...     learning_rate: float = 0.1
        ...
        ...     def build(self, num_workers: int, seed: int) -> ssp.Task:
        ...         step = ssp.make_step(
        ...             lambda w, batch, key: ((w - batch) ** 2, {}), optax.sgd(self.learning_rate)
        ...         )
        ...         return ssp.Task(step, np.float32(0), lambda worker: [np.float32(0.5)] * 50)
        >>> task = Half(learning_rate=0.2).build(num_workers=2, seed=0)
        >>> len(task.data(0))
        50
    """

    @abstractmethod
    def build(self, num_workers: int, seed: int) -> Task:
        """Make the task; equal arguments must give equal tasks.

        Args:
            num_workers: of the run: so many shares its data has.
            seed: of the experiment.
        """


# Kept, so that the runs of a sweep share what is compiled for one step.
@functools.lru_cache(maxsize=8)
def build(workload: Workload, num_workers: int, seed: int) -> Task:
    """The task of a workload, which is built once."""
    task = workload.build(num_workers, seed)
    name = f"{type(workload).__name__}.build(...)"
    return instance(name, task, Task, "an `ssp.Task`")
