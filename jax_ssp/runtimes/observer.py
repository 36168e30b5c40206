"""What watches a run, and is told what happens in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jax_ssp.controller.commands import Command
from jax_ssp.controller.events import Event
from jax_ssp.worker.waits import Waiting


class Observer:
    """Watches a run. Every method does nothing; override what you need.

    Calls never overlap (but for `on_wait`), but on real devices they come from the workers'
    threads, and everybody else waits meanwhile: they should return soon. What is given to them is
    theirs to keep and to change. One that raises ends the run with its error, which carries what
    there is of the result; the others are told all the same.
    """

    def on_start(self, info: Mapping[str, Any]) -> None:
        """The run begins: `name, num_workers, num_clocks, max_updates, policy, time`."""

    def on_entry(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        """A row of the tape; `now` in seconds."""

    def on_clock(self, row: Mapping[str, Any]) -> None:
        """A delta was merged; or dropped, or its clock cancelled (then `merge_version` is -1).

        See `Result.history` for what is in the row. The metrics of a cancelled clock are empty.
        """

    def on_eval(self, row: Mapping[str, Any]) -> None:
        """A version was evaluated: `version, updates, time` (seconds), `passed_over, metrics`.

        `passed_over` counts the versions that were due since the evaluation before, and waited when
        this one came.
        """

    def on_wait(self, waits: Sequence[Waiting]) -> None:
        """Nothing happens any more, as far as can be seen, and these are waited for.

        It comes from a thread of its own, perhaps while another call is under way. If no observer
        of a run overrides this, it is said on standard error.
        """

    def on_end(self, status: str) -> None:
        """The run is over: done, target, stopped, interrupted, diverged or failed."""
