"""The one reader of run folders: for the command line, for sweeps, reports, tests and notebooks.

A folder may be damaged, cut short, somebody else's, or written by another version. Each part is
read and checked when it is first asked for, so that a run of which only the tape is left can still
be verified; what is wrong is an error of one line that names the file and what to do.
"""

from __future__ import annotations

import contextlib
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jax_ssp import checks
from jax_ssp.checkpoint.card import Card, heading, rows_of, safely
from jax_ssp.checkpoint.claim import (
    BEFORE,
    CONFIG,
    FORMAT,
    MANIFEST,
    METRICS,
    PICTURE,
    SUMMARY,
    TAPE,
)
from jax_ssp.checkpoint.metrics import read_metrics
from jax_ssp.checkpoint.terms import terms_of
from jax_ssp.checkpoint.torn import torn
from jax_ssp.controller.header import check_header
from jax_ssp.controller.tape import Tape
from jax_ssp.controller.tape_file import read_tape
from jax_ssp.records import RECORD, TEXT, TRUTH, check_record, read_record, short, whole
from jax_ssp.runtimes.observer import OF_THE_RUN

if TYPE_CHECKING:
    import numpy as np

_SUMMARY = {"status": TEXT, "metrics": RECORD, "tape": RECORD}
_SUMMARY_OF_TAPE = {"rows": whole(0), "complete": TRUTH}


class Run:
    """What a run has left in its folder; `Run.read(folder)` or `ssp.read_run(folder)` opens it.

    Each part is read once, when it is first asked for. A run that was killed, or goes on still, has
    a tape and metrics up to some moment, and neither a summary nor parameters.

    Attributes:
        path: the folder.
    """

    path: Path

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Run:
        """Open a run's folder; of what is in it only the format is read here.

        Args:
            folder: of one run, not of a sweep (see `runs_in`).

        Raises:
            ValueError: if no run is there, or it is of a format that this version does not read.

        Example:
            >>> import tempfile
            >>> try:
            ...     Run.read(tempfile.gettempdir() + "/nothing")
            ... except ValueError as error:
            ...     print(str(error).partition("nothing ")[2])
            is not a run's folder, there is no tape.jsonl.gz in it.
        """
        path = checks.path("Run.read(folder=...)", folder)
        if not (path / TAPE).is_file():
            several = [f"; it holds a sweep, give one, such as {each}" for each in members_of(path)]
            remedy = several[0] if several else ""
            raise ValueError(f"{path} is not a run's folder, there is no {TAPE} in it{remedy}.")
        _check_format(path)
        run = cls()
        run.path = path
        return run

    def __repr__(self) -> str:
        return f"Run.read({str(self.path)!r})"

    def __rich__(self) -> Any:
        return safely(lambda: self._card(None)).rich()

    def _repr_html_(self) -> str:
        return safely(lambda: self._card(self._picture())).html()

    def _card(self, picture: bytes | None) -> Card:
        """What the summary says; of a run without one only that it is unfinished."""
        summary = self.summary
        if summary is None:
            return Card(str(self.path), [("status", self.status)], picture=picture)
        name = self.config.get("experiment", {}).get("name")
        title = heading(name, summary["policy"], summary["num_workers"])
        rows = [("folder", str(self.path)), *rows_of(summary)]
        return Card(title, rows, summary.get("remarks", ()), picture)

    def _picture(self) -> bytes | None:
        """The drawn run, as its folder has it; None if it has none."""
        with contextlib.suppress(OSError):
            return (self.path / PICTURE).read_bytes()
        return None

    @cached_property
    def config(self) -> dict[str, Any]:
        """What was run, and with what: `config.json`.

        Raises:
            ValueError: if it is missing or damaged.
        """
        if not (self.path / CONFIG).is_file():
            raise ValueError(
                f"{self.path} holds no {CONFIG}, which says what was run; `jax-ssp verify "
                f"{self.path}` needs only the tape."
            )
        return read_record(self.path / CONFIG, {"format": whole(1)})

    @cached_property
    def summary(self) -> dict[str, Any] | None:
        """What came of it: `summary.json`; None if the run was killed, or goes on still.

        Raises:
            ValueError: if it is damaged.
        """
        file = self.path / SUMMARY
        if not file.exists():
            return None
        summary = read_record(file, _SUMMARY)
        check_record(f"`tape` in {file}", summary["tape"], _SUMMARY_OF_TAPE)
        return summary

    @property
    def status(self) -> str:
        """How it ended (see `Result.status`); "unfinished" where it was killed, or goes on."""
        return "unfinished" if self.summary is None else self.summary["status"]

    @property
    def resumes(self) -> int:
        """How often another process has gone on with it, by its tape."""
        return self.tape.resumes

    @cached_property
    def tape(self) -> Tape:
        """The tape, which comes as far as the folder says.

        Raises:
            ValueError: if it is damaged, of another format, or ends before its run did.
        """
        tape = read_run_tape(self.path / TAPE)
        self._check_end(tape)
        tape.header.update(terms_of(self.path))
        return tape

    @cached_property
    def schedule(self) -> np.ndarray:
        """One row a settled clock, of the tape (see `Result.schedule`)."""
        from jax_ssp.runtimes.schedule import schedule

        return schedule(self.tape)

    @cached_property
    def _rows(self) -> dict[str, list[dict[str, Any]]]:
        if not (self.path / METRICS).is_file():
            raise ValueError(f"{self.path} holds no {METRICS}, which says what was measured.")
        rows: dict[str, list[dict[str, Any]]] = {"clock": [], "eval": []}
        for row in read_metrics(self.path):
            rows[row.pop("kind")].append(row)
        return rows

    @property
    def history(self) -> list[dict[str, Any]]:
        """One row a settled delta, with its metrics (see `Result.history`).

        Raises:
            ValueError: if `metrics.jsonl` is missing or damaged.
        """
        return self._rows["clock"]

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """One row an evaluation, with its metrics (see `Result.evaluations`).

        Raises:
            ValueError: if `metrics.jsonl` is missing or damaged.
        """
        return self._rows["eval"]

    @cached_property
    def params(self) -> Any:
        """The parameters it came to (see `load_params`, which also takes what they are like).

        Of a run that goes on after an end, those of that end.

        Raises:
            FileNotFoundError: if none were saved.
            ValueError: if they are not what was saved.
        """
        from jax_ssp.checkpoint.params import load_params

        return load_params(self.path)

    @cached_property
    def kept(self) -> dict[str, Any]:
        """What observers have kept, by name, such as "best" and "ema": parameters.

        What is to be said of them is in the summary's "kept"; `load_params(run.path / "ema", like)`
        loads one as what they are like.

        Raises:
            ValueError: if they are not what was saved.
        """
        from jax_ssp.checkpoint.params import load_params

        folders = [each.parent for each in sorted(self.path.glob(f"*/{MANIFEST}"))]
        return {each.name: load_params(each) for each in folders if each.name not in OF_THE_RUN}

    def _check_end(self, tape: Tape) -> None:
        """Raise ValueError if the folder says that the run came further than its tape."""
        if self.summary is not None:
            if lacks := torn(tape, self.summary["tape"]):
                raise ValueError(f"{self.path} is damaged: its {lacks}.")
        elif (self.path / BEFORE).exists():
            return  # it had ended once, and goes on: its parameters are those of that end still
        elif not tape.complete and (self.path / MANIFEST).exists():
            raise ValueError(
                f"{self.path / TAPE} is damaged: it breaks off after {len(tape)} rows, but the "
                "run's last parameters are there."
            )


def read_run(folder: str | os.PathLike[str]) -> Run:
    """Open a run's folder, to read what is in it: see `Run`.

    Args:
        folder: of one run.

    Raises:
        ValueError: if no run is there, or it is of a format that this version does not read.
    """
    return Run.read(checks.path("read_run(folder=...)", folder))


def runs_in(folder: str | os.PathLike[str]) -> list[Run]:
    """The runs of a sweep's folder, in their order; of a run's folder that run alone.

    Raises:
        ValueError: if no run is there, or one is of a format that this version does not read.
    """
    path = checks.path("runs_in(folder=...)", folder)
    members = [] if (path / TAPE).is_file() else members_of(path)
    return [Run.read(each) for each in members or [path]]


def read_run_tape(path: Path) -> Tape:
    """A tape in a file, that a run has written; ValueError if that is not so."""
    tape = read_tape(path)
    try:
        check_header(tape.header, of_a_run=True)
    except ValueError as error:
        raise ValueError(f"{path} is a damaged tape: {error}") from error
    return tape


def members_of(folder: Path) -> list[Path]:
    """The folders of runs in a sweep's folder, in their order."""
    return sorted(each.parent for each in folder.glob(f"*/{TAPE}"))


def _check_format(path: Path) -> None:
    """Raise ValueError if the folder is of another format than this version's.

    A `config.json` that is missing or damaged says nothing of it, and is an error where it is read.
    """
    try:
        config = read_record(path / CONFIG, {})
    except (OSError, ValueError):
        return
    found = config.get("format", 1)  # the first one had no number
    if found == FORMAT:
        return
    older = type(found) is int and 1 <= found < FORMAT
    remedy = "run it again, or read it" if older else "read it"
    raise ValueError(
        f"{path} is a run's folder of format {short(found)}, by its {CONFIG}, and this version "
        f"reads format {FORMAT} alone; {remedy} with the version that wrote it{_version(config)}."
    )


def _version(config: dict[str, Any]) -> str:
    """Which version wrote the folder, if it says so."""
    wrote = config.get("environment")
    if not isinstance(wrote, dict) or "jax_ssp" not in wrote:
        return ""
    commit = f", commit {short(wrote['commit'])}" if wrote.get("commit") else ""
    return f" (jax_ssp {short(wrote['jax_ssp'])}{commit})"
