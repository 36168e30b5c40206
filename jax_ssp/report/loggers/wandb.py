"""Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from jax_ssp import checks
from jax_ssp.report.loggers.base import Logger

MODES = ("online", "offline", "disabled")


@dataclass(eq=False, kw_only=True)
class WandB(Logger):
    """Sends a run's numbers to Weights & Biases, behind a queue; needs the extra `wandb`.

    What is known of the run is its `config` there; all numbers are against `updates`. See `Logger`
    for what is sent, when, and what becomes of it if the tracker is slow or fails.

    Args:
        project: that the run belongs to; by default wandb's own.
        name: of the run there; by default its name here.
        mode: "online", "offline" (files are written, for `wandb sync`) or "disabled"; by default as
            wandb's environment says.
        folder: where wandb puts its files; by default `wandb/` in the working folder.
        more: what else `wandb.init` takes, such as `{"group": "sweep", "tags": ["digits"]}`.
        interval, most_waiting, patience: see `Logger`.

    Raises:
        TypeError, ValueError: if one of them cannot be that.
        ImportError: from the run, before anything is trained, if wandb is not installed.

    Example:
        >>> WandB(project="digits", mode="offline").project
        'digits'
    """

    project: str | None = None
    name: str | None = None
    mode: Literal["online", "offline", "disabled"] | None = None
    folder: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    package = "wandb"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("project", "name", "folder"):
            checks.put(self, name, checks.optional, checks.text)
        checks.put(self, "mode", checks.optional, _mode)
        checks.put(self, "more", checks.instance, Mapping, "a dict of arguments of `wandb.init`")
        self._run: Any = None

    def open(self, about: Mapping[str, Any]) -> None:
        wandb = self.imported()
        given = {
            "project": self.project,
            "name": self.name or about["name"],
            "mode": self.mode,
            "dir": self.folder,
        }
        given = {name: value for name, value in given.items() if value is not None}
        self._run = wandb.init(config=dict(about), **{**given, **self.more})
        self._run.define_metric("*", step_metric="updates")

    def log(self, values: Mapping[str, float], updates: int) -> None:
        self._run.log({**values, "updates": updates})

    def shut(self, status: str) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.summary["status"] = status
            run.finish(exit_code=1 if status in ("failed", "diverged") else 0)


def _mode(field: str, value: Any) -> str:
    return checks.choice(field, value, MODES)
