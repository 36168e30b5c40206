"""The moving average of the versions of a run."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jax_ssp import checks
from jax_ssp.leaves import named, tree_named
from jax_ssp.runtimes.observer import Kept, Observer
from jax_ssp.runtimes.version import Version
from jax_ssp.trees import Params, copied, shapes_of

_READING = threading.Lock()  # an average takes over the memory of the one before (of any `Ema`)


@dataclass(eq=False)
class Ema(Observer):
    r"""Keeps an exponential moving average of the parameters, over rounds.

    It begins with version 0; at the first version that is :math:`k \ge 1` rounds after the last,

    .. math:: \bar\theta \leftarrow d^k \bar\theta + (1 - d^k) \theta

    A round is as many samples as one synchronous step of all workers, so the average looks back as
    far under every policy; under `BSP` it is that of a plain loop which averages after each step.
    It is kept in at least float32. What is only averaged (BatchNorm statistics) is part of it like
    the rest. The run's folder gets it as `ema/`.

    Args:
        decay: d, at least 0 and less than 1: it looks back on about 1 / (1 - d) rounds.

    Raises:
        TypeError, ValueError: if `decay` is not such a number.

    Example:
        >>> import numpy as np, optax, jax_ssp as ssp
        >>> ema = ssp.Ema(decay=0.9)
        >>> result = ssp.train(
        ...     ssp.make_step(lambda p, batch, key: ((p["w"] - batch) ** 2, {}), optax.sgd(0.1)),
        ...     params={"w": jnp.float32(0)},
        ...     data=lambda worker: iter([np.float32(1)] * 20),
        ...     policy=ssp.BSP(),
        ...     runtime=ssp.Virtual(num_workers=2),
        ...     num_clocks=20,
        ...     observers=[ema],
        ... )
        >>> round(float(result.params["w"]), 2), round(float(ema.params["w"]), 2)
        (0.99, 0.79)

    Reference:
        Polyak and Juditsky 1992, "Acceleration of stochastic approximation by averaging".
    """

    decay: float

    def __post_init__(self) -> None:
        checks.put(self, "decay", checks.number, least=0, most=1)
        if self.decay == 1:
            got = checks.shown(self.decay)
            raise ValueError(f"`Ema(decay=...)` must be less than 1 to move at all, got {got}.")
        self._forget()

    def _forget(self) -> None:
        self._average: Params | None = None
        self._like: Params = None  # the parameters' shapes and dtypes
        self._round = 0

    @property
    def params(self) -> Params | None:
        """The average in the parameters' dtypes, a copy; None before a run. Any thread may ask."""
        with _READING:
            if self._average is None:
                return None
            return jax.tree.map(
                lambda leaf, like: jnp.array(leaf, like.dtype), self._average, self._like
            )

    def kept(self) -> Kept | None:
        if self._average is None:
            return None
        return Kept("ema", self.params, {"decay": self.decay, "round": self._round})

    def get_state(self) -> Mapping[str, Any] | None:
        if self._average is None:
            return None
        with _READING:
            return {"round": self._round, **named("average", copied(self._average))}

    def set_state(self, state: Mapping[str, Any], version: Version) -> None:
        self._average = tree_named("average", version.masters, state)
        self._like = shapes_of("params", version.params)
        self._round = state["round"]

    def on_start(self, info: Any) -> None:
        self._forget()

    def on_version(self, version: Version) -> None:
        if self._average is None:
            self._average = jax.tree.map(jnp.copy, version.masters)
            self._like = shapes_of("params", version.params)
            self._round = version.round  # later than 0 where the run went on without it before
        elif version.round > self._round:
            kept = self.decay ** (version.round - self._round)
            with _READING:
                self._average = _averaged(self._average, version.masters, kept, 1 - kept)
            self._round = version.round


@jax.jit(donate_argnums=0)
def _averaged(average: Params, params: Params, kept: float, new: float) -> Params:
    return jax.tree.map(lambda a, p: kept * a + new * p, average, params)
