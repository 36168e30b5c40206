"""Asynchronous parallel: nobody waits for anybody."""

from __future__ import annotations

from dataclasses import dataclass

from jax_ssp.policies.base import Policy


@dataclass(frozen=True)
class ASP(Policy):
    """Admit always, merge on arrival. Nothing bounds the staleness but the workers' speeds.

    Example:
        >>> ASP().guaranteed_bound is None
        True

    Reference:
        Recht et al. 2011, "Hogwild!", arXiv:1106.5730; Dean et al. 2012, "Large scale distributed
        deep networks", NeurIPS.
    """
