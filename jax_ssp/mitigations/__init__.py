"""Mitigations: optax transforms on the server that read how stale a delta is, one file each."""

from jax_ssp.mitigations.staleness import scale_by_staleness

__all__ = ["scale_by_staleness"]
