"""The null case: equal devices (Cui et al. 2016, GeePS), and when not to use this software."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import jax_ssp as ssp
from experiments.papers import common
from experiments.workloads.digits import DigitsMLP
from experiments.workloads.slowdowns import DELAYS, SLOW, TITLES, WORKERS
from jax_ssp.report.papers import Claim, Paper, Row, Rows, Size
from jax_ssp.report.plots import draw_curves

# The policy, and the local steps of its clocks.
METHODS: dict[str, tuple[Any, Any]] = {
    "BSP": (ssp.BSP(), 1),
    "SSP(1)": (ssp.SSP(bound=1), 1),
    "SSP(3)": (ssp.SSP(bound=3), 1),
    "ASP": (ssp.ASP(), 1),
    "BSP, 8 steps": (ssp.BSP(), 8),
    "BSP, DyLU(8)": (ssp.BSP(), ssp.DyLU(h=8)),
}
BOUNDS = ("BSP", "SSP(1)", "SSP(3)", "ASP")
STALE = BOUNDS[1:]
TRAINED = {
    "equal": BOUNDS,
    "slow for good": ("BSP", "SSP(3)", "ASP", "BSP, 8 steps", "BSP, DyLU(8)"),
    "exponential": BOUNDS,
}
ROUNDS = {"smoke": 100, "laptop": 1000, "paper": 10_000}  # of W clocks, of the clockwork
SECONDS = {"smoke": 40, "laptop": 160, "paper": 800}  # virtual, of the training
RATES: dict[Size, tuple[float, ...]] = {
    "smoke": (0.2,),
    "laptop": (0.2, 0.4, 0.8, 1.6),
    "paper": (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2),
}


def clockwork(delay: str, label: str, size: Size, seeds: int) -> Row:
    """What a step costs under a policy, from the clockwork alone."""
    pace: list[float] = []
    within: list[int] = []
    lag = 0
    for seed in range(seeds):
        steps: list[int] = []  # of every clock

        def counted(worker: int, clock: int, h: int, rng: Any, kept: list[int] = steps) -> float:
            kept.append(h)
            return DELAYS[delay](worker, clock, h, rng)

        policy, local_steps = METHODS[label]
        runtime = ssp.Virtual(WORKERS, counted, seed, compute=False)
        updates = ROUNDS[size] * WORKERS
        run = ssp.train(
            policy=policy, runtime=runtime, local_steps=local_steps, max_updates=updates
        )
        pace.append(WORKERS * run.seconds / run.updates / statistics.fmean(steps))
        merges = run.schedule["merge_version"]
        times = np.zeros(merges.max() + 1)
        np.maximum.at(times, merges, run.schedule["finish"])
        within.append(int((times[merges] <= SECONDS[size]).sum()))
        lag = max(lag, int(run.schedule["lag"].max()))
    about: Row = {"kind": "clockwork", "delay": delay, "policy": label}
    return {**about, "seconds": pace, "updates_in_training": within, "max_lag": lag}


def measure(size: Size, seeds: int) -> list[Row]:
    rows = [clockwork(delay, label, size, seeds) for delay in DELAYS for label in METHODS]
    within = {(row["delay"], row["policy"]): row["updates_in_training"] for row in rows}

    def made(rate: float, seed: int, delay: str, label: str) -> ssp.Experiment:
        policy, local_steps = METHODS[label]
        return ssp.Experiment(
            workload=DigitsMLP(learning_rate=rate),
            policy=policy,
            runtime=ssp.Virtual(WORKERS, DELAYS[delay], seed),
            local_steps=local_steps,
            max_updates=within[delay, label][seed],
            eval_every=1 if local_steps != 1 else max(1, SECONDS[size] // 80),
            seed=seed,
        )

    for delay, labels in TRAINED.items():
        methods = {label: partial(made, delay=delay, label=label) for label in labels}
        swept = common.swept(methods, RATES[size], seeds, "test_loss")
        rows += [{**row, "delay": delay} for row in swept]
    return rows


def at(rows: Rows, delay: str) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["delay"] == delay]


def seconds(rows: Rows, delay: str, label: str) -> float:
    """Virtual seconds that W steps take, of the clockwork."""
    own = [row for row in at(rows, delay) if row.get("policy") == label]
    return statistics.fmean(own[0]["seconds"])


def ratios(rows: Rows, delay: str, labels: Sequence[str]) -> tuple[list[float], str]:
    """Seconds of some methods over BSP's."""
    of = [seconds(rows, delay, label) / seconds(rows, delay, "BSP") for label in labels]
    said = ", ".join(f"{label} {ratio:.3f}" for label, ratio in zip(labels, of, strict=True))
    return of, f"of BSP's seconds a step: {said}"


def no_time_saved(rows: Rows) -> tuple[bool, str]:
    of, said = ratios(rows, "equal", STALE)
    return all(abs(ratio - 1) < 1e-3 for ratio in of), said


def bound_saves_nothing(rows: Rows) -> tuple[bool, str]:
    found = [ratios(rows, delay, STALE[:2]) for delay in ("slow for good", "bursts of one")]
    holds = all(0.96 < ratio < 1.01 for of, _ in found for ratio in of)
    return holds, f"{found[0][1]}; with bursts {found[1][1]}"


def none_better(rows: Rows) -> tuple[bool, str]:
    """Whether no median of the others is below the lowest of BSP's seeds."""
    own = at(rows, "equal")
    ends = {label: common.last(own, label) for label in BOUNDS}
    lowest = min(row["last"] for row in common.runs(own, "BSP"))
    said = ", ".join(f"{label} {loss:.3f}" for label, loss in ends.items())
    return min(ends[label] for label in STALE) >= lowest, f"last loss: {said}"


def sooner(rows: Rows, delay: str, axis: str, winners: Sequence[str]) -> tuple[bool, str]:
    """Whether the winners come nine tenths of BSP's way down no later than all the others."""
    own = at(rows, delay)
    start = common.runs(own, "BSP")[0]["values"][0]
    level = 0.1 * start + 0.9 * common.last(own, "BSP")
    needed = {label: common.time_to(own, label, level, axis) for label in BOUNDS}
    said = ", ".join(f"{label} {each:.4g}" for label, each in needed.items())
    worst = max(needed[label] for label in winners)
    holds = worst <= min(needed[label] for label in BOUNDS if label not in winners)
    return holds, f"{axis} to loss {level:.2f}: {said}"


def local_steps_save(rows: Rows) -> tuple[bool, str]:
    """Whether DyLU takes less time a step, and comes lower in as many seconds."""
    own = at(rows, "slow for good")
    (ratio,), said = ratios(rows, "slow for good", ("BSP, DyLU(8)",))
    labels = ("BSP, DyLU(8)", "BSP, 8 steps", "SSP(3)", "BSP", "ASP")
    ends = {label: common.last(own, label) for label in labels}
    shown = ", ".join(f"{label} {loss:.3f}" for label, loss in ends.items())
    holds = ratio < 0.5 and ends["BSP, DyLU(8)"] < min(ends["BSP"], ends["SSP(3)"])
    return holds, f"{said}; last loss: {shown}"


def lag_unbounded(rows: Rows) -> tuple[bool, str]:
    lags = {
        row["policy"]: row["max_lag"]
        for row in at(rows, "slow for good")
        if row["kind"] == "clockwork"
    }
    of, said = ratios(rows, "slow for good", ("ASP",))
    holds = of[0] < 0.5 and lags["ASP"] > 10 * lags["SSP(3)"]
    return holds, f"{said}; largest lag {lags['ASP']} clocks, of SSP(3) {lags['SSP(3)']}"


def passing_saves(rows: Rows, delay: str) -> tuple[bool, str]:
    of, said = ratios(rows, delay, STALE)
    return of == sorted(of, reverse=True) and of[1] < 0.8, said


def table(rows: Rows) -> list[Row]:
    found: list[Row] = []
    for label in METHODS:
        row: Row = {"virtual seconds for W steps": label}
        row |= {delay: round(seconds(rows, delay, label), 3) for delay in DELAYS}
        for delay, labels in TRAINED.items():
            ends = [each["last"] for each in common.runs(at(rows, delay), label)]
            row[f"last test loss, {delay}"] = common.spread(ends) if label in labels else ""
        found.append(row)
    return found


def draw(figure: Figure, rows: Rows) -> None:
    axes = figure.subplots(2, 2).flatten()
    panels: list[tuple[str, Any]] = [
        ("equal", "updates"),
        ("equal", "seconds"),
        ("slow for good", "seconds"),
        ("exponential", "seconds"),
    ]
    seen: dict[str, Any] = {}
    for axis, letter, (delay, what) in zip(axes, "abcd", panels, strict=True):
        draw_curves(axis, common.curves(at(rows, delay), TRAINED[delay]), what, "test loss")
        axis.set_title(f"({letter}) {TITLES[delay]}", loc="left")
        handles, labels = axis.get_legend_handles_labels()
        seen |= dict(zip(labels, handles, strict=True))
    figure.legend(seen.values(), seen, loc="outside lower center", ncols=6, handlelength=2.8)


PAPER = Paper(
    number=10,
    title="The null case: equal devices, and when not to use this software",
    reference='Cui, Zhang, Ganger, Gibbons, Xing 2016, "GeePS: scalable deep learning on '
    'distributed GPUs with a GPU-specialized parameter server", EuroSys',
    shows="On 16 equal GPU machines nobody waits long for anybody: slack saves next to no time, "
    "updates become stale all the same, and BSP converges fastest (image classification, video).",
    ran="An MLP on the digits, batches of 16, 8 workers, merging on arrival at the weight 1/W; "
    "exchange costs nothing. Learning rates swept alike for all; in each scene all get as many "
    "virtual seconds. Beside equal devices (the paper's case): one device slow for good, and "
    "slowdowns that pass, with the clockwork alone for what a step costs. Bursts: a device is "
    f"{SLOW:g} times slower in 2 of 20 clocks.",
    measure=measure,
    claims=(
        Claim("equal devices: a bound saves no time at all", no_time_saved),
        Claim("equal devices: no stale method ends below all seeds of BSP", none_better),
        Claim(
            "equal devices: none comes nine tenths of the way in fewer updates than BSP",
            partial(sooner, delay="equal", axis="updates", winners=("BSP",)),
        ),
        Claim(
            "one device slow for good, or now and then: a bound saves nothing in the long run",
            bound_saves_nothing,
        ),
        Claim(
            "one device slow for good: local steps by measured speed (DyLU) do save",
            local_steps_save,
        ),
        Claim("there, ASP saves as well, but its lag has no bound", lag_unbounded),
        Claim(
            "bursts of each device in turn: SSP saves, the more the larger the bound",
            partial(passing_saves, delay="bursts of each"),
        ),
        Claim(
            "exponential slowdowns: SSP saves, the more the larger the bound",
            partial(passing_saves, delay="exponential"),
        ),
        Claim(
            "there, all stale methods come nine tenths of the way in fewer seconds than BSP",
            partial(sooner, delay="exponential", axis="seconds", winners=STALE),
        ),
    ),
    table=table,
    draw=draw,
    height=5.0,
    notes="With one device slow for good a bound gives a head start of as many clocks, once: "
    "in (c) SSP(3) is some 10 s ahead of BSP, however long the run. DyLU measures before it "
    "adapts, so its first clock is as long as that of 8 fixed steps.",
)
