"""In the driver: hears what the actor of the controller has to tell, and says if it is silent."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from jax_ssp.files import say
from jax_ssp.runtimes.ray.calls import PID, Actor, LostActor, got, is_there

ANSWER_SECONDS = 0.1  # for an answer to come, before something else is looked at
SILENT_SECONDS = 30.0  # without an answer, after which that is said


class Hearing:
    """Asks an actor for what is to be told, again and again; says when it does not answer.

    What it then does is for the user to say: one that is busy for long is not to be ended.

    Args:
        head: the actor, whose process may not be there yet.
    """

    def __init__(self, head: Actor) -> None:
        self._head = head
        self._pid = head.call(PID, beside=True)
        self._asked: Any = None
        self._since, self._patience = 0.0, SILENT_SECONDS

    def heard(self) -> Sequence[Any]:
        """What came since the last answer; nothing if there is none yet.

        Raises:
            LostActor: if its process has ended.
        """
        now = time.monotonic()
        if self._asked is None:
            self._asked, self._since = self._head.call("heard", beside=True), now
        if is_there(self._asked, ANSWER_SECONDS):
            answer, self._asked, self._patience = self._asked, None, SILENT_SECONDS
            return got(answer, self._head.what)
        if now - self._since >= self._patience:
            self._patience *= 2
            self._say(now - self._since)
        return ()

    def rest(self) -> Sequence[Any]:
        """What an answer has that is still to come; the process has done all else."""
        try:
            return () if self._asked is None else got(self._asked, self._head.what)
        except LostActor:
            return ()

    def _say(self, seconds: float) -> None:
        if not is_there(self._pid):
            say(f"the process of {self._head.what} is not there yet, after {seconds:.0f} s")
            return
        pid = got(self._pid, self._head.what)
        say(
            f"{self._head.what} (process {pid}) has not answered for {seconds:.0f} s: it is very "
            "busy, or hangs. Interrupt twice to leave the run; to end that process is as if it had "
            "ended by itself"
        )
