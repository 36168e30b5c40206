"""How a worker goes on whose last clock was not finite: from a snapshot, with nothing of that.

The delta itself is dropped by the controller. What the worker has beside it may be spoiled too: its
optimizer's state, what its wire has lost, and what it has run ahead on top.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_ssp.layout import Layout
from jax_ssp.leaves import named
from jax_ssp.placement import Place, Placement
from jax_ssp.trees import Params
from jax_ssp.worker.program import Program
from jax_ssp.worker.replica import Ahead, Part, Replica
from jax_ssp.worker.sliced import SlicedProgram

_MOST = 4  # leaves named


def renewed(
    replica: Replica, held: Params, program: Program | SlicedProgram, device: Place
) -> Replica:
    """A replica whose last clock was not finite, as it begins the next one.

    The step's state begins anew if anything in it is not finite that would be in a new one. What
    the wire has lost so far is forgotten, and nothing of the last clock is carried over. Steps that
    were run ahead of the next clock are made, but have moved nothing; what they measured was
    measured on what the bad clock had left, and is forgotten too.

    Args:
        replica: as that clock has left it.
        held: the parameters of the snapshot that it adopts.
        program: of its clocks.
        device: where it computes.
    """
    state, ahead = replica.state, replica.ahead
    fresh = Placement.of(device).put(program.init(held))
    if _is_spoiled(*map(program.states.unpacked, (state, fresh))):
        state = fresh
    if ahead is not None:
        unknown = dict.fromkeys(ahead.part.metrics, jnp.array(jnp.nan))
        part = ahead.part._replace(finite=jnp.array(True), metrics=unknown)
        ahead = Ahead(program.nothing(ahead.progress), part)
    residual = jax.tree.map(jnp.zeros_like, replica.residual)
    return replica._replace(
        base=None, delta=None, state=state, residual=residual, ahead=ahead, anew=False
    )


def made_ahead(ahead: Ahead | None, steps: int, anew: bool) -> list[Part]:
    """What is to be said of the steps of a clock that were run ahead of it.

    Args:
        ahead: these steps; None if there are none.
        steps: of the whole clock.
        anew: whether its worker was just renewed, so that they have moved nothing.
    """
    if ahead is None:
        return []
    others = anew and ahead.part.steps < steps  # which are measured
    return [ahead.part._replace(metrics={}) if others else ahead.part]


def _is_spoiled(state: Any, fresh: Any) -> bool:
    """Whether a number of a state is not finite, in a leaf that is when the state is new."""
    leaves = zip(jax.tree.leaves(state), jax.tree.leaves(fresh), strict=True)
    return any(_is_bad(here) and not _is_bad(new) for here, new in leaves)


def _is_bad(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact) and not bool(jnp.isfinite(leaf).all())


def not_finite(replica: Replica, layout: Layout) -> str:
    """The leaves of the delta of its last clock in which some number is not finite, in words."""
    leaves = {} if replica.delta is None else named("", layout.unpacked(replica.delta))
    bad = [name for name, leaf in leaves.items() if not np.isfinite(np.asarray(leaf)).all()]
    bad = [name.removesuffix(".move") for name in bad if not name.endswith(".value")]
    more = f" and {len(bad) - _MOST} more" if len(bad) > _MOST else ""
    return ", ".join(bad[:_MOST]) + more
