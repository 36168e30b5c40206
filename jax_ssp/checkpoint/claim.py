"""A folder that is its owner's alone, and which files make a folder a run's."""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from jax_ssp.files import FolderInUse, FolderLock, say

CONFIG, TAPE, METRICS, SUMMARY = "config.json", "tape.jsonl.gz", "metrics.jsonl", "summary.json"
BEFORE = "summary-before.json"  # of a run that had ended, while it goes on
MANIFEST = "params_manifest.json"  # of the parameters that were saved last
PICTURE = "summary.png"
COMPARISON = "comparison.json"  # of a sweep's folder
STEPS = "checkpoints"  # a folder a checkpoint, of the number of rows of the tape before it
FORMAT = 2  # of a run's folder, since metrics are nested in a row; the first one has no number
RUN_FOLDER = "`RunFolder(path)`"  # what a folder is given by, where nobody says another
OF_A_RUN = (CONFIG, TAPE, METRICS, SUMMARY, MANIFEST)


Resume: TypeAlias = Literal["auto", "never", "must"]
"""What to do with a run that a folder holds: go on with it if that is to be, never, or it must."""
RESUME = ("auto", "never", "must")
OVER = ("done", "target", "early", "stopped", "diverged")  # how a run ends that need not go on


def resumable(folder: Path) -> bool:
    """Whether a checkpoint is in a run's folder, so that running it again goes on from there."""
    return any(step.name.isdecimal() for step in (folder / STEPS).glob("*"))


class Workdir(NamedTuple):
    """Where a run or a sweep is kept.

    Attributes:
        folder: of it.
        unique: take a name such as `folder-2` if there is something of that name already.
        resume: what to do with what is there.
        called: what the user has given it by, as errors name it.
    """

    folder: Path
    unique: bool = False
    resume: Resume = "auto"
    called: str = "`--workdir`"


class Claim:
    """A folder that is its owner's alone: made if need be, locked, and without a run in it.

    Args:
        path: of the folder.
        unique: take a name such as `path-2` if there is something of that name already.
        sweep: whether it may hold a sweep, though no run of its own.
        run: whether it may hold a run, though no sweep.
        called: what the user has given it by, as errors name it.

    Attributes:
        path: of the folder that is claimed now.

    Raises:
        ValueError: if it holds a run, is in use, or is no folder.
        OSError: if it cannot be made.
    """

    def __init__(
        self,
        path: Path,
        unique: bool,
        sweep: bool = False,
        run: bool = False,
        called: str = RUN_FOLDER,
    ) -> None:
        self._sweep, self._run = sweep, run
        self._elsewhere = f"give another {called}"
        path = path.absolute()  # the user's code may change the directory
        for number in itertools.count(1):
            self.path = path if number == 1 else path.with_name(f"{path.name}-{number}")
            self._made = [each for each in (self.path, *self.path.parents) if not each.exists()]
            try:
                self.path.mkdir(parents=True, exist_ok=not unique)
                self._lock = self._locked()
                break
            except FileExistsError as error:
                if not unique:
                    raise ValueError(f"{path} is not a folder; {self._elsewhere}.") from error
            except BaseException:
                _remove_empty(self._made)
                raise
        self._release = weakref.finalize(self, _released, self._lock, self._made)

    def _locked(self) -> FolderLock:
        try:
            lock = FolderLock(self.path)
        except FolderInUse as error:
            raise FolderInUse(
                f"{error} Wait until that has ended, or {self._elsewhere}."
            ) from error
        if not lock.held:
            say(f"{self.path} cannot be locked there; let no other run write into it")
        if _holds_a_sweep(self.path) if self._run else _holds_a_run(self.path, self._sweep):
            lock.release()
            what = "a sweep" if self._run else "a run"
            raise ValueError(f"{self.path} holds {what} already; {self._elsewhere}.")
        return lock

    def close(self) -> None:
        """Let others have it; one that was made here and is empty is taken away."""
        self._release()


def _holds_a_run(folder: Path, sweep: bool) -> bool:
    """Whether a run, finished or not, is in the folder; or a sweep, unless that may be."""
    if any((folder / name).exists() for name in OF_A_RUN):
        return True
    return not sweep and _holds_a_sweep(folder)


def _holds_a_sweep(folder: Path) -> bool:
    if (folder / COMPARISON).exists():
        return True
    return any((each.parent / TAPE).exists() for each in folder.glob(f"*/{CONFIG}"))


def _released(lock: FolderLock, made: Sequence[Path]) -> None:
    lock.release()
    _remove_empty(made)


def _remove_empty(folders: Sequence[Path]) -> None:
    with contextlib.suppress(OSError, ValueError):
        for folder in folders:
            folder.rmdir()
