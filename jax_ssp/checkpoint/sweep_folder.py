"""The folder of a sweep: a folder a run, and which of them need not be run again.

SWEEP/00-BSP-seed0/     as every run has it, and what it printed: output.txt
SWEEP/set-aside/        runs that had not ended when the sweep went on: what there is of them
SWEEP/comparison.*      what is made of the runs
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jax_ssp.checkpoint.claim import OF_A_RUN, Claim
from jax_ssp.checkpoint.run_reader import Run, members_of
from jax_ssp.files import FolderLock, say
from jax_ssp.records import short

OUTPUT = "output.txt"
_SET_ASIDE = "set-aside"
_COMPARED = ("experiment", "sha256", "parts")
_OVER = ("done", "target", "early", "stopped", "diverged")  # such a run need not be run again


class SweepFolder:
    """A sweep's folder, which is this process's alone; it may hold an earlier part of the sweep.

    Args:
        path: of the folder.
        wanted: of each run what its `config.json` says: `experiment`; `sha256` of the config file,
            if there is one; `parts`, of the user's own.
        unique: take a name such as `path-2` if there is something of that name already.

    Attributes:
        path: of the folder.
        finished: of each run that is wanted, the one that is there; None if there is none.

    Raises:
        ValueError: if a run of another experiment is in it, naming the difference, or it is in use.
        OSError: if it cannot be made.
    """

    def __init__(self, path: Path, wanted: Sequence[Mapping[str, Any]], unique: bool) -> None:
        self._claim = Claim(path, unique, sweep=True)
        self.path = self._claim.path
        wanted = [
            json.loads(json.dumps({name: each.get(name) for name in _COMPARED})) for each in wanted
        ]
        try:
            there = [(run, _place(run, wanted)) for run in map(Run.read, members_of(self.path))]
            self.finished: list[Run | None] = [None] * len(wanted)
            for run, places in there:
                free = [place for place in places if self.finished[place] is None]
                if run.status in _OVER and free:
                    self.finished[free[0]] = run
                else:
                    self._set_aside(run)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let others have it."""
        self._claim.close()

    def folder_of(self, number: int, name: str, seed: int) -> Path:
        """Make the folder of a run that is to be run."""
        called = folder_name(f"{number:02d}-{name}", f"-seed{seed}")
        for again in itertools.count(1):
            folder = self.path / (called if again == 1 else f"{called}-{again}")
            if not any((folder / each).exists() for each in OF_A_RUN):
                break
        folder.mkdir(exist_ok=True)
        (folder / OUTPUT).unlink(missing_ok=True)
        return folder

    def _set_aside(self, run: Run) -> None:
        """Move a run that had not ended out of the way: nothing of it is lost."""
        FolderLock(run.path).release()  # nobody writes it still
        (self.path / _SET_ASIDE).mkdir(exist_ok=True)
        for number in itertools.count(1):
            to = self.path / _SET_ASIDE / f"{run.path.name}-{number}"
            if not to.exists():
                break
        run.path.rename(to)
        say(f"{run.path.name} had not ended ({run.status}): it is run again, set aside in {to}")


def folder_name(name: str, end: str) -> str:
    """One folder, though names such as "SGD, 1/tau" have a slash in them, or have no end."""
    name = re.sub(r"[/\\\x00-\x1f\x7f]", "_", name)
    return name.encode(errors="replace")[:150].decode(errors="ignore") + end


def _place(run: Run, wanted: Sequence[Mapping[str, Any]]) -> list[int]:
    """Which of the wanted runs, as JSON has them, this is one of."""
    here = {name: run.config.get(name) for name in _COMPARED}
    places = [place for place, each in enumerate(wanted) if each == here]
    if not places:
        nearest = min((_differences(here, each) for each in wanted), key=len)
        raise ValueError(
            f"{run.path} holds a run of another experiment: {'; '.join(nearest)}. Give another "
            "`--workdir`, or move that run away."
        )
    return places


def _differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    if not isinstance(here["experiment"], dict):
        return ["its config.json does not say which"]
    has, wanted = flat(here["experiment"]), flat(there["experiment"])
    told = [
        f"`{name}` is {short(has.get(name))} there, and {short(wanted.get(name))} here"
        for name in {**has, **wanted}
        if has.get(name) != wanted.get(name)
    ]
    if here["sha256"] != there["sha256"]:
        told.append("the config file has changed since")
    if here["parts"] != there["parts"]:
        told.append("a file with a part of your own has changed since")
    return told


def flat(facts: Any, name: str = "") -> dict[str, Any]:
    """Facts by their path, such as `policy.bound`."""
    if not isinstance(facts, dict):
        return {name: facts}
    parts = [flat(value, f"{name}.{key}".lstrip(".")) for key, value in facts.items()]
    return {path: value for part in parts for path, value in part.items()}
