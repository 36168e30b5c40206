"""Real devices: one host thread a worker, one inbox, dispatch independent of the others."""

from __future__ import annotations

import atexit
import contextlib
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import jax
import tyro

from jax_ssp.checks import function, integer, put, seed
from jax_ssp.controller.commands import Cancel, StartAhead, StartClock
from jax_ssp.controller.events import (
    Event,
    StopRequested,
    TimerFired,
    Token,
    WorkerDone,
    WorkerJoined,
)
from jax_ssp.delays import CALL, DelayModel, check_delay
from jax_ssp.failures import note
from jax_ssp.runtimes.base import Message, Runtime, World
from jax_ssp.runtimes.places import checked_devices
from jax_ssp.runtimes.settings import Settings
from jax_ssp.runtimes.virtual import DelayDraws
from jax_ssp.server.server import Snapshot
from jax_ssp.worker.outbox import Push
from jax_ssp.worker.waits import COMPUTING_SECONDS, QUIET_SECONDS, Waiting
from jax_ssp.worker.worker import Worker

MOST_THREADS = 4096  # workers of a process, or of a device
SIGNAL_SECONDS = 1.0  # Python is deaf to a Ctrl-C that comes just before a wait without an end
CLOSE_SECONDS = 2.0  # for threads to end; they do at once unless the user's code holds them


@dataclass(frozen=True)
class Devices(Runtime):
    """Workers on real devices.

    Each computes in a thread of its own, under the settings of the thread that calls `train`: what
    a context manager has set there (`jax.enable_x64`, `jax.default_matmul_precision`, a mesh) holds
    for all of them.

    Args:
        devices: any list of JAX devices of this process, one worker each; naming one twice puts two
            workers on it. By default all of `jax.local_devices()`.
        num_workers: how many; by default `workers_per_device` on every device.
        workers_per_device: how many workers share a device.
        cpu_devices: split the host's CPU into this many devices, and use those where there are
            fewer devices otherwise. Works only before JAX has touched a device.
        delay: a delay model to inject: a clock takes at least as long as it says (seconds).
        seed: of the injected delays.

    Raises:
        ValueError: if a number is less than 1; `train` raises it if there are not devices enough.
        TypeError: if `delay` is not callable.
    """

    devices: Annotated[Sequence[Any] | None, tyro.conf.Suppress] = None
    num_workers: int | None = None
    workers_per_device: int = 1
    cpu_devices: int | None = None
    delay: DelayModel = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_workers", "workers_per_device", "cpu_devices"):
            if getattr(self, name) is not None or name == "workers_per_device":
                put(self, name, integer, least=1, most=MOST_THREADS)
        put(self, "seed", seed)
        if self.delay is not None:
            put(self, "delay", function, CALL)
        if self.devices is not None:
            object.__setattr__(self, "devices", checked_devices(self.devices))

    @property
    def time(self) -> str:
        return "wall"

    def count(self) -> int:
        count = len(self.place())
        check_delay(self.delay, count)
        return count

    def place(self) -> list[jax.Device]:
        devices = self._devices()
        room = [device for device in devices for _ in range(self.workers_per_device)]
        wanted = len(room) if self.num_workers is None else self.num_workers
        if wanted > len(room):
            raise ValueError(
                f"`Devices(num_workers={wanted})` needs {wanted} places, but there are "
                f"{len(devices)} devices with {self.workers_per_device} each. Ask for fewer "
                "workers, set `workers_per_device`, or (before JAX starts) `cpu_devices`."
            )
        return room[:wanted]

    def _devices(self) -> list[jax.Device]:
        if self.devices is not None:
            return list(self.devices)
        if self.cpu_devices is not None:
            # Once JAX has started, what there is must do, and `place` says if it does not.
            with contextlib.suppress(RuntimeError):
                jax.config.update("jax_num_cpu_devices", self.cpu_devices)
        devices = jax.local_devices()
        if self.cpu_devices is not None:
            room = len(devices) * self.workers_per_device
            if room < (self.num_workers or self.cpu_devices * self.workers_per_device):
                devices = jax.local_devices(backend="cpu")
        return devices

    def open(self, num_workers: int, workers: Sequence[Worker]) -> World:
        return _DeviceWorld(workers, self.delay, self.seed)


_LOOK_AGAIN = object()  # in the inbox: the timer was set by another thread
_COMPILED = object()  # in the inbox: a worker is ready for its first clock
_Job: TypeAlias = list[StartClock | Snapshot | None] | StartAhead | None


class _DeviceWorld(World):
    evaluates_aside = True

    def __init__(self, workers: Sequence[Worker], delay: DelayModel, seed: int) -> None:
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._mail: list[queue.SimpleQueue[_Job]] = [queue.SimpleQueue() for _ in workers]
        self._delays = None if delay is None else DelayDraws(delay, seed, len(workers))
        self._closing = False
        self._cancelled: list[set[Token]] = [set() for _ in workers]  # of clocks, while they run
        # To look whether still to wait. An interrupt may come anywhere in the main thread, and may
        # leave an `Event` locked for good; not what is written in C.
        self._hurry: list[queue.SimpleQueue[None]] = [queue.SimpleQueue() for _ in workers]
        self._timer: float | None = None
        self._began = 0.0
        self._joining = len(workers)  # who has not yet
        self._here = False  # whether all have: what is pushed before waits
        self._together = threading.Lock()  # free since then
        self._together.acquire()
        # What is alike is compiled once, by the first who needs it; all that differ at one time.
        first = {(worker.device, worker.kind): worker for worker in reversed(workers)}
        self._compiling = set(first.values())
        settings = Settings()
        self._threads = [
            threading.Thread(
                target=settings.run,
                args=(self._work, worker),
                name=f"ssp-worker-{worker.index}",
                daemon=True,
            )
            for worker in workers
        ]
        self._workers = workers
        self._stopping = False  # an end is requested
        self._in_haste = False  # and injected delays are cut short for it
        # What each worker is doing that others may wait for: what, since when, how long it may.
        self._doing: list[tuple[str, float, float] | None] = [None] * len(workers)

    def prepare(self) -> None:
        """Have the workers compile, all at one time, then let them join."""
        for thread in self._threads:
            thread.start()
        compiled = 0
        while compiled < len(self._workers) and not self._stopping:
            with contextlib.suppress(queue.Empty):
                got = self._inbox.get(timeout=SIGNAL_SECONDS)
                self._raise_if_failed(got)
                if got is _COMPILED:
                    compiled += 1
                else:  # a stop is requested
                    self._inbox.put(got)
        self._began = time.perf_counter()
        for worker in self._workers:
            self._inbox.put(Message(WorkerJoined(worker.index)))

    def now(self) -> float:
        return time.perf_counter() - self._began

    def waits(self) -> list[Waiting]:
        now = time.monotonic()
        found: list[Waiting] = []
        for worker, doing in zip(self._workers, self._doing, strict=True):
            for_data = worker.waits()
            if for_data is not None:
                found.append(for_data)
            elif doing is not None:
                what, since, limit = doing
                found.append(Waiting(worker.index, what, now - since, limit))
        return found

    def start(self, start: StartClock, snapshot: Snapshot | None) -> None:
        self._mail[start.worker].put([start, snapshot])

    def go_ahead(self, grant: StartAhead) -> None:
        self._mail[grant.worker].put(grant)

    def cancel(self, cancel: Cancel) -> None:
        self._cancelled[cancel.worker].add(cancel.token)
        self._hurry[cancel.worker].put(None)

    def outdated(self, event: Event) -> bool:
        return isinstance(event, TimerFired) and event.at != self._timer

    def connect(self, take: Callable[[Event, Push | None], None]) -> None:
        self._take = take

    def receive(self) -> Message | None:
        if not (self._joining or self._here):
            self._all_are_here()
        while True:
            timer = self._timer
            if timer is not None and timer <= self.now():
                # Until this is taken the timer may be set anew: only `set_timer` changes it.
                return Message(TimerFired(timer))
            self.alarm()
            with contextlib.suppress(queue.Empty):
                left = SIGNAL_SECONDS if timer is None else timer - self.now()
                got = self._inbox.get(timeout=min(max(0.0, left), SIGNAL_SECONDS))
                self._raise_if_failed(got)
                if got is not _LOOK_AGAIN and got is not _COMPILED:
                    if got is not None:
                        self._seen(got.what)
                    return got

    def _seen(self, what: Event | Future[Any]) -> None:
        self._joining -= type(what) is WorkerJoined
        if type(what) is StopRequested and what.reason == "interrupted":
            self._in_haste = True
            for hurry in self._hurry:
                hurry.put(None)

    def _all_are_here(self) -> None:
        self._here = True
        with contextlib.suppress(RuntimeError):  # it was said before
            self._together.release()

    def _wait_for_all(self) -> None:
        if not self._here:
            self._together.acquire()
            self._all_are_here()  # lets the next one pass

    def over(self) -> None:
        self._inbox.put(None)

    def request_stop(self, reason: str) -> None:
        self._stopping = True
        self._inbox.put(Message(StopRequested(reason)))

    def set_timer(self, at: float | None) -> None:
        self._timer = at
        self._inbox.put(_LOOK_AGAIN)

    def post(self, evaluation: Future[Any]) -> None:
        self._inbox.put(Message(evaluation))

    def stop(self, worker: int) -> None:
        self._mail[worker].put(None)

    def close(self) -> None:
        self._closing = True
        self._all_are_here()
        for mail, hurry in zip(self._mail, self._hurry, strict=True):
            mail.put(None)
            hurry.put(None)
        deadline = time.monotonic() + CLOSE_SECONDS
        for worker, thread in zip(self._workers, self._threads, strict=True):
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
                if thread.is_alive() and (self._doing[worker.index] or [""])[0] == "compiles":
                    atexit.register(thread.join)  # the interpreter's end would crash in it

    def _raise_if_failed(self, got: Any) -> None:
        if isinstance(got, BaseException):
            raise got

    def _work(self, worker: Worker) -> None:
        """What a worker's thread does: compile, then what every letter in its mail says."""
        mail = self._mail[worker.index]
        try:
            if worker in self._compiling:
                self._doing[worker.index] = "compiles", time.monotonic(), math.inf
                worker.compile()
                self._doing[worker.index] = None
            self._inbox.put(_COMPILED)
            letters: deque[_Job] = deque()  # out of the mail already
            while (job := letters.popleft() if letters else mail.get()) is not None:
                if self._closing:
                    return
                if isinstance(job, StartAhead):
                    worker.go_ahead(job)
                else:
                    self._run(worker, job, letters)
        except BaseException as error:  # reported to, and raised in, the main thread
            note(error, f"in worker {worker.index} of jax_ssp")
            self._inbox.put(error)

    def _run(self, worker: Worker, job: list[Any], letters: deque[_Job]) -> None:
        """Run a clock to its end; before waiting for that, dispatch and draw what comes next."""
        began = time.perf_counter()
        start = job[0]
        if start.token in self._cancelled[start.worker]:  # before it was begun
            worker.skip(start.local_steps)
            if self._delays is not None:
                self._delays.draw(start)  # so that the next clock gets its own
            self._cancelled[start.worker].remove(start.token)
            return
        index = start.worker
        self._doing[index] = f"computes clock {start.clock}", time.monotonic(), COMPUTING_SECONDS
        if not worker.has_data():
            self._doing[index] = None
            self._wait_for_all()
            self._take(WorkerDone(index, start.clock, start.token), None)
            self._cancelled[index].discard(start.token)  # if it was, that was late
            return
        worker.begin(start, job.pop())  # the snapshot is now the worker's alone
        mail = self._mail[worker.index]
        if not mail.empty():
            if isinstance(letter := mail.get(), StartAhead):
                worker.go_ahead(letter)
            else:
                letters.append(letter)  # the end; or, this clock cancelled, the next one
        worker.prefetch(start)
        push = worker.finish()
        if self._delays is not None:
            what = f"sleeps the injected delay of clock {start.clock}"
            self._doing[index] = what, time.monotonic(), QUIET_SECONDS
            self._wait(start, until=began + self._delays.draw(start))
        self._doing[index] = None
        self._wait_for_all()
        self._take(push.event(start), push)
        if start.token in self._cancelled[start.worker]:  # so that push was late
            worker.cancel()
            self._cancelled[start.worker].remove(start.token)

    def _wait(self, start: StartClock, until: float) -> None:
        """Wait, but not on if the clock is cancelled, or the run interrupted or closed."""
        hurry, cancelled = self._hurry[start.worker], self._cancelled[start.worker]
        while not (self._closing or self._in_haste or start.token in cancelled):
            left = until - time.perf_counter()
            if left <= 0:
                return
            with contextlib.suppress(queue.Empty):
                hurry.get(timeout=left)
