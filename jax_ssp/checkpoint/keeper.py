"""Keeps a run in its folder: saves it while it goes, and gives what is left of it to go on with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jax_ssp.checkpoint.checkpoints import Checkpoints
from jax_ssp.checkpoint.measured import Measured
from jax_ssp.checkpoint.past import Past
from jax_ssp.checkpoint.run_folder import RunFolder
from jax_ssp.checkpoint.saver import Saver
from jax_ssp.checkpoint.steps import SUSPECT, Steps
from jax_ssp.checkpoint.suspect import Suspicion, take_off_last_term
from jax_ssp.checkpoint.terms import Terms
from jax_ssp.controller.ends import Ends
from jax_ssp.controller.tape import Tape
from jax_ssp.failures import AGAIN, DIVERGED
from jax_ssp.files import digest_of, say
from jax_ssp.runtimes.cut import Cut
from jax_ssp.runtimes.observer import Observer
from jax_ssp.runtimes.resuming import Unfinished
from jax_ssp.runtimes.saving import Saving


class FolderKeeper:
    """The `Keeper` of a run in a folder.

    Args:
        folder: of the run, prepared.
        past: what it holds, to go on with; None if the run begins.
        checkpoints: when to save, and what to keep; None for no saves.
        experiment: what is run, as facts for JSON: each checkpoint bears its digest.

    Attributes:
        observers: what it needs to hear of the run.
    """

    def __init__(
        self,
        folder: RunFolder,
        past: Past | None,
        checkpoints: Checkpoints | None,
        experiment: Mapping[str, Any],
    ) -> None:
        self._folder = folder
        self._past = past
        self._checkpoints = checkpoints
        self._config = digest_of(json.dumps(experiment, sort_keys=True).encode())
        self._steps = Steps.of(folder.path, checkpoints or Checkpoints(), self._config)
        self._saver: Saver | None = None
        self._saving: Saving | None = None
        best = None if checkpoints is None else checkpoints.best
        self._measured = None if best is None else Measured(best)
        measured = () if self._measured is None else (self._measured,)
        if self._measured is not None:
            self._steps.metrics = self._measured.by_rows
        term = 0 if past is None or not len(past.tape) else past.resumes + 1
        self._suspicion = Suspicion(term)
        terms = Terms(folder.path, term)
        self.observers: tuple[Observer, ...] = (*measured, terms, self._suspicion)

    @property
    def saves(self) -> bool:
        """Whether the run is saved while it goes."""
        return self._checkpoints is not None

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self._folder.path

    def tape(self) -> Tape | None:
        return None if self._past is None else self._past.tape

    def past(self, header: Mapping[str, Any]) -> Unfinished | None:
        """What is left of the run, from its newest good checkpoint on; None if it begins."""
        past = self._past
        if past is None:
            return None
        past.check_header(header, elastic=True)
        cut, (history, evaluations) = self._newest(past)
        ends = [Ends.of(each["experiment"]) for each in (past.tape.header, header)]
        return Unfinished(past.tape, cut, history, evaluations, *ends)

    def _newest(self, past: Past) -> tuple[Cut | None, tuple[list[Any], list[Any]]]:
        """The newest cut that is good, and what was measured before it."""
        while (step := self._steps.newest(most=len(past.tape))) is not None:
            try:
                if step.config not in (None, self._config):
                    raise ValueError("it is of another experiment")
                facts, arrays = self._steps.load(step)
                history = past.history(facts["folder"])
            except ValueError as error:
                self._steps.quarantine(step.rows, str(error))
                continue
            self._folder.go_on(facts["folder"])
            if self._measured is not None:
                self._measured.told(history[1])
            self._suspicion.rows = step.rows
            return Cut(step.rows, facts, arrays), history
        if self._steps.suspects(newer=0):
            self._suspicion.rows = 0
        return None, past.history()

    def saving(self, half_way: Callable[[], object]) -> Saving | None:
        """Has the run saved from now on, if that is wanted."""
        wanted = self._checkpoints
        if wanted is None:
            return None
        self._steps.half_way = half_way
        self._saver = Saver(self._steps, durable=lambda rows: self._folder.sync())
        self._saving = Saving(
            self._save, wanted.every_seconds, wanted.every_clocks, wanted.grace_seconds
        )
        return self._saving

    def _save(self, cut: Cut) -> None:
        """Have a cut saved; called where the loop takes nothing else."""
        assert self._saver is not None
        try:
            position = self._folder.position()
        except OSError as error:
            self._saver.failed(cut.rows, error)
            return
        version = cut.facts["store"]["version"]
        metric = None if self._measured is None else self._measured.value(version)
        facts = {**cut.facts, "folder": position}
        self._saver.save(cut.rows, facts, cut.arrays, metric, version)

    def spoiled(self, why: str) -> tuple[int, str]:
        """Something is not finite since the run went on: who is to blame, and what is done.

        A checkpoint is set aside, so that the next process takes an older one. If it comes to the
        same from that, it was not the checkpoint: those that were set aside are restored.

        Args:
            why: what has turned out.

        Returns:
            The exit code, and what is to be said.
        """
        rows = self._suspicion.rows
        if self._suspicion.began:
            self._folder.facts["tape"] = take_off_last_term(self._folder.path)
        innocent = self._steps.suspects(newer=rows or 0)
        if innocent:
            self._steps.restore(innocent)
            told = ", ".join(map(str, innocent))
            return DIVERGED, (
                "the same has come of a newer checkpoint, so that neither is to blame, but the "
                f"data, or the step: what was set aside is restored (those of rows {told})"
            )
        if rows is None:
            return DIVERGED, "no checkpoint is to blame: the data, or the step, is not what it was"
        self._steps.quarantine(rows, why, SUSPECT)
        return AGAIN, "the checkpoint is set aside; run again, it goes on from the one before"

    def close(self) -> None:
        """Wait until the last cut is saved, as long as there is time for it."""
        if self._saver is None or self._saving is None:
            return
        if not self._saver.close(self._saving.left):
            say(f"the last checkpoint of {self._folder.path} was not saved in time")
        self._folder.facts["checkpoints"] = asdict(self._saver.counts)
