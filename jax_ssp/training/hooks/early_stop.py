"""The end of a run that gets no better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jax_ssp import checks
from jax_ssp.runtimes.metric import Mode, check_mode, is_better, value_of
from jax_ssp.runtimes.observer import Observer
from jax_ssp.runtimes.version import Version


@dataclass(eq=False)
class EarlyStop(Observer):
    """Ends a run once evaluations have got no better for so many in a row.

    NaN counts as no better. Each clock is evaluated by default, as with a target. On real devices
    set `eval_waits` to have it end the run at the version which was evaluated, as virtual time
    does; without, some more are made while it is evaluated.

    Args:
        metric: a metric that `evaluate` gives.
        patience: evaluations in a row, at least 1, after which it ends the run.
        mode: "max" or "min", what is better; by default "min" where the metric's name has "loss",
            "error", "perplexity" or "nll" in it, else "max".
        min_delta: what is better by this much or less is no better.

    Raises:
        TypeError, ValueError: if one of them cannot be that; and from the run, before its first
            clock, if it does not evaluate, or `evaluate` does not give the metric.

    Example:
        >>> import jax.numpy as jnp, numpy as np, optax, jax_ssp as ssp
        >>> result = ssp.train(
        ...     ssp.make_step(lambda p, batch, key: ((p["w"] - batch) ** 2, {}), optax.sgd(0.5)),
        ...     params={"w": jnp.float32(0)},
        ...     data=lambda worker: iter([np.float32(1)] * 100),
        ...     evaluate=lambda params: {"loss": (params["w"] - 1) ** 2},
        ...     runtime=ssp.Virtual(num_workers=1),
        ...     num_clocks=100,
        ...     observers=[ssp.EarlyStop("loss", patience=3)],
        ... )
        >>> result.status, result.version
        ('early', 5)
        >>> result.reason
        'loss has been no better than 0 for 3 evaluations'
    """

    metric: str
    patience: int
    mode: Mode = None
    min_delta: float = 0.0
    needs_evaluation = True

    def __post_init__(self) -> None:
        checks.put(self, "metric", checks.text)
        checks.put(self, "patience", checks.integer, least=1)
        checks.put(self, "mode", check_mode)
        checks.put(self, "min_delta", checks.number, least=0)
        self._forget()

    def _forget(self) -> None:
        self._best: float | None = None
        self._since = 0

    def check_evaluation(self, metrics: Any) -> None:
        value_of("EarlyStop(metric=...)", self.metric, metrics)

    def get_state(self) -> Mapping[str, Any]:
        best = None if self._best is None else self._best.hex()
        return {"best": best, "since": self._since}

    def set_state(self, state: Mapping[str, Any], version: Version) -> None:
        best = state["best"]
        self._best, self._since = None if best is None else float.fromhex(best), state["since"]

    def on_start(self, info: Any) -> None:
        self._forget()

    def on_eval(self, row: Any) -> None:
        value, best = value_of("EarlyStop(metric=...)", self.metric, row["metrics"]), self._best
        first = best is None and value == value
        if first or is_better(self.metric, self.mode, value, best or 0.0, self.min_delta):
            self._best, self._since = value, 0
            return
        self._since += 1
        if self._since >= self.patience:
            than = "no number" if best is None else f"no better than {best:.6g}"
            self.stop(f"{self.metric} has been {than} for {self.patience} evaluations")
