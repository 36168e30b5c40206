"""MLflow."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jax_ssp import checks
from jax_ssp.report.loggers.base import Logger

_LONGEST = 500  # letters of a parameter, in any version
_ENDED = {"failed": "FAILED", "diverged": "FAILED", "interrupted": "KILLED"}


@dataclass(eq=False, kw_only=True)
class MLflow(Logger):
    """Sends a run's numbers to MLflow, behind a queue; needs the extra `mlflow`.

    What is known of the run are its parameters there, and its status a tag; the step of a metric is
    `updates`. It touches no run that MLflow has active. See `Logger` for what is sent, when, and
    what becomes of it if the tracker is slow or fails.

    Args:
        experiment: that the run belongs to; it is made if there is none.
        name: of the run there; by default its name here.
        tracking_uri: of the store, such as "sqlite:///mlflow.db" or a server's; by default as
            MLflow's environment says.
        tags: of the run.
        interval, most_waiting, patience: see `Logger`.

    Raises:
        TypeError, ValueError: if one of them cannot be that.
        ImportError: from the run, before anything is trained, if MLflow is not installed.

    Example:
        >>> MLflow(experiment="digits", tracking_uri="sqlite:///runs.db").experiment
        'digits'
    """

    experiment: str = "jax_ssp"
    name: str | None = None
    tracking_uri: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    package = "mlflow"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.put(self, "experiment", checks.text)
        for name in ("name", "tracking_uri"):
            checks.put(self, name, checks.optional, checks.text)
        checks.put(self, "tags", checks.instance, Mapping, "a dict of strings")
        self._client: Any = None
        self._id: str | None = None

    def open(self, about: Mapping[str, Any]) -> None:
        mlflow = self.imported()
        self._client = client = mlflow.MlflowClient(tracking_uri=self.tracking_uri)
        found = client.get_experiment_by_name(self.experiment)
        there = client.create_experiment(self.experiment) if found is None else found.experiment_id
        tags = {name: str(value) for name, value in self.tags.items()}
        run = client.create_run(there, run_name=self.name or about["name"], tags=tags)
        self._id = run.info.run_id
        for name, value in about.items():
            text = value if isinstance(value, str) else json.dumps(value, default=repr)
            client.log_param(self._id, name, text[:_LONGEST])

    def log(self, values: Mapping[str, float], updates: int) -> None:
        metric, now = self.imported().entities.Metric, int(1000 * time.time())
        points = [metric(_name(name), value, now, updates) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=points)

    def shut(self, status: str) -> None:
        number, self._id = self._id, None
        if number is not None:
            self._client.set_tag(number, "ssp_status", status)
            self._client.set_terminated(number, _ENDED.get(status, "FINISHED"))


def _name(name: str) -> str:
    """A metric's name of the letters that MLflow takes."""
    return "".join(letter if letter.isalnum() or letter in "_-./ " else "_" for letter in name)
