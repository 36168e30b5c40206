"""Every answer, computed again.

The controller is a pure function of the events: where policy and schedule are ours, and the header
says all that it was made with, what is on the tape must be what it answers here, to the last field.
It says nothing about the contract (a controller that breaks it agrees with itself); the clauses do.
"""

from __future__ import annotations

from collections.abc import Sequence

from jax_ssp.controller.answers import difference
from jax_ssp.controller.commands import Command
from jax_ssp.controller.contract.book import violation
from jax_ssp.controller.controller import Controller
from jax_ssp.controller.errors import PolicyError, ProtocolError
from jax_ssp.controller.events import Event


class Answers:
    """Takes a tape's rows one by one; raises at the first that a controller answers otherwise."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def entry(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        try:
            given = self._controller.handle(event, now)
        except (ProtocolError, PolicyError) as error:
            raise violation(7, now, f"no controller takes this: {error}") from error
        differs = difference(commands, given)
        if differs is not None:
            told, here = differs
            what = f"{event} is answered {told}, and by {self._controller.policy} {here}"
            raise violation(7, now, what)

    def end(self, complete: bool) -> None:
        """The tape is over; the run is, exactly if the tape is complete."""
        if complete and not self._controller.done:
            raise violation(5, self._controller.now, "the tape is complete, but the run goes on")
