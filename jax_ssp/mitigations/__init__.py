"""Mitigations: optax transforms on the server that read how stale a delta is, one file each.

One that is imported here is in the table of all, and so on the command line and in the contract
tests; but for what goes around a worker's own optimizer.
"""

import inspect
from collections.abc import Callable

import optax

from jax_ssp.mitigations.compensation import delay_compensation as delay_compensation
from jax_ssp.mitigations.drop import drop_stale as drop_stale
from jax_ssp.mitigations.elastic import elastic_average as elastic_average
from jax_ssp.mitigations.finite import skip_nonfinite as skip_nonfinite
from jax_ssp.mitigations.gap import scale_by_gap as scale_by_gap
from jax_ssp.mitigations.loss_scale import dynamic_loss_scale as dynamic_loss_scale
from jax_ssp.mitigations.loss_scale import loss_scale_of as loss_scale_of
from jax_ssp.mitigations.nesterov import delayed_nesterov as delayed_nesterov
from jax_ssp.mitigations.outer import outer as outer
from jax_ssp.mitigations.outliers import clip_outliers as clip_outliers
from jax_ssp.mitigations.staleness import scale_by_staleness as scale_by_staleness

_OF_WORKERS = (dynamic_loss_scale, loss_scale_of)

# Each at its defaults; `outer` has none, and is DiLoCo here.
ALL_MITIGATIONS: dict[str, Callable[[], optax.GradientTransformationExtraArgs]] = {
    **{
        name: each
        for name, each in sorted(globals().items())
        if inspect.isfunction(each) and each not in _OF_WORKERS
    },
    "outer": lambda: outer(optax.sgd(0.7, momentum=0.9, nesterov=True)),
}
