"""Synchronisation policies, one file each."""

from jax_ssp.policies.asp import ASP
from jax_ssp.policies.base import Decision, Delta, Policy, View, Wait
from jax_ssp.policies.bsp import BSP
from jax_ssp.policies.ssp import SSP

ALL_POLICIES: tuple[type[Policy], ...] = (ASP, BSP, SSP)
"""Every policy; each can be made without arguments. The contract tests run over this table."""

__all__ = ["ALL_POLICIES", "ASP", "BSP", "SSP", "Decision", "Delta", "Policy", "View", "Wait"]
