"""What a world is: a clock times an executor.

A *clock* says what time it is and what happens next: real time, virtual time, a tape. An *executor*
lets workers run their clocks: in threads, one after the other, in other processes. The loop
(`loop.py`) stands between the two and the controller. Whichever clock it is, an executor of one of
two kinds goes with it: an *eager* one begins a clock as soon as it is told to, and reports when it
is finished; a *lazy* one computes a clock when it is asked what came of it, so that a schedule can
say when clocks end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from jax_ssp.controller.commands import Cancel, Command, StartAhead, StartClock
from jax_ssp.controller.events import Event, TimerFired, Token
from jax_ssp.placement import Placement
from jax_ssp.runtimes.faults import Fault
from jax_ssp.worker.waits import Waiting

if TYPE_CHECKING:
    import jax

    from jax_ssp.compression import Compressor
    from jax_ssp.controller import Controller
    from jax_ssp.controller.tape import Tape
    from jax_ssp.server.server import Server
    from jax_ssp.server.store import Store
    from jax_ssp.worker.worker import Worker


class Message(NamedTuple):
    """What happened: an event, or an evaluation is finished.

    Attributes:
        what: None says that some time has passed, so that the timer may be due.
        metrics: of the clock, with a `DeltaReady` (whose payload is in the store by then); None
            where nothing is computed.
    """

    what: Event | Future[Any] | None
    metrics: Mapping[str, float] | None = None


LOOK = Message(None)

Report: TypeAlias = "Callable[[Event, Mapping[str, float] | None], None]"


class Clock(ABC):
    """Says what time it is, and what happens next.

    Attributes:
        timer: when `TimerFired` is due (seconds); None if it is not set.
        joining: how many workers have not joined yet, where others might report before they have.
        real: whether time passes while this thread computes: then evaluation runs beside it.
        decides: whether a reached target or a divergence ends the run, or a tape says where it
            ends.
    """

    timer: float | None = None
    joining: int = 0
    real: bool = False
    decides: bool = True

    @abstractmethod
    def now(self) -> float:
        """The time (seconds since the run began)."""

    @abstractmethod
    def next_event(self) -> Message | None:
        """The next thing that happens; None if nothing can happen any more."""

    @abstractmethod
    def request_stop(self, reason: str) -> None:
        """Have `StopRequested(reason)` reported; a signal handler may call this."""

    def begin(self) -> None:
        """The run begins now: have the workers join."""

    def set_timer(self, at: float | None) -> None:
        """Have the timer due then, instead of when it was due before."""
        self.timer = at

    def due(self) -> TimerFired | None:
        """The `TimerFired` that is due now, if any; asked under the loop's lock, so none is old."""
        at = self.timer
        return None if at is None or at > self.now() else TimerFired(at)

    def started(self, start: StartClock) -> None:
        """A worker runs this clock from now on."""

    def cancelled(self, cancel: Cancel) -> None:
        """This clock will not finish."""

    def post(self, what: Event | Future[Any], metrics: Mapping[str, float] | None = None) -> None:
        """Have this reported next; any thread may call it, of a clock that is `real`."""
        raise NotImplementedError(f"nobody reports to a {type(self).__name__}.")

    def wake(self) -> None:
        """If somebody waits in `next_event`, have it return."""

    def run_clockwork(self, controller: Controller, tape: Tape) -> tuple[float, int] | None:
        """Run a whole run of which nothing is computed and nobody watches; None if it cannot.

        Gives the time of the last merge (seconds) and how many deltas were merged.
        """
        return None

    def answered(self, commands: Sequence[Command]) -> None:
        """What the controller answered to the event reported last."""

    def came_to(self, params: str) -> None:
        """The run is complete, and this is the fingerprint of its last parameters."""


class Cancelled(set[Token]):
    """Clocks that were cancelled, until they have come to their end."""

    def ended(self, start: StartClock) -> bool:
        """Whether this clock was cancelled; asked once, where it has come to its end."""
        if start.token not in self:
            return False
        self.remove(start.token)
        return True


class Executor(ABC):
    """Lets workers run their clocks.

    Attributes:
        report: where one that is eager reports an event as it happens, in any thread; the loop
            sets it before the first clock.
    """

    report: Report

    @abstractmethod
    def start(self, start: StartClock) -> None:
        """Let a worker run a clock, on the version that the store has leased for it."""

    def start_ahead(self, grant: StartAhead) -> None:
        """Let a worker go on with this clock once the one it runs is finished."""

    def cancel(self, cancel: Cancel) -> None:
        """End a clock that runs, with nothing pushed."""
        raise NotImplementedError(f"a {type(self).__name__} cannot cancel clocks.")

    def stop(self, worker: int) -> None:
        """This worker gets no more work."""

    def prepare(self) -> None:
        """Get ready for the first clock; called once. It returns early if a stop is requested."""

    def waits(self) -> list[Waiting]:
        """What workers are doing that others may wait for; called by another thread."""
        return []

    def interrupted(self) -> None:
        """The run is interrupted: injected delays are cut short."""

    def close(self) -> None:
        """Let go of threads; one that is stuck in the user's code is left behind."""


class LazyExecutor(Executor):
    """Computes a clock when it is asked for what came of it."""

    @abstractmethod
    def has_data(self, worker: int) -> bool:
        """Whether there is data for the clock that this worker is to run."""

    @abstractmethod
    def finished(self, start: StartClock) -> Message:
        """What comes of a clock that was started; its payload is in the store then."""

    def done(self, worker: int) -> None:
        """The clock that this worker was to run has no data."""


@dataclass(frozen=True)
class World:
    """Where a run takes place.

    Attributes:
        clock: what happens when.
        executor: who computes.
    """

    clock: Clock
    executor: Executor

    def prepare(self) -> None:
        """Get ready, then let time begin."""
        self.executor.prepare()
        self.clock.begin()

    def close(self) -> None:
        """Let go of all it holds."""
        self.executor.close()


class Wires(Protocol):
    """Of a `Plan`, how arrays travel."""

    @property
    def delta_wire(self) -> Compressor | None:
        """Compressor of deltas."""
        ...

    @property
    def snapshot_wire(self) -> Compressor | None:
        """Compressor of snapshots."""
        ...


class Parties(Protocol):
    """What a runtime is given to open: of a `Session`, who takes part."""

    @property
    def num_workers(self) -> int:
        """How many workers there are."""
        ...

    @property
    def workers(self) -> Sequence[Worker]:
        """All of them; none where nothing is computed."""
        ...

    @property
    def store(self) -> Store | None:
        """Where their arrays meet; None where nothing is computed."""
        ...


@dataclass(frozen=True)
class Runtime(ABC):
    """A kind of world, as a config names it."""

    @property
    def computes(self) -> bool:
        """Whether gradients are computed, or the clockwork runs alone."""
        return True

    @property
    def batch(self) -> int:
        """How many clocks at most are computed in one program."""
        return 1

    @property
    def faults(self) -> Sequence[Fault]:
        """What goes wrong in it."""
        return ()

    @property
    def time(self) -> str:
        """Whose seconds its times are: "virtual" or "wall"."""
        return "virtual"

    @abstractmethod
    def count(self) -> int:
        """The number of workers.

        Raises:
            ValueError: if there are none, or there are fewer devices than asked for.
        """

    @abstractmethod
    def worker_devices(self) -> list[jax.Device]:
        """The device of each worker."""

    def server_devices(self, devices: Sequence[jax.Device]) -> list[jax.Device]:
        """Where the server lives if nobody says so, given the devices of the workers."""
        return [Placement.host().device]

    def store(self, plan: Wires, server: Server) -> Store:
        """Where payloads and snapshots of a run are; `server` merges, if that is in this process.

        By default it is.
        """
        from jax_ssp.server.local_store import LocalStore

        return LocalStore(server, plan.delta_wire, plan.snapshot_wire)

    @abstractmethod
    def open(self, session: Parties) -> World:
        """The world with a session's workers in it."""

    def check(self, header: Mapping[str, Any]) -> None:
        """Raise ValueError if a run with this tape header cannot be had here."""
