"""What deltas are measured from, where a transform asks for it: made anew on the server.

It is the version as its worker read it, plus the worker's own deltas that the version lacks; where
there are fragments, of each as it was when the worker adopted it.
"""

from __future__ import annotations

from typing import Any

import jax

from jax_ssp.controller.commands import StartClock
from jax_ssp.controller.events import DeltaReady
from jax_ssp.controller.fragments import adopted_in, pushed_in
from jax_ssp.controller.weight import Weight
from jax_ssp.layout import Layout
from jax_ssp.server.merging import factors_alone
from jax_ssp.server.snapshot import Message
from jax_ssp.server.wire import Wire
from jax_ssp.trees import Params


class Bases:
    """Makes bases, as workers compute them.

    Args:
        wire: how deltas travel.
        layout: of the parameters.
        weight: the run's rule, for the shares of statistics.

    Attributes:
        own: pushes that bases may need, by worker and stamp.
        last: where there are fragments, what the last clock of each worker began with, in pieces.
    """

    def __init__(self, wire: Wire, layout: Layout, weight: Weight) -> None:
        self.own: dict[int, dict[int, list[Message]]] = {}
        self.last: dict[int, list[Params]] = {}
        self._parts = wire.parts
        self._compressed = wire.deltas is not None
        self._weight = weight
        self._opened = jax.jit(wire.opened)
        self._add = jax.jit(layout.added)

    def pushed(self, event: DeltaReady, payload: list[Message]) -> None:
        """A worker has pushed this."""
        self.own.setdefault(event.worker, {})[event.clock] = payload

    def leave(self, worker: int) -> None:
        """This worker runs no further clock."""
        self.own.pop(worker, None)
        self.last.pop(worker, None)

    def base(self, start: StartClock, base: list[Params]) -> list[Params]:
        """What a clock's delta is measured from, in pieces, given the version as it was read.

        To be made at once: once an own delta is settled, the worker uses its memory again.
        """
        own = self.own.get(start.worker, {})
        for stamp in [stamp for stamp in own if stamp not in start.pending]:
            del own[stamp]
        factors = factors_alone(start.weight, start.num_workers, self._weight)
        count = self._parts.num_fragments
        adopted = range(count) if start.whole else [adopted_in(start.clock, count)]
        made = list(base if start.whole else self.last[start.worker])
        for fragment in adopted:
            here = self._parts.of(fragment)
            made[here] = base[here]
            for stamp, payload in own.items():
                if pushed_in(stamp, count) == fragment:
                    made[here] = self._read(made[here], payload, factors)
        if count > 1:
            self.last[start.worker] = made
        return made

    def _read(
        self, base: list[Params], payload: list[Message], factors: tuple[Any, Any]
    ) -> list[Params]:
        """Pieces with an own delta added."""
        opened: list[Any] = payload
        if self._compressed:
            opened = list(map(self._opened, payload, base))
        return [
            self._add(piece, delta, *factors) for piece, delta in zip(base, opened, strict=True)
        ]

    def without(self, starts: set[tuple[int, int]]) -> dict[int, dict[int, list[Message]]]:
        """The pushes, but for those of these workers and stamps."""
        return {
            worker: {
                stamp: payload for stamp, payload in pushes.items() if (worker, stamp) not in starts
            }
            for worker, pushes in self.own.items()
        }
