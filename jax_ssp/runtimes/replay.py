"""A tape in place of a schedule: the same events again, so the same parameters to the last bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from jax_ssp.controller.answers import check_answer
from jax_ssp.controller.commands import Cancel, Command, StartClock
from jax_ssp.controller.ends import Ends
from jax_ssp.controller.errors import TapeMismatch
from jax_ssp.controller.events import DeltaReady, Event, Resumed, TimerFired, WorkerDone, WorkerLost
from jax_ssp.controller.tape import Entry, Tape
from jax_ssp.runtimes.base import Clock, Message, World
from jax_ssp.runtimes.faults.clocks import NaN
from jax_ssp.runtimes.faults.fates import NO_FATES, Fates
from jax_ssp.runtimes.members import ever
from jax_ssp.runtimes.runtime import Parties, Runtime

if TYPE_CHECKING:
    import jax

    from jax_ssp.slices import Slices


@dataclass(frozen=True)
class Replay(Runtime):
    """Repeats the run a tape was recorded from, bit for bit.

    Workers are placed as they were, and compute one after the other. A tape that breaks off is
    repeated up to there.

    Args:
        tape: of a run in any world.

    Raises:
        TypeError: if it is given something other than a tape.
        ValueError: `train` raises it if the devices of the recording are not here.
        TapeMismatch: `train` raises it if the experiment differs from the recorded one, saying in
            what; if the controller answers otherwise than it did; or if the parameters at the end
            are others, since `data` gave other batches.

    Example:
        >>> import jax_ssp as ssp
        >>> clockwork = ssp.Virtual(2, ssp.delays.Exponential(), compute=False)
        >>> run = ssp.train(runtime=clockwork, num_clocks=3)
        >>> again = ssp.train(runtime=ssp.Replay(run.tape), num_clocks=3)
        >>> list(again.tape) == list(run.tape)
        True
    """

    tape: Tape

    def __post_init__(self) -> None:
        if not isinstance(self.tape, Tape):
            raise TypeError(
                f"`Replay(tape)` must be given a tape, got a {type(self.tape).__name__}; give "
                "`result.tape`, or `ssp.read_tape(path)`."
            )

    @property
    def computes(self) -> bool:
        return bool(self.tape.header["devices"])

    @property
    def batch(self) -> int:
        return self.tape.header.get("batch", 1)

    def told(self, num_workers: int) -> dict[str, Any]:
        header, names = self.tape.header, ("faults", "nan", "network", "max_workers")
        return {name: header[name] for name in names if name in header}

    @property
    def time(self) -> str:
        return self.tape.header["time"]

    def count(self) -> int:
        return self.tape.header["num_workers"]

    def most(self) -> int:
        return ever(self.tape)

    def worker_devices(self) -> list[jax.Device]:
        return self._recorded("devices")

    def worker_slices(self) -> Slices | None:
        from jax_ssp.runtimes.slicing import slices_told

        told = self.tape.header.get("slices")
        return None if told is None else slices_told(told)

    def server_devices(self, devices: Sequence[jax.Device]) -> list[jax.Device]:
        return self._recorded("server")

    def server_shares(self, size: int) -> int:
        return len(self.tape.header["server"]) // size

    def _recorded(self, places: str) -> list[jax.Device]:
        from jax_ssp.placement import Placement

        who = "the tape was recorded on"
        return [Placement.named(*place, who).device for place in self.tape.header[places]]

    def first_ends(self, ends: Ends) -> Ends:
        return Ends.of(self.tape.header["experiment"])

    def open(self, session: Parties) -> World:
        from jax_ssp.runtimes.lazy import lazy_executor

        # All else that went wrong, the events show.
        fates = Fates(NaN(*where) for where in self.tape.header.get("nan", ()))
        executor = lazy_executor(session, self.batch, fates)
        return World(TapeClock(self.tape, executor, fates=fates), executor, fates)

    def check(self, header: Mapping[str, Any]) -> None:
        recorded, here = {**self.tape.header["experiment"]}, {**header["experiment"]}
        resumed = [event for _, event, _ in self.tape if type(event) is Resumed]
        if resumed:  # it has the ends by now that it was resumed with; epochs are in samples there
            recorded |= resumed[-1]._asdict()
            for name in ("term", "num_epochs"):
                recorded.pop(name)
                here.pop(name, None)
        names = [name for name in {**recorded, **here} if recorded.get(name) != here.get(name)]
        if names:
            differences = "; ".join(
                f"{name}: recorded {recorded.get(name)!r}, here {here.get(name)!r}"
                for name in names
            )
            raise TapeMismatch(f"the tape is of another experiment. They differ in {differences}.")


class Computing(Protocol):
    """Of an executor that is lazy, what repeats a tape."""

    def finished(self, start: StartClock) -> Message: ...
    def has_data(self, worker: int) -> bool: ...
    def done(self, worker: int) -> None: ...


class TapeClock(Clock):
    """Repeats what a tape says, and checks that all comes as it came when it was recorded.

    Args:
        tape: of a run in any world.
        executor: computes the clocks that it says were finished.
        first: the number of the first row to be repeated.
        fates: what its events do not show.
    """

    decides = False

    def __init__(
        self, tape: Tape, executor: Computing, first: int = 0, fates: Fates = NO_FATES
    ) -> None:
        self._fates = fates
        self._tape = tape
        self._entries = tape.entries(first)
        self._left = len(tape) - first  # rows
        self._executor = executor
        self._entry: Entry | None = None
        self._running: dict[int, StartClock] = {}
        self._interrupted = False

    def now(self) -> float:
        assert self._entry is not None
        return self._entry.now

    @property
    def has_more(self) -> bool:
        return self._left > 0

    def due(self) -> TimerFired | None:
        return None  # the tape says when it fired

    def started(self, start: StartClock) -> None:
        self._running[start.worker] = start

    def request_stop(self, reason: str) -> None:
        # The tape says where the run stopped; only the user can end a replay before that.
        if reason == "interrupted":
            self._interrupted = True
            raise KeyboardInterrupt

    def cancelled(self, cancel: Cancel) -> None:
        self._running.pop(cancel.worker, None)

    def next_event(self) -> Message | None:
        if self._interrupted:  # and what was raised for it got lost
            raise KeyboardInterrupt
        self._entry = next(self._entries, None)
        if self._entry is None:
            return None
        event = self._entry.event
        if isinstance(event, WorkerLost):
            self._running.pop(event.worker, None)
        elif isinstance(event, (DeltaReady, WorkerDone)):
            start = self._running.get(event.worker)
            if start is not None and start.token == event.token:  # else it was late
                del self._running[event.worker]
                return Message(event, self._computed(event, start))
        return Message(event)

    def _computed(
        self, event: DeltaReady | WorkerDone, start: StartClock
    ) -> Mapping[str, float] | None:
        """The metrics that come with this event; its payload is in the store then."""
        if isinstance(event, WorkerDone):
            if self._executor.has_data(event.worker):
                self._other_data(event, "it gives more")
            self._executor.done(event.worker)
            return None
        here, metrics = self._executor.finished(start)
        assert isinstance(here, DeltaReady)
        if here.steps != event.steps:
            self._other_data(event, f"it gives {here.steps} of its steps")
        for what in ("samples", "tokens"):
            held, told = getattr(here, what), getattr(event, what)
            if held != told:
                raise TapeMismatch(
                    f"in clock {event.clock} the batches of worker {event.worker} hold {held} "
                    f"{what}, and {told} on the tape: `data(worker={event.worker})` must give a "
                    "worker the same batches each time."
                )
        if here.finite != event.finite:
            self._spoiled(event)
        return metrics

    def _spoiled(self, event: DeltaReady) -> NoReturn:
        was, is_ = ("", "not ") if event.finite else ("not ", "")
        raise TapeMismatch(
            f"in clock {event.clock} the delta of worker {event.worker} was {was}finite when the "
            f"tape was recorded, and is {is_}finite here."
        )

    def _other_data(self, event: DeltaReady | WorkerDone, here: str) -> NoReturn:
        raise TapeMismatch(
            f"in clock {event.clock} `data(worker={event.worker})` ended elsewhere when the tape "
            f"was recorded: {event}, but here {here}. It must give a worker the same batches each "
            "time."
        )

    def answered(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        assert self._entry is not None
        check_answer(now, event, self._entry.commands, commands)
        if self._fates:
            self._fates.take(now, event, commands)
        self._left -= 1

    def came_to(self, params: str) -> None:
        if self._tape.params not in (None, params):
            raise TapeMismatch(
                "every event was repeated, but the parameters at the end are not those of the "
                "recording: some batch was another one. `data(worker)` must give a worker the same "
                "batches each time, whatever the others draw."
            )
