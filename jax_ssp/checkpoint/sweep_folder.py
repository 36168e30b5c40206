"""The folder of a sweep: a folder a run, and which of them need not be run again.

SWEEP/00-BSP-seed0/     as every run has it, and what it printed: output.txt
SWEEP/set-aside/        runs that cannot be gone on with: what there is of them
SWEEP/comparison.*      what is made of the runs
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jax_ssp.checkpoint.agreement import differences
from jax_ssp.checkpoint.claim import OF_A_RUN, OVER, Claim, Workdir
from jax_ssp.checkpoint.past import Past
from jax_ssp.checkpoint.run_reader import Run, members_of
from jax_ssp.files import FolderLock, say

OUTPUT = "output.txt"
_SET_ASIDE = "set-aside"
_COMPARED = ("experiment", "sha256", "parts")


class SweepFolder:
    """A sweep's folder, which is this process's alone; it may hold an earlier part of the sweep.

    Args:
        workdir: the folder, and whether it must, or must not, hold a part of the sweep.
        wanted: of each run what its `config.json` says: `experiment`; `sha256` of the config file,
            if there is one; `parts`, of the user's own.

    Attributes:
        path: of the folder.
        finished: of each run that is wanted, the one that is there; None if there is none.
        unfinished: by number, the folders of those that go on.

    Raises:
        ValueError: if a run of another experiment is in it, naming the difference, or it is in use.
        OSError: if it cannot be made.
    """

    def __init__(self, workdir: Workdir, wanted: Sequence[Mapping[str, Any]]) -> None:
        self._claim = Claim(workdir.folder, workdir.unique, sweep=True, called=workdir.called)
        self.path = self._claim.path
        wanted = [
            json.loads(json.dumps({name: each.get(name) for name in _COMPARED})) for each in wanted
        ]
        try:
            there = [
                (run, _place(run, wanted, workdir.called))
                for run in map(Run.read, members_of(self.path))
            ]
            _check_there(workdir, bool(there))
            self.finished: list[Run | None] = [None] * len(wanted)
            self.unfinished: dict[int, Path] = {}
            there.sort(key=lambda each: each[0].status not in OVER)  # those that are over first
            for run, places in there:
                taken = {place for place in places if self.finished[place]} | {*self.unfinished}
                free = [place for place in places if place not in taken]
                if free and run.status in OVER:
                    self.finished[free[0]] = run
                elif free and _can_go_on(run):
                    self.unfinished[free[0]] = run.path
                else:
                    self._set_aside(run)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let others have it."""
        self._claim.close()

    def folder_of(self, number: int, name: str, seed: int) -> Path:
        """Make the folder of a run that is to be run, or find that of one to go on with."""
        if number in self.unfinished:
            return self.unfinished[number]
        called = folder_name(f"{number:02d}-{name}", f"-seed{seed}")
        for again in itertools.count(1):
            folder = self.path / (called if again == 1 else f"{called}-{again}")
            if not any((folder / each).exists() for each in OF_A_RUN):
                break
        folder.mkdir(exist_ok=True)
        (folder / OUTPUT).unlink(missing_ok=True)
        return folder

    def _set_aside(self, run: Run) -> None:
        """Move a run that cannot go on out of the way: nothing of it is lost."""
        (self.path / _SET_ASIDE).mkdir(exist_ok=True)
        for number in itertools.count(1):
            to = self.path / _SET_ASIDE / f"{run.path.name}-{number}"
            if not to.exists():
                break
        run.path.rename(to)
        say(f"{run.path.name} ({run.status}) cannot go on: it is run again, set aside in {to}")


def _check_there(workdir: Workdir, there: bool) -> None:
    path, resume = workdir.folder, workdir.resume
    if there and resume == "never":
        raise ValueError(f"{path} holds runs already; give another {workdir.called}.")
    if not there and resume == "must":
        raise ValueError(f'{path} holds no runs to go on with, and `resume` is "must".')


def _can_go_on(run: Run) -> bool:
    """Whether all of a run is there that it takes to go on with it, and nobody writes it still."""
    FolderLock(run.path).release()
    try:
        Past(run)
    except ValueError:
        return False
    return True


def folder_name(name: str, end: str) -> str:
    """One folder, though names such as "SGD, 1/tau" have a slash in them, or have no end."""
    name = re.sub(r"[/\\\x00-\x1f\x7f]", "_", name)
    return name.encode(errors="replace")[:150].decode(errors="ignore") + end


def _place(run: Run, wanted: Sequence[Mapping[str, Any]], called: str) -> list[int]:
    """Which of the wanted runs, as JSON has them, this is one of."""
    here = {name: run.config.get(name) for name in _COMPARED}
    places = [place for place, each in enumerate(wanted) if each == here]
    if not places:
        nearest = min((_differences(here, each) for each in wanted), key=len)
        raise ValueError(
            f"{run.path} holds a run of another experiment: {'; '.join(nearest)}. Give another "
            f"{called}, or move that run away."
        )
    return places


def _differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    if not isinstance(here["experiment"], dict):
        return ["its config.json does not say which"]
    told = differences(here["experiment"], there["experiment"])
    if here["sha256"] != there["sha256"]:
        told.append("the config file has changed since")
    if here["parts"] != there["parts"]:
        told.append("a file with a part of your own has changed since")
    return told
