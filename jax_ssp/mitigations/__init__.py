"""Mitigations: optax transforms on the server that read how stale a delta is, one file each."""

from collections.abc import Callable

import optax

from jax_ssp.mitigations.compensation import delay_compensation
from jax_ssp.mitigations.drop import drop_stale
from jax_ssp.mitigations.elastic import elastic_average
from jax_ssp.mitigations.finite import skip_nonfinite
from jax_ssp.mitigations.gap import scale_by_gap
from jax_ssp.mitigations.nesterov import delayed_nesterov
from jax_ssp.mitigations.outer import outer
from jax_ssp.mitigations.outliers import clip_outliers
from jax_ssp.mitigations.staleness import scale_by_staleness

__all__ = [
    "ALL_MITIGATIONS",
    "clip_outliers",
    "delay_compensation",
    "delayed_nesterov",
    "drop_stale",
    "elastic_average",
    "outer",
    "scale_by_gap",
    "scale_by_staleness",
    "skip_nonfinite",
]

# Each at its defaults; `outer` has none, and is DiLoCo here.
ALL_MITIGATIONS: dict[str, Callable[[], optax.GradientTransformationExtraArgs]] = {
    "clip_outliers": clip_outliers,
    "delay_compensation": delay_compensation,
    "delayed_nesterov": delayed_nesterov,
    "drop_stale": drop_stale,
    "elastic_average": elastic_average,
    "outer": lambda: outer(optax.sgd(0.7, momentum=0.9, nesterov=True)),
    "scale_by_gap": scale_by_gap,
    "scale_by_staleness": scale_by_staleness,
    "skip_nonfinite": skip_nonfinite,
}
