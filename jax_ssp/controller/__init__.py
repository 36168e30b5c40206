"""The staleness controller and its contract. Standard library only: importing it imports no JAX."""

from jax_ssp.controller.commands import (
    Cancel,
    Drop,
    Fence,
    Merge,
    Merged,
    SetTimer,
    StartAhead,
    StartClock,
    StopWorker,
)
from jax_ssp.controller.contract import ContractReport, check_contract
from jax_ssp.controller.controller import Controller, Phase
from jax_ssp.controller.errors import ContractViolation, PolicyError, ProtocolError
from jax_ssp.controller.events import (
    DeltaReady,
    StopRequested,
    TimerFired,
    Token,
    WorkerDone,
    WorkerJoined,
    WorkerLost,
)

__all__ = [
    "Cancel",
    "ContractReport",
    "ContractViolation",
    "Controller",
    "DeltaReady",
    "Drop",
    "Fence",
    "Merge",
    "Merged",
    "Phase",
    "PolicyError",
    "ProtocolError",
    "SetTimer",
    "StartAhead",
    "StartClock",
    "StopRequested",
    "StopWorker",
    "TimerFired",
    "Token",
    "WorkerDone",
    "WorkerJoined",
    "WorkerLost",
    "check_contract",
]
