"""What the optimizers of a run have come to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import optax

from jax_ssp.layout import Layout


class States(NamedTuple):
    """What the optimizers of a run have come to, from which parameters to evaluate may follow.

    A version comes of all workers, so what follows from one's own state is taken of their mean. Of
    a run that failed within a program, what that program had taken over is None.

    Attributes:
        workers: of each worker its own state, as the step's `init` gives it: the optimizer's; of
            an nnx model, an `NnxState` with it.
        server: of `server_tx`; where the parameters are split over devices, a tuple, one each.
        deltas: of `delta_tx`, likewise.

    Example:
        >>> import jax.numpy as jnp, numpy as np, jax_ssp as ssp
        >>> result = ssp.train(
        ...     ssp.make_step(
        ...         lambda params, batch, key: ((params["w"] - batch) ** 2, {}),
        ...         optax.contrib.schedule_free_sgd(0.2),
        ...     ),
        ...     params={"w": jnp.float32(0)},
        ...     data=lambda worker: iter([np.float32(1)] * 99),
        ...     runtime=ssp.Virtual(num_workers=2),
        ...     num_clocks=99,
        ... )
        >>> mean = jax.tree.map(lambda *each: sum(each) / len(each), *result.states.workers)
        >>> averaged = optax.contrib.schedule_free_eval_params(mean, result.params)
        >>> round(float(averaged["w"]), 2)
        1.0
    """

    workers: list[Any]
    server: optax.OptState
    deltas: optax.OptState

    @classmethod
    def of(cls, workers: Iterable[Any], layout: Layout, server: Any, deltas: Any) -> States:
        """The states; None in place of one that a program took over before it failed.

        Args:
            workers: theirs, as they lie between programs.
            layout: says how that is.
            server, deltas: of the server.
        """
        left = map(_left, workers)
        seen = [each if each is None else layout.unpacked(each) for each in left]
        return cls(seen, _left(server), _left(deltas))


def _left(state: Any) -> Any:
    leaves = jax.tree.leaves(state)
    gone = any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in leaves)
    return None if gone else state
