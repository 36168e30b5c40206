"""What a tape says was answered, against what a controller answers here: one comparison for all.

The controller is a pure function of the events, so the answers are the same to the last field; or
the tape is of another controller.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from jax_ssp.controller.commands import Command
from jax_ssp.controller.errors import PolicyError, ProtocolError, TapeMismatch
from jax_ssp.controller.events import Event


class TapeLike(Protocol):
    """What there is to compare: a header, and (now, event, commands) in order."""

    @property
    def header(self) -> Mapping[str, Any]: ...
    @property
    def complete(self) -> bool: ...
    def __iter__(self) -> Iterator[tuple[float, Event, Sequence[Command]]]: ...


class Answering(Protocol):
    """A controller."""

    @property
    def done(self) -> bool: ...
    def handle(self, event: Event, now: float) -> Sequence[Command]: ...


def difference(told: Sequence[Command], here: Sequence[Command]) -> tuple[object, object] | None:
    """The first command of a tape's answer and of the one given here that differ; None if none.

    Args:
        told: on the tape.
        here: by a controller here.

    Returns:
        The two commands; or both answers whole, where one of them only goes on for longer.
    """
    if list(map(type, told)) == list(map(type, here)) and list(told) == list(here):
        return None
    for there, given in zip(told, here, strict=False):
        if type(there) is not type(given) or there != given:
            return there, given
    return list(told), list(here)


def check_answer(
    now: float, event: Event, told: Sequence[Command], here: Sequence[Command]
) -> None:
    """Raise TapeMismatch, naming the two commands, unless both answers are the same."""
    differs = difference(told, here)
    if differs is not None:
        raise TapeMismatch(
            f"at {now} s, to {event}, the recording answers {differs[0]} and this run "
            f"{differs[1]}: the tape was recorded by another version of the code."
        )


def check_answers(tape: TapeLike, controller: Answering) -> None:
    """Give a controller all events of a tape; raise TapeMismatch at the first other answer."""
    for now, event, commands in tape:
        try:
            here = controller.handle(event, now)
        except (ProtocolError, PolicyError) as error:
            raise TapeMismatch(f"at {now} s, no controller takes {event}: {error}") from error
        check_answer(now, event, commands, here)
    if tape.complete and not controller.done:
        raise TapeMismatch("the tape is complete, but its run goes on.")
