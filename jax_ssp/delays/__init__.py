"""Delay models: how long a clock takes, one idea a file."""

from jax_ssp.delays.base import CALL, LONGEST, Delay, DelayModel, check_delay
from jax_ssp.delays.fixed import Constant, PerWorker
from jax_ssp.delays.network import Network
from jax_ssp.delays.random import Exponential, LogNormal, Pareto, ShiftedExponential
from jax_ssp.delays.straggler import Straggler
from jax_ssp.delays.trace import FromTrace

__all__ = [
    "CALL",
    "LONGEST",
    "Constant",
    "Delay",
    "DelayModel",
    "Exponential",
    "FromTrace",
    "LogNormal",
    "Network",
    "Pareto",
    "PerWorker",
    "ShiftedExponential",
    "Straggler",
    "check_delay",
]
