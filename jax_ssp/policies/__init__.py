"""Synchronisation policies, one file each, and the schedules of local steps.

A policy that is imported here is in the table of all, and so on the command line, in `jax_ssp`, and
in the contract tests.
"""

from jax_ssp.policies.asp import ASP as ASP
from jax_ssp.policies.backup import BackupWorkers as BackupWorkers
from jax_ssp.policies.base import Policy as Policy
from jax_ssp.policies.bsp import BSP as BSP
from jax_ssp.policies.decision import Decision as Decision
from jax_ssp.policies.decision import Wait as Wait
from jax_ssp.policies.decoupled import Decoupled as Decoupled
from jax_ssp.policies.dssp import DSSP as DSSP
from jax_ssp.policies.fedbuff import FedBuff as FedBuff
from jax_ssp.policies.kasync import KAsync as KAsync
from jax_ssp.policies.kbatchasync import KBatchAsync as KBatchAsync
from jax_ssp.policies.kbatchsync import KBatchSync as KBatchSync
from jax_ssp.policies.ksync import KSync as KSync
from jax_ssp.policies.psp import PSP as PSP
from jax_ssp.policies.quorum import Quorum as Quorum
from jax_ssp.policies.rennala import Rennala as Rennala
from jax_ssp.policies.ringmaster import Ringmaster as Ringmaster
from jax_ssp.policies.schedules import DyLU as DyLU
from jax_ssp.policies.schedules import Fixed as Fixed
from jax_ssp.policies.schedules import LocalSteps as LocalSteps
from jax_ssp.policies.schedules import PostLocal as PostLocal
from jax_ssp.policies.schedules import as_schedule as as_schedule
from jax_ssp.policies.softsync import Softsync as Softsync
from jax_ssp.policies.ssp import SSP as SSP
from jax_ssp.policies.vap import VAP as VAP
from jax_ssp.policies.view import Delta as Delta
from jax_ssp.policies.view import Pushed as Pushed
from jax_ssp.policies.view import View as View

_CLASSES = [each for each in tuple(globals().values()) if isinstance(each, type)]

ALL_POLICIES: tuple[type[Policy], ...] = tuple(
    each for each in _CLASSES if issubclass(each, Policy) and each is not Policy
)
"""Every policy; each can be made without arguments. The contract tests run over this table."""

ALL_SCHEDULES: tuple[type[LocalSteps], ...] = tuple(
    each for each in _CLASSES if issubclass(each, LocalSteps) and each is not LocalSteps
)
"""Every schedule of local steps; each can be made without arguments."""
