"""The folder a run leaves behind.

`config.json` what was run, and from which file; `tape.jsonl.gz` the tape; `metrics.jsonl` and
TensorBoard events; `params/` the last version; `summary.json` and `summary.png` what came of it.
The tape and the metrics are written while the run goes, so a run that dies leaves them up to there.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jax_ssp.checkpoint import save_params
from jax_ssp.controller import check_contract
from jax_ssp.controller.commands import Command
from jax_ssp.controller.events import Event
from jax_ssp.report.metrics import MetricsWriter
from jax_ssp.runtimes.base import Observer
from jax_ssp.tape import TapeWriter
from jax_ssp.training import Result

FLUSH_SECONDS = 2.0


class RunFolder(Observer):
    """Writes a run's folder while the run goes; `finish` adds what the result gives.

    The folder is made when the run starts: one that fails before leaves nothing behind.

    Args:
        path: the folder; it must not hold a run yet.
        config: what was run, as JSON-able facts.

    Raises:
        ValueError: if there is a run in it already.
    """

    def __init__(self, path: str | Path, config: Mapping[str, Any]) -> None:
        self.path = Path(path)
        if (self.path / "config.json").exists():
            raise ValueError(f"{self.path} holds a run already; give another `--workdir`.")
        self._config = config
        self._metrics: MetricsWriter | None = None
        self._tape: TapeWriter | None = None
        self._due = 0.0

    def on_start(self, info: Mapping[str, Any]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "config.json", self._config)
        self._metrics = MetricsWriter(self.path)
        self._metrics.on_start(info)
        # Rows of metrics go straight to their writer.
        self.on_clock = self._metrics.on_clock
        self.on_eval = self._metrics.on_eval
        self._tape = TapeWriter(self.path / "tape.jsonl.gz", info["tape"])
        self._due = time.monotonic() + FLUSH_SECONDS

    def on_entry(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        if time.monotonic() >= self._due and self._tape is not None:
            self._tape.flush()
            self._due = time.monotonic() + FLUSH_SECONDS

    def on_end(self, status: str) -> None:
        if self._metrics is not None:
            self._metrics.on_end(status)
        if self._tape is not None:
            self._tape.close()

    def finish(self, result: Result) -> dict[str, Any]:
        """Save the last version, the summary and its figure; gives the summary."""
        if result.params is not None:
            save_params(self.path, result.params)
        if result.residuals:
            save_params(self.path / "residuals", result.residuals)
        summary = summarize(result)
        write_json(self.path / "summary.json", summary)
        if len(result.schedule):
            from jax_ssp.report.plots import run_summary  # matplotlib only when it draws

            unit = f"{summary['time']} seconds"
            run_summary(result.schedule, result.evaluations, self.path / "summary.png", unit)
        return summary


def summarize(result: Result) -> dict[str, Any]:
    """A result as JSON-able facts, the last evaluation's metrics among them."""
    report = check_contract(result.tape)
    return {
        "status": result.status,
        **result.metrics,
        "policy": result.tape.header["policy"],
        "num_workers": result.tape.header["num_workers"],
        "updates": result.updates,
        "versions": result.version,
        "dropped": report.dropped,
        "cancelled": report.cancelled,
        "time": result.tape.header["time"],
        "seconds": result.seconds,
        "wall_seconds": result.wall_seconds,
        "computing": result.computing,
        "mean_staleness": report.mean_staleness,
        "max_staleness": report.max_staleness,
        "max_lag": report.max_lag,
        "contract": "kept",
        "tape": {"rows": len(result.tape), "complete": result.tape.complete},
    }


def write_json(path: Path, content: Mapping[str, Any], indent: int = 2) -> None:
    """Write strict JSON: what is not finite becomes null."""
    path.write_text(json.dumps(_strict(content), indent=indent, allow_nan=False) + "\n")


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _strict(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_strict(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
