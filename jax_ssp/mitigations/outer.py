"""The delta as a gradient: any optax optimizer as the server's."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jax_ssp.mitigations._shared import check_transform
from jax_ssp.pairs import on_pairs


def outer(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    r"""Give a delta to an optimizer as its gradient.

    With delta :math:`\Delta` the optimizer gets the pseudo-gradient :math:`g = -\Delta`, and what
    it answers is applied. `outer(optax.sgd(1.0))` changes nothing; `outer(optax.sgd(0.7,
    momentum=0.9, nesterov=True))` is DiLoCo, `outer(optax.adam(1e-2))` is FedAdam.

    A `server_tx`: momenta then see each merge once.

    Args:
        optimizer: from gradients to updates, as `optax.sgd` and `optax.adam` are.

    Returns:
        A transform with the state of the optimizer, which is given all extra arguments that it can
        take.

    Raises:
        TypeError: if `optimizer` is not an optax optimizer.

    Example:
        >>> transform = outer(optax.sgd(0.5, momentum=0.5))
        >>> delta = jnp.array([4.0])
        >>> state = transform.init(delta)
        >>> for _ in range(3):
        ...     applied, state = transform.update(delta, state)
        ...     print(applied.tolist())
        [2.0]
        [3.0]
        [3.5]

    Reference:
        Douillard et al. 2023, "DiLoCo: distributed low-communication training of language models",
        arXiv:2311.08105. Reddi et al. 2020, "Adaptive federated optimization", arXiv:2003.00295.
    """
    inner = check_transform("outer(optimizer)", optimizer, "an optax optimizer")

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        gradients = jax.tree.map(jnp.negative, updates)
        return inner.update(gradients, state, params, **extra_args)

    return on_pairs(optax.GradientTransformationExtraArgs(inner.init, update))
