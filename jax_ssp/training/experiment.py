"""An experiment as a config file describes it: frozen, typed, printable, runnable.

A config file has `get_config() -> Experiment`, or `get_sweep() -> list[Experiment]`. Every field,
however deep, can be overridden on the command line.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import re
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, dataclass, field, fields, make_dataclass
from typing import Annotated, Any, TypeAlias

import optax
import tyro

from jax_ssp import checks, delays
from jax_ssp.checks import instance
from jax_ssp.controller.weight import Weight
from jax_ssp.mitigations.as_given import as_given
from jax_ssp.policies import SSP, Policy
from jax_ssp.runtimes.base import Observer, Runtime
from jax_ssp.runtimes.devices import Devices
from jax_ssp.runtimes.evaluation import EvalFn
from jax_ssp.runtimes.virtual import Virtual
from jax_ssp.training.arguments import RULES, check_each
from jax_ssp.training.train import Result, describe, train
from jax_ssp.worker.step import Params, Step
from jax_ssp.worker.worker import Mix

# A `Compressor` or None; "rebase" or a `Mix`. To a type checker `Any`, as `DelayModel` is, so that
# the command line shows the fields of what a config names.
WireFormat: TypeAlias = Any
AdoptRule: TypeAlias = Any
StepSchedule: TypeAlias = Any  # an integer, or a `LocalSteps`


@dataclass(frozen=True)
class Task:
    """What a workload gives to train on.

    Attributes:
        step: the training step.
        params: the first version.
        data: worker -> its batches.
        evaluate: `params -> metrics`, or None.
    """

    step: Step
    params: Params
    data: Callable[[int], Iterable[Any]]
    evaluate: EvalFn | None = None


@dataclass(frozen=True)
class Workload(ABC):
    """A model with its data and optimizer. Subclass it as a frozen dataclass with your fields."""

    @abstractmethod
    def build(self, num_workers: int, seed: int) -> Task:
        """Make the task; equal arguments must give equal tasks."""


@dataclass(frozen=True)
class Configured(ABC):
    """A transform on the server and its arguments; see `configured`."""

    @abstractmethod
    def build(self) -> optax.GradientTransformation:
        """Make the transform."""


@functools.cache
def _configured_class(function: Callable[..., optax.GradientTransformation]) -> type[Configured]:
    hints = _hints(function)
    columns: list[Any] = []
    for name, parameter in inspect.signature(function).parameters.items():
        kind: Any = hints.get(name, Any)
        missing = parameter.default is inspect.Parameter.empty
        if re.search("GradientTransformation|ForwardRef", str(kind)):
            kind = Any  # given as another `Configured`, whose own fields are then shown; or unknown
        elif float in typing.get_args(kind) and re.search("Array|Callable", str(kind)):
            kind = _number(or_none=parameter.default is None)
        columns.append((name, kind) if missing else (name, kind, field(default=parameter.default)))
    # The command line shows this as the help of the transform's group of options.
    doc = (inspect.getdoc(function) or function.__name__).split("\n")[0]

    def build(self: Any) -> optax.GradientTransformation:
        given = {column.name: getattr(self, column.name) for column in fields(self)}
        return function(**{name: _built(value) for name, value in given.items()})

    namespace = {"build": build, "__doc__": doc, "__module__": function.__module__}
    return make_dataclass(
        function.__name__, columns, bases=(Configured,), frozen=True, namespace=namespace
    )


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except NameError:  # as of optax.adamw, whose mask is of a type that its module does not know
        return inspect.get_annotations(function)


def _number(or_none: bool) -> Any:
    """The type of what is a number on the command line, whatever else a config may give for it.

    Optax has many that may be a schedule or an array too, which cannot be typed there.
    """

    def parsed(words: list[str]) -> float | None:
        return None if or_none and words == ["None"] else float(words[0])

    number = tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="{None}|FLOAT" if or_none else "FLOAT",
        instance_from_str=parsed,
        is_instance=lambda value: True,
        str_from_instance=lambda value: [str(value)],
    )
    return Annotated[Any, number]


def _known(function: Any) -> type[Configured]:
    """The class for a function, if it is one whose arguments can be fields."""
    must = "a function with named arguments, such as `optax.sgd`"
    if not callable(function):
        raise TypeError(f"`configured(function=...)` must be {must}, got {checks.shown(function)}.")
    try:
        return _configured_class(function)
    except Exception as error:
        raise TypeError(
            f"`configured(function=...)` must be {must}, got {checks.shown(function)}: {error}."
        ) from error


def configured(
    function: Callable[..., optax.GradientTransformation], **arguments: Any
) -> Configured:
    """A server transform that a config can name, print and override.

    Args:
        function: makes the transform; its parameters become fields, with their types and defaults.
        **arguments: values for some of them; for a transform within it, another `configured`.

    Returns:
        A frozen dataclass with those fields; `build()` calls the function.

    Example:
        >>> from jax_ssp.mitigations import outer
        >>> configured(outer, optimizer=configured(optax.scale, step_size=-0.5))
        outer(optimizer=scale(step_size=-0.5))
    """
    known = _known(function)
    names = [column.name for column in fields(known)]
    called = f"configured(function={checks.shown(function)}"
    for name in arguments:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            raise TypeError(
                f"`{called}, {name}=...)`: there is no such argument; "
                + (f"did you mean `{close[0]}`?" if close else f"it has {', '.join(names)}.")
            )
    for column in fields(known):
        if column.default is MISSING and column.name not in arguments:
            raise TypeError(f"`{called}, {column.name}=...)` is missing; it has no default.")
    return known(**arguments)


@dataclass(frozen=True)
class Chain(Configured):
    """Transforms one after the other. Made by `chained`."""

    parts: tuple[Any, ...] = ()
    """What each is made from."""

    def build(self) -> optax.GradientTransformation:
        return optax.chain(*map(_built, self.parts))


def chained(*parts: Configured) -> Chain:
    """Server transforms one after the other, as `optax.chain` has them, for a config.

    Args:
        *parts: what `configured` gives.

    Example:
        >>> chained(configured(optax.clip, max_delta=1.0), configured(optax.scale, step_size=0.5))
        Chain(parts=(clip(max_delta=1.0), scale(step_size=0.5)))
    """
    for number, part in enumerate(parts):
        must = "what `ssp.configured(transform, ...)` gives"
        instance(f"chained(*parts)[{number}]", part, Configured, must)
    return Chain(parts)


def alternatives(runtime: Runtime | None = None) -> dict[str, dict[str, Callable[[], Any]]]:
    """By field of an experiment and by name: what else it may be, made at its defaults.

    Args:
        runtime: the experiment's. `Virtual` in its place keeps its workers, delays and their seed.

    Example:
        >>> alternatives()["policy"]["KSync"]()
        KSync(k=4)
        >>> alternatives(Devices(num_workers=8))["runtime"]["Virtual"]().num_workers
        8
    """
    from jax_ssp import compression, mitigations, policies

    transforms = {
        name: functools.partial(configured, getattr(mitigations, name))
        for name in mitigations.ALL_MITIGATIONS
    }
    diloco = functools.partial(configured, optax.sgd, momentum=0.9, nesterov=True)
    transforms["outer"] = lambda: configured(mitigations.outer, optimizer=diloco(learning_rate=0.7))
    plain = functools.partial(configured, optax.scale, step_size=1.0)
    transforms["as_given"] = lambda: configured(as_given, tx=plain())
    transforms["identity"] = functools.partial(configured, optax.identity)
    wires = {kind.__name__: kind for kind in compression.ALL_COMPRESSORS}
    return {
        "policy": {kind.__name__: kind for kind in policies.ALL_POLICIES},
        "runtime": {"Devices": Devices, "Virtual": functools.partial(_rehearsal, runtime)},
        "runtime.delay": {**_DELAYS, "None": lambda: None},
        "local_steps": {kind.__name__: kind for kind in policies.ALL_SCHEDULES},
        "server_tx": transforms,
        "delta_tx": transforms,
        "delta_wire": {**wires, "None": lambda: None},
        "snapshot_wire": {**wires, "None": lambda: None},
        "adopt": {"Mix": Mix, "rebase": lambda: "rebase"},
    }


# A step takes 1 s or about that by default. Models of a number for each worker are not among them.
_DELAYS: dict[str, Callable[[], Any]] = {
    "Constant": delays.Constant,
    "Exponential": delays.Exponential,
    "ShiftedExponential": functools.partial(delays.ShiftedExponential, shift=0.8, mean=0.2),
    "Pareto": functools.partial(delays.Pareto, minimum=0.6, shape=2.5),
    "LogNormal": functools.partial(delays.LogNormal, median=0.9, sigma=0.5),
    "Straggler": delays.Straggler,
}


def _rehearsal(runtime: Runtime | None) -> Virtual:
    """Virtual time with what this runtime says of its workers and delays."""
    said: dict[str, Any] = {"delay": delays.Exponential(mean=1.0)}
    for name in ("num_workers", "delay", "seed"):
        value = getattr(runtime, name, None)
        if value is not None:
            said[name] = value
    return Virtual(**said)


def _built(value: Any) -> Any:
    return value.build() if isinstance(value, Configured) else value


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
        return _build(self.workload, runtime.count(), self.seed)


# Kept, so that the runs of a sweep share what is compiled for one step.
@functools.lru_cache(maxsize=8)
def _build(workload: Workload, num_workers: int, seed: int) -> Task:
    task = workload.build(num_workers, seed)
    name = f"{type(workload).__name__}.build(...)"
    return checks.instance(name, task, Task, "an `ssp.experiment.Task`")
