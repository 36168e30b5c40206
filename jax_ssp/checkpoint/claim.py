"""A folder that is its owner's alone, and which files make a folder a run's."""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Sequence
from pathlib import Path

from jax_ssp.files import FolderInUse, FolderLock, say

CONFIG, TAPE, METRICS, SUMMARY = "config.json", "tape.jsonl.gz", "metrics.jsonl", "summary.json"
MANIFEST = "params_manifest.json"  # of the parameters that were saved last
PICTURE = "summary.png"
COMPARISON = "comparison.json"  # of a sweep's folder
FORMAT = 2  # of a run's folder, since metrics are nested in a row; the first one has no number
OF_A_RUN = (CONFIG, TAPE, METRICS, SUMMARY, MANIFEST, COMPARISON)


class Claim:
    """A folder that is its owner's alone: made if need be, locked, and without a run in it.

    Args:
        path: of the folder.
        unique: take a name such as `path-2` if there is something of that name already.
        sweep: whether it may hold a sweep, though no run of its own.

    Attributes:
        path: of the folder that is claimed now.

    Raises:
        ValueError: if it holds a run, is in use, or is no folder.
        OSError: if it cannot be made.
    """

    def __init__(self, path: Path, unique: bool, sweep: bool = False) -> None:
        self._sweep = sweep
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
                    raise ValueError(
                        f"{path} is not a folder; give another `--workdir` (`RunFolder(path)`)."
                    ) from error
            except BaseException:
                _remove_empty(self._made)
                raise
        self._release = weakref.finalize(self, _released, self._lock, self._made)

    def _locked(self) -> FolderLock:
        try:
            lock = FolderLock(self.path)
        except FolderInUse as error:
            raise FolderInUse(
                f"{error} Wait until that has ended, or give another `--workdir` "
                "(`RunFolder(path)`)."
            ) from error
        if not lock.held:
            say(f"{self.path} cannot be locked there; let no other run write into it")
        if _holds_a_run(self.path, self._sweep):
            lock.release()
            raise ValueError(
                f"{self.path} holds a run already; give another `--workdir` (`RunFolder(path)`)."
            )
        return lock

    def close(self) -> None:
        """Let others have it; one that was made here and is empty is taken away."""
        self._release()


def _holds_a_run(folder: Path, sweep: bool) -> bool:
    """Whether a run, finished or not, is in the folder; or a sweep, unless that may be."""
    here = any((folder / name).exists() for name in OF_A_RUN if not (sweep and name == COMPARISON))
    if here or sweep:
        return here
    return any((each.parent / TAPE).exists() for each in folder.glob(f"*/{CONFIG}"))


def _released(lock: FolderLock, made: Sequence[Path]) -> None:
    lock.release()
    _remove_empty(made)


def _remove_empty(folders: Sequence[Path]) -> None:
    with contextlib.suppress(OSError, ValueError):
        for folder in folders:
            folder.rmdir()
