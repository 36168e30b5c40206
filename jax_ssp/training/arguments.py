"""What `train` and an `Experiment` take: a rule for each argument, and for some together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import optax

from jax_ssp.checks import function, instance, integer, optional, seed, several, shown, text
from jax_ssp.compression import Compressor
from jax_ssp.controller.weight import check_weight
from jax_ssp.placement import check_placement
from jax_ssp.policies import Policy, as_schedule
from jax_ssp.runtimes.base import Runtime
from jax_ssp.runtimes.evaluation import Target, check_evaluate_on
from jax_ssp.runtimes.observer import Observer
from jax_ssp.trees import check_params
from jax_ssp.worker.adopt import check_adopt


def _step(field: str, value: Any) -> Any:
    if isinstance(value, type) or not (callable(value) and callable(getattr(value, "init", None))):
        raise TypeError(
            f"`{field}` must be callable and have an `init(params)`, got {shown(value)}; "
            "`ssp.make_step(loss_fn, optimizer)` makes one."
        )
    return value


def _params(field: str, value: Any) -> Any:
    check_params(value, field)
    return value


def _schedule(field: str, value: Any) -> Any:
    as_schedule(value, field)
    return value


def _target(field: str, value: Any) -> str:
    Target.parse(text(field, value))
    return value


def _observers(field: str, value: Any) -> tuple[Observer, ...]:
    each = several(field, value, "a list of `ssp.Observer`s")
    for number, observer in enumerate(each):
        instance(f"{field}[{number}]", observer, Observer, "an `ssp.Observer`")
    return each


def _a(kind: type[Any], must: str) -> Callable[[str, Any], Any]:
    return lambda field, value: instance(field, value, kind, must)


_transform = _a(optax.GradientTransformation, "an optax transform such as `optax.sgd(0.7)`")
_wire = _a(Compressor, "a compressor such as `ssp.compression.Int8()`")
_count = partial(integer, least=1)

RULES: dict[str, Callable[[str, Any], Any]] = {
    "step": partial(optional, rule=_step),
    "params": partial(optional, rule=_params),
    "data": partial(optional, rule=partial(function, signature="(worker) -> batches")),
    "policy": _a(Policy, "a Policy such as `ssp.SSP(bound=3)`"),
    "runtime": _a(Runtime, "a Runtime such as `ssp.Devices()`"),
    "server_tx": partial(optional, rule=_transform),
    "delta_tx": partial(optional, rule=_transform),
    "num_clocks": partial(optional, rule=_count),
    "max_updates": partial(optional, rule=_count),
    "local_steps": _schedule,
    "weight": lambda field, value: check_weight(value, field),
    "overlap": partial(integer, least=0),
    "adopt": lambda field, value: check_adopt(value, field),
    "placement": lambda field, value: check_placement(value, field),
    "delta_wire": partial(optional, rule=_wire),
    "snapshot_wire": partial(optional, rule=_wire),
    "seed": seed,
    "evaluate": partial(optional, rule=partial(function, signature="(params) -> metrics")),
    "eval_every": partial(optional, rule=_count),
    "evaluate_on": lambda field, value: check_evaluate_on(value, field),
    "target": partial(optional, rule=_target),
    "observers": _observers,
    "name": partial(optional, rule=text),
}
"""By argument of `train`: `(field, value) -> value` as Python has it, or an error that says why."""


def check_each(given: Mapping[str, Any], whose: str = "") -> dict[str, Any]:
    """Each argument by its own rule.

    Args:
        given: values by the name of the argument.
        whose: for the messages: "Experiment" says "`Experiment(seed=...)`"; by default "`seed`".

    Raises:
        TypeError, ValueError: naming field, value and remedy.
    """
    return {
        name: RULES[name](f"{whose}({name}=...)" if whose else name, value)
        for name, value in given.items()
    }


def check_together(given: Mapping[str, Any]) -> None:
    """What arguments must be for each other's sake.

    Raises:
        ValueError: naming both, and the remedy.
    """
    if given["num_clocks"] is None and given["max_updates"] is None:
        raise ValueError("give `num_clocks` or `max_updates` (or both), so that the run can end.")
    evaluates = given["eval_every"] is not None or given["target"] is not None
    if given["evaluate"] is None and evaluates:
        raise ValueError("`eval_every` and `target` need `evaluate`, a function params -> metrics.")
    if given["evaluate"] is None and given["evaluate_on"] is not None:
        raise ValueError("`evaluate_on` needs `evaluate`, a function params -> metrics.")
    most = max(as_schedule(given["local_steps"]).usual)
    if given["overlap"] > most:
        raise ValueError(
            f"`overlap` must be between 0 and `local_steps`, which is {most}, got "
            f"{given['overlap']}."
        )
    wire = given["snapshot_wire"]
    if wire is not None and not wire.for_snapshots:
        raise ValueError(
            f"`snapshot_wire={shown(wire)}` is right in the mean over many messages only, and "
            "nobody can compute on such a snapshot; use Int8 or BFloat16, or `delta_wire`."
        )
