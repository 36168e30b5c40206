"""What becomes of a worker in which something goes wrong, as data; and how often it may come again.

A worker that fails is *lost* (`WorkerLost` on the tape): nobody waits for it, and what it pushes
from then on is fenced. If it may start once more, it joins again after a while as one that is new:
its step's state is made of the first snapshot that it adopts, and its data goes on with the batches
of the clock in which it was lost. All of that follows from the tape, so every world does the same.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from jax_ssp import checks
from jax_ssp.controller.commands import Cancel, Command, StartClock, is_fenced
from jax_ssp.controller.events import DeltaReady, Event, WorkerDone, WorkerJoined, WorkerLost
from jax_ssp.delays import LONGEST
from jax_ssp.failures import in_words, notes
from jax_ssp.runtimes.ending import TOO_FEW_WORKERS
from jax_ssp.runtimes.members import is_left_out

LONGEST_PAUSE = 60.0  # seconds before a restart, however many there were before
MOST_WORDS = 200  # characters of an error that stand on the tape

# What goes wrong: how the reason of a `WorkerLost` begins.
STEP, PUSH, DATA, DEVICE, MEMORY = "step", "push", "data", "device", "out of memory"
HANG = "hang"

REMEDY = "reduce the batch size, `local_steps` or `workers_per_device`"  # where memory is short

Pushed = Literal["merge", "drop"]
Donates = Literal["progress", "always", "never"]


@dataclass(frozen=True)
class Recovery:
    """What becomes of a worker in which something goes wrong.

    Without one, an error in a worker ends the run. With one, the worker is lost to the run, and
    restarted: it joins again as a new one, with the batches of the clock in which it was lost.

    Args:
        restarts: how often each worker is restarted, at most.
        backoff: how long it is lost at least, before its first restart (seconds); before each
            further one twice as long as before the last, and never more than a minute.
        min_workers: the run ends, "too few workers", when fewer than so many are there or may still
            come again.
        deadline: a clock that has gone on for so long counts as hung (seconds); by default three
            times as long as the slowest that was seen, and at least 30 seconds.
        pushed: whether what a lost worker had pushed before, and was not merged yet, is merged as
            if it were there, or dropped.
        donor: when a worker that joins takes over the state of a live one, which then is the one
            that is least far: "progress" where workers keep progress of their own
            (`adopt=ssp.Mix`), "always" also where only their optimizers have a state, or "never".

    Raises:
        ValueError: if a number is out of range, or `pushed` or `donor` is none of these.

    Example:
        >>> Recovery(restarts=1, backoff=0.5).pause(restart=1)
        0.5
    """

    restarts: int = 3
    backoff: float = 1.0
    min_workers: int = 1
    deadline: float | None = None
    pushed: Pushed = "merge"
    donor: Donates = "progress"

    def __post_init__(self) -> None:
        checks.put(self, "restarts", checks.integer, least=0)
        checks.put(self, "backoff", checks.number, least=0, most=LONGEST)
        checks.put(self, "min_workers", checks.integer, least=1)
        checks.put(self, "deadline", checks.optional, checks.number, above=0, most=LONGEST)
        checks.put(self, "pushed", checks.choice, ("merge", "drop"))
        checks.put(self, "donor", checks.choice, ("progress", "always", "never"))

    def pause(self, restart: int) -> float:
        """How long a worker is lost before it is restarted (seconds).

        Args:
            restart: which of its restarts that is, counted from 1.
        """
        doublings = min(restart - 1, 64)  # by then it is at its longest, whatever it began with
        return min(self.backoff * 2.0**doublings, max(self.backoff, LONGEST_PAUSE))


def donates(recovery: Recovery | None, progress: bool) -> bool:
    """Whether who joins takes over the state of a live worker.

    Args:
        recovery: of the run; None for none.
        progress: whether workers keep progress of their own when they adopt.
    """
    rule = "progress" if recovery is None else recovery.donor
    return {"progress": progress, "always": True, "never": False}[rule]


def check_enough(runtime: str, recovery: Recovery | None, count: int) -> None:
    """Raise ValueError if a run of a runtime of that name has fewer workers than it can do with."""
    if recovery is not None and recovery.min_workers > count:
        raise ValueError(
            f"`{runtime}(recovery={recovery})` wants at least {recovery.min_workers} workers, and "
            f"the run has {count}; lower `min_workers`, or ask for more workers."
        )


class NotOfWorker(RuntimeError):
    """Raised in the thread of a worker that cannot help it: the run ends, whoever hears of it."""


class Restarts:
    """Who may come again, and after how long; counts the workers that a run has left.

    Losses are counted over the life of a run. A resume brings everybody back once.

    Args:
        recovery: the rules.
        num_workers: that there are when it begins.

    Example:
        >>> restarts = Restarts(Recovery(restarts=1, min_workers=2), num_workers=2)
        >>> restarts.of(0), restarts.too_few, restarts.of(0), restarts.too_few
        (1.0, False, None, True)
    """

    def __init__(self, recovery: Recovery, num_workers: int) -> None:
        self._recovery = recovery
        self._left = set(range(num_workers))
        self._count: Counter[int] = Counter()

    def go_on(self, workers: Iterable[int], times: Mapping[int, int]) -> None:
        """The run was broken off, and goes on with these workers; so often each was lost."""
        self._left.update(workers)
        self._count.update(times)

    def joined(self, worker: int) -> None:
        """A worker is there, be it for the first time."""
        self._left.add(worker)

    def lost(self, worker: int) -> int:
        """A worker is lost, whatever becomes of it; gives how often it was by now."""
        self._count[worker] += 1
        return self._count[worker]

    def of(self, worker: int, ever: bool = True) -> float | None:
        """After how long a worker that is lost now comes again (seconds); None if never.

        Args:
            worker: who.
            ever: whether it may, if it has restarts left.
        """
        count = self.lost(worker)
        if not ever or count > self._recovery.restarts:
            self._left.discard(worker)
            return None
        return self._recovery.pause(count)

    def pause(self, worker: int) -> float:
        """After how long a worker that was lost before the run goes on comes again (seconds)."""
        return self._recovery.pause(max(1, self._count[worker]))

    @property
    def too_few(self) -> bool:
        """Whether fewer workers are left than the run can do without."""
        return len(self._left) < self._recovery.min_workers

    def told(self, worker: int, reason: str) -> str:
        """How a run ends that has too few, since this worker was lost for good, for this reason."""
        left, least = len(self._left), self._recovery.min_workers
        told = f"{left} left of at least {least}; worker {worker} was lost ({reason})"
        return f"{TOO_FEW_WORKERS}: {told}"


def reason_of(error: BaseException, phase: str = STEP) -> str:
    """Why a worker is lost in which this was raised, in a few words that stand on the tape.

    Args:
        error: that was raised.
        phase: in which, where the error itself does not say what it is of.

    Example:
        >>> reason_of(OSError("the disk is gone"))
        'step: OSError: the disk is gone'
        >>> reason_of(MemoryError())
        'out of memory: MemoryError; reduce the batch size, `local_steps` or `workers_per_device`'
    """
    words = re.sub(r"\s+", " ", in_words(error))
    if is_out_of_memory(error):
        asked = bytes_asked(error)
        kind, words = MEMORY, words if asked is None else f"no room for {asked:,} bytes"
        words = f"{words[: MOST_WORDS // 2]}; {REMEDY}"
    elif any(re.search(r"`data(\(worker=|\.batch\()", each) for each in (*notes(error), words)):
        kind = DATA
    elif type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError") and "allback" not in words:
        kind = DEVICE
    else:
        kind = phase
    return f"{kind}: {words}"[:MOST_WORDS]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was too little memory, of the host or of a device."""
    if isinstance(error, MemoryError):
        return True
    of_jax = type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
    return of_jax and re.search("RESOURCE_EXHAUSTED|[Oo]ut of memory", in_words(error)) is not None


def bytes_asked(error: BaseException) -> int | None:
    """How many bytes were asked for in vain, if the message of the error says so.

    Example:
        >>> bytes_asked(RuntimeError("Out of memory while trying to allocate 4096 bytes."))
        4096
        >>> bytes_asked(RuntimeError("failed to allocate 1.5KiB of device memory"))
        1536
    """
    words = in_words(error)
    exact = re.search(r"(\d+)\s*(?:bytes|B\b)", words)
    if exact is not None:
        return int(exact[1])
    about = re.search(r"(\d+(?:\.\d+)?)\s*([KMGT])i?B", words)
    if about is None:
        return None
    return math.ceil(float(about[1]) * 1024 ** ("KMGT".index(about[2]) + 1))


def batches_taken(rows: Iterable[tuple[float, Event, Sequence[Command]]], worker: int) -> int:
    """How many batches of a worker's data are behind it: of clocks that it has pushed or cancelled.

    Args:
        rows: of a tape, up to now.
        worker: whose.
    """
    taken = granted = 0
    for _, event, commands in rows:
        if isinstance(event, DeltaReady) and event.worker == worker:
            taken += 0 if is_fenced(commands) else event.steps
        for command in commands:
            if isinstance(command, StartClock) and command.worker == worker:
                granted = command.local_steps
            elif isinstance(command, Cancel) and command.worker == worker:
                taken += granted
    return taken


def times_lost(rows: Iterable[tuple[float, Event, Sequence[Command]]]) -> Counter[int]:
    """How often each worker has failed in these rows of a tape."""
    return Counter(
        event.worker
        for _, event, _ in rows
        if isinstance(event, WorkerLost) and not is_left_out(event)
    )


def lost_in(rows: Iterable[tuple[float, Event, Sequence[Command]]]) -> list[int]:
    """The workers that have failed in these rows of a tape, and have not come again.

    One that the run was resumed without has not failed.
    """
    lost: set[int] = set()
    for _, event, _ in rows:
        if isinstance(event, WorkerJoined) or is_left_out(event):
            lost.discard(event.worker)
        elif isinstance(event, WorkerLost):
            lost.add(event.worker)
    return sorted(lost)


def ended_in(rows: Iterable[tuple[float, Event, Sequence[Command]]]) -> set[int]:
    """The workers whose data has ended in these rows of a tape."""
    ended: set[int] = set()
    for _, event, commands in rows:
        if isinstance(event, WorkerJoined):
            ended.discard(event.worker)
        elif isinstance(event, WorkerDone) and not is_fenced(commands):
            ended.add(event.worker)
    return ended
