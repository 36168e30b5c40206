"""Synchronisation policies, one file each, and the schedules of local steps."""

from jax_ssp.policies.asp import ASP
from jax_ssp.policies.backup import BackupWorkers
from jax_ssp.policies.base import Decision, Delta, Policy, View, Wait
from jax_ssp.policies.bsp import BSP
from jax_ssp.policies.dssp import DSSP
from jax_ssp.policies.fedbuff import FedBuff
from jax_ssp.policies.kasync import KAsync
from jax_ssp.policies.kbatchasync import KBatchAsync
from jax_ssp.policies.kbatchsync import KBatchSync
from jax_ssp.policies.ksync import KSync
from jax_ssp.policies.local_steps import DyLU, Fixed, LocalSteps, PostLocal, as_schedule
from jax_ssp.policies.psp import PSP
from jax_ssp.policies.quorum import Quorum
from jax_ssp.policies.rennala import Rennala
from jax_ssp.policies.ringmaster import Ringmaster
from jax_ssp.policies.softsync import Softsync
from jax_ssp.policies.ssp import SSP
from jax_ssp.policies.vap import VAP

ALL_POLICIES: tuple[type[Policy], ...] = (
    ASP,
    BSP,
    SSP,
    DSSP,
    PSP,
    VAP,
    KSync,
    KAsync,
    KBatchSync,
    KBatchAsync,
    Softsync,
    BackupWorkers,
    Ringmaster,
    Rennala,
    Quorum,
    FedBuff,
)
"""Every policy; each can be made without arguments. The contract tests run over this table."""

ALL_SCHEDULES: tuple[type[LocalSteps], ...] = (Fixed, PostLocal, DyLU)
"""Every schedule of local steps; each can be made without arguments."""

__all__ = [
    "ALL_POLICIES",
    "ALL_SCHEDULES",
    "ASP",
    "BSP",
    "DSSP",
    "PSP",
    "SSP",
    "VAP",
    "BackupWorkers",
    "Decision",
    "Delta",
    "DyLU",
    "FedBuff",
    "Fixed",
    "KAsync",
    "KBatchAsync",
    "KBatchSync",
    "KSync",
    "LocalSteps",
    "Policy",
    "PostLocal",
    "Quorum",
    "Rennala",
    "Ringmaster",
    "Softsync",
    "View",
    "Wait",
    "as_schedule",
]
