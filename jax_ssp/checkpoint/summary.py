"""What is kept of a run's result, as facts for JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from jax_ssp.controller import check_contract
from jax_ssp.controller.tape import Tape
from jax_ssp.data.report import DataReport
from jax_ssp.runtimes.losses import Loss
from jax_ssp.runtimes.observer import Kept


class Spent(Protocol):
    """Where the time of a run went; see `jax_ssp.report.goodput`."""

    def facts(self) -> dict[str, Any]: ...


class Measured(Protocol):
    """What was measured of the outer optimizer; see `jax_ssp.report.outer`."""

    def facts(self) -> dict[str, Any]: ...


class Finished(Protocol):
    """What a run's folder keeps of its `Result`."""

    @property
    def tape(self) -> Tape: ...
    @property
    def params(self) -> Any: ...
    @property
    def residuals(self) -> Sequence[Any]: ...
    @property
    def history(self) -> Sequence[Mapping[str, Any]]: ...
    @property
    def evaluations(self) -> Sequence[Mapping[str, Any]]: ...
    @property
    def metrics(self) -> Mapping[str, float]: ...
    @property
    def kept(self) -> Mapping[str, Kept]: ...
    @property
    def remarks(self) -> Sequence[str]: ...
    @property
    def status(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def updates(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def samples(self) -> int: ...
    @property
    def samples_per_second(self) -> float: ...
    @property
    def tokens(self) -> int: ...
    @property
    def tokens_per_second(self) -> float: ...
    @property
    def version(self) -> int: ...
    @property
    def not_finite(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def wall_seconds(self) -> float: ...
    @property
    def data(self) -> DataReport: ...
    @property
    def computing(self) -> float: ...
    @property
    def resumes(self) -> int: ...
    @property
    def goodput(self) -> Spent: ...
    @property
    def outer(self) -> Measured | None: ...
    @property
    def losses(self) -> Sequence[Loss]: ...
    def draw(self, to: Path) -> None: ...


def extent(result: Finished) -> dict[str, Any]:
    """How far the tape goes, so that a reader can tell whether it is damaged."""
    return {"rows": len(result.tape), "complete": result.tape.complete}


def summarize(result: Finished) -> dict[str, Any]:
    """A result as JSON-able facts, the last evaluation's metrics among them."""
    report = check_contract(result.tape)
    return {
        "status": result.status,
        "reason": result.reason,
        "metrics": result.metrics,
        "policy": result.tape.header["policy"],
        "num_workers": result.tape.header["num_workers"],
        "updates": result.updates,
        "steps": result.steps,
        "samples": result.samples,
        "samples_per_second": result.samples_per_second,
        "tokens": result.tokens,
        "tokens_per_second": result.tokens_per_second,
        "versions": result.version,
        "dropped": report.dropped,
        "data": result.data.facts(),
        "cancelled": report.cancelled,
        "not_finite": result.not_finite,
        "passed_over": sum(row["passed_over"] for row in result.evaluations),
        "time": result.tape.header["time"],
        "seconds": result.seconds,
        "wall_seconds": result.wall_seconds,
        "computing": result.computing,
        "resumes": result.resumes,
        "goodput": result.goodput.facts(),
        **({} if result.outer is None else {"outer": result.outer.facts()}),
        "losses": [loss._asdict() for loss in result.losses],
        "mean_staleness": report.mean_staleness,
        "max_staleness": report.max_staleness,
        "max_lag": report.max_lag,
        "contract": "kept",
        "remarks": list(result.remarks),
        "kept": {name: dict(kept.about) for name, kept in result.kept.items()},
        "tape": extent(result),
    }
