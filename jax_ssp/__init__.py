"""Stale-synchronous parallel training for JAX. The public names; each is imported when first used.

Lazy, so that `import jax_ssp.controller` stays free of JAX.
"""

from __future__ import annotations

import importlib
from typing import Any

from jax_ssp.policies import ALL_POLICIES, ALL_SCHEDULES, LocalSteps, Policy

__version__ = "0.1.0"

_ROOMS = ("checkpoint", "compression", "controller", "data", "delays", "mitigations", "policies")
_MODULES = {
    **{room: room for room in _ROOMS},
    "faults": "runtimes.faults",
    "loggers": "report.loggers",
    "methods": "training.methods",
    "testing": "testing",
}
_NAMES = {
    **{kind.__name__: "policies" for kind in (Policy, LocalSteps, *ALL_POLICIES, *ALL_SCHEDULES)},
    **dict.fromkeys(("Best", "EarlyStop", "Ema"), "training.hooks"),
    "Checkpoints": "checkpoint",
    "ContractViolation": "controller",
    "Controller": "controller",
    "Devices": "runtimes.devices",
    "Ends": "controller",
    "Experiment": "training.experiment",
    "Fragments": "fragments",
    "Mix": "worker.adopt",
    "Network": "delays.network",
    **dict.fromkeys(("Kept", "Observer"), "runtimes.observer"),
    "Progress": "report.progress",
    "Ray": "runtimes.ray.runtime",
    "Recovery": "runtimes.recovery",
    "Replay": "runtimes.replay",
    "Result": "training.result",
    "Run": "checkpoint",
    "RunFolder": "checkpoint",
    "Server": "server.server",
    "Tape": "controller.tape",
    "TapeMismatch": "controller.errors",
    "Task": "runtimes.task",
    "Version": "runtimes.version",
    "Virtual": "runtimes.virtual",
    "Workload": "training.workload",
    "as_given": "mitigations.as_given",
    "chained": "training.configured",
    "check_contract": "controller",
    "configured": "training.configured",
    "load_params": "checkpoint",
    "make_nnx_step": "worker.nnx",
    "make_step": "worker.step",
    "outer": "mitigations",
    "read_run": "checkpoint",
    "read_tape": "controller.tape_file",
    "save_params": "checkpoint",
    "sweep": "training.sweep",
    "train": "training.train",
    "write_tape": "controller.tape_file",
}

__all__ = sorted([*_MODULES, *_NAMES])


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"jax_ssp.{_MODULES[name]}")
    if name in _NAMES:
        value = getattr(importlib.import_module(f"jax_ssp.{_NAMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'jax_ssp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
