"""An experiment as a config file describes it: frozen, typed, printable, runnable.

A config file has `get_config() -> Experiment`, or `get_sweep() -> list[Experiment]`. Every field,
however deep, can be overridden on the command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, TypeAlias

import optax

from jax_ssp.checkpoint.claim import Resume
from jax_ssp.report.default import with_progress
from jax_ssp.runtimes import rules
from jax_ssp.runtimes.observer import Observer
from jax_ssp.runtimes.plan import Plan, plan_field
from jax_ssp.runtimes.rules import a, maybe
from jax_ssp.runtimes.runtime import Runtime
from jax_ssp.runtimes.task import Task
from jax_ssp.training.configured import Configured, configured
from jax_ssp.training.result import Result
from jax_ssp.training.run import run
from jax_ssp.training.workload import Workload, build

# `Observer`s; to a type checker `Any`, so that the command line shows the fields of what there is.
Hooks: TypeAlias = Any

_NOTHING = configured(optax.identity)
_workload = maybe(a(Workload, "an `ssp.Workload`"))
_configured = a(Configured, "what `ssp.configured(transform, ...)` gives")


@dataclass(frozen=True)
class Experiment(Plan):
    """Everything that decides a run: the arguments of `train`, and a workload, as fields.

    Their defaults are those of `train`, but for `runtime`: an experiment that names none is
    rehearsed, by `Virtual()`, where `train` takes `Devices()`.

    Example:
        >>> import jax_ssp as ssp
        >>> rehearsal = ssp.Virtual(num_workers=8, compute=False)
        >>> Experiment(policy=ssp.SSP(bound=1), runtime=rehearsal, num_clocks=3).run().updates
        24
    """

    name: str = "experiment"
    """Names the run's folder; in a sweep, runs of one name are one curve."""
    workload: Workload | None = plan_field(None, _workload, identity=False)
    """Model, data and optimizer."""
    server_tx: Configured = plan_field(_NOTHING, _configured)
    """Transform on the server, once a merge."""
    delta_tx: Configured = plan_field(_NOTHING, _configured)
    """Transform on the server of each delta, before it is weighted and summed."""
    placement: str | None = None
    """Where the server lives: host, devices (split over the workers'), or one such as gpu:7."""
    evaluate_on: str | None = None
    """Where to evaluate: host (the CPU), or a device such as gpu:7; by default one without a
    worker, if there is one."""
    hooks: Hooks = plan_field((), rules.observers, identity=False)
    """What watches every run of it, such as `ssp.Ema(0.999)` or `ssp.EarlyStop("loss", 5)`."""

    def run(
        self,
        observers: Sequence[Observer] = (),
        runtime: Runtime | None = None,
        progress: bool | None = None,
        resume: Resume = "auto",
    ) -> Result:
        """Run it.

        Args:
            observers: told what happens while it happens.
            runtime: in place of its own, for a replay.
            progress: whether to show how far it is; see `train`.
            resume: what to do with a run that its folder holds; see `train`.
        """
        experiment = self if runtime is None else replace(self, runtime=runtime)
        plan, task = experiment.ready()
        return run(plan, task, with_progress(observers, progress, plan.runtime), resume)

    def planned(self) -> Experiment:
        """The plan of the run; where nothing is computed there is nothing to evaluate either.

        Raises:
            TypeError, ValueError: if a field is not right, naming it and the remedy.
        """
        plan = self.checked_fields()
        if plan.runtime.computes:
            return plan
        none = dict.fromkeys(("eval_every", "evaluate_on", "target"))
        return replace(plan, **none, eval_waits=False)

    def ready(self) -> tuple[Experiment, Task]:
        """The plan of the run, and the task that the workload makes.

        Raises:
            TypeError, ValueError: if a field is not right, naming it and the remedy.
        """
        plan = self.planned()
        if not plan.runtime.computes:
            return plan, Task()
        if plan.workload is None:
            raise ValueError(
                "`Experiment(workload=...)` is missing; only a runtime that computes nothing "
                "goes without."
            )
        return plan, build(plan.workload, plan.runtime.count(), plan.seed)

    def transforms(
        self,
    ) -> tuple[optax.GradientTransformation | None, optax.GradientTransformation | None]:
        server_tx, delta_tx = (
            None if given == _NOTHING else given.build()
            for given in (self.server_tx, self.delta_tx)
        )
        return server_tx, delta_tx

    def own_observers(self) -> Sequence[Observer]:
        return rules.observers(self._called("hooks"), self.hooks)

    def unwatched(self) -> Self:
        return replace(self, hooks=())

    def _called(self, name: str) -> str:
        return f"{type(self).__name__}({name}=...)"
