"""Tokens and terms: what is late, and how a run goes on once it is resumed.

Grants count up over the whole run, terms over its resumes. What a process that is gone had granted
last may be on no tape: so of an old term any number may have been given, and what quotes it is late
unless its worker runs under it now.
"""

from __future__ import annotations

from typing import Any

from jax_ssp.controller.commands import Fence
from jax_ssp.controller.ends import Ends, Totals
from jax_ssp.controller.events import DeltaReady, Resumed, Token, WorkerDone
from jax_ssp.controller.roster import limit_of
from jax_ssp.controller.starts import Starts
from jax_ssp.controller.weight import Weight
from jax_ssp.policies.base import Policy
from jax_ssp.policies.schedules import LocalSteps


class Terms(Starts):
    """Fences what is late, and resumes.

    Args:
        policy, ends, weight, schedule, round_samples, fragments, grant_ahead, reads_own: see
            `Starts`.

    Attributes:
        term: how often the run has been resumed.
    """

    __slots__ = ("_first",)

    def __init__(
        self,
        policy: Policy,
        ends: Ends,
        weight: Weight,
        schedule: LocalSteps,
        round_samples: int,
        fragments: int,
        grant_ahead: bool,
        reads_own: bool,
    ) -> None:
        super().__init__(
            policy, ends, weight, schedule, round_samples, fragments, grant_ahead, reads_own
        )
        self._first = 0  # the number of the term's first grant

    def _is_late(self, event: DeltaReady | WorkerDone) -> bool:
        record = self._workers.get(event.worker)
        return record is None or record.token is None or event.token != record.token

    def _fence(self, event: DeltaReady | WorkerDone, now: float) -> Fence:
        """Answer what is late."""
        token: Any = event.token
        ours = isinstance(token, Token) and 0 <= token.term <= self.term and token.grant >= 0
        if ours and token.term == self.term:
            ours = self._first <= token.grant < self._grants
        if not ours:
            raise self._illegal(event, "its token was never issued")
        self.now = now
        return Fence(event.worker, event.clock, token)

    def _resume(self, event: Resumed) -> bool:
        """Begin a new term, with these ends; gives whether it changes who may start."""
        term, *counts = event
        if term != self.term + 1:
            raise self._illegal(event, f"it is term {self.term} that ends")
        try:
            ends = Ends(*counts)
        except (TypeError, ValueError) as error:
            raise self._illegal(event, str(error)) from error
        merged = Totals(self.updates, self.total_steps, self.samples)
        if (lowered := ends.lowered(self._ends, self._most_clocks(), merged)) is not None:
            raise self._illegal(event, lowered)
        before = self._ends, self.ended
        self.term, self._first = term, self._grants
        self._ends, self._by_total = ends, ends.by_total
        if before == (ends, None):
            return False
        self.ended, self._full = None, False
        self._at_once = self._on_arrival and self._fragments == 1
        self._limit = limit_of(ends.num_clocks)
        self._end_if_full()
        self._waiting.wait_no_more()
        for record in self._workers.values():
            if record.finished and record.clock < self._limit:
                record.finished = False
                record.version = record.held_coverage = -1  # what it held may be gone
                record.bases = None
                self._waiting.enter(record.id)
        return True

    def _most_clocks(self) -> int:
        """The clocks of whoever is furthest, gone or not; one that runs counts."""
        here = (record.clock + (record.token is not None) for record in self._workers.values())
        return max((*self._left_at.values(), *here), default=0)
