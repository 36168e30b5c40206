"""What travels over the network of a run: who reads which version, since when, how many bytes.

In virtual time and on real devices alike this follows from the rows of the tape. A version can be
read once its merge is done, and the server does one merge after the other. Who holds the version
that it is granted reads nothing, and waits for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jax_ssp.controller.commands import (
    Cancel,
    Command,
    Merge,
    Merged,
    StartAhead,
    StartClock,
    is_fenced,
)
from jax_ssp.controller.events import Event, WorkerDone, WorkerLost
from jax_ssp.controller.fragments import adopted_in, pushed_in
from jax_ssp.delays.network import Network
from jax_ssp.runtimes.runtime import Parties


@dataclass(frozen=True)
class Sizes:
    """How many bytes travel, fragment by fragment; as a whole the parameters are one.

    Attributes:
        push: of a delta, as it travels.
        snapshot: of a snapshot, as it travels.
        whole: of the parameters, which the server merges.
    """

    push: tuple[float, ...] = (0.0,)
    snapshot: tuple[float, ...] = (0.0,)
    whole: tuple[float, ...] = (0.0,)

    @classmethod
    def of(cls, network: Network, parties: Parties) -> Sizes:
        """Those of a run."""
        whole, count = network.params_bytes, parties.plan.num_fragments
        if parties.store is None:  # so fragments are equal
            each = (0.0 if whole is None else whole / count,) * count
            return cls(each, each, each)
        wire = parties.store.wire
        factor = 1.0 if whole is None else whole / max(1, sum(wire.whole_bytes))
        parts = (wire.push_bytes, wire.snapshot_bytes, wire.whole_bytes)
        return cls(*(tuple(factor * size for size in sizes) for sizes in parts))

    @property
    def fragments(self) -> int:
        """How many there are."""
        return len(self.push)

    def up(self, start: StartClock) -> float:
        """Of the delta of this clock."""
        return self.push[pushed_in(start.clock, self.fragments)]

    def down(self, start: StartClock) -> float:
        """Of what is read for this clock, if anything is."""
        if start.whole or self.fragments == 1:
            return sum(self.snapshot)
        return self.snapshot[adopted_in(start.clock, self.fragments)]

    def merged(self, delta: Merged) -> float:
        """Of what this delta is merged into."""
        return self.whole[pushed_in(delta.clock, self.fragments)]


class Grant(NamedTuple):
    """What a clock that was granted has to do with the network.

    Attributes:
        start: the clock.
        ready: from when on its version can be read (seconds); None if its worker holds that.
        ahead: so many of its steps may be run before it is started.
    """

    start: StartClock
    ready: float | None
    ahead: int


class Traffic:
    """Follows the rows of a tape.

    Args:
        network: the links.
        sizes: what travels.
        overlap: so many steps of a clock may be run ahead.

    Attributes:
        network, sizes: as given.
        grants: by worker, of the clock that it was granted last.
    """

    def __init__(self, network: Network, sizes: Sizes, overlap: int = 0) -> None:
        self.network = network
        self.sizes = sizes
        self.grants: dict[int, Grant] = {}
        self._overlap = overlap
        self._merged = 0.0  # when the newest version can be read
        self._held: dict[int, tuple[int, int]] = {}  # version that a worker holds, and before that
        self._ahead: dict[int, StartAhead] = {}  # not started yet

    @classmethod
    def of(cls, network: Network, parties: Parties) -> Traffic:
        """That of a run."""
        return cls(network, Sizes.of(network, parties), parties.plan.overlap)

    def take(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        """A row of the tape: what happened (at a time in seconds), and what was answered."""
        if isinstance(event, WorkerLost) or (
            isinstance(event, WorkerDone) and not is_fenced(commands)
        ):
            self._held.pop(event.worker, None)
            self._ahead.pop(event.worker, None)
        for command in commands:
            if type(command) is StartClock:
                self._start(now, command)
            elif type(command) is StartAhead:
                self._ahead[command.worker] = command
            elif type(command) is Merge:
                size = sum(map(self.sizes.merged, command.deltas))
                self._merged = max(now, self._merged) + self.network.merging(size)
            elif type(command) is Cancel:  # it has what it had before the clock
                _, before = self._held.pop(command.worker)
                self._held[command.worker] = before, before

    def _start(self, now: float, start: StartClock) -> None:
        held, _ = self._held.get(start.worker, (-1, -1))
        self._held[start.worker] = start.version, held
        granted = self._ahead.pop(start.worker, None)
        ahead = 0
        if granted is not None and granted.clock == start.clock:
            ahead = min(self._overlap, granted.local_steps)
        # A fragment that is adopted is read, whatever the worker has of the others.
        holds = held == start.version and self.sizes.fragments == 1
        ready = None if holds else max(now, self._merged)
        self.grants[start.worker] = Grant(start, ready, ahead)
