"""A network: what it takes until a delta is with the server, and a snapshot with a worker."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from jax_ssp.checks import number, optional, put, several, shown
from jax_ssp.delays.base import LONGEST

NETWORK = "None or `ssp.Network(...)`"
"""What may be one."""
MOST_BYTES = 1e18
"""The most bytes, and bytes a second, of anything."""


@dataclass(frozen=True)
class Network:
    """Links between workers and server, and the time that the server takes to merge.

    A delta and a snapshot travel for `latency`, then their bytes follow. Each is as fast as the
    worker's own link and its fair share of the server's link allow (max-min: what one cannot use
    goes to the others). Up and down are separate. Merges are done one after the other, and a
    version can be read once its merge is done. By default nothing of that takes time.

    The bytes are those that travel: of the masters (float32 for half precision), or of what
    `delta_wire` and `snapshot_wire` make of them.

    Raises:
        TypeError, ValueError: if a number is negative, or a rate not positive.

    Example:
        >>> Network(latency=0.05, bandwidth=125e6, params_bytes=400e6)  # 1 Gb/s
        Network(latency=0.05, bandwidth=125000000.0, params_bytes=400000000.0)
        >>> Network().is_free
        True

    Reference:
        Bertsekas and Gallager 1992, "Data Networks", section 6.5.2 (max-min fairness).
    """

    latency: float | tuple[float, ...] = 0.0
    """Seconds before the first byte; one number, or one for each worker."""
    bandwidth: float | tuple[float, ...] | None = None
    """Bytes a second of a worker's link, in each direction; one number, or one for each worker; by
    default without limit."""
    server_bandwidth: float | None = None
    """Bytes a second of the server's link, in each direction, which all workers share; by default
    without limit."""
    merge_rate: float | None = None
    """Bytes a second that the server merges, each delta as large as the parameters; by default
    without limit."""
    params_bytes: float | None = None
    """As if the parameters had so many bytes in all: what wires and fragments save, they save of
    these. By default what they have; where nothing is computed, it must be said."""

    def __post_init__(self) -> None:
        put(self, "latency", _for_all, least=0, most=LONGEST)
        rate = {"above": 0, "most": MOST_BYTES}
        put(self, "bandwidth", optional, _for_all, **rate)
        for name in ("server_bandwidth", "merge_rate", "params_bytes"):
            put(self, name, optional, number, **rate)

    @property
    def is_free(self) -> bool:
        """Whether exchange takes no time."""
        late = self.latency if isinstance(self.latency, tuple) else (self.latency,)
        return not (any(late) or self.counts_bytes)

    @property
    def counts_bytes(self) -> bool:
        """Whether it matters how many bytes travel."""
        rates = (self.bandwidth, self.server_bandwidth, self.merge_rate)
        return any(rate is not None for rate in rates)

    def check(self, num_workers: int, computes: bool = True) -> None:
        """Raise ValueError, naming the remedy, unless it fits a run.

        Args:
            num_workers: of the run.
            computes: whether there are parameters, whose bytes can be counted.
        """
        for name in ("latency", "bandwidth"):
            row = getattr(self, name)
            if isinstance(row, tuple) and len(row) < num_workers:
                raise ValueError(
                    f"`Network({name}=...)` must have an entry for each of {num_workers} workers, "
                    f"got {len(row)}; give one number for all, or one for each."
                )
        if self.counts_bytes and self.params_bytes is None and not computes:
            raise ValueError(
                "`Network(bandwidth=...)` counts bytes, and with `compute=False` there are no "
                "parameters whose bytes it could count; give `Network(params_bytes=...)`."
            )

    def latency_of(self, worker: int) -> float:
        """Seconds before the first byte."""
        return _of(self.latency, worker)

    def bandwidth_of(self, worker: int) -> float:
        """Bytes a second of this worker's own link."""
        return math.inf if self.bandwidth is None else _of(self.bandwidth, worker)

    @property
    def shared(self) -> float:
        """Bytes a second of the server's link."""
        return math.inf if self.server_bandwidth is None else self.server_bandwidth

    def merging(self, size: float) -> float:
        """Seconds that a merge of so many bytes takes."""
        return 0.0 if self.merge_rate is None else size / self.merge_rate

    def facts(self) -> dict[str, Any]:
        """For JSON, with its class."""
        return {"type": type(self).__name__, **vars(self)}

    def __repr__(self) -> str:
        given = [
            f"{name}={value!r}"
            for name, value in vars(self).items()
            if value is not None and (name != "latency" or value)
        ]
        return f"{type(self).__name__}({', '.join(given)})"


def _of(row: float | tuple[float, ...], worker: int) -> float:
    if not isinstance(row, tuple):
        return row
    return row[min(worker, len(row) - 1)]  # one that the run goes on without is computed once more


def _for_all(field: str, value: Any, **limits: float) -> float | tuple[float, ...]:
    """A number, or one for each worker."""
    if isinstance(value, (list, tuple)) or getattr(value, "shape", ()) != ():
        rows = several(field, value, "a number, or a tuple of them, one for each worker")
        if not rows:
            raise ValueError(
                f"`{field}` must be a number, or one for each worker, got {shown(value)}."
            )
        return tuple(
            number(f"{field}[{worker}]", each, **limits) for worker, each in enumerate(rows)
        )
    return number(field, value, **limits)
