"""Which parts of a plan are of the user's own, and where they were found."""

from __future__ import annotations

import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

from jax_ssp.files import digest_of
from jax_ssp.runtimes.faults.base import Fault
from jax_ssp.runtimes.faults.schedule import Schedule
from jax_ssp.runtimes.observer import Observer
from jax_ssp.runtimes.plan import Plan

KNOWN = ("jax_ssp", "optax", "builtins")


def own_parts(plan: Plan) -> dict[str, dict[str, Any]]:
    """What of a plan is in neither jax_ssp nor optax, by field, as facts for JSON.

    Args:
        plan: of a run.

    Returns:
        For a field such as `runtime.delay`, the `name` (module:class), the `file` that defines it
        and that file's `sha256`, where there is one.

    Example:
        >>> from jax_ssp.policies import SSP
        >>> class Mine(SSP):
        ...     __module__ = "my_study"
        >>> own_parts(Plan(policy=Mine()))
        {'policy': {'name': 'my_study:Mine'}}
    """
    found: dict[str, dict[str, Any]] = {}

    def look(path: str, value: Any) -> None:
        kind: Any = value if isinstance(value, FunctionType) else type(value)
        if path and kind.__module__.split(".")[0] not in KNOWN:
            found[path] = _about(kind)
        if is_dataclass(value) and not isinstance(value, type):
            for column in fields(value):
                each = getattr(value, column.name, None)
                name = f"{path}.{column.name}" if path else column.name
                if isinstance(each, tuple):
                    for number, one in enumerate(each):
                        look_at(f"{name}.{number}", one)
                else:
                    look_at(name, each)

    def look_at(path: str, value: Any) -> None:
        if is_dataclass(value) or isinstance(value, (FunctionType, Observer, Fault, Schedule)):
            look(path, value)

    look("", plan)
    return found


def _about(kind: Any) -> dict[str, Any]:
    about: dict[str, Any] = {"name": f"{kind.__module__}:{kind.__qualname__}"}
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    if file is not None and Path(file).is_file():
        source = Path(file).read_bytes()
        about |= {"file": str(Path(file).resolve()), "sha256": digest_of(source)}
    return about
