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
from jax_ssp.controller.controller import Controller
from jax_ssp.controller.ends import Ends
from jax_ssp.controller.errors import (
    ContractViolation,
    PolicyError,
    ProtocolError,
    TapeMismatch,
)
from jax_ssp.controller.events import (
    DeltaReady,
    Resumed,
    StopRequested,
    TimerFired,
    Token,
    WorkerDone,
    WorkerJoined,
    WorkerLost,
)
from jax_ssp.controller.roster import Phase

__all__ = [
    "Cancel",
    "ContractReport",
    "ContractViolation",
    "Controller",
    "DeltaReady",
    "Drop",
    "Ends",
    "Fence",
    "Merge",
    "Merged",
    "Phase",
    "PolicyError",
    "ProtocolError",
    "Resumed",
    "SetTimer",
    "StartAhead",
    "StartClock",
    "StopRequested",
    "StopWorker",
    "TapeMismatch",
    "TimerFired",
    "Token",
    "WorkerDone",
    "WorkerJoined",
    "WorkerLost",
    "check_contract",
]
