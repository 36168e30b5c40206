"""What is simulated under a seed: a run, and what goes wrong in it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from jax_ssp.controller import Controller, Ends
from jax_ssp.controller.facts import type_name
from jax_ssp.controller.weight import Weight
from jax_ssp.policies import (
    ALL_POLICIES,
    ASP,
    BSP,
    PSP,
    SSP,
    Decoupled,
    DyLU,
    FedBuff,
    KBatchSync,
    KSync,
    LocalSteps,
    Policy,
    PostLocal,
    Quorum,
    Ringmaster,
    Softsync,
)
from jax_ssp.testing.simulation.dice import Dice

SAMPLES = 2  # in a batch
_SPAN = 60  # rows and operations of the disk between two stops, at most

_POLICIES: tuple[Policy, ...] = (
    *(kind() for kind in ALL_POLICIES),
    *(BSP(), SSP(bound=1), SSP(bound=2, adopt="lazy"), SSP(bound=3), ASP(), PSP(1, 2)),
    *(KSync(2), KBatchSync(2), Softsync(2), FedBuff(3), Quorum(2, 0.25), Quorum(1, 1.0, True)),
    Decoupled(2, 1.0, 2),
    *(Ringmaster(2), Ringmaster(3, stops=True)),
)
_STEPS: tuple[int | LocalSteps, ...] = (1, 1, 2, 3, PostLocal(h=2, switch=2), DyLU(h=3, memory=2))
_WEIGHTS: tuple[Weight, ...] = ("mean", "mean", "sum", "merged", "samples", 0.5)


@dataclass(frozen=True)
class Scenario:
    """A run, and what goes wrong in it; percentages are of the rows in which it is tried.

    Attributes:
        seed: of every draw.
        policy, ends, local_steps, weight: of the controller.
        workers: that join at the start.
        overlap: steps that are run ahead.
        rows: after so many nobody is lost or joins any more, and the end is asked for if need be.
        lost: percent: a worker is lost, or joins again.
        late: percent: a push comes that is late: under an old token, or twice.
        data_ends: percent: there is no data for a clock.
        shared: batches of an epoch that all workers share; 0 where each has its own.
        stops: the process dies after so many rows and operations of the disk, each time.
        power: percent of the stops in which the machine dies: what was not synced may be gone.
        polite: percent of the stops of which the process is told before.
        saves: rows between two saves, or clocks if those are counted; 0 for none.
        by_clocks: whether clocks are counted.
        eager: whether a save must wait until every clock that runs was begun since.
        damage: percent of the stops after which the newest checkpoint is damaged.
        writes: whether anything is written while it runs.
        resized: whether a run goes on with fewer workers, unless all is to be the same.
        keeps: whether workers keep local progress of their own, which no version has.
        donates: whether who joins takes over a live worker's state.
        same: whether after a stop the world goes on as it would have without; else it goes on
            otherwise, and to raised ends.
    """

    seed: int
    policy: Policy
    ends: Ends
    local_steps: int | LocalSteps
    weight: Weight
    workers: int
    overlap: int
    rows: int
    lost: int
    late: int
    data_ends: int
    shared: int
    stops: tuple[int, ...]
    power: int
    polite: int
    saves: int
    by_clocks: bool
    eager: bool
    damage: int
    writes: bool
    resized: bool
    keeps: bool
    donates: bool
    same: bool

    @property
    def asked_to_stop(self) -> bool:
        """Whether somebody asks for the end, once there are so many rows."""
        return not self.same

    def ends_of(self, term: int) -> Ends:
        """The counts that are to end the run, once it was resumed so often."""
        if self.same:
            return self.ends
        counts = {name: most and most + 2 * term for name, most in asdict(self.ends).items()}
        return Ends(**counts)

    def workers_of(self, term: int) -> int:
        """With how many workers the run goes on, once it was resumed so often."""
        if self.same or not self.resized:
            return self.workers
        return 1 + (self.seed + term) % self.workers

    def controller(self) -> Controller:
        """The controller of this run at its start."""
        return Controller(
            self.policy,
            ends=self.ends,
            local_steps=self.local_steps,
            weight=self.weight,
            grant_ahead=self.overlap > 0,
            round_samples=self.workers * SAMPLES,
        )

    def header(self) -> dict[str, Any]:
        """Of the run's tape."""
        policy = self.policy
        steps = self.local_steps
        return {
            "policy": repr(policy),
            "bound": policy.guaranteed_bound,
            "max_staleness": policy.guaranteed_staleness(self.workers),
            "reads_own": policy.reads_own,
            "waits_for_own": policy.waits_for_own,
            "num_workers": self.workers,
            "round_samples": self.workers * SAMPLES,
            **({"data": _epoch(self.shared)} if self.shared else {}),
            "experiment": {
                "policy": _described(policy),
                "num_workers": self.workers,
                **{column.name: getattr(self.ends, column.name) for column in fields(Ends)},
                "local_steps": steps if isinstance(steps, int) else _described(steps),
                "weight": self.weight,
                "overlap": self.overlap,
                "optimizer_on": "workers",
            },
        }


def scenario(seed: int, policy: Policy | None = None) -> Scenario:
    """What a seed stands for.

    Args:
        seed: non-negative.
        policy: by default one of ours that is drawn.
    """
    dice = Dice(seed)
    same = dice.hits(60)
    counts = Ends(num_clocks=1 + dice.below(8)), Ends(max_updates=1 + dice.below(30))
    ends = dice.one_of(counts if same else (Ends(), *counts))
    policy = dice.one_of(_POLICIES) if policy is None else policy
    fitting = [workers for workers in (1, 2, 2, 3, 3, 4, 5) if _fits(policy, workers)]
    fitting = fitting or [w for w in range(6, 17) if _fits(policy, w)][:1]
    ahead = dice.hits(40) and not policy.cancels
    return Scenario(
        seed=seed,
        policy=policy,
        ends=ends,
        local_steps=dice.one_of(_STEPS),
        weight=dice.one_of(_WEIGHTS),
        workers=dice.one_of(fitting),
        overlap=1 + dice.below(2) if ahead else 0,
        rows=10 + dice.below(40),
        lost=dice.one_of((0, 0, 6, 12)),
        late=dice.one_of((0, 5, 10)),
        data_ends=dice.one_of((0, 0, 0, 2)),
        shared=dice.one_of((0, 3, 8, 30)),
        stops=tuple([dice.below(_SPAN) for _ in range(dice.one_of((0, 1, 1, 2, 2, 3)))]),
        power=dice.one_of((0, 50, 100)),
        polite=dice.one_of((0, 30)),
        saves=dice.one_of((0, 2, 5, 9)),
        by_clocks=dice.hits(30),
        eager=dice.hits(50),
        damage=dice.one_of((0, 0, 50)),
        writes=True,
        resized=dice.hits(50),
        keeps=dice.hits(40),
        donates=dice.hits(50),
        same=same,
    )


def _fits(policy: Policy, workers: int) -> bool:
    try:
        policy.check(workers)
    except ValueError:
        return False
    return True


def _epoch(batches: int) -> dict[str, int]:
    return {"batches_per_epoch": batches, "samples_per_epoch": SAMPLES * batches}


def _described(part: Policy | LocalSteps) -> dict[str, Any]:
    columns = [column.name for column in fields(part) if column.init]
    return {"type": type_name(type(part)), **{name: getattr(part, name) for name in columns}}
