"""What is run for dynamic SSP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax_ssp as ssp
from experiments.study import outcome
from experiments.study.study import Cell, Study, crossed
from experiments.workloads.digits import DigitsMLP
from jax_ssp.policies.decision import Wait
from jax_ssp.policies.view import View
from jax_ssp.report.papers import Row, Size

LOWER, UPPER = 3, 15
BOUNDS = range(LOWER, UPPER + 1)
OURS, PRINTED = f"DSSP({LOWER}, {UPPER})", "DSSP as printed"
EQUAL, MIXED = "4 equal devices", "2 mixed devices"
JITTER = ssp.delays.LogNormal(median=1.0, sigma=0.2)
DELAYS: dict[str, Any] = {
    EQUAL: (4, JITTER),
    MIXED: (2, ssp.delays.Straggler(JITTER, worker=0, factor=2.5)),
}
UPDATES = {"smoke": 200, "laptop": 6000, "paper": 60_000}  # of the clockwork
TRAINED_UPDATES = {"smoke": 80, "laptop": 1200, "paper": 24_000}
RATES: dict[Size, tuple[float, ...]] = {
    "smoke": (0.2,),
    "laptop": (0.1, 0.2, 0.4, 0.8, 1.6),
    "paper": (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6),
}


@dataclass(frozen=True)
class AsPrinted(ssp.DSSP):
    """DSSP as Algorithm 1 of the paper has it.

    A grant of r lets r + 1 clocks pass, since the push that it answers is not counted, and holds
    whatever the lag; when it is used up another is asked for.
    """

    @property
    def guaranteed_bound(self) -> int | None:
        return None

    def admit(self, view: View, worker: int) -> bool | Wait:
        clock = view.clock(worker)
        if clock < self._granted.get(worker, 0) or view.coverage >= clock - self.lower:
            return True
        extra = self._extra(view, worker)
        self._granted[worker] = clock + 1 + extra if extra else clock
        return extra > 0 or Wait(coverage=clock - self.lower)


POLICIES: dict[str, ssp.Policy] = {
    "BSP": ssp.BSP(),
    **{f"SSP({bound})": ssp.SSP(bound) for bound in BOUNDS},
    OURS: ssp.DSSP(LOWER, UPPER),
    PRINTED: AsPrinted(LOWER, UPPER),
    "ASP": ssp.ASP(),
}
DRAWN = ("BSP", "SSP(3)", "SSP(9)", "SSP(15)", OURS, PRINTED, "ASP")
# At size smoke only some bounds.
TRAINED: dict[Size, tuple[str, ...]] = {
    "smoke": DRAWN,
    "laptop": tuple(POLICIES),
    "paper": tuple(POLICIES),
}


def waits(size: Size, seeds: int) -> list[Row]:
    """Time spent waiting under every policy, from the clockwork alone."""
    rows: list[Row] = []
    for setting, (workers, delay) in DELAYS.items():
        for label, policy in POLICIES.items():
            waiting: list[float] = []
            lag = 0
            for seed in range(seeds):
                run = outcome.clockwork(policy, workers, delay, seed, max_updates=UPDATES[size])
                waiting.append(1 - run.computing)
                lag = max(lag, int(run.schedule["lag"].max()))
            about = {"kind": "waiting", "setting": setting, "label": label}
            rows.append({**about, "waiting": waiting, "max_lag": lag})
    return rows


def made(label: str, setting: str, size: Size, rate: float, seed: int) -> ssp.Experiment:
    workers, delay = DELAYS[setting]
    return ssp.Experiment(
        workload=DigitsMLP(learning_rate=rate, batch_size=64),
        policy=POLICIES[label],
        runtime=ssp.Virtual(workers, delay, seed, batch=workers),
        max_updates=TRAINED_UPDATES[size],
        eval_every=max(1, TRAINED_UPDATES[size] // (60 * workers)),
        seed=seed,
    )


def measure(size: Size, seeds: int) -> list[Row]:
    rows = waits(size, seeds)

    def run(cell: Cell, rate: float, seed: int) -> Row:
        experiment = made(cell["label"], cell["setting"], size, rate, seed)
        return outcome.curve(experiment, "test_loss")

    cells = crossed(setting=DELAYS, label=TRAINED[size])
    return rows + Study(cells, RATES[size], range(seeds), run, tuning=(0,)).rows()
