"""In the actor of a worker: the worker, which does what the thread says that stands for it.

Calls come one after the other, from one thread at a time, and nobody waits for most of them: what
goes wrong in one is raised where the clock's delta is asked for. What asks for the state of a clock
that is begun comes beside them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax

from jax_ssp.controller.commands import StartAhead, StartClock
from jax_ssp.controller.events import Token
from jax_ssp.runtimes.ray.armed import Armed
from jax_ssp.runtimes.ray.fetched import Fetched, Pieces
from jax_ssp.runtimes.ray.meeting import free_address, join
from jax_ssp.runtimes.ray.numbers import Given, Numbers
from jax_ssp.runtimes.ray.pieces import merged, on_host
from jax_ssp.runtimes.ray.sent import Reader, Seated
from jax_ssp.runtimes.ray.sums import checksum
from jax_ssp.runtimes.ray.whole import Whole
from jax_ssp.server.snapshot import Message, Snapshot
from jax_ssp.slices import Slice
from jax_ssp.worker.kept import Kept, Shapes, packed, unpacked
from jax_ssp.worker.successor import inherited, placed, successor
from jax_ssp.worker.worker import Worker


class There:
    """A worker, in a process of its own, which may be one of several runs, one after the other.

    Args:
        devices: of a worker on a slice, how many this process has; it has as many of the CPU. None
            where each worker has one.
    """

    _worker: Worker

    def __init__(self, devices: int | None = None) -> None:
        if devices is not None:
            jax.config.update("jax_num_cpu_devices", devices)
        self._reader = Reader()
        self.rest()

    def address(self, local: bool) -> str:
        """Where processes that are a worker together can meet, of which this is the first."""
        self._kept, address = free_address(local)
        return address

    def join(self, address: str, rank: int, count: int) -> None:
        """Be one of so many processes that are a worker together."""
        self._do(lambda: join(address, rank, count))

    def rest(self) -> None:
        """Be nobody."""
        self._reader.forget()
        self.__dict__.pop("_worker", None)
        self._spare: Seated | None = None
        self._compiled: tuple[Any, ...] | None = None  # for batches of this kind
        self._dealt: Given | None = None
        self._whole: Whole | None = None
        self._error: BaseException | None = None
        self._arms = Armed()

    def prepare(self, settings: Mapping[str, Any], sent: list[Any]) -> None:
        """Be ready to become any worker of a run: all but its number, data and key is there.

        What it will run is compiled, for batches like those of worker 0.
        """
        self._spare = self._reader.read(settings, sent).worker(0)
        self._worker = self._spare.worker
        self.compile()

    def become(self, settings: Mapping[str, Any], sent: list[Any], number: int) -> None:
        """Be a worker.

        Args:
            settings: of JAX, where the run was begun.
            sent: the run, in the object store; in a list, so that the settings hold when it is
                read.
            number: of the worker.
        """

        def become() -> None:
            run, spare, self._spare = self._reader.read(settings, sent), self._spare, None
            made = run.worker(number) if spare is None else run.another(spare, number)
            self._worker, self._dealt, self._whole = made

        self._do(become)

    def pid(self) -> int:
        """Of its process."""
        return os.getpid()

    def names(self) -> list[tuple[str, int]]:
        """Of its devices, as a tape names them; raises what went wrong when it was made."""
        if self._error is not None:
            raise self._error
        return self._worker.seat.names

    def digest(self) -> str:
        """See `Warmup.digest`."""
        return self._worker.warmup.digest()

    def compile(self) -> None:
        """Compile what the worker will run."""
        self._worker.warmup.compile()
        self._compiled = self._worker.kind

    def rehearse(self) -> dict[str, float]:
        """See `Warmup.rehearse`."""
        return self._worker.warmup.rehearse()

    # Clocks.

    def has_data(self) -> bool:
        """Whether there is a batch for the next clock, or some of it is run already."""
        return self._worker.has_data()

    def clock(
        self,
        begins: tuple[StartClock, Pieces | None, Numbers | None],
        following: tuple[StartClock, Numbers | None] | None,
        *pieces: Message,
    ) -> list[Any]:
        """Dispatch a clock, and give what it came to: `begin` and `finish` in one.

        Args:
            begins: which clock, pieces of which some may be read, and numbers of batches.
            following: see `finish`.
            pieces: those of the version, if they are all read.
        """
        start, some, numbers = begins
        self.begin(start, pieces or some, numbers, armed=False)
        return self.finish(following)

    def begin(
        self,
        start: StartClock,
        pieces: Sequence[Message] | None,
        numbers: Numbers | None,
        armed: bool,
    ) -> None:
        """Dispatch a clock.

        Args:
            start: which.
            pieces: of the version to adopt; None to go on with what it holds.
            numbers: of batches.
            armed: whether to keep what the worker is before it.
        """

        def begin() -> None:
            worker = self._worker
            worker.armed, worker.began = armed, None
            worker.begin(start, None if pieces is None else self._fetched(start.version, pieces))
            self._arms.put(worker.began)

        self._do(begin, numbers)

    def go_ahead(self, grant: StartAhead, numbers: Numbers | None) -> None:
        """Dispatch the first steps of the next clock."""
        self._do(lambda: self._worker.go_ahead(grant), numbers)

    def cancel(self) -> None:
        """Forget the clock that was begun last."""
        self._do(self._worker.cancel)

    def skip(self, steps: int, numbers: Numbers | None) -> None:
        """Pass over a clock that was not begun."""
        self._do(lambda: self._worker.skip(steps), numbers)

    def spoil(self, clock: int) -> None:
        """Have no number of this clock's delta be finite."""
        self._worker.spoil(clock)

    def finish(self, following: tuple[StartClock, Numbers | None] | None) -> list[Any]:
        """What a clock came to: its `Push`, with checksums for a payload, and each piece of that.

        With the first comes whether the worker is sure to have data for another clock.

        Args:
            following: this clock, and numbers of batches, for the next one's to be drawn meanwhile.
        """
        if following is not None:
            start, numbers = following
            self._do(lambda: self._worker.prefetch(start), numbers)
        if self._error is not None:
            raise self._error
        worker = self._worker
        push = worker.finish()
        payload = list(map(on_host, push.payload))
        if self._whole is not None:
            payload = self._whole.apart(payload[0])
        has_more = self._dealt is not None or worker.replica.ran > 0 or worker.feed.has_drawn
        sums = [None if piece is None else checksum(piece) for piece in payload]
        return [(push._replace(payload=sums), has_more), *payload]

    def _fetched(self, version: int, pieces: Sequence[Message]) -> Snapshot:
        """A version, of these pieces."""
        if self._whole is None:
            return Fetched(version, pieces)
        return Snapshot(version, [self._whole.together(pieces)])

    def _do(self, what: Callable[[], object], numbers: Numbers | None = None) -> None:
        if self._error is not None:
            return
        try:
            if numbers is not None and self._dealt is not None:
                self._dealt.take(numbers)
            what()
        except BaseException as error:  # raised in `finish`
            self._error = error
            self._arms.put(None)

    # Its state.

    def of_replica(self, part: str) -> Any:
        """A part of its state now, on the host."""
        return on_host(getattr(self._worker.replica, part))

    def began(self, token: Token) -> Kept:
        """What it was before this clock, on the host."""
        return on_host(self._arms.of(token))

    def keep(self) -> Kept:
        """What it is between two clocks, on the host."""
        return on_host(self._worker.keep())

    def pack(self, name: str, token: Token | None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Facts and arrays of that, or of what it was before a clock."""
        kept = self._worker.keep() if token is None else self._arms.of(token)
        facts, arrays = packed(name, kept)
        return facts, on_host(arrays)

    def take_up(self, name: str, facts: Any, arrays: Mapping[str, Any], params: Any) -> None:
        """Be what was packed.

        Args:
            name, facts, arrays: of what was packed.
            params: shapes of the masters.
        """
        self._worker.go_on(self._unpacked(name, facts, arrays, params))

    def go_on_at(self, cursor: int) -> None:
        """Its data goes on with this batch."""
        self._worker.feed = self._worker.feed.at(cursor)

    def come_again(self, cursor: int) -> tuple[list[tuple[str, int]], bool]:
        """Be ready for the first clock after a loss; gives its devices' names, and `has_data`.

        Args:
            cursor: the batch with which its data goes on.
        """
        names = self.names()
        self.go_on_at(cursor)
        has_data = self.has_data()
        alike = self._dealt is not None or not has_data  # those that are dealt always are
        if self._compiled is None or not (alike or self._compiled == self._worker.kind):
            self.compile()
        return names, has_data

    def succeed(self, version: int, pieces: Pieces) -> None:
        """Be one that comes again, and has run no clock."""

        def succeed() -> None:
            snapshot = self._fetched(version, pieces)
            self._worker = successor(self._worker, self._worker.feed, snapshot)

        self._do(succeed)

    def inherit(self, waiting: Collection[int], weight: float, *donors: Kept) -> None:
        """Go on from the state of a live worker: what each of its processes has of that."""
        worker, donor = self._worker, donors[0]
        if isinstance(worker.device, Slice):  # what came does not lie on it
            facts, arrays = merged([packed("", each) for each in donors])
            donor = self._unpacked("", facts, arrays, worker.replica.held)
        replica = inherited(worker, donor.replica, waiting, weight)
        self._worker = placed(worker, worker.feed, replica)

    def _unpacked(self, name: str, facts: Any, arrays: Mapping[str, Any], params: Any) -> Kept:
        """What was packed, where this worker is; with masters like these."""
        worker = self._worker
        shapes = Shapes.of(params, worker.program.layout, worker.wire, worker.device)
        return unpacked(name, worker.replica, shapes, facts, arrays)
