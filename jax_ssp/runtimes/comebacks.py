"""Who is lost to a world of threads, and who comes again in the place of one that was.

With a `Recovery`, what goes wrong in a worker is its own affair: it is lost to the run, and one in
its place, in a thread of its own, makes its data anew and joins again.
"""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence

from jax_ssp.controller.commands import StartClock
from jax_ssp.controller.events import Event, StopRequested, WorkerJoined, WorkerLost
from jax_ssp.failures import note
from jax_ssp.files import say
from jax_ssp.runtimes.base import Donor, Executor
from jax_ssp.runtimes.crew import Crew, Stay
from jax_ssp.runtimes.faults.base import INJECTED
from jax_ssp.runtimes.looks import Looks, told_of
from jax_ssp.runtimes.recovery import (
    PUSH,
    REMEDY,
    STEP,
    NotOfWorker,
    Recovery,
    Restarts,
    is_out_of_memory,
    reason_of,
)
from jax_ssp.runtimes.running import Running
from jax_ssp.runtimes.wall import WallClock
from jax_ssp.worker.kept import Kept
from jax_ssp.worker.replica import Replica
from jax_ssp.worker.successor import inherited, placed
from jax_ssp.worker.worker import Worker

_SOON = 0.005  # seconds until whoever cannot join yet is asked again, where nobody says when
_LOOK_SECONDS, _BEGUN_SECONDS = 0.001, 60.0  # until a thread has begun what it was given
_JOIN_SECONDS = 2.0  # the same, where all wait for it, and the worker may join without a donor


class Comebacks(Executor):
    """Of an executor of threads, what loses workers and has them come again.

    Args:
        workers: by number; who comes again takes the place of the one that was lost.
        running: runs their clocks.
        clock: of the same world; failures go there.
        recovery: what becomes of a worker in which something goes wrong; None ends the run.
        vacant: who is not there yet, and joins when it can; what stands in its place among the
            workers has the data that it begins with.
        late: who may join when it can, these among them; others were there in a run that goes on.
    """

    def __init__(
        self,
        workers: list[Worker],
        running: Running,
        clock: WallClock,
        recovery: Recovery | None = None,
        vacant: Collection[int] = (),
        late: Collection[int] = (),
    ) -> None:
        self._workers = workers
        self._running = running
        self._clock = clock
        self._recovery = recovery
        self._restarts = Restarts(recovery or Recovery(restarts=0), running.num_workers)
        self._crew = Crew(self._work, self._clock.fail)
        self._late, self._invited = late, {*vacant}
        for worker in workers:
            self._crew.enter(Stay(worker.index, None if worker.index in vacant else worker))
        self._asked: dict[int, int] = {}  # who waits for whose state, to join with it
        self._looks: Looks | None = None
        if recovery is not None:
            self._looks = Looks(self._crew, recovery.deadline)
            clock.tick = self._looks.tick
            clock.look, running.compiled = self._look, set()

    @abstractmethod
    def _work(self, stay: Stay) -> None:
        """What a thread does."""

    def invite(self) -> None:
        for worker in self._invited:
            stay = self._crew.stays[worker]
            if stay.joined:  # as it was, or might have been, before the run went on
                stay.leave()
                stay = self._enter(Stay(worker, None))
            stay.thread.start()

    def lost(self, worker: int) -> None:
        stay = self._crew.stays[worker]
        if stay.joined:  # else it is the one that comes again
            stay.leave()
        self._asked.pop(worker, None)
        for waits in [each for each, asked in self._asked.items() if asked == worker]:
            self._crew.stays[waits].wake.put(None)  # for another donor

    def joins(self, worker: int) -> WorkerJoined | None:
        donor = self.donor(self._asked.get(worker))
        if donor is not None and self._clock.joining:  # so that nobody else can report anything
            donor = None if self._awaited(donor, _JOIN_SECONDS) is None else donor
        elif donor is not None and self._before(donor) is None:
            self._asked[worker] = donor.worker  # and no other, until it is lost
            self._arm()
            self._clock.hold_back(_SOON)
            return None
        return WorkerJoined(worker, None if donor is None else donor.worker)

    def joined(self, worker: int, donor: Donor | None = None) -> None:
        self._restarts.joined(worker)
        stay = self._crew.stays[worker]
        says = not stay.gone  # that it has joined
        if not says:
            stay = self._enter(Stay(worker, None, joined=True))
        if donor is not None:
            state = self._awaited(donor, _BEGUN_SECONDS)
            if state is None:
                raise RuntimeError(f"worker {donor.worker} has not begun its clock in time")
            lost = self._workers[worker]
            stay.inherits = inherited(lost, state, donor.waiting, donor.weight)
            if stay.worker is not None:  # that was never lost, and has run no clock
                self._running.enters(stay, placed(lost, lost.feed, stay.inherits))
        if self._asked.pop(worker, None) is not None:
            self._arm()
        if not says:
            stay.thread.start()

    def _before(self, donor: Donor) -> Replica | None:
        """The state of a worker between two clocks, if it is there; under the lock of the loop."""
        kept = self._state(self._crew.stays[donor.worker], donor.running)
        return None if kept is None else kept.replica

    def _awaited(self, donor: Donor, seconds: float) -> Replica | None:
        """The same, once its thread has begun the clock that it was given: that is soon."""
        until = time.monotonic() + seconds
        while (state := self._before(donor)) is None and time.monotonic() < until:
            self._clock.check()
            time.sleep(_LOOK_SECONDS)
        return state

    @abstractmethod
    def _state(self, stay: Stay, running: StartClock | None) -> Kept | None:
        """What a worker was before the clock that it runs, or is between two; None if unknown."""

    @abstractmethod
    def _arm(self) -> None:
        """Have those keep what they are before each clock who are to."""

    def go_on(self, there: Sequence[int], lost: Sequence[int], times: Mapping[int, int]) -> None:
        self._restarts.go_on((*there, *lost), times)
        self._invited = {*self._late}.difference(there, lost)
        if self._recovery is not None:
            for worker in lost:
                self._clock.awaited += 1
                starts_at = time.perf_counter() + self._restarts.pause(worker)
                self._enter(Stay(worker, None, starts_at, awaited=True)).thread.start()

    # When something goes wrong, and after; some of it in the worker's thread.

    def crashed(self, stay: Stay, comes_again: bool) -> None:
        stay.doing = None
        with stay.telling():
            self._lose(stay, INJECTED, again=None if comes_again else True)

    def _failed(self, stay: Stay, error: BaseException) -> None:
        """This was raised in its thread: the worker is lost, or the run ends with it."""
        if (stay.gone and not stay.tells) or (self._running.hurried and not stay.joined):
            return  # nobody waits for it any more
        heard = self._recovery is not None and self.report_all is not None
        its_own = isinstance(error, Exception) and not isinstance(error, NotOfWorker)
        if not heard or stay.tells or not its_own:
            note(error, f"in worker {stay.index} of jax_ssp")
            if is_out_of_memory(error):
                note(error, f"there is too little memory: {REMEDY}")
            self._clock.fail(error)  # raised in the main thread
            return
        try:
            reason = reason_of(error, PUSH if stay.pushes else STEP)
            self._lose(stay, reason, again=not is_out_of_memory(error))
        except BaseException as raised:
            self._clock.fail(raised)

    def _look(self) -> None:
        """Now and then, look who hangs; in the thread that waits for what happens."""
        found = None if self._looks is None else self._looks.look(self.excused())
        if found is None:
            return
        stay, start = found
        reason, again = told_of(stay)
        self._lose(stay, reason, again, start)

    def _lose(
        self,
        stay: Stay,
        reason: str,
        again: bool | None = True,
        start: StartClock | None = None,
    ) -> None:
        """A worker is lost, and may come again; any thread may say so.

        Args:
            stay: whose.
            reason: why.
            again: whether it may come again if it has restarts left; None if somebody else sees to
                that.
            start: the clock in which it is lost, if it runs that still.
        """
        assert self.report_all is not None
        self.report_all(lambda: self._losing(stay, reason, again, start))
        fresh = self._crew.stays[stay.index]
        if fresh is not stay and fresh.thread.ident is None:
            fresh.thread.start()
        elif fresh is stay and stay.gone and again is not None:
            self._let_go(stay)

    def _let_go(self, stay: Stay) -> None:
        """Its worker is lost for good: let go of what is the worker's alone."""

    def _losing(
        self, stay: Stay, reason: str, again: bool | None, start: StartClock | None
    ) -> Iterator[Event]:
        """What is to be reported of that, under the lock of the loop."""
        if stay.gone or (start is not None and stay.runs is not start):
            return
        pause = None
        if again is None:
            self._restarts.lost(stay.index)
        else:
            pause = self._restarts.of(stay.index, again)
        if pause is None and self._recovery is not None and self._restarts.too_few:
            # While it is here: else the run might be over before.
            yield StopRequested(self._restarts.told(stay.index, reason))
        awaited = pause is not None and (stay.joined or stay.awaited)
        self._clock.awaited += awaited - stay.awaited
        stay.leave()
        if stay.joined:
            drops = self._recovery is not None and self._recovery.pushed == "drop"
            yield WorkerLost(stay.index, reason, drops)
        elif pause is None:
            say(f"worker {stay.index} does not join: {reason}")
        if pause is not None:
            self._enter(Stay(stay.index, None, time.perf_counter() + pause, awaited=awaited))

    def _enter(self, stay: Stay) -> Stay:
        self._crew.enter(stay)
        return stay

    def _come_again(self, stay: Stay) -> None:
        """Join in the place of one that was lost, some time after it."""
        stay.does("is to start again", math.inf)
        self._running.wait(stay, stay.starts_at)
        if stay.gone or self._running.closing or (self._running.hurried and not stay.joined):
            return
        stay.does("makes its data anew", math.inf)
        stay.feed = self._workers[stay.index].feed.rewound(self.taken(stay.index))
        stay.does("waits for another worker's state", math.inf)
        while not (stay.joined or stay.gone or self._running.hurried):
            assert self.report_all is not None
            with stay.telling():
                self.report_all(lambda: self._joining(stay))
            if not stay.joined:
                stay.wake.get()  # its donor has begun a clock, or is lost
        stay.doing = None
        if stay.inherits is not None and not stay.gone:
            self._running.enters(stay, placed(self._workers[stay.index], stay.feed, stay.inherits))

    def _joining(self, stay: Stay) -> Iterator[Event]:
        if stay.joined or stay.gone:
            return
        joins = self.joins(stay.index)
        if joins is not None:
            stay.joined = True
            self._clock.awaited -= stay.awaited
            stay.awaited = False
            yield joins
            stay.wake.put(None)

    def _give(self, donor: Stay) -> None:
        """A worker has begun a clock, or done one: whoever waits for its state joins now."""
        for stay in self._crew.stays:
            waits = self._asked.get(stay.index) == donor.index
            if waits and stay.feed is not None and not stay.joined:
                assert self.report_all is not None
                with donor.telling():
                    self.report_all(lambda stay=stay: self._joining(stay))
