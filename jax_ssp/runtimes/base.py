"""What a world is, and what it says to the loop.

A *world* is where workers live: real threads, virtual time, a tape. It starts clocks and reports
events; the loop (`loop.py`) stands between it and the controller.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from jax_ssp.controller.commands import Cancel, Command, StartAhead, StartClock
from jax_ssp.controller.events import Event
from jax_ssp.worker.outbox import Push
from jax_ssp.worker.waits import Waiting

if TYPE_CHECKING:
    import jax

    from jax_ssp.controller import Controller
    from jax_ssp.controller.tape import Tape
    from jax_ssp.server.server import Snapshot
    from jax_ssp.worker.worker import Worker


class Message(NamedTuple):
    """What a world reports: an event, or a finished evaluation; with `DeltaReady`, what is pushed.

    `push` is None where nothing is computed.
    """

    what: Event | Future[Any]
    push: Push | None = None


class Observer:
    """Watches a run. Every method does nothing; override what you need.

    Calls never overlap (but for `on_wait`), but on real devices they come from the workers'
    threads, and everybody else waits meanwhile: they should return soon. What is given to them is
    theirs to keep and to change. One that raises ends the run with its error, which carries what
    there is of the result; the others are told all the same.
    """

    def on_start(self, info: Mapping[str, Any]) -> None:
        """The run begins: `name, num_workers, num_clocks, max_updates, policy, time`."""

    def on_entry(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        """A row of the tape; `now` in seconds."""

    def on_clock(self, row: Mapping[str, Any]) -> None:
        """A delta was merged; or dropped, or its clock cancelled (then `merge_version` is -1).

        See `Result.history` for what is in the row. The metrics of a cancelled clock are empty.
        """

    def on_eval(self, row: Mapping[str, Any]) -> None:
        """A version was evaluated: `version, updates, time` (seconds), `passed_over, metrics`.

        `passed_over` counts the versions that were due since the evaluation before, and waited when
        this one came.
        """

    def on_wait(self, waits: Sequence[Waiting]) -> None:
        """Nothing happens any more, as far as can be seen, and these are waited for.

        It comes from a thread of its own, perhaps while another call is under way. If no observer
        of a run overrides this, it is said on standard error.
        """

    def on_end(self, status: str) -> None:
        """The run is over: done, target, stopped, interrupted, diverged or failed."""


class World(ABC):
    """Where workers live: has them join and start clocks, reports what happens."""

    @abstractmethod
    def now(self) -> float:
        """The time (seconds since the run began)."""

    @abstractmethod
    def start(self, start: StartClock, snapshot: Snapshot | None) -> None:
        """Let a worker run a clock; `snapshot` is None if it keeps the one it holds."""

    def go_ahead(self, grant: StartAhead) -> None:
        """Let a worker go on with this clock once the one it runs is finished."""

    def cancel(self, cancel: Cancel) -> None:
        """End a clock that runs, with nothing pushed."""
        raise NotImplementedError

    def outdated(self, event: Event) -> bool:
        """Whether a timer that fires just now was set anew by another thread, and never fired."""
        return False

    @abstractmethod
    def receive(self) -> Message | None:
        """The next thing that happens; None if nothing can happen any more."""

    def run_clockwork(self, controller: Controller, tape: Tape) -> tuple[float, int] | None:
        """Run a whole run of which nothing is computed and nobody watches; None if it cannot.

        Gives the time of the last merge (seconds) and how many deltas were merged.
        """
        return None

    def prepare(self) -> None:
        """Get ready for the first clock; called once. It returns early if a stop is requested."""

    def waits(self) -> list[Waiting]:
        """What workers are doing that others may wait for; called by another thread."""
        return []

    alarm: Callable[[], None] = staticmethod(lambda: None)
    """Called now and then by who waits in `receive`; what it raises ends the run."""

    def connect(self, take: Callable[[Event, Push | None], None]) -> None:
        """Where threads of the world may report events too, each for itself."""

    @abstractmethod
    def request_stop(self, reason: str) -> None:
        """Have `StopRequested(reason)` reported; a signal handler may call this."""

    def over(self) -> None:
        """Nothing more is wanted: whoever waits in `receive` is to be given None."""

    def set_timer(self, at: float | None) -> None:
        """Have `TimerFired(at)` reported then, in place of the timer before."""

    def stop(self, worker: int) -> None:
        """This worker gets no more work."""

    def answered(self, commands: Sequence[Command]) -> None:
        """What the controller answered to the event reported last."""

    def came_to(self, params: str) -> None:
        """The run is complete, and this is the fingerprint of its last parameters."""

    def post(self, evaluation: Future[Any]) -> None:
        """Have a finished evaluation reported; only asked of a world that `evaluates_aside`."""
        raise NotImplementedError

    decides: bool = True
    """Whether a reached target or a divergence ends the run, or a tape says where it ends."""

    evaluates_aside: bool = False
    """Whether evaluation runs beside the workers, or the world stands still for it."""

    def close(self) -> None:
        """Let go of threads; one that is stuck in the user's code is left behind."""


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
    def place(self) -> list[jax.Device]:
        """The device of each worker."""

    def home(self, devices: Sequence[jax.Device]) -> list[jax.Device]:
        """Where the server lives if nobody says so, given the devices of the workers."""
        from jax_ssp.server.server import host_device

        return [host_device()]

    @abstractmethod
    def open(self, num_workers: int, workers: Sequence[Worker]) -> World:
        """The world with these workers in it; `workers` is empty if nothing is computed."""

    def check(self, header: Mapping[str, Any]) -> None:
        """Raise ValueError if a run with this tape header cannot be had here."""
