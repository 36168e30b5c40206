"""Training with integers: what is merged twice, or never, shows in the sum.

A version is three numbers: a value, which depends on the order and weight of everything that was
merged, and on an outer momentum; the momentum; and a count of every batch, in four bits each.
The value is computed modulo a prime, so there is no rounding in which a fault could hide.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from jax_ssp.controller.commands import Merge, StartClock
from jax_ssp.controller.events import DeltaReady, Token

PRIME = (1 << 61) - 1
_ONE = 1 << 20  # the weight of a delta that counts whole


class Delta(NamedTuple):
    """What a worker pushes.

    Attributes:
        value: the sum of its steps, as it is sent.
        batches: that it was computed from.
    """

    value: int
    batches: tuple[int, ...]


def counted(batches: tuple[int, ...]) -> int:
    """A count of each batch, in four bits."""
    return sum([1 << (4 * batch) for batch in batches])


def weighed(weight: float) -> int:
    """A weight as an integer."""
    return round(weight * _ONE)


class NumberStore:
    """The store of a run with integers: what `jax_ssp.server.store.Store` does, of these.

    Attributes:
        version: the number of the newest version.
        value, momentum, counts: of that.
    """

    wants_base = False
    devices = ()

    def __init__(self) -> None:
        self.version = 0
        self.value, self.momentum, self.counts = 1, 0, 0
        self.merged = 0  # deltas, as an optimizer counts its steps
        self._pushes: dict[Token, Delta] = {}
        self._clocks: dict[Token, StartClock] = {}
        self._last: dict[int, int] = {}  # the version that each worker was granted last
        self._leased: dict[int, list[int]] = {}  # by version: its value, and how many need it
        self._lock = threading.Lock()

    def lease(self, start: StartClock) -> None:
        worker, version = start.worker, start.version
        self._need(version)
        self._need(version)
        before = self._last.get(worker)
        self._last[worker] = version
        if before is not None:
            self._need_no_more(before)
        self._clocks[start.token] = start

    def push(self, event: DeltaReady, payload: Any, metrics: Mapping[str, float]) -> None:
        self._pushes[event.token] = payload

    def merge(self, merge: Merge) -> None:
        total = 0
        for delta in merge.deltas:
            pushed = self._pushes[delta.token]
            self.merged += 1
            scale = (1 + delta.staleness) * (1 + self.merged % 7)
            total += weighed(delta.weight) * pushed.value * scale
            self.counts += counted(pushed.batches)
            self._forget(delta.token)
        self.momentum = (3 * self.momentum + total) % PRIME
        self.value = (self.value + self.momentum) % PRIME
        self.version += 1

    def drop(self, token: Token) -> None:
        self._forget(token)

    def leave(self, worker: int) -> None:
        last = self._last.pop(worker, None)
        if last is not None:
            self._need_no_more(last)
        for token in [t for t, start in self._clocks.items() if start.worker == worker]:
            if token not in self._pushes:
                self._forget(token)

    def snapshot(self, version: int) -> int:
        if version not in self._leased:
            raise LookupError(f"nobody has leased version {version} (any more)")
        return self._leased[version][0]

    def finite(self) -> bool:
        return True

    def fingerprint(self) -> str:
        return f"{self.value:x}-{self.momentum:x}-{self.counts:x}"

    def save(self, running: Collection[Token]) -> tuple[dict[str, Any], dict[str, Any]]:
        pushes = {token: each for token, each in self._pushes.items() if token not in running}
        facts = {
            "version": self.version,
            "merged": self.merged,
            "pushes": [[*token, each.batches] for token, each in pushes.items()],
            "clocks": list(self._clocks.values()),
            "last": list(self._last.items()),
            "leased": [(version, count) for version, (_, count) in self._leased.items()],
        }
        arrays: dict[str, Any] = {
            "value": self.value,
            "momentum": self.momentum,
            "counts": self.counts,
            **{f"push/{number}": each.value for number, each in enumerate(pushes.values())},
            **{f"leased/{version}": value for version, (value, _) in self._leased.items()},
        }
        return facts, arrays

    def load(self, facts: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
        self.version, self.merged = facts["version"], facts["merged"]
        self.value, self.momentum = arrays["value"], arrays["momentum"]
        self.counts = arrays["counts"]
        for number, (term, grant, batches) in enumerate(facts["pushes"]):
            self._pushes[Token(term, grant)] = Delta(arrays[f"push/{number}"], tuple(batches))
        for row in facts["clocks"]:
            start = StartClock(*row)
            token = Token(*start.token)
            self._clocks[token] = start._replace(pending=tuple(start.pending), token=token)
        self._last = dict(facts["last"])
        for version, count in facts["leased"]:
            self._leased[version] = [arrays[f"leased/{version}"], count]

    @property
    def unsettled(self) -> int:
        """How many payloads and leases are kept."""
        return len(self._pushes) + len(self._clocks)

    def _need(self, version: int) -> None:
        held = self._leased.get(version)
        if held is None:
            assert version == self.version, "only the newest is leased anew"
            held = self._leased[version] = [self.value, 0]
        held[1] += 1

    def _need_no_more(self, version: int) -> None:
        held = self._leased[version]
        held[1] -= 1
        if not held[1]:
            del self._leased[version]

    def _forget(self, token: Token) -> None:
        self._pushes.pop(token, None)
        start = self._clocks.pop(token, None)
        if start is not None:
            self._need_no_more(start.version)
