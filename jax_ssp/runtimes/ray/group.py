"""A worker that spans processes: its actors, as one.

They have a mesh together, and JAX has each of them run the same programs in the same order. So all
are told the same. What one holds of an array another may not: what is asked for comes from all of
them, and is put together here. When one of them ends, so does the worker: the others are ended too.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from jax_ssp.runtimes.ray.calls import Actor, got
from jax_ssp.runtimes.ray.pieces import merged


class Group(Actor):
    """The actors of a worker.

    Args:
        members: of which the first one has the address of the others' meeting.
        local: whether they meet on this machine alone.
    """

    def __init__(self, members: Sequence[Actor], local: bool) -> None:
        self.members = members
        self._submitting = threading.Lock()  # all get the calls of several threads in one order
        super().__init__(members[0].handle, "new processes")
        address = members[0].call("address", local)
        for rank, member in enumerate(members):
            member.tell("join", address, rank, len(members))

    def calls(self, method: str, *arguments: Any, **how: Any) -> list[Any]:
        for each in self.members:
            each.what = self.what
        with self._submitting:
            return [each.call(method, *arguments, **how) for each in self.members]

    def call(self, method: str, *arguments: Any, **how: Any) -> Any:
        """Have all do something; gives what `Actor.call` does, of the first."""
        return self.calls(method, *arguments, **how)[0]

    def together(self, references: list[Any], seconds: float | None = None) -> Any:
        return merged(self._got(references, seconds))

    def results(self, method: str, returns: int, *arguments: Any) -> tuple[Any, list[Any]]:
        """See `Actor.results`; the first value has a `Push`, and who has made a piece its sum."""
        answers = self.calls(method, *arguments, returns=returns)
        heads = self._got([each[0] for each in answers])
        made = [push.payload for push, *_ in heads]
        whose = [
            next(n for n, sums in enumerate(made) if sums[at] is not None)
            for at in range(returns - 1)
        ]
        (push, *more) = heads[0]
        push = push._replace(payload=[made[n][at] for at, n in enumerate(whose)])
        return (push, *more), [answers[n][1 + at] for at, n in enumerate(whose)]

    def kill(self) -> None:
        self.killed = True
        for each in reversed(self.members):  # the first one last, which the others listen to
            each.kill()

    def _got(self, references: list[Any], seconds: float | None = None) -> list[Any]:
        """What all references are to; the first that goes wrong is raised, whichever it is."""
        import ray

        left = references
        while left:
            done, left = ray.wait(left, num_returns=1, timeout=seconds, fetch_local=False)
            if not done:  # in time
                break
            try:
                got(done[0], self.what)
            except BaseException:  # the others may wait for it
                self.kill()
                raise
        return [got(each, self.what, seconds) for each in references]
