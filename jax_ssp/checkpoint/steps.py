"""The folder of a run's checkpoints: each is there whole and as it was written, or it is not used.

    RUN/checkpoints/<rows>/           a step: see `step.py`
    RUN/checkpoints/<rows>.damaged/   one that was not as it was written; why.txt says why
    RUN/checkpoints/<rows>.suspect/   one that is, but what came of it was not finite
    RUN/checkpoints/.<...>.tmp/       one that is being written, or deleted

A step is written into a temporary folder, brought to the disk, and then renamed; so whatever ends
the process, a folder called by its rows is a whole step. Which is the newest is decided from what
is on the disk alone. Older ones go only once a newer one is there.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jax_ssp.checkpoint.checkpoints import Checkpoints
from jax_ssp.checkpoint.claim import STEPS
from jax_ssp.checkpoint.sealed import fsync, to_disk
from jax_ssp.checkpoint.step import (
    Damaged,
    Step,
    check_facts,
    load_step,
    read_manifest,
    read_step,
    write_step,
)
from jax_ssp.files import say

WHY = "why.txt"
DAMAGED, SUSPECT = ".damaged", ".suspect"
_TEMPORARY = ".tmp"


class Steps:
    """The checkpoints of a run, in a folder of theirs: one process writes there, others may read.

    Args:
        folder: such as `RUN/checkpoints`; it is made when it is needed.
        keep: how many of the last ones to keep.
        keep_best: how many of the best ones to keep too, by their metric.
        mode: whether the most or the least is the best.
        config: the digest of the run's config, which each step then bears.

    Attributes:
        half_way: called while a step is half written, so that faults can strike there.
        metrics: what is known by now of what steps are kept by as the best ones, by their rows; of
            those it says nothing of, their manifests do.

    Example:
        >>> import numpy as np, tempfile
        >>> steps = Steps(Path(tempfile.mkdtemp(), "checkpoints"), keep=2)
        >>> for rows in (10, 20, 30):
        ...     steps.save(rows, {"version": rows // 10}, {"w": np.full(3, rows)})
        >>> [step.rows for step in steps.all()]
        [20, 30]
        >>> steps.load(steps.newest())
        ({'version': 3}, {'w': array([30, 30, 30])})
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        keep_best: int = 0,
        mode: Literal["min", "max"] = "max",
        config: str | None = None,
    ) -> None:
        self.folder = Path(folder).absolute()  # the user's code may change the directory
        self._keep, self._keep_best, self._sign = keep, keep_best, 1 if mode == "max" else -1
        self._config = config
        self._known: dict[int, Step] = {}  # their manifests are not read again at each save
        self._unusable: set[int] = set()  # damaged, though they could not be renamed
        self._one_at_a_time = threading.Lock()
        self.half_way: Callable[[], object] = lambda: None
        self.metrics: Callable[[Sequence[Step]], Mapping[int, float | None]] = lambda steps: {}

    @classmethod
    def of(cls, run: Path, checkpoints: Checkpoints, config: str | None = None) -> Steps:
        """Those of a run's folder, kept as its settings say."""
        best = checkpoints.keep_best if checkpoints.best is not None else 0
        return cls(run / STEPS, checkpoints.keep, best, checkpoints.better, config)

    def all(self) -> list[Step]:
        """The steps whose manifest can be read, oldest first; their arrays may be damaged."""
        found = []
        for rows in self._all_rows():
            if rows not in self._known:
                with contextlib.suppress(ValueError):
                    path = self._path(rows)
                    self._known[rows] = Step.told(path, read_manifest(path))
            if rows in self._known:
                found.append(self._known[rows])
        return found

    def save(
        self,
        rows: int,
        facts: Mapping[str, Any],
        arrays: Mapping[str, Any],
        metric: float | None = None,
        version: int | None = None,
    ) -> None:
        """Save a step; when it returns, it is on the disk, and those that it replaces are gone.

        What is saved at these rows already, and is as it was written, stays instead.

        Args:
            rows: of the tape, before it.
            facts: for JSON, with strings as keys. Tuples come back as lists.
            arrays: NumPy or JAX arrays, on any device, by name; PRNG keys as their key data.
            metric: what it may be kept by as one of the best; what is not finite never is.
            version: of the parameters in it.

        Raises:
            TypeError, ValueError: if something cannot be saved, naming it.
            OSError: if the disk does not take it. All steps before are as they were.
        """
        check_facts(facts)
        metric = None if metric is None or not math.isfinite(metric) else float(metric)
        with self._one_at_a_time:
            step = Step(rows, self._path(rows), metric, self._config, version)
            self._save(step, facts, arrays)

    def _save(self, step: Step, facts: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
        self._tidy()
        if step.path.exists():
            try:
                read_step(step.path)
                return
            except Damaged as damage:
                self.quarantine(step.rows, str(damage))
        temporary = self._temporary(step.rows)
        try:
            temporary.mkdir(parents=True)
            write_step(temporary, step, facts, arrays, self.half_way)
            to_disk(temporary)
            temporary.rename(step.path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        fsync(self.folder)
        self._known[step.rows] = step
        self._unusable.discard(step.rows)
        self._retain(step.rows)

    def newest(self, most: int | None = None) -> Step | None:
        """The newest step that is as it was written; None if there is none.

        Those that are newer, and are not, are set aside first: see `quarantine`.

        Args:
            most: the rows that the tape has; a step beyond them is set aside too.

        Raises:
            ValueError: if it is of another format, which another version wrote.
        """
        with self._one_at_a_time:
            self._tidy()
        for rows in reversed(self._all_rows()):
            if rows in self._unusable:
                continue
            if most is not None and rows > most:
                self.quarantine(rows, f"the tape has only {most} rows")
                continue
            try:
                return read_step(self._path(rows))[0]
            except Damaged as damage:
                self.quarantine(rows, str(damage))
        return None

    def load(self, step: Step) -> tuple[dict[str, Any], dict[str, Any]]:
        """The facts and the arrays of a step, as they were saved.

        Returns:
            The facts, and NumPy arrays by name; their memory is their own.

        Raises:
            ValueError: if something is not what was saved, naming file or array.
        """
        try:
            return load_step(step.path)
        except Damaged as damage:
            raise ValueError(f"the checkpoint {step.path} is damaged: {damage}.") from damage

    def quarantine(self, rows: int, why: str, called: str = DAMAGED) -> None:
        """Set a step aside: it becomes `<rows>.damaged`, with the reason in it.

        Args:
            rows: which one.
            why: what is wrong with it; it is said on standard error too.
            called: how its name ends then; what is a suspect may be restored.
        """
        path = self._path(rows)
        self._unusable.add(rows)
        self._known.pop(rows, None)
        aside, number = path.with_name(f"{rows}{called}"), 1
        while aside.exists():
            number += 1
            aside = path.with_name(f"{rows}{called}-{number}")
        try:
            path.rename(aside)
        except OSError as error:
            say(f"the checkpoint {path} is not used: {why} (nor can it be renamed: {error})")
            return
        with contextlib.suppress(OSError):
            (aside / WHY).write_text(f"{why}\n")
        say(f"the checkpoint {path} is not used: {why}; it is now {aside.name}")

    def suspects(self, newer: int) -> list[int]:
        """The rows of those that are set aside as suspects, newer than one of so many rows."""
        names = [each.stem for each in self.folder.glob(f"*{SUSPECT}")]
        return sorted(int(name) for name in names if name.isdecimal() and int(name) > newer)

    def restore(self, suspects: Sequence[int]) -> None:
        """They are not to blame: each is used again.

        Raises:
            OSError: if one cannot be renamed.
        """
        for rows in suspects:
            aside = self._path(rows).with_name(f"{rows}{SUSPECT}")
            (aside / WHY).unlink(missing_ok=True)
            if not self._path(rows).exists():
                aside.rename(self._path(rows))
            self._unusable.discard(rows)

    def problems(self) -> list[str]:
        """What is wrong with the steps, a line each; nothing is changed."""
        told = []
        for rows in self._all_rows():
            path = self._path(rows)
            try:
                read_step(path)
            except Damaged as damage:
                if path.exists():  # or else its run has deleted it just now
                    told.append(f"the checkpoint {path} is damaged: {damage}")
            except ValueError as error:
                told.append(str(error))
        return told

    def _path(self, rows: int) -> Path:
        return self.folder / str(rows)

    def _temporary(self, rows: int) -> Path:
        return self.folder / f".{rows}.{os.getpid()}{_TEMPORARY}"

    def _all_rows(self) -> list[int]:
        """Those that there are steps of, valid or not, in order."""
        if not self.folder.is_dir():
            return []
        names = [each.name for each in self.folder.iterdir()]
        return sorted(int(name) for name in names if name.isdecimal() and str(int(name)) == name)

    def _tidy(self) -> None:
        """Remove what a killed process, or a failed save, has left half written or half deleted.

        Orbax writes several files at once, and may still make some after another one has failed.
        """
        if self.folder.is_dir():
            for each in self.folder.glob(f".*{_TEMPORARY}"):
                shutil.rmtree(each, ignore_errors=True)

    def _retain(self, rows: int) -> None:
        """Delete the steps that are not to be kept; the one just saved is always kept."""
        steps = [step for step in self.all() if step.rows not in self._unusable]
        known = {**{step.rows: step.metric for step in steps}, **self.metrics(steps)}
        best = [(self._sign * m, -at) for at, m in known.items() if m is not None]
        best.sort(reverse=True)
        kept = {rows, *(step.rows for step in steps[-self._keep :])}
        kept |= {-at for _, at in best[: self._keep_best]}
        for step in steps:
            if step.rows in kept:
                continue
            gone = self._temporary(step.rows)
            try:
                step.path.rename(gone)  # so that no half of it is taken for a step
                self._known.pop(step.rows)
                shutil.rmtree(gone)
            except OSError as error:
                say(f"the checkpoint {step.path} cannot be deleted: {error}")
