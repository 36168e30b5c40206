"""The best version of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jax_ssp import checks
from jax_ssp.leaves import named, tree_named
from jax_ssp.runtimes.metric import Mode, check_mode, is_better, value_of
from jax_ssp.runtimes.observer import Kept, Observer
from jax_ssp.runtimes.version import Version
from jax_ssp.trees import Params


@dataclass(eq=False)
class Best(Observer):
    """Keeps the parameters of the version whose evaluation was the best.

    Of equal ones it is the first; NaN is never the best. Each clock is evaluated by default, as
    with a target. The run's folder gets it as `best/`.

    Args:
        metric: a metric that `evaluate` gives.
        mode: "max" or "min", what is better; by default "min" where the metric's name has "loss",
            "error", "perplexity" or "nll" in it, else "max".

    Raises:
        TypeError, ValueError: if one of them cannot be that; and from the run, before its first
            clock, if it does not evaluate, or `evaluate` does not give the metric.

    Example:
        >>> import jax.numpy as jnp, numpy as np, optax, jax_ssp as ssp
        >>> best = ssp.Best("distance", mode="min")
        >>> result = ssp.train(
        ...     ssp.make_step(lambda p, batch, key: (p["w"] * batch, {}), optax.sgd(0.25)),
        ...     params={"w": jnp.float32(1)},
        ...     data=lambda worker: iter([np.float32(1)] * 8),
        ...     evaluate=lambda params: {"distance": abs(params["w"])},
        ...     runtime=ssp.Virtual(num_workers=1),
        ...     num_clocks=8,
        ...     observers=[best],
        ... )
        >>> best.version, best.value, float(best.params["w"]), float(result.params["w"])
        (4, 0.0, 0.0, -1.0)
    """

    metric: str
    mode: Mode = None
    needs_evaluation = True

    def __post_init__(self) -> None:
        checks.put(self, "metric", checks.text)
        checks.put(self, "mode", check_mode)
        self._forget()

    def _forget(self) -> None:
        self.params: Params | None = None
        self.version: int | None = None
        self.value: float | None = None

    def kept(self) -> Kept | None:
        if self.params is None:
            return None
        about = {"metric": self.metric, "value": self.value, "version": self.version}
        return Kept("best", self.params, about)

    def check_evaluation(self, metrics: Any) -> None:
        value_of("Best(metric=...)", self.metric, metrics)

    def get_state(self) -> Mapping[str, Any] | None:
        if self.params is None or self.value is None:
            return None
        about = {"version": self.version, "value": self.value.hex()}
        return {**about, **named("params", self.params)}

    def set_state(self, state: Mapping[str, Any], version: Version) -> None:
        self.params = tree_named("params", version.params, state)
        self.version, self.value = state["version"], float.fromhex(state["value"])

    def on_start(self, info: Any) -> None:
        self._forget()

    def on_evaluated(self, version: Version, row: Any) -> None:
        value = value_of("Best(metric=...)", self.metric, row["metrics"])
        if value == value and (
            self.value is None or is_better(self.metric, self.mode, value, self.value)
        ):
            self.params, self.version, self.value = version.params, version.version, value
