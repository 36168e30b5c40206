"""What is run for `depth`: updates to a target, for every optimizer, depth and staleness."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

import optax

import jax_ssp as ssp
from experiments.study import outcome
from experiments.study.study import Cell, Study, crossed
from experiments.workloads.digits import DigitsMLP
from jax_ssp.mitigations import outer
from jax_ssp.report.papers import Row, Rows, Size

WIDTH, BATCH, EVERY = 64, 16, 16  # EVERY: updates from one evaluation to the next
ACCURACY = 0.93  # the target, on the test images
STALENESS = {"smoke": (0, 3), "laptop": (0, 3, 7, 15), "paper": (0, 1, 3, 7, 15)}
UPDATES = {"smoke": 480, "laptop": 2400, "paper": 16_000}  # at most
DEPTHS = {"smoke": (0, 3), "laptop": (0, 1, 3, 6), "paper": tuple(range(7))}  # hidden layers
# Each optimizer, what else it is given, and the rate that STEPS multiply.
OPTIMIZERS: dict[str, tuple[Any, dict[str, Any], float]] = {
    "SGD": (optax.sgd, {}, 0.3),
    "Momentum": (optax.sgd, {"momentum": 0.9}, 0.1),
    "Adam": (optax.adam, {}, 0.03),
    "RMSProp": (optax.rmsprop, {"decay": 0.9}, 0.03),
    "Adagrad": (optax.adagrad, {}, 0.3),
}
STEPS: dict[Size, tuple[float, ...]] = {
    "smoke": (0.3,),
    "laptop": (3.0, 1.0, 0.3, 0.1, 0.03, 0.01),
    "paper": tuple(2.0**-power for power in range(-2, 8)),
}


def made(cell: Cell, rate: float, seed: int, size: Size) -> ssp.Experiment:
    """Workers push plain gradients; the optimizer is the server's, and sees each in turn."""
    optimizer, hidden = ("SGD", int(cell["label"])) if _deep(cell) else (cell["label"], 1)
    function, arguments, _ = OPTIMIZERS[optimizer]
    workers = cell["staleness"] + 1  # equal ones take turns: as stale as there are others
    return ssp.Experiment(
        workload=DigitsMLP(hidden=(WIDTH,) * hidden, batch_size=BATCH, learning_rate=1.0),
        policy=ssp.ASP(),
        runtime=ssp.Virtual(workers, ssp.delays.Constant(1.0), seed),
        server_tx=ssp.configured(
            outer, optimizer=ssp.configured(function, learning_rate=rate, **arguments)
        ),
        weight="sum",
        max_updates=UPDATES[size],
        eval_every=EVERY // workers,
        target=f"test_accuracy >= {ACCURACY}",
        seed=seed,
    )


def measured(cell: Cell, size: Size, seeds: int) -> Row:
    """The rate that needs the fewest updates on seed 0, and what it needs on all seeds."""

    def run(cell: Cell, rate: float, seed: int) -> Row:
        return outcome.needed(made(cell, rate, seed, size), "updates")

    optimizer = "SGD" if _deep(cell) else cell["label"]
    rates = [OPTIMIZERS[optimizer][2] * step for step in STEPS[size]]
    study = Study([cell], rates, range(seeds), run, tuning=(0,), loss="updates")
    stale = (row["mean_staleness"] for row in study.report(study.tune(cell)))
    about = {"mean_staleness": statistics.fmean(stale), "most_updates": UPDATES[size]}
    return {**study.gathered(cell, "updates"), **about}


def measure(size: Size, seeds: int) -> list[Row]:
    names = ("SGD", "Adam") if size == "smoke" else tuple(OPTIMIZERS)
    depths = [str(hidden) for hidden in DEPTHS[size]]
    cells: list[Cell] = []
    for staleness in STALENESS[size]:
        for family, labels in (("optimizer", names), ("depth", depths)):
            cells += crossed(family=[family], label=labels, staleness=[staleness])
    return [measured(cell, size, seeds) for cell in cells]


def _deep(cell: Cell) -> bool:
    return cell["family"] == "depth"


def finite(updates: int | None) -> float:
    """Infinite where the target was not reached."""
    return math.inf if updates is None else updates


def middle(row: Mapping[str, Any]) -> float:
    """The median over the seeds; infinite if most did not reach the target."""
    return statistics.median(finite(updates) for updates in row["updates"])


def labels(rows: Rows, family: str) -> list[str]:
    return list(dict.fromkeys(row["label"] for row in rows if row["family"] == family))


def cells(rows: Rows, family: str, label: str) -> list[Mapping[str, Any]]:
    """Those of a label, from the least staleness to the most."""
    own = [row for row in rows if (row["family"], row["label"]) == (family, label)]
    return sorted(own, key=lambda row: row["staleness"])
