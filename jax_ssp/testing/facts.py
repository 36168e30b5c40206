"""The bare facts of a run: who is here, who pushed what, which version each delta went into."""

from __future__ import annotations

from dataclasses import dataclass, field

from jax_ssp.controller import (
    DeltaReady,
    Ends,
    Resumed,
    StartAhead,
    StartClock,
    StopRequested,
    TimerFired,
    Token,
    WorkerDone,
    WorkerJoined,
    WorkerLost,
)
from jax_ssp.controller.events import Event
from jax_ssp.policies import Delta, Policy


@dataclass(eq=False)
class Push:
    """One delta: where it comes from and what became of it."""

    delta: Delta
    token: Token
    steps: int = 0
    samples: int = 0
    tokens: int = 0
    finite: bool = True
    merged_in: int | None = None
    dropped: bool = False  # or cancelled before it was pushed

    @property
    def settled(self) -> bool:
        return self.dropped or self.merged_in is not None

    def missing_in(self, version: int) -> bool:
        return not self.dropped and (self.merged_in is None or self.merged_in > version)


@dataclass(eq=False)
class Stay:
    """A worker from a join to its loss; one that comes back begins a new stay."""

    worker: int
    entered_at: int
    pushes: list[Push] = field(default_factory=list)
    running: StartClock | None = None
    ahead: StartAhead | None = None  # granted, and not started yet
    held: int | None = None
    stopped: bool = False
    anew: bool = True  # whether its next clock adopts all fragments
    starts: list[StartClock] = field(default_factory=list)

    @property
    def clock(self) -> int:
        return self.entered_at + len(self.pushes)

    @property
    def waiting(self) -> bool:
        return self.running is None and not self.stopped

    def covered_by(self, version: int) -> int:
        missing = (push.delta.clock for push in self.pushes if push.missing_in(version))
        return next(missing, self.clock)


class Facts:
    """What has happened in a run; whatever else is known of it is found by scanning."""

    def __init__(
        self,
        policy: Policy,
        ends: Ends,
        grant_ahead: bool = False,
        weight: str | float = "mean",
        reads_own: bool = True,
        round_samples: int = 0,
        fragments: int = 1,
    ) -> None:
        self.policy, self.bound = policy, policy.guaranteed_bound
        self.reads_own, self.round_samples = reads_own and policy.reads_own, round_samples
        self.weight = weight
        self.fragments = fragments
        self.merged_in: list[set[int]] = [set()]  # the fragments merged in each version
        self.grant_ahead = grant_ahead and not policy.cancels
        self.ends, self.num_clocks = ends, ends.num_clocks
        self.everybody: set[int] = set()
        self.live: dict[int, Stay] = {}
        self.gone: list[Stay] = []
        self.pushes: list[Push] = []
        self.version: int = 0
        self.dropped: int = 0
        self.max_lag: int = 0
        self.timer: float | None = None
        self.stopping = False
        self.stalenesses: list[int] = []
        self.totals = [(0, 0, 0)]  # deltas, local steps and examples in each version
        self.start_lags: list[int] = []
        self.reads = self.grants = self.cancels = self.late = 0
        self.starts: list[StartClock] = []
        self.term: int = 0
        self._last_min_clock = 0

    @property
    def min_clock(self) -> int:
        return min((stay.clock for stay in self.live.values()), default=self._last_min_clock)

    @property
    def buffered(self) -> list[Delta]:
        return [push.delta for push in self.pushes if not push.settled]

    @property
    def ended(self) -> bool:
        return self.stopping or self.spent

    @property
    def spent(self) -> bool:
        """Whether as much is merged as may be in total."""
        ends, totals = self.ends, self.totals[self.version]
        most = (ends.max_updates, ends.max_steps, ends.max_samples)
        return any(m is not None and total >= m for m, total in zip(most, totals, strict=True))

    def round(self, version: int) -> int:
        """The round of a version."""
        return self.totals[version][2] // self.round_samples if self.round_samples else 0

    def base(self, stay: Stay, clock: int) -> int:
        """The version of which a worker adopted last the fragment that this clock pushes."""
        fragment, count = clock % self.fragments, self.fragments
        adopted = [s for s in stay.starts if s.whole or (s.clock - 1) % count == fragment]
        return adopted[-1].version

    def staleness(self, delta: Delta) -> int:
        """The versions after a delta's base that have merged its fragment."""
        fragment = delta.clock % self.fragments
        return sum(fragment in merged for merged in self.merged_in[delta.version + 1 :])

    def coverage(self, version: int) -> int:
        return min(stay.covered_by(version) for stay in self.live.values())

    def running(self) -> list[int]:
        return sorted(stay.worker for stay in self.live.values() if stay.running)

    def waiting(self) -> list[int]:
        return sorted(stay.worker for stay in self.live.values() if stay.waiting)

    def exists(self, clock: int) -> bool:
        """Whether the run has a clock of this number."""
        return self.num_clocks is None or clock < self.num_clocks

    def is_late(self, event: DeltaReady | WorkerDone) -> bool:
        """Whether it quotes a token that is not the one its worker runs under."""
        stay = self.live.get(event.worker)
        return not (stay and stay.running and stay.running.token == event.token)

    def happen(self, event: Event) -> None:
        match event:
            case WorkerJoined(worker):
                before = [stay.clock for stay in self.gone if stay.worker == worker]
                self.live[worker] = Stay(worker, max([self.min_clock, *before]))
                self.everybody.add(worker)
            case DeltaReady(worker, clock, version, token, steps, samples, finite):
                stay = self.live[worker]
                base = self.base(stay, clock) if self.fragments > 1 else version
                counts = steps, samples, event.tokens
                push = Push(Delta(worker, clock, base), token, *counts, finite)
                stay.held = stay.held if finite else None
                stay.anew = stay.anew or not finite
                stay.pushes.append(push)
                stay.running = None
                self.pushes.append(push)
            case WorkerLost(worker) | WorkerDone(worker):
                self._last_min_clock = self.min_clock
                self.gone.append(self.live.pop(worker))
            case TimerFired():
                self.timer = None
            case StopRequested():
                self.stopping = True
            case Resumed():
                self._resume(event)

    def _resume(self, event: Resumed) -> None:
        self.term, *ends = event
        self.ends, self.stopping = Ends(*ends), False
        self.num_clocks = self.ends.num_clocks
        for stay in self.live.values():
            if stay.stopped and self.exists(stay.clock) and not self.ended:
                stay.stopped, stay.held, stay.anew = False, None, True

    def stay_of(self, push: Push) -> Stay:
        return next(stay for stay in (*self.live.values(), *self.gone) if push in stay.pushes)
