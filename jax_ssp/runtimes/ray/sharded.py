"""The store of a run whose server is in actors, a share in each.

What passes here is numbers, and references to arrays. What happens is told to all shares alike, in
the order of the tape: it is gathered, and sent with the next that somebody waits for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax

from jax_ssp.controller.commands import Merge, StartClock
from jax_ssp.controller.events import DeltaReady, Token
from jax_ssp.controller.fragments import pushed_in
from jax_ssp.placement import Placement
from jax_ssp.records import within
from jax_ssp.runtimes.ray.actors import Actors
from jax_ssp.runtimes.ray.calls import Actor, LostActor, got, is_there, lost_share
from jax_ssp.runtimes.ray.fetched import Fetched, Pieces
from jax_ssp.runtimes.ray.shard import Leave, Sums
from jax_ssp.server.leases import Leases
from jax_ssp.server.local_store import LocalStore
from jax_ssp.server.snapshot import Message, Snapshot
from jax_ssp.server.store import Store
from jax_ssp.trees import Params

MOST_TOLD = 64  # that are gathered before they are sent
LOOK_SECONDS = 0.1  # between two looks at what went wrong in shares, which are not free


class ShardedStore(Store):
    """A store in several actors.

    Args:
        here: a store in this process, for the form of what is in it.
        shards: an actor for each share.
        actors: all of the run.
    """

    def __init__(self, here: LocalStore, shards: Sequence[Actor], actors: Actors) -> None:
        server = here.server
        self.version, self.actors = 0, actors
        self.layout, self.shapes, self.wire = here.layout, here.shapes, here.wire
        self.devices, self.wants_base = here.devices, here.wants_base
        self._parts = server.parts
        self._shards = list(shards)
        self._program = here.program()
        self._adds_up = len(shards) > 1 and server.versions.measures
        self._rounded = jax.jit(self.layout.user.rounded)
        self._leases = Leases()
        self._read_of: dict[int, list[Any]] = {}  # references to pieces of versions, if needed
        self._fragments = self._parts.num_fragments
        self._own = self._parts.num_pieces // len(shards)  # pieces that a share has
        self._newest: list[Any] = [None] * self._parts.num_pieces
        self._changed = set(range(self._fragments))
        self._told: list[Any] = []
        self._answers: list[tuple[Actor, Any]] = []  # that nobody waits for
        self._looked = 0.0  # when they were looked at
        self._pushed: set[Token] = set()
        self._last: tuple[Params, tuple[Any, Any]] | None = None
        self._lock = threading.RLock()
        self._read()

    # What happens.

    def lease(self, start: StartClock) -> None:
        with self._lock:
            self._tell(start)
            if start.version not in self._leases:
                self._read()
            self._let_go(self._leases.lease(start))

    def push(self, event: DeltaReady, payload: list[Message], metrics: Mapping[str, float]) -> None:
        sums, pieces = payload[0], payload[1:]
        with self._lock:
            if event.token in self._leases.clocks:  # else it is late
                self._pushed.add(event.token)
            if self.wants_base and self._told:  # its clock, which shares take it for
                self._send()
        count = len(self._shards)
        beside = not self.wants_base  # so that it waits for no merge that others have asked for
        calls = [
            shard.call(
                "push",
                event,
                dict(metrics),
                sums[number::count],
                *pieces[number::count],
                beside=beside,
            )
            for number, shard in enumerate(self._shards)
        ]
        for shard, call in zip(self._shards, calls, strict=True):
            self._got(shard, call)

    def merge(self, merge: Merge) -> None:
        with self._lock:
            self._tell(merge)
            self.version += 1
            assert self.version == merge.version, "server and controller count the same merges"
            if merge.version == 1:
                self._let_go(self._leases.begun())
            merged = {pushed_in(delta.clock, self._fragments) for delta in merge.deltas}
            self._changed |= merged
            for delta in merge.deltas:
                self._forget(delta.token)
            if self._adds_up:
                self._add_up(sorted(merged))

    def drop(self, token: Token) -> None:
        with self._lock:
            self._tell(token)
            self._forget(token)

    def leave(self, worker: int) -> None:
        with self._lock:
            self._tell(Leave(worker))
            self._let_go(self._leases.leave(worker))
            for token in self._leases.running(worker, self._pushed):
                self._forget(token)

    def snapshot(self, version: int) -> Snapshot:
        with self._lock:
            if version not in self._read_of:
                raise LookupError(f"nobody has leased version {version} (any more)")
            return Fetched(version, Pieces(self._read_of[version]))

    def check(self) -> None:
        """Raise what is known to have gone wrong in a share."""
        with self._lock:
            self._look()

    # Under the lock.

    def _tell(self, what: Any) -> None:
        self._told.append(what)
        if len(self._told) >= MOST_TOLD:
            self._send()

    def _send(self, wanted: Sequence[int] = ()) -> list[Any]:
        """Tell all shares what has happened; gives references to these pieces, share by share."""
        told, self._told = self._told, []
        calls = [
            shard.several("happen", 1 + len(wanted), told, list(wanted)) for shard in self._shards
        ]
        self._answers += [(s, one[0]) for s, one in zip(self._shards, calls, strict=True)]
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._look()
        return [pieces for _, *pieces in calls]

    def _look(self, waits: bool = False) -> None:
        """Raise what went wrong in a share: what is known of that, or all of it, if it `waits`."""
        self._looked = time.monotonic()
        left = []
        for shard, answer in self._answers:
            if waits or is_there(answer):
                self._got(shard, answer)
            else:
                left.append((shard, answer))
        self._answers = left

    def _read(self) -> None:
        """Somebody is to need the newest version: have it in the object store."""
        each = self._own // self._fragments
        changed = [n for f in sorted(self._changed) for n in range(f * each, (f + 1) * each)]
        for number, pieces in enumerate(self._send(changed)):
            for own, piece in zip(changed, pieces, strict=True):
                self._newest[own * len(self._shards) + number] = piece
        self._changed.clear()
        self._read_of[self.version] = list(self._newest)

    def _add_up(self, fragments: list[int]) -> None:
        """Have all shares know what is measured of a merge over all of them."""
        shares = self._all("sums", fragments)
        total = [[sum(each[1:], each[0]) for each in zip(*of)] for of in zip(*shares)]  # noqa: B905
        self._tell(Sums(fragments, total))

    def _forget(self, token: Token) -> None:
        self._pushed.discard(token)
        self._let_go(self._leases.settled(token))

    def _let_go(self, version: int | None) -> None:
        if version is not None:
            self._read_of.pop(version, None)

    def _got(self, shard: Actor, answer: Any) -> Any:
        try:
            return got(answer, shard.what)
        except LostActor as error:
            raise lost_share(str(error)) from error

    # All of it.

    def _all(self, method: str, *arguments: Any) -> list[Any]:
        """What each share answers; they have heard by then of all that happened."""
        with self._lock:
            self._send()
            self._look(waits=True)
            calls = [shard.call(method, *arguments) for shard in self._shards]
            return [self._got(*each) for each in zip(self._shards, calls, strict=True)]

    def compile(self, num_deltas: int) -> None:
        self._all("compile", num_deltas)

    def program(self) -> str:
        return self._program

    def save(self, running: Collection[Token]) -> tuple[dict[str, Any], dict[str, Any]]:
        saved = self._all("save", list(running))
        facts = {"version": self.version, "shares": [each for each, _ in saved]}
        arrays = {
            f"share/{number}/{name}": array
            for number, (_, own) in enumerate(saved)
            for name, array in own.items()
        }
        return facts, arrays

    def load(self, facts: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
        shares = facts.get("shares", ())
        if len(shares) != len(self._shards):
            raise ValueError(
                f"the checkpoint has {len(shares)} shares of the server, and the run has "
                f"{len(self._shards)}; give `Ray(server_shards={len(shares)})`."
            )
        with self._lock:
            calls = [
                shard.call("load", own, within(f"share/{number}/", arrays))
                for number, (shard, own) in enumerate(zip(self._shards, shares, strict=True))
            ]
            leased = [self._got(*each) for each in zip(self._shards, calls, strict=True)]
            self.version = facts["version"]
            self._leases.go_on(self.version, *leased[0])
            self._pushed = set()
            self._changed = set(range(self._fragments))
            self._read_of = {}
            for version in self._leases.versions:
                held = [each.several("held", self._own, version) for each in self._shards]
                self._read_of[version] = _by_piece(held)

    def finite(self) -> bool:
        return all(self._all("finite"))

    @property
    def masters(self) -> Params:
        return self._last[0] if self._last else self._masters()

    def _masters(self) -> Params:
        pieces = _by_piece(self._all("masters"))
        place = Placement.of(self.devices[0])
        whole = self._parts.together(list(map(place.put, pieces)), place.device)
        return self.layout.unpacked(whole)

    @property
    def params(self) -> Params:
        return self._rounded(self.masters) if self.layout.has_half else self.masters

    @property
    def states(self) -> tuple[Any, Any]:
        return self._last[1] if self._last else self._states()

    @property
    def small_states(self) -> tuple[Any, Any]:
        return self._states("small_states")

    def _states(self, which: str = "states") -> tuple[Any, Any]:
        own = self._all(which)
        if len(own) == 1:
            return own[0]
        servers, deltas = zip(*own, strict=True)
        if self._own == 1:
            return servers, deltas
        return tuple(_by_piece(servers)), tuple(_by_piece(deltas))

    def settle(self) -> None:
        """Have here what is asked for once the shares are no more."""
        self._last = self._masters(), self._states()

    def close(self) -> None:
        self.actors.close()


def _by_piece(shares: Sequence[Sequence[Any]]) -> list[Any]:
    """Of what each share has for its pieces, all, in the order of the pieces."""
    return [each for pieces in zip(*shares, strict=True) for each in pieces]
