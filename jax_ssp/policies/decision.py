"""What a policy answers: to whoever asks to start, and about the deltas that are buffered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jax_ssp.policies.view import Delta


class Wait(NamedTuple):
    """A "no" from `admit` that says when to ask again; it is false as a condition.

    Give one of the two. A plain `False` is asked again after every event, which costs a call for
    each waiting worker; a `Wait` costs nothing until its time has come.

    Attributes:
        coverage: ask again once the newest version covers this many clocks.
        version: ask again once the server has reached this version.
    """

    coverage: int | None = None
    version: int | None = None

    def __bool__(self) -> bool:
        return False


class Decision(NamedTuple):
    """What to do with the buffered deltas now.

    Attributes:
        merge: deltas to apply, in this order, as one new version.
        drop: deltas to forget.
        reason: why they are dropped, or clocks cancelled; needed if there are any.
        wake: ask `ready` again at this time (seconds) if something is buffered then; each decision
            replaces the wake of the one before.
        cancel: running workers whose clock is to end now, with nothing pushed, after the merge.
            They may have no delta buffered then, and the policy must say that it `cancels`.
    """

    merge: Sequence[Delta] = ()
    drop: Sequence[Delta] = ()
    reason: str = ""
    wake: float | None = None
    cancel: Sequence[int] = ()


NOTHING = Decision()
