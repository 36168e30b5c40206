"""What a worker reads, until it has let go of it: then the memory may be used again.

A worker lets go of what it has read once all is dispatched that reads it; whether that has computed
by then, the device knows.
"""

from __future__ import annotations

from jax_ssp.layout import Delta
from jax_ssp.placement import Place, Placement
from jax_ssp.server.memory import Memory
from jax_ssp.server.sliced import SlicedWire
from jax_ssp.server.snapshot import Snapshot
from jax_ssp.server.wire import Wire
from jax_ssp.trees import Params
from jax_ssp.worker.adopt import opened


class Holding:
    """The snapshots and own deltas that a worker reads.

    Args:
        wire: how snapshots travel.
        device: where the worker computes.
        memory: for deltas, shared by the workers of a device.
        undoes: whether a clock may be cancelled, so that what it has read is needed again.
        carries: whether a clock starts from what the last one left.
    """

    def __init__(
        self, wire: Wire | SlicedWire, device: Place, memory: Memory, undoes: bool, carries: bool
    ) -> None:
        self._wire = wire
        self._device = device
        self._memory = memory
        self._undoes = undoes
        self._carries = carries
        self._on_host = Placement.of(device).on_host
        self._snapshot: Snapshot | None = None
        self._left: Snapshot | None = None  # the one before, until nothing reads it
        self._settled: list[Delta] = []  # deltas whose memory is to be given back

    def adopted(self, snapshot: Snapshot, fragment: int | None = None) -> Params:
        """The parameters of a snapshot, which is in use until the next one is adopted.

        Args:
            snapshot: that is adopted.
            fragment: that is wanted; None for all.
        """
        if self._undoes and self._carries:
            snapshot.keep()  # the worker may read it once more
        params = opened(snapshot, self._wire, self._device, fragment)
        self._left = self._snapshot
        # Where it is copied, nothing of it is in use any more.
        self._snapshot = snapshot if self._on_host else snapshot.release()
        return params

    def read(self, snapshot: Snapshot | None, held: Params = None) -> Params:
        """The parameters of a snapshot; those that are held if there is none to adopt."""
        return held if snapshot is None else opened(snapshot, self._wire, self._device)

    def settled(self, deltas: list[Delta]) -> None:
        """These own deltas are not read by the next clock, nor by any after it."""
        self._settled = deltas

    def let_go(self) -> None:
        """All is dispatched that reads the snapshot before, or the deltas that are settled."""
        left, self._left = self._left, None
        if left is not None:
            left.release()
        while self._settled:
            gone = self._settled.pop()
            if not self._undoes and gone is not None:  # else it may be needed again
                self._memory.give(gone)

    def keep(self) -> None:
        """Somebody else reads on: the memory of the snapshot is not used again."""
        if self._snapshot is not None:
            self._snapshot.keep()
