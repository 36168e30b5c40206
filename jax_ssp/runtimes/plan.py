"""What a run is, as one value: its plan.

All of a field stands in one place: its type, its default, its rule, what it means, and whether a
replay compares it. Checks, descriptions, the tape's header and the command line are made from the
fields, so one that a subclass adds is in all of them.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Self, TypeAlias

import optax

from jax_ssp import checks
from jax_ssp.checkpoint.checkpoints import Checkpoints
from jax_ssp.checks import shown
from jax_ssp.controller.ends import NO_ENDS, Ends
from jax_ssp.controller.facts import type_name
from jax_ssp.controller.fragments import check_goes_with
from jax_ssp.controller.weight import Weight
from jax_ssp.policies import SSP, LocalSteps, Policy, as_schedule
from jax_ssp.runtimes import rules
from jax_ssp.runtimes.observer import Observer
from jax_ssp.runtimes.rules import OptimizerOn, Rule, maybe
from jax_ssp.runtimes.runtime import Runtime
from jax_ssp.runtimes.task import Task
from jax_ssp.runtimes.virtual import Virtual
from jax_ssp.where import Where

# A `Compressor` or None; "rebase" or a `Mix`; `Fragments`; a `LocalSteps`. To a type checker
# `Any`, as `DelayModel` is, so that the command line shows the fields of what a config names.
WireFormat: TypeAlias = Any
AdoptRule: TypeAlias = Any
FragmentRule: TypeAlias = Any
StepSchedule: TypeAlias = Any


COMPUTED = ("num_workers", "params", "batches", "step", "server_tx", "jax", "platforms")
"""What a session adds to what a replay compares of its plan."""


def plan_field(default: Any, rule: Rule | None = None, **metadata: Any) -> Any:
    """A field of a plan.

    Args:
        default: its value where none is given.
        rule: `(field, value) -> value`, which raises where the value will not do.
        **metadata: `identity=False` for what a replay need not have in common with its recording.
    """
    known = metadata if rule is None else {**metadata, "rule": rule}
    return field(default=default, metadata=known)


@dataclass(frozen=True)
class Plan:
    """Everything that says what a run is, but what is trained: that is a `Task`.

    Example:
        >>> import jax_ssp as ssp
        >>> plan = Plan(policy=ssp.SSP(bound=1), num_clocks=8, seed=5)
        >>> plan.identity()["policy"]
        {'type': 'SSP', 'bound': 1, 'adopt': 'eager'}
        >>> @dataclass(frozen=True)
        ... class Dated(Plan):
        ...     day: int = 0
        >>> Dated(day=3).identity()["day"]
        3
    """

    name: str | None = plan_field(None, maybe(checks.text), identity=False)
    """Names the run, and its folder; in a sweep, runs of one name are one curve."""
    policy: Policy = plan_field(SSP(), rules.policy)
    """Who may run, what is merged, who adopts which version."""
    server_tx: Any = plan_field(None, maybe(rules.transform), identity=False)
    """Transform on the server, once a merge."""
    delta_tx: Any = plan_field(None, maybe(rules.transform), identity=False)
    """Transform on the server of each delta, before it is weighted and summed."""
    runtime: Runtime = plan_field(Virtual(), rules.runtime, identity=False)
    """The world: real devices or virtual time, with its delay model."""
    num_clocks: int | None = plan_field(None, maybe(rules.count))
    """Clocks each worker finishes."""
    max_updates: int | None = plan_field(None, maybe(rules.count))
    """Ends the run once this many deltas are merged in total."""
    max_steps: int | None = plan_field(None, maybe(rules.count))
    """Ends the run once this many local steps are merged in total, of all workers."""
    max_samples: int | None = plan_field(None, maybe(rules.count))
    """Ends the run once this many examples are merged in total."""
    num_epochs: int | None = plan_field(None, maybe(rules.count))
    """Ends the run after this many times the samples of an epoch; for data that knows them."""
    optimizer_on: OptimizerOn = plan_field("workers", rules.optimizer_on)
    """Where the step's optimizer lives: workers (local SGD), or server (a parameter server)."""
    local_steps: StepSchedule = plan_field(1, rules.local_steps)
    """H, optimizer steps a clock, or a schedule of it such as `ssp.DyLU(h=8)`."""
    weight: Weight = plan_field("mean", rules.weight)
    """Factor of a delta: mean (1 / workers), sum (1), merged (1 / deltas of a merge), samples or
    tokens (its share of those of a merge), or a number."""
    overlap: int = plan_field(0, rules.natural)
    """Local steps a worker runs ahead while its delta travels."""
    adopt: AdoptRule = plan_field("rebase", rules.adopt)
    """What a worker makes of its own progress when it adopts: rebase, or a `Mix`."""
    fragments: FragmentRule = plan_field(None, rules.fragments)
    """Shares of the parameters that travel in turn, one a clock: how many, or `ssp.Fragments`."""
    placement: Where = plan_field(None, rules.placement, identity=False)
    """Where the server lives: host, devices (split over the workers'), or one such as gpu:7."""
    delta_wire: WireFormat = plan_field(None, maybe(rules.wire))
    """Compressor of the deltas, such as `ssp.compression.Int8()`."""
    snapshot_wire: WireFormat = plan_field(None, maybe(rules.wire))
    """Compressor of the snapshots."""
    eval_every: int | None = plan_field(None, maybe(rules.count), identity=False)
    """Clocks between evaluations; by default only the first and the last version are evaluated."""
    eval_waits: bool = plan_field(False, checks.flag, identity=False)
    """Whether nobody starts a clock while a version is evaluated, on real devices too: what follows
    from it (target, EarlyStop) then comes at the same version in every world."""
    evaluate_on: Where = plan_field(None, rules.evaluate_on, identity=False)
    """Where to evaluate: host, or a device such as gpu:7; by default one without a worker."""
    target: str | None = plan_field(None, maybe(rules.target), identity=False)
    """Ends the run once an evaluation reaches it ("accuracy >= 0.97"); eval_every is then 1."""
    max_nonfinite: int | None = plan_field(3, maybe(rules.natural), identity=False)
    """Ends the run as diverged once so many deltas of one worker in a row are not finite, which are
    merged never; 0 with the first."""
    checkpoint: Checkpoints | None = plan_field(None, maybe(rules.checkpoint), identity=False)
    """Saves the whole state in the run's folder while it goes on, so that it can be resumed."""
    seed: int = plan_field(0, checks.seed)
    """Of the model, the shards, their order, and the keys of the steps."""

    @property
    def schedule(self) -> LocalSteps:
        """Of the local steps."""
        return as_schedule(self.local_steps)

    @property
    def num_fragments(self) -> int:
        """How many fragments the parameters are in."""
        return 1 if self.fragments is None else self.fragments.count

    @property
    def ends(self) -> Ends:
        """The counts that end the run, but for epochs."""
        return Ends(self.num_clocks, self.max_updates, self.max_steps, self.max_samples)

    @property
    def reads_own(self) -> bool:
        """Whether workers read their own deltas while these wait: no gradients are read."""
        return self.policy.reads_own and self.optimizer_on == "workers"

    def transforms(
        self,
    ) -> tuple[optax.GradientTransformation | None, optax.GradientTransformation | None]:
        """Those on the server: of a merge, and of each delta."""
        return self.server_tx, self.delta_tx

    def own_observers(self) -> Sequence[Observer]:
        """What watches the run, beside the observers that it is given."""
        return ()

    def unwatched(self) -> Self:
        """The same without them."""
        return self

    def describe(self) -> dict[str, Any]:
        """All fields as JSON-able facts, with the class of each part."""
        return {column.name: describe(getattr(self, column.name)) for column in fields(self)}

    def identity(self) -> dict[str, Any]:
        """The fields that a replay compares, as JSON-able facts."""
        known = _metadata(type(self))
        return {n: describe(getattr(self, n)) for n in known if known[n].get("identity", True)}

    def checked_fields(self) -> Self:
        """This plan with each value as Python has it.

        Raises:
            TypeError, ValueError: if one cannot be what it is; field, value and remedy are named.
        """
        given: dict[str, Any] = {}
        for name, known in _metadata(type(self)).items():
            if name in COMPUTED and known.get("identity", True):
                raise ValueError(
                    f"`{self._called(name)}` cannot be the name of a field: on the tape it is that "
                    "of what is computed; choose another name, or `identity=False`."
                )
            if "rule" in known:
                given[name] = known["rule"](self._called(name), getattr(self, name))
        return replace(self, **given)

    def checked(self) -> Self:
        """This plan with each value as Python has it, and all of them right for each other.

        Raises:
            TypeError, ValueError: naming field, value and remedy.
        """
        plan = self.checked_fields()
        if plan.ends == NO_ENDS and plan.num_epochs is None:
            ends = "`num_clocks`, `max_updates`, `max_steps`, `max_samples` or `num_epochs`"
            raise ValueError(f"give {ends} (or several), so that the run can end.")
        most = max(plan.schedule.usual)
        if plan.overlap > most:
            raise ValueError(
                f"`overlap` must be between 0 and `local_steps`, which is {most}, got "
                f"{plan.overlap}."
            )
        check_goes_with(plan.policy, plan.num_fragments)
        wire = plan.snapshot_wire
        if wire is not None and not wire.for_snapshots:
            raise ValueError(
                f"`snapshot_wire={shown(wire)}` is right in the mean over many messages only, and "
                "nobody can compute on such a snapshot; use Int8 or BFloat16, or `delta_wire`."
            )
        return plan

    def check(self) -> None:
        """Raise TypeError or ValueError, naming field and remedy, if it cannot be."""
        self.checked()

    def check_evaluates(self, task: Task) -> None:
        """Raise ValueError if something is to be evaluated, and the task does not say how."""
        if task.evaluate is not None:
            return
        if self.eval_every is not None or self.target is not None:
            raise ValueError(
                "`eval_every` and `target` need `evaluate`, a function params -> metrics."
            )
        if self.eval_waits:
            raise ValueError("`eval_waits` needs `evaluate`, a function params -> metrics.")
        if self.evaluate_on is not None:
            raise ValueError("`evaluate_on` needs `evaluate`, a function params -> metrics.")

    def _called(self, name: str) -> str:
        """What messages call a field."""
        return name


@functools.cache
def _metadata(kind: type[Plan]) -> dict[str, dict[str, Any]]:
    """The metadata of each field; a class that only gives it another default keeps them."""
    known: dict[str, dict[str, Any]] = {column.name: {} for column in fields(kind)}
    for each in reversed(kind.__mro__):
        own: Mapping[str, Any] = vars(each).get("__dataclass_fields__", {})
        for name in known.keys() & own.keys():
            known[name].update(own[name].metadata)
    return known


def describe(config: Any) -> Any:
    """A config as JSON-able facts: a dataclass as its fields, its class first.

    Example:
        >>> describe({"policy": SSP(bound=2), 1: (math.inf, None)})
        {'policy': {'type': 'SSP', 'bound': 2, 'adopt': 'eager'}, '1': ['inf', None]}
        >>> describe({"b", "a"})
        ['a', 'b']
    """
    if is_dataclass(config) and not isinstance(config, type):
        columns = [column.name for column in fields(config) if column.init]
        parts = {name: describe(getattr(config, name)) for name in columns}
        return {"type": type_name(type(config)), **parts}
    if isinstance(config, (list, tuple)):
        return [describe(each) for each in config]
    if isinstance(config, (set, frozenset)):  # whose order differs from process to process
        return sorted(map(describe, config), key=repr)
    if isinstance(config, dict):
        return {str(name): describe(each) for name, each in config.items()}
    finite = not isinstance(config, float) or math.isfinite(config)
    if type(config) in (str, int, bool, float, type(None)) and finite:
        return config
    # Addresses differ from process to process, and a replay compares.
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(config))
