"""An experiment as a config file describes it: frozen, typed, printable, runnable.

A config file has `get_config() -> Experiment`, or `get_sweep() -> list[Experiment]`. Every field,
however deep, can be overridden on the command line.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

import optax

from jax_ssp.checks import instance
from jax_ssp.controller.weight import Weight
from jax_ssp.policies import SSP, Policy
from jax_ssp.runtimes.base import Runtime
from jax_ssp.runtimes.observer import Observer
from jax_ssp.runtimes.virtual import Virtual
from jax_ssp.training.arguments import RULES, check_each
from jax_ssp.training.configured import Configured, configured
from jax_ssp.training.result import Result
from jax_ssp.training.train import describe, train
from jax_ssp.training.workload import Task, Workload, build

# A `Compressor` or None; "rebase" or a `Mix`. To a type checker `Any`, as `DelayModel` is, so that
# the command line shows the fields of what a config names.
WireFormat: TypeAlias = Any
AdoptRule: TypeAlias = Any
StepSchedule: TypeAlias = Any  # an integer, or a `LocalSteps`


@dataclass(frozen=True)
class Experiment:
    """Everything that decides a run.

    Example:
        >>> import jax_ssp as ssp
        >>> rehearsal = ssp.Virtual(num_workers=8, compute=False)
        >>> Experiment(policy=ssp.SSP(bound=1), runtime=rehearsal, num_clocks=3).run().updates
        24
    """

    name: str = "experiment"
    """Names the run's folder; in a sweep, runs of one name are one curve."""
    workload: Workload | None = None
    """Model, data and optimizer."""
    policy: Policy = field(default_factory=SSP)
    """Who may run, what is merged, who adopts which version."""
    server_tx: Configured = field(default_factory=functools.partial(configured, optax.identity))
    """Transform on the server, once a merge."""
    delta_tx: Configured = field(default_factory=functools.partial(configured, optax.identity))
    """Transform on the server of each delta, before it is weighted and summed."""
    runtime: Runtime = field(default_factory=Virtual)
    """The world: real devices or virtual time, with its delay model."""
    num_clocks: int | None = None
    """Clocks each worker finishes."""
    max_updates: int | None = None
    """Ends the run once this many deltas are merged in total."""
    local_steps: StepSchedule = 1
    """H, optimizer steps a clock, or a schedule of it such as `ssp.DyLU(h=8)`."""
    weight: Weight = "mean"
    """Factor of a delta: mean (1 / workers), sum (1), merged (1 / deltas of a merge), a number."""
    overlap: int = 0
    """Local steps a worker runs ahead while its delta travels."""
    adopt: AdoptRule = "rebase"
    """What a worker makes of its own progress when it adopts: rebase, or a `Mix`."""
    placement: str | None = None
    """Where the server lives: host, devices (split over the workers'), or one such as gpu:7."""
    delta_wire: WireFormat = None
    """Compressor of the deltas, such as `ssp.compression.Int8()`."""
    snapshot_wire: WireFormat = None
    """Compressor of the snapshots."""
    eval_every: int | None = None
    """Clocks between evaluations; by default only the first and the last version are evaluated."""
    evaluate_on: str | None = None
    """Where to evaluate: host (the CPU), or a device such as gpu:7; by default one without a
    worker, if there is one."""
    target: str | None = None
    """Ends the run once an evaluation reaches it, such as "test_accuracy >= 0.97"; with it
    eval_every is 1 by default."""
    seed: int = 0
    """Of the model, the shards, their order, and the keys of the steps."""

    def run(self, observers: Sequence[Observer] = (), runtime: Runtime | None = None) -> Result:
        """Run it; `runtime`, if given, in place of its own (for a replay)."""
        return train(**self.arguments(runtime), observers=observers)

    def arguments(self, runtime: Runtime | None = None) -> dict[str, Any]:
        """What `train` is called with."""
        self.check()
        if runtime is not None:
            check_each({"runtime": runtime})
        runtime = self.runtime if runtime is None else runtime
        task = self._task(runtime)
        evaluate = task.evaluate if task else None
        return {
            "step": task.step if task else None,
            "params": task.params if task else None,
            "data": task.data if task else None,
            "evaluate": evaluate,
            "policy": self.policy,
            "runtime": runtime,
            "server_tx": self.server_tx.build(),
            "delta_tx": self._delta_tx(),
            "num_clocks": self.num_clocks,
            "max_updates": self.max_updates,
            "local_steps": self.local_steps,
            "weight": self.weight,
            "overlap": self.overlap,
            "adopt": self.adopt,
            "placement": self.placement,
            "delta_wire": self.delta_wire,
            "snapshot_wire": self.snapshot_wire,
            "eval_every": self.eval_every if task else None,
            "evaluate_on": self.evaluate_on if task else None,
            "target": self.target if task else None,
            "seed": self.seed,
            "name": self.name,
        }

    def describe(self) -> dict[str, Any]:
        """All fields as JSON-able facts, with the class of each part."""
        return {column.name: describe(getattr(self, column.name)) for column in fields(self)}

    def check(self) -> None:
        """Raise TypeError or ValueError, naming field and remedy, if a field is not right."""
        whose = type(self).__name__
        for name, kind, remedy in (
            ("workload", Workload | None, "an `ssp.Workload`"),
            ("server_tx", Configured, "what `ssp.configured(transform, ...)` gives"),
            ("delta_tx", Configured, "what `ssp.configured(transform, ...)` gives"),
        ):
            instance(f"{whose}({name}=...)", getattr(self, name), kind, remedy)
        own = {name: getattr(self, name) for name in RULES if hasattr(self, name)}
        check_each({name: own[name] for name in own.keys() - {"server_tx", "delta_tx"}}, whose)

    def _delta_tx(self) -> optax.GradientTransformation | None:
        nothing = configured(optax.identity)
        return None if self.delta_tx == nothing else self.delta_tx.build()

    def _task(self, runtime: Runtime) -> Task | None:
        if not runtime.computes:
            return None
        if self.workload is None:
            raise ValueError(
                "`Experiment(workload=...)` is missing; only a runtime that computes nothing "
                "goes without."
            )
        return build(self.workload, runtime.count(), self.seed)
