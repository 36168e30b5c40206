"""What a run trains, as one value: its task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jax_ssp.data.elastic import Data
from jax_ssp.runtimes import rules
from jax_ssp.runtimes.evaluation import EvalFn
from jax_ssp.runtimes.rules import maybe
from jax_ssp.trees import Params
from jax_ssp.worker.step import Step


@dataclass(frozen=True)
class Task:
    """What is trained: a step, its first parameters, its data.

    Attributes:
        step: what a worker repeats; see `ssp.make_step`.
        params: the first version; by default the step's own `params`, if it has them.
        data: worker -> its batches; or what all workers share, such as `ssp.data.Epochs`.
        evaluate: `params -> metrics`, or None.
        shardings: how parameters lie on slices, for runtimes and parameters that do not say: a
            `jax.P`, a tree of them, or a function params -> that. It is called under a mesh with
            the axes of a slice, which `jax.sharding.get_abstract_mesh()` gives it.

    Example:
        >>> import optax, jax_ssp as ssp
        >>> step = ssp.make_step(lambda params, batch, key: (params * batch, {}), optax.sgd(0.1))
        >>> Task(step, params=1.0, data=lambda worker: [1.0, 2.0]).evaluate is None
        True
    """

    step: Step | None = None
    params: Params | None = None
    data: Data | None = None
    evaluate: EvalFn | None = None
    shardings: Any = None

    def check(self) -> None:
        """Raise TypeError or ValueError, naming field and remedy, if a part cannot be one."""
        for name in ("step", "params", "data", "evaluate"):
            maybe(getattr(rules, name))(name, getattr(self, name))
