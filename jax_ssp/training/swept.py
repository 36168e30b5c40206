"""What came of a sweep: its runs as their folders have them, and the comparison."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jax_ssp.checkpoint.agreement import flat
from jax_ssp.checkpoint.claim import OVER, TAPE, resumable
from jax_ssp.checkpoint.run_reader import Run
from jax_ssp.checkpoint.sweep_folder import OUTPUT
from jax_ssp.failures import AGAIN, BUG, INTERRUPTED, USAGE
from jax_ssp.report.sweep import compare
from jax_ssp.report.tables import markdown_table

if TYPE_CHECKING:
    from jax_ssp.training.experiment import Experiment


@dataclass(frozen=True)
class SweptRun:
    """A run of a sweep, and how it ended.

    Attributes:
        name, seed: of its experiment.
        folder: of the run.
        status: as of `Result.status`; or "failed", "refused" (it could not begin as it was given),
            "killed by SIGKILL" or another signal, "not run" (the sweep was interrupted before).
        error: what it failed by, in a line; empty if it did not.
        run: what is in its folder; None if it did not begin.
    """

    name: str
    seed: int
    folder: Path
    status: str
    error: str = ""
    run: Run | None = None

    @property
    def failed(self) -> bool:
        """Whether something went wrong that is no end of a run."""
        return self.status in ("failed", "refused") or self.status.startswith("killed")

    @property
    def log(self) -> Path | None:
        """What its process printed; None if it had none, or printed nothing."""
        file = self.folder / OUTPUT
        return file if file.exists() and file.stat().st_size else None

    @property
    def said(self) -> str:
        """How it ended, in a line."""
        if self.failed or self.error:
            where = f" (see {self.log})" if self.log else ""
            return f"{self.status}: {self.error or 'nothing more is known'}{where}"
        parts = [self.status]
        if self.run is not None and self.run.summary is not None:
            parts += [f"{name} {_number(value)}" for name, value in _metrics(self.run)]
        return ", ".join(parts)


@dataclass(frozen=True)
class SweepResult:
    """What a sweep came to.

    Attributes:
        folder: of the sweep; `comparison.png`, `.md` and `.json` are in it.
        members: its runs, in the order they were given in.
        rows: one a name, the best first: the means over its seeds, of metrics the medians.
    """

    folder: Path
    members: list[SweptRun]
    rows: list[dict[str, Any]] = field(repr=False)

    @classmethod
    def of(cls, folder: Path, members: list[SweptRun]) -> SweepResult:
        """Compare runs, in the sweep's folder."""
        about = [_about(member) for member in members if member.status != "not run"]
        title = titled([member.run for member in members if member.run is not None])
        return cls(folder, members, compare(about, folder, title) if about else [])

    @property
    def runs(self) -> list[Run]:
        """Those that began, as their folders have them."""
        return [member.run for member in self.members if member.run is not None]

    @property
    def failed(self) -> list[SweptRun]:
        """Those in which something went wrong; one that diverged is none of them."""
        return [member for member in self.members if member.failed or member.error]

    @property
    def interrupted(self) -> bool:
        """Whether it was interrupted: not all of it was run to its end."""
        return any(member.status in ("interrupted", "not run") for member in self.members)

    @property
    def resumable(self) -> bool:
        """Whether it has come to something from which it goes on in the same folder."""
        return any(member.status in OVER or resumable(member.folder) for member in self.members)

    def summary(self) -> str:
        """The table of its runs, in Markdown, and what went wrong."""
        lines = [markdown_table(self.rows)] if self.rows else []
        lines += [f"{each.name}, seed {each.seed}: {each.said}" for each in self.failed]
        return "\n".join([*lines, f"{len(self.members)} runs in {self.folder}"])


def read(experiment: Experiment, run: Run) -> SweptRun:
    """A run that was over before."""
    contract = "kept" if run.summary is None else run.summary.get("contract", "kept")
    error = "" if contract == "kept" else contract
    return SweptRun(experiment.name, experiment.seed, run.path, run.status, error, run)


def swept(experiment: Experiment, folder: Path, code: int | None, error: str = "") -> SweptRun:
    """How a run ended, by its folder and by its process.

    Args:
        experiment: that was run.
        folder: its folder.
        code: the exit code; minus the number of a signal that killed it; None if it was not run.
        error: what it failed by, where that is known.
    """
    about = {"name": experiment.name, "seed": experiment.seed, "folder": folder}
    if code is None:
        with contextlib.suppress(OSError):
            folder.rmdir()  # there is nothing in it
        return SweptRun(**about, status="not run")
    run = Run.read(folder) if (folder / TAPE).is_file() else None
    summary = None if run is None else run.summary
    status = "failed" if summary is None else summary["status"]
    if code < 0:
        status = f"killed by {signal.Signals(-code).name}"
        memory = " (did its memory run out?)" if code == -signal.SIGKILL else ""
        return SweptRun(**about, status=status, error=f"its process was ended{memory}", run=run)
    if summary is None:
        status = "interrupted" if code in (INTERRUPTED, AGAIN) else "failed"
        status = "refused" if code == USAGE else status
    if code in (BUG, USAGE):
        said = error or (summary or {}).get("error") or _last_error(folder / OUTPUT)
        return SweptRun(**about, status=status, error=said or f"exit code {code}", run=run)
    return SweptRun(**about, status=status, run=run)


def _last_error(log: Path) -> str:
    """The last error that a process has printed."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 100_000))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    named = [line for line in lines if line.startswith("error: ")]
    told = named or [line for line in lines if line.strip()]
    return told[-1].removeprefix("error: ")[:300] if told else ""


def _about(member: SweptRun) -> dict[str, Any]:
    """What the comparison is made from."""
    run, about = member.run, {"name": member.name, "seed": member.seed}
    about |= {"status": member.status, "folder": member.folder.name}
    if run is None or run.summary is None or "seconds" not in run.summary:
        log = member.log
        return {**about, "error": member.error, "log": str(log) if log else None}
    try:
        evaluations = run.evaluations
    except ValueError:  # the rows are damaged, or not there
        evaluations = []
    target = run.config.get("experiment", {}).get("target")
    more = {} if target is None else {"target": target}
    return {**about, **more, "summary": run.summary, "evaluations": evaluations}


def titled(runs: Sequence[Run]) -> str | None:
    """The workload, what varies between the runs, and how many seeds; None if nobody knows."""
    facts = [flat(run.config.get("experiment", {})) for run in runs]
    workloads = {str(each.get("workload.type")).rpartition(".")[2] for each in facts}
    names = dict.fromkeys(name for each in facts for name in each)
    varying = [
        name
        for name in names
        if name not in ("name", "seed", "runtime.seed")
        and len({repr(each.get(name)) for each in facts}) > 1
    ]
    kinds = [name.removesuffix(".type") for name in varying if name.endswith(".type")]
    varying = [name for name in varying if not any(name.startswith(f"{kind}.") for kind in kinds)]
    what = list(dict.fromkeys([*kinds, *varying]))
    if len(what) > 3:
        what = list(dict.fromkeys(name.partition(".")[0] for name in what))
    seeds = len({each.get("seed") for each in facts})
    parts = [", ".join(sorted(workloads - {"None"}))]
    parts += [f"{_listed(what)} {'varies' if len(what) == 1 else 'vary'}"] if what else []
    parts += [f"{seeds} seeds"] if seeds > 1 else []
    return " · ".join(part for part in parts if part) or None


def _listed(names: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _metrics(run: Run) -> Sequence[tuple[str, Any]]:
    assert run.summary is not None
    return list(run.summary["metrics"].items())[:3]


def _number(value: object) -> str:
    from jax_ssp.report.tables import format_number

    return format_number(value) or "not finite"
