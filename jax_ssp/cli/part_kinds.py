"""What a part of the user's own may be, by the field of an experiment that it is for."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from types import FunctionType
from typing import Any, NamedTuple

import tyro

from jax_ssp.checkpoint.checkpoints import Checkpoints
from jax_ssp.compression import Compressor
from jax_ssp.delays import Network
from jax_ssp.fragments import Fragments
from jax_ssp.policies import LocalSteps, Policy
from jax_ssp.runtimes.faults.base import Fault
from jax_ssp.runtimes.faults.schedule import Schedule
from jax_ssp.runtimes.observer import Observer
from jax_ssp.runtimes.recovery import Recovery
from jax_ssp.runtimes.runtime import Runtime
from jax_ssp.training.configured import Configured, configured_class
from jax_ssp.worker.adopt import Mix


class Kind(NamedTuple):
    """What a part of some field may be.

    Attributes:
        what: for people.
        made: gives the part that a value of this kind stands for; None if it is of another kind.
    """

    what: str
    made: Callable[[Any], Callable[[], Any] | None]


def _class_of(base: type[Any], what: str) -> Kind:
    def made(value: Any) -> Callable[[], Any] | None:
        if isinstance(value, type) and issubclass(value, base) and value is not base:
            return lambda: with_gaps(value)
        return (lambda: value) if isinstance(value, base) else None

    return Kind(f"a class with the base {what}, or one of its values", made)


def _transform(value: Any) -> Callable[[], Any] | None:
    if isinstance(value, Configured):
        return lambda: value
    if isinstance(value, type) or not callable(value):
        return None
    returned = getattr(value, "__annotations__", {}).get("return")
    if "GradientTransformation" not in str(returned):
        return None
    return lambda: with_gaps(configured_class(value))


def _delay(value: Any) -> Callable[[], Any] | None:
    if isinstance(value, FunctionType):
        named = list(inspect.signature(value).parameters) == ["worker", "clock", "steps", "rng"]
        return (lambda: value) if named else None
    if isinstance(value, type):
        called = getattr(value, "__call__", None)  # noqa: B004, of the class's own values
        return (lambda: with_gaps(value)) if is_dataclass(value) and called else None
    return (lambda: value) if is_dataclass(value) and callable(value) else None


def _fault(value: Any) -> Callable[[], Any] | None:
    """No field of it can be given after its name, so a class must have a default for each."""
    if isinstance(value, type) and issubclass(value, Fault | Schedule):
        return value if value not in (Fault, Schedule) else None
    return (lambda: value) if isinstance(value, Fault | Schedule) else None


def _hook(value: Any) -> Callable[[], Any] | None:
    """The field holds several; one that is named stands alone."""
    made = _class_of(Observer, "jax_ssp.Observer").made(value)
    return None if made is None else lambda: (made(),)


_TRANSFORM = Kind(
    "a function that says it returns an optax transform (-> optax.GradientTransformation)",
    _transform,
)
_WIRE = _class_of(Compressor, "jax_ssp.compression.Compressor")
KINDS: dict[str, Kind] = {
    "policy": _class_of(Policy, "jax_ssp.Policy"),
    "runtime": _class_of(Runtime, "jax_ssp.runtimes.runtime.Runtime"),
    "runtime.delay": Kind(
        "a dataclass whose values are called as (worker, clock, steps, rng) -> seconds, or a "
        "function with these arguments",
        _delay,
    ),
    "runtime.faults": Kind(
        "a class with the base jax_ssp.faults.Fault or jax_ssp.faults.Schedule, or one of its "
        "values",
        _fault,
    ),
    "runtime.network": _class_of(Network, "jax_ssp.Network"),
    "runtime.recovery": _class_of(Recovery, "jax_ssp.Recovery"),
    "local_steps": _class_of(LocalSteps, "jax_ssp.LocalSteps"),
    "server_tx": _TRANSFORM,
    "delta_tx": _TRANSFORM,
    "delta_wire": _WIRE,
    "snapshot_wire": _WIRE,
    "adopt": _class_of(Mix, "jax_ssp.Mix"),
    "fragments": _class_of(Fragments, "jax_ssp.Fragments"),
    "checkpoint": _class_of(Checkpoints, "jax_ssp.Checkpoints"),
    "hooks": Kind("a class with the base jax_ssp.Observer, or one of its values", _hook),
}


def with_gaps(kind: type[Any]) -> Any:
    """A value of a class at its defaults; fields without one must be given on the command line."""
    columns = fields(kind) if is_dataclass(kind) else ()
    needed = [
        column.name
        for column in columns
        if column.init and column.default is MISSING and column.default_factory is MISSING
    ]
    if not needed:
        return kind()
    if inspect.isabstract(kind):
        raise TypeError(f"{kind.__name__} lacks {', '.join(sorted(kind.__abstractmethods__))}")
    made: Any = object.__new__(kind)  # its own checks see it once all fields are given
    for column in columns:
        if column.default_factory is not MISSING:
            value: Any = column.default_factory()
        else:
            value = tyro.MISSING if column.default is MISSING else column.default
        object.__setattr__(made, column.name, value)
    return made
