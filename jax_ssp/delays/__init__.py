"""Delay models: how long a clock takes, one idea a file."""

from jax_ssp.delays.random import (
    CALL,
    LONGEST,
    Constant,
    Delay,
    DelayModel,
    Exponential,
    FromTrace,
    LogNormal,
    Pareto,
    PerWorker,
    ShiftedExponential,
    Straggler,
    check_delay,
)

__all__ = [
    "CALL",
    "LONGEST",
    "Constant",
    "Delay",
    "DelayModel",
    "Exponential",
    "FromTrace",
    "LogNormal",
    "Pareto",
    "PerWorker",
    "ShiftedExponential",
    "Straggler",
    "check_delay",
]
