"""What a worker hands over with a finished clock, and how it is sent and waited for.

A delta is on its way as soon as it is dispatched, though the device computes it still.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jax_ssp.controller.commands import StartClock
from jax_ssp.controller.constructors import constructor
from jax_ssp.controller.events import DeltaReady, new_delta_ready
from jax_ssp.placement import Place, Placement
from jax_ssp.server.flat import Flat
from jax_ssp.worker.replica import Part


class Push(NamedTuple):
    """What a worker hands over with its `DeltaReady`.

    Attributes:
        version: the version the worker holds, which is what the delta is measured from.
        payload: the delta as it travels, one message on each of the server's devices.
        metrics: the clock's metrics as host floats.
        steps: local steps that were made.
        samples: examples in their batches.
        finite: whether every number of the delta is finite, before it is compressed.
        norm: the delta's l2 norm, if the policy needs it; else 0.
        tokens: in the batches, where they are counted; else 0.
        exchange: see `DeltaReady`; empty where that takes the time that it takes.
    """

    version: int
    payload: list[Any]
    metrics: Mapping[str, float]
    steps: int
    samples: int
    finite: bool = True
    norm: float = 0.0
    tokens: int = 0
    exchange: tuple[float, ...] = ()

    def event(self, start: StartClock) -> DeltaReady:
        """What is reported with it."""
        return new_delta_ready(  # at half of what `start.finished` costs
            start.worker,
            start.clock,
            self.version,
            start.token,
            self.steps,
            self.samples,
            self.finite,
            self.norm,
            self.exchange,
            self.tokens,
        )


new_push = constructor(Push)


class Seat(NamedTuple):
    """Where a worker is.

    Attributes:
        recorded: the device, or the slice, that the tape names for it.
        device: where it computes.
        server: the server's devices.
        frozen: what its step reads and never changes; it lies here once, for all workers.
    """

    recorded: Place
    device: Place
    server: tuple[jax.Device, ...]
    frozen: Any = ()

    @property
    def names(self) -> list[tuple[str, int]]:
        """The recorded device, of a slice all of them, as a tape names them.

        Of one that spans processes they are counted as if one had them all.
        """
        place = Placement.of(self.recorded)
        if place.slice is not None and place.slice.spans:
            return [(place.backend, number) for number in range(place.slice.size)]
        return [Placement.of(each).name for each in place.devices]

    @property
    def name(self) -> tuple[str, int]:
        """The recorded device, of a slice the first one, as a tape names it."""
        return self.names[0]


class Dispatched(NamedTuple):
    """A clock that computes, or has.

    Attributes:
        clock: its stamp.
        version: what its delta is measured from.
        payload: the delta as it travels; in the outbox each piece that is copied is a `Flat`.
        parts: what is said of its steps.
        norm: the delta's l2 norm, if that is asked for.
    """

    clock: int
    version: int
    payload: list[Any]
    parts: Sequence[Part]
    norm: jax.Array | None


new_dispatched = constructor(Dispatched)


class Outbox:
    """Deltas on their way to the server, in the order of their clocks.

    Args:
        seat: where the worker is.
        sources: where the pieces of its deltas are made; None if they are all there.
    """

    def __init__(self, seat: Seat, sources: Sequence[jax.Device] | None = None) -> None:
        self._place = Placement.of(seat.device)
        self._to = list(map(Placement.of, seat.server))
        self._from = list(map(Placement.of, sources or [self._place.device] * len(self._to)))
        self._stays, self._fetches = self._from == self._to, not self._place.on_host
        self._travels = [
            not source.shares_memory(to) for source, to in zip(self._from, self._to, strict=False)
        ]
        self._any_travels = any(self._travels)
        self._sent: deque[Dispatched] = deque()

    def send(self, clock: Dispatched) -> None:
        """Start the copies, where there are any to make."""
        if self._any_travels:
            clock = clock._replace(payload=self._started(clock.payload))
        if self._fetches:
            self._place.fetch([(part.finite, part.metrics) for part in clock.parts])
        self._sent.append(clock)

    def rehearse(self, payload: list[Any]) -> list[Any]:
        """What would arrive; all that sending it runs is compiled then."""
        return self._arrived(self._started(payload))

    def wait(self) -> Push:
        """Wait for the oldest delta; it is then with the server."""
        _, version, payload, parts, norm = self._sent.popleft()
        self._place.wait(payload)
        whole = parts[0] if len(parts) == 1 else _in_all(parts)
        steps, samples, tokens, finite, metrics = whole
        return new_push(
            version,
            payload if self._stays else self._arrived(payload),
            {name: float(np.asarray(value)) for name, value in metrics.items()},
            steps,
            samples,
            bool(np.asarray(finite)),
            0.0 if norm is None else float(np.asarray(norm)),
            tokens,
        )

    def _started(self, pieces: list[Any]) -> list[Any]:
        """Pieces on their way, where they travel."""
        return list(map(_sent, self._travels, pieces, self._from, self._to))

    def _arrived(self, pieces: list[Any]) -> list[Any]:
        """Pieces on the server's devices."""
        return pieces if self._stays else list(map(_received, pieces, self._to))

    @property
    def is_empty(self) -> bool:
        """Whether all that was sent was waited for."""
        return not self._sent

    @property
    def last(self) -> Dispatched | None:
        """The clock that was sent last, and not waited for; None if there is none."""
        if not self._sent:
            return None
        clock = self._sent[-1]
        return clock._replace(payload=list(map(_opened, clock.payload, self._to)))

    def forget(self, clock: int) -> None:
        """Forget the delta of this clock, if it was the last to be sent."""
        if self._sent and self._sent[-1].clock == clock:
            self._sent.pop()


def _sent(travels: bool, piece: Any, source: Placement, to: Placement) -> Any:
    """A piece of a delta on its way, where it travels."""
    travels = travels and piece is not None  # what another process has of a slice
    return Flat.of(piece, source).sent(source, to) if travels else piece


def _received(piece: Any, to: Placement) -> Any:
    return piece.received(to) if isinstance(piece, Flat) else to.receive(piece)


def _opened(piece: Any, to: Placement) -> Any:
    return piece.opened(to) if isinstance(piece, Flat) else piece


def _in_all(parts: Sequence[Part]) -> Part:
    """The parts of a clock as one; each metric is the mean over the steps that were measured."""
    steps, samples, tokens = (sum(part[number] for part in parts) for number in range(3))
    means: dict[str, float] = {}
    measured = [part for part in parts if part.metrics]
    count = sum(part.steps for part in measured)
    for part in measured:
        share = part.steps / count
        for name, value in part.metrics.items():
            means[name] = means.get(name, 0.0) + share * float(np.asarray(value))
    # The delta of the last contains the others'.
    return Part(steps, samples, tokens, parts[-1].finite, means)
