"""A run that a folder holds, and whether a run goes on with it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax_ssp.checkpoint.agreement import (
    COUNTS,
    computed_differences,
    raised,
    setting_differences,
)
from jax_ssp.checkpoint.claim import BEFORE, CONFIG, OF_A_RUN, OVER, RUN_FOLDER, STEPS, TAPE, Resume
from jax_ssp.checkpoint.position import START, rows_up_to
from jax_ssp.checkpoint.run_reader import Run, read_run_tape
from jax_ssp.checkpoint.torn import torn
from jax_ssp.controller.tape import Tape
from jax_ssp.files import say
from jax_ssp.records import RECORD, PackedLines, read_record
from jax_ssp.runtimes.plan import COMPUTED


class Past:
    """A run that a folder holds; another one may go on with it.

    Args:
        run: what is in the folder.
        called: what the user has given that by, as errors name it.

    Attributes:
        path: the folder.
        tape: its tape up to where it breaks off, open at its end.
        status: how it ended, or "unfinished".
        resumes: how often it was gone on with before.
        config: what `config.json` says; empty if it is lost.
        torn: what its tape lacks of what its summary says, in words; nothing if it has all.
    """

    def __init__(self, run: Run, called: str = RUN_FOLDER) -> None:
        self.path = run.path
        self._elsewhere = f"give another {called}"
        self.status = run.status
        self.tape: Tape = read_run_tape(run.path / TAPE)
        self.torn = self._torn(run.summary)
        self.tape.reopen()
        self.resumes = self.tape.resumes
        try:
            self.config: dict[str, Any] = run.config
        except ValueError:
            self.config = {}

    def _torn(self, summary: Mapping[str, Any] | None) -> str:
        """What the tape lacks, by the summary, or by that of an end which it has gone on after."""
        if summary is not None:
            return torn(self.tape, summary["tape"])
        with contextlib.suppress(OSError, ValueError):
            rows = read_record(self.path / BEFORE, {"tape": RECORD})["tape"].get("rows", 0)
            if len(self.tape) < rows:
                return torn(self.tape, {"rows": rows, "complete": False})
        return ""

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raise unless a run of these settings (see `settings_of`) may go on with it.

        Raises:
            ValueError: if it is another one, or a finished one whose ends are not raised; the
                message names what differs.
        """
        there, here = self._settings(), settings
        told = setting_differences(there, here)
        if told:
            raise self._is_another(told)
        try:
            higher = raised(there["ends"], here["ends"])
        except ValueError as error:
            raise ValueError(
                f"{self.path} holds a run whose {error}; {self._elsewhere}."
            ) from error
        counts = [name for name in higher if name in COUNTS]
        goes_on = {"done": counts, "target": "target" in higher, "early": higher}
        if self.status in OVER and not goes_on.get(self.status):
            ends = {name: value for name, value in there["ends"].items() if value is not None}
            told = ", ".join(f"`{name}` is {value}" for name, value in ends.items())
            remedy = f"to go on with it raise what ends it ({told}), or "
            torn = f", and is damaged: its {self.torn}" if self.torn else ""
            raise ValueError(
                f"{self.path} holds a run already, which is over ({self.status}){torn}; "
                f"{remedy if self.status in goes_on else ''}{self._elsewhere}."
            )

    def check_header(self, header: Mapping[str, Any], elastic: bool = False) -> None:
        """Raise unless a run whose tape would begin with this may go on with it.

        Another version of JAX, or another platform, is only said: a cluster may be upgraded.

        Args:
            header: of the run that is to go on with it.
            elastic: whether its data can be dealt to another number of workers.

        Raises:
            ValueError: if what it computes is something else, naming what.
        """
        told, warnings = computed_differences(
            self.tape.header["experiment"], header["experiment"], elastic
        )
        if told:
            raise self._is_another(told)
        if self.torn:
            say(f"{self.path} is damaged: its {self.torn}. The run goes on from what is there")
        if warnings:
            say(f"{self.path}: {'; '.join(warnings)}. The run goes on, but its bits may differ")

    def history(
        self, position: Mapping[str, Any] = START
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The rows of `Result.history` and `Result.evaluations` before a cut, to the last bit.

        Args:
            position: what `RunFolder.position` gave at the cut; by default that of the beginning.

        Raises:
            ValueError: if the folder does not hold them any more, so that the cut is of no use.
        """
        try:
            return rows_up_to(self.path, position)
        except OSError as error:
            raise ValueError(f"{error.filename}: {error.strerror}") from error

    def _settings(self) -> dict[str, Any]:
        """What is known of its settings."""
        header = self.tape.header
        experiment = header["experiment"]
        known: dict[str, Any] = {
            "experiment": {k: v for k, v in experiment.items() if k not in (*COUNTS, *COMPUTED)},
            "ends": {name: experiment[name] for name in COUNTS},
            "time": header["time"],
        }
        recorded = self.config.get("settings")
        return {**known, **recorded} if isinstance(recorded, dict) else known

    def _is_another(self, told: list[str]) -> ValueError:
        return ValueError(
            f"{self.path} holds a run of another experiment: {'; '.join(told)}. Go on with it as "
            f"it was, or {self._elsewhere}."
        )


def past_of(folder: Path, resume: Resume, called: str) -> Past | None:
    """The run in a folder that another one is to go on with; None if there is nothing of one.

    Args:
        folder: which is this process's.
        resume: whether to go on.
        called: what the user has given the folder by, as errors name it.

    Raises:
        ValueError: if that is not to be, cannot be, or must be and there is none.
    """
    there = [name for name in OF_A_RUN if (folder / name).exists()]
    if there and resume == "never":
        raise ValueError(
            f'{folder} holds a run already; give another {called}, or `resume="auto"`.'
        )
    recorded = (folder / TAPE).exists() and next(PackedLines(folder / TAPE), None) is not None
    if recorded:
        return Past(Run.read(folder), called)
    lost = [name for name in there if name not in (CONFIG, TAPE)]
    if any((folder / STEPS).glob("[0-9]*/*")):  # which this run would take for its own, later
        lost.append(STEPS)
    if lost:
        raise ValueError(
            f"{folder} holds a run ({', '.join(lost)}), but nothing of its {TAPE}, from which "
            f"it would go on; give another {called}."
        )
    if resume == "must":
        raise ValueError(f'{folder} holds no run to go on with, and `resume` is "must".')
    return None
