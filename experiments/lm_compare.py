"""A byte language model by the DiLoCo family on a slow network: bits per byte, seconds, bytes.

Paper:    Douillard et al. 2023, arXiv:2311.08105 (DiLoCo); Liu et al. 2024, arXiv:2401.09135
          (asynchronous); Douillard et al. 2025, arXiv:2501.18512 (streaming) and 2026,
          arXiv:2604.21428 (decoupled). Our own comparison, at the size of a laptop
Command:  jax-ssp run experiments/lm_compare.py
Time:     3 minutes a run on 2 free cores, an hour and a half for `python -m experiments.lm_compare`
Expected: at equal tokens bits_per_byte about 2.06 synchronous, 2.19 streaming, 2.54 DiLoCo, 2.55
          decoupled, 2.91 asynchronous; synchronous training takes 2.5 times as long
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jax_ssp as ssp
from experiments.study import outcome
from experiments.study.study import Study, crossed
from experiments.workloads.lm import LM, WORKLOADS
from jax_ssp.controller import DeltaReady, StartClock
from jax_ssp.controller.fragments import adopted_in, pushed_in
from jax_ssp.files import write_json
from jax_ssp.report.environment import environment
from jax_ssp.report.papers import Row
from jax_ssp.report.plots import Curve, draw_curves, legend_below
from jax_ssp.report.styles import PAPER, new_figure
from jax_ssp.report.tables import markdown_table

WORKERS = 2
STEP = (0.05, 0.075)  # seconds of a local step: one device is half as fast again as the other
NETWORK = ssp.Network(latency=0.05, bandwidth=125e6, server_bandwidth=125e6)  # 50 ms, 1 Gb/s
LOCAL_STEPS = 20
ROUNDS = 1000  # steps of synchronous training, whose tokens all methods get
RATES = (1.5e-3, 3e-3, 6e-3)
REFINE = 2  # times that a best rate at an end of those is halved or doubled
SEEDS, TUNING = (0, 1, 2), (10,)  # reported; the one on which rates are picked
FRAGMENTS = 4  # of streaming
FEW = 100  # rounds; fewer only show that it works, and are of a tiny model
EVALUATIONS = 40  # of a run, about
METHODS: dict[str, Callable[[int], dict[str, Any]]] = {
    # The mean gradient of both, once a step.
    "synchronous": lambda h: {"policy": ssp.BSP(), "optimizer_on": "server", "local_steps": 1},
    "DiLoCo": ssp.methods.diloco,
    "asynchronous": lambda h: ssp.methods.async_local_sgd(h, WORKERS),
    "streaming": lambda h: ssp.methods.streaming_diloco(h, FRAGMENTS),
    "decoupled": ssp.methods.decoupled_diloco,
}
"""By H, the fields of a run."""


def made(name: str, seed: int, rate: float = RATES[1], rounds: int = ROUNDS) -> ssp.Experiment:
    """The run of a method, for as many tokens as `rounds` synchronous steps take."""
    workload = replace(workload_of(rounds), learning_rate=rate, rounds=rounds)
    fields = METHODS[name](local_steps_of(rounds))
    return ssp.Experiment(
        name=name,
        workload=workload,
        runtime=ssp.Virtual(WORKERS, ssp.delays.PerWorker(STEP), seed=seed, network=NETWORK),
        max_samples=rounds * WORKERS * workload.batch_size,
        eval_every=max(1, rounds // clock_of(name, rounds)[0] // EVALUATIONS),
        seed=seed,
        **fields,
    )


def workload_of(rounds: int) -> LM:
    """The model of 0.3 million parameters; a tiny one for runs that only show that it works."""
    return WORKLOADS["laptop" if rounds >= FEW else "smoke"]


def local_steps_of(rounds: int) -> int:
    """H."""
    return LOCAL_STEPS if rounds >= FEW else 4


def clock_of(name: str, rounds: int) -> list[float]:
    """Local steps that a clock of each worker should have.

    Under DyLU all clocks take the same time, without that of the exchange.
    """
    h = local_steps_of(rounds)
    fields = METHODS[name](h)
    if isinstance(fields["local_steps"], ssp.DyLU):
        return [h * STEP[0] / seconds for seconds in STEP]
    return [fields["local_steps"]] * WORKERS


def get_sweep() -> list[ssp.Experiment]:
    return [made(name, seed) for name in METHODS for seed in SEEDS]


def measured(name: str, rate: float, seed: int, rounds: int) -> Row:
    """What a run comes to."""
    experiment = made(name, seed, rate, rounds)
    result = outcome.run(experiment)
    assert isinstance(experiment.workload, LM)
    rows = result.evaluations
    stale = outcome.staleness(result)
    return {
        "status": result.status,
        "bits": result.metrics["bits_per_byte"] if result.status == "done" else None,
        "tokens": result.tokens,
        "seconds": result.seconds,
        "bytes": exchanged(result, sizes_of(experiment, result.masters)),
        "formula": result.tokens * formula(name, rounds),
        "mean_staleness": float(stale.mean()) if len(stale) else 0.0,
        "wall_seconds": result.wall_seconds,
        "curve": [[row["tokens"], row["time"], row["metrics"]["bits_per_byte"]] for row in rows],
    }


def sizes_of(experiment: ssp.Experiment, params: Any) -> list[int]:
    """Bytes of each fragment; of all parameters where there are no fragments."""
    if experiment.fragments is None:
        return [sum(leaf.nbytes for leaf in jax.tree.leaves(params))]
    rows = experiment.fragments.of(params).values()
    sizes = [
        [leaf.nbytes * each.rows // leaf.shape[each.axis] for each in own]
        for leaf, own in zip(jax.tree.leaves(params), rows, strict=True)
    ]
    return [sum(each) for each in zip(*sizes, strict=True)]


def exchanged(result: ssp.Result, sizes: Sequence[int]) -> float:
    """Bytes that went over all links, by the run's tape: each push, and each version read.

    A worker that is granted the version it holds reads nothing, unless it adopts a fragment.

    Args:
        result: of a run.
        sizes: of each fragment, of which a clock pushes one in turn.
    """
    total, held = 0, dict[int, int]()
    for _, event, commands in result.tape:
        if isinstance(event, DeltaReady):
            total += sizes[pushed_in(event.clock, len(sizes))]
        for command in commands:
            if type(command) is not StartClock:
                continue
            if not command.whole:
                total += sizes[adopted_in(command.clock, len(sizes))]
            elif len(sizes) > 1 or held.get(command.worker) != command.version:
                total += sum(sizes)
            held[command.worker] = command.version
    return float(total)


def formula(name: str, rounds: int) -> float:
    """Bytes a token that should have: 4 N up and 4 N down for each clock of each worker.

    Of streaming a clock exchanges one fragment of them.
    """
    workload = workload_of(rounds)
    tokens = sum(clock_of(name, rounds)) * workload.batch_size * workload.context
    parts = FRAGMENTS if "fragments" in METHODS[name](FRAGMENTS) else 1
    return WORKERS * 2 * 4 * workload.shape.parameters / parts / tokens


def reached(row: Row, target: float) -> float | None:
    """Virtual seconds until a run's curve is at a target, between evaluations on a line."""
    curve = [each for each in row["curve"] if each[2] is not None]
    for (_, before, high), (_, after, low) in itertools.pairwise(curve):
        if low <= target:
            share = 1.0 if high <= low else min(1.0, (high - target) / (high - low))
            return before + max(0.0, share) * (after - before)
    return None


def table(rows: Sequence[Row]) -> list[Row]:
    """A row a method."""
    target = common_target(rows)
    found: list[Row] = []
    for name in dict.fromkeys(row["method"] for row in rows):
        own = of(rows, name)
        bits = [row["bits"] for row in own if row["bits"] is not None]
        tokens = statistics.median(row["tokens"] for row in own)
        times = [reached(row, target) for row in own]
        known = [each for each in times if each is not None]
        found.append(
            {
                "method": name,
                "rate": own[0]["marked"],
                "tokens": f"{tokens:,.0f}",
                "bits per byte": f"{statistics.median(bits):.3f}" if bits else "diverged",
                "range": f"{min(bits):.3f} to {max(bits):.3f}" if bits else "",
                f"seconds to {target:.2f}": f"{statistics.median(known):.0f}"
                if len(known) == len(own)
                else f"{len(known)} of {len(own)} runs",
                "seconds in all": f"{statistics.median(row['seconds'] for row in own):.0f}",
                "bytes a token": f"{per_token(own, 'bytes'):.1f}",
                "by formula": f"{per_token(own, 'formula'):.1f}",
                "mean staleness": f"{statistics.median(r['mean_staleness'] for r in own):.2f}",
            }
        )
    return found


def common_target(rows: Sequence[Row]) -> float:
    """Bits per byte that the method that comes to the most still comes to, rounded up."""
    medians: list[float] = []
    for name in dict.fromkeys(row["method"] for row in rows):
        bits = [row["bits"] for row in of(rows, name) if row["bits"] is not None]
        medians += [max(bits)] if bits else []
    return float(np.ceil(100 * max(medians, default=8.0)) / 100)


def per_token(rows: Sequence[Row], column: str) -> float:
    return statistics.median(row[column] / row["tokens"] for row in rows)


def of(rows: Sequence[Row], name: str) -> list[Row]:
    """The reported runs of a method, by seed."""
    return [row for row in rows if row["method"] == name and row["seed"] not in TUNING]


def draw(rows: Sequence[Row], meta: Mapping[str, Any], file: Path) -> None:
    """Bits per byte against tokens and against virtual seconds, without the first guess."""
    import matplotlib as mpl

    curves: list[Curve] = []
    for row in (row for name in METHODS for row in of(rows, name)):
        tokens, seconds, bits = np.array(row["curve"][1:], dtype=float).T
        curves.append(Curve(row["method"], row["seed"], tokens / 1e6, seconds, bits))
    with mpl.rc_context(PAPER):
        figure = new_figure(3.2)
        left, right = figure.subplots(1, 2, sharey=True)
        draw_curves(left, curves, "updates", "bits_per_byte")
        left.set_xlabel("tokens (millions)")
        draw_curves(right, curves, "seconds", "bits_per_byte")
        right.set(xscale="log", ylabel="")
        legend_below(figure, curves)
        figure.suptitle(f"commit {meta['commit']}, jax {meta['jax']}")
        figure.savefig(file)


def page(rows: Sequence[Row], meta: Mapping[str, Any], rounds: int) -> str:
    """The README of the results."""
    shape = WORKLOADS["laptop"].shape
    about = (
        f"A byte language model of {shape.parameters:,} parameters on the source files of Python "
        f"{meta['python']}'s standard library; {WORKERS} workers, {rounds:,} rounds "
        f"({rows[0]['tokens']:,} tokens, and up to a clock more) for every method; clocks of "
        f"{LOCAL_STEPS} local steps. A "
        f"step takes {STEP[0] * 1e3:g} ms on one worker and {STEP[1] * 1e3:g} ms on the other; the "
        f"network has {NETWORK.latency * 1e3:g} ms latency and 1 Gb/s for each worker and for the "
        "server, in virtual time. The workers' optimizer is AdamW with a warm-up cosine; rates "
        f"were swept for each method on seed {TUNING[0]}, on until the best lay between two that "
        f"are worse ({REFINE} times at the most); those of outer optimizers are the "
        f"sources'. Reported are {len(SEEDS)} other seeds, evaluated on files that are not trained "
        "on. Seconds to a loss are virtual: to what every run of every method came to. Bytes are "
        "counted in the tapes: every push, and every version that a worker reads; the formula is "
        "4 N bytes up and 4 N down for each clock of each worker, of streaming a fragment of them."
    )
    data = ", ".join(f"{key} {meta[key]}" for key in ("commit", "python", "jax", "date"))
    command = "python -m experiments.lm_compare"
    lines = ["# The DiLoCo family on a language model", "", about, "", markdown_table(table(rows))]
    lines += ["", "![bits per byte against tokens and virtual seconds](figure.png)", ""]
    return "\n".join([*lines, f"Data: [table.json](table.json), by `{command}` ({data}).", ""])


def main(words: Sequence[str] | None = None) -> None:
    """Sweep the rates, run the seeds, and write README.md, table.json and figure.png."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/lm_compare"))
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="few are of a tiny model")
    parser.add_argument("--only", nargs="+", choices=METHODS, help="measure these, write nothing")
    options = parser.parse_args(words)
    options.folder.mkdir(parents=True, exist_ok=True)
    meta, kept = environment(), options.folder / "runs.jsonl"
    study = Study(
        cells=crossed(method=options.only or list(METHODS)),
        rates=RATES,
        seeds=SEEDS,
        run=lambda cell, rate, seed: measured(cell["method"], rate, seed, options.rounds),
        tuning=TUNING,
        loss="bits",
        refine=REFINE if options.rounds >= FEW else 0,
        kept=kept,
        about={"commit": meta["commit"], "rounds": options.rounds},
        each=lambda row: print(*[row[name] for name in SAID], flush=True),
    )
    rows: list[Row] = []
    for tuned in map(study.tune, study.cells):
        rows += [{**row, "marked": tuned.marked} for row in [*tuned.tried, *study.report(tuned)]]
    if options.only:
        return
    draw(rows, meta, options.folder / "figure.png")
    content = {"meta": meta, "rounds": options.rounds, "runs": rows}
    write_json(options.folder / "table.json", content, indent=1)
    (options.folder / "README.md").write_text(page(rows, meta, options.rounds))
    kept.unlink()
    print(markdown_table(table(rows)))


SAID = ("method", "rate", "seed", "status", "bits", "seconds", "wall_seconds")

if __name__ == "__main__":
    main()
