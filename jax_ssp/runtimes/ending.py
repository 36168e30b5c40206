"""How the end of a run is asked for while it goes, and what the end is called.

Evaluations ask for it (a target is reached), merges (the server has diverged), and observers. All
of them are heard right after the event in which they asked, before anything else happens: then a
run ends at the same version in every world where the same versions are made.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from jax_ssp.controller import Controller
from jax_ssp.controller.ends import TOTALS

EARLY, DIVERGED = "early", "diverged"
TOO_FEW_WORKERS = "too few workers"  # left, to go on
_EARLY = f"{EARLY}: "  # then follows the observer's reason, on the tape
_TOLD = (_EARLY, f"{DIVERGED}: ", f"{TOO_FEW_WORKERS}: ")


class Ending:
    """Who asked for the end of a run.

    Attributes:
        verdict: what the run itself has come to, such as "target"; None for nothing special.
        by_data: whether the data of any worker has ended.
        due: why somebody has asked, each of whom was not heard yet; any thread may add to it.
    """

    def __init__(self) -> None:
        self.verdict: str | None = None
        self.by_data = False
        self.due: deque[str] = deque()

    def early(self, reason: str) -> None:
        """An observer asks; any thread may."""
        self.due.append(_EARLY + reason)

    def judged(self, verdict: str, over: bool, why: str = "") -> None:
        """The run has come to this, which is its end; if it is not over anyway."""
        if self.verdict is None:
            self.verdict = verdict
            if not over:
                self.due.append(f"{verdict}: {why}" if why else verdict)

    def asked(self, controller: Controller) -> Iterator[str]:
        """The reason of each `StopRequested` that is due; what an observer wants of an end, not."""
        while self.due:
            reason = self.due.popleft()
            if controller.ended is None or not reason.startswith(_EARLY):
                yield reason

    def status(self, controller: Controller, complete: bool, finite: Callable[[], bool]) -> str:
        """How a run that is over has ended (see `Observer.on_end`).

        Args:
            controller: its.
            complete: whether its tape is.
            finite: whether the server is.
        """
        ended = controller.ended
        if ended is not None and ended not in TOTALS:
            return status_of(ended)
        if not finite():
            return "diverged"
        # Where all are lost, nobody came to an end: not of its clocks, nor of its data.
        all_lost = ended is None and not controller.num_workers and not self.by_data
        return self.verdict or ("done" if complete and not all_lost else "stopped")


def status_of(reason: str) -> str:
    """What a run that was ended with a `StopRequested` of this reason is said to have come to.

    Example:
        >>> status_of("target"), status_of("early: the loss went up")
        ('target', 'early')
    """
    return reason.partition(": ")[0] if reason.startswith(_TOLD) else reason


def told_reason(reason: str) -> str:
    """What an observer gave as the reason, why it has diverged, or who is left; or nothing.

    Example:
        >>> told_reason("early: the loss went up"), told_reason("target")
        ('the loss went up', '')
    """
    return reason.partition(": ")[2] if reason.startswith(_TOLD) else ""
