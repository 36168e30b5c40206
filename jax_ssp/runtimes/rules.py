"""What the parts of a plan and of a task may be: a rule each, `(field, value) -> value`.

A rule gives the value back as Python has it, or raises with field, value and remedy.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias

import optax

from jax_ssp.checkpoint.checkpoints import Checkpoints
from jax_ssp.checks import choice, function, instance, integer, optional, several, shown, text
from jax_ssp.compression import Compressor
from jax_ssp.controller.weight import Weight, check_weight
from jax_ssp.data.elastic import Data, check_elastic, is_elastic
from jax_ssp.fragments import Fragments, check_fragments
from jax_ssp.policies import Fixed, LocalSteps, Policy, as_schedule
from jax_ssp.runtimes.evaluation import Target, check_evaluate_on
from jax_ssp.runtimes.observer import Observer
from jax_ssp.runtimes.runtime import Runtime
from jax_ssp.trees import check_params
from jax_ssp.where import Where, check_placement
from jax_ssp.worker.adopt import Adopt, check_adopt

Rule: TypeAlias = Callable[[str, Any], Any]
OptimizerOn: TypeAlias = Literal["workers", "server"]


def maybe(rule: Rule) -> Rule:
    """What the rule says, or None."""
    return partial(optional, rule=rule)


def a(kind: type[Any], must: str) -> Rule:
    """One of a class; `must` says what it has to be."""
    return lambda field, value: instance(field, value, kind, must)


def step(field: str, value: Any) -> Any:
    if isinstance(value, type) or not (callable(value) and callable(getattr(value, "init", None))):
        raise TypeError(
            f"`{field}` must be callable and have an `init(params)`, got {shown(value)}; "
            "`ssp.make_step(loss_fn, optimizer)` makes one."
        )
    return value


def params(field: str, value: Any) -> Any:
    check_params(value, field)
    return value


def local_steps(field: str, value: Any) -> int | LocalSteps:
    schedule = as_schedule(value, field)
    return schedule.h if type(schedule) is Fixed else schedule


def weight(field: str, value: Any) -> Weight:
    return check_weight(value, field)


def adopt(field: str, value: Any) -> Adopt:
    return check_adopt(value, field)


def fragments(field: str, value: Any) -> Fragments | None:
    return check_fragments(value, field)


def optimizer_on(field: str, value: Any) -> OptimizerOn:
    return choice(field, value, ("workers", "server"))


def placement(field: str, value: Any) -> Where:
    return check_placement(value, field)


def evaluate_on(field: str, value: Any) -> Where:
    return check_evaluate_on(value, field)


def target(field: str, value: Any) -> str:
    Target.parse(text(field, value))
    return value


def observers(field: str, value: Any) -> tuple[Observer, ...]:
    each = several(field, value, "a list of `ssp.Observer`s")
    for number, observer in enumerate(each):
        instance(f"{field}[{number}]", observer, Observer, "an `ssp.Observer`")
    return each


def data(field: str, value: Any) -> Data:
    """A function of a worker's number that gives its batches, or a source that all share."""
    if is_elastic(value):
        return check_elastic(field, value)
    if not callable(value) and hasattr(value, "__iter__"):
        raise TypeError(
            f"`{field}` must be a function (worker) -> batches, got {shown(value)}; each worker "
            "needs one of its own: give a function that makes it, `lambda worker: ...`."
        )
    return function(field, value, "(worker) -> batches")


policy = a(Policy, "a Policy such as `ssp.SSP(bound=3)`")
runtime = a(Runtime, "a Runtime such as `ssp.Devices()`")
transform = a(
    optax.GradientTransformation, "an optax transform such as `ssp.outer(optax.sgd(0.7))`"
)
checkpoint = a(Checkpoints, 'checkpoints such as `ssp.Checkpoints("runs/mine")`')
wire = a(Compressor, "a compressor such as `ssp.compression.Int8()`")
count = partial(integer, least=1)
natural = partial(integer, least=0)
evaluate = partial(function, signature="(params) -> metrics")
