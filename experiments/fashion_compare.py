"""A residual network with BatchNorm on Fashion-MNIST: BSP, SSP(3), local steps, bfloat16.

Paper:    none; our own check that statistics that are averaged, local steps and half precision give
          what a plain loop gives
Command:  jax-ssp run experiments/fashion_compare.py
Time:     10 minutes on 2 cores; the data are Debian's dataset-fashion-mnist, or --workload.folder
Expected: test_accuracy within a point of BSP at equal samples, 2 or 3 less with 4 local steps
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import jax_ssp as ssp
from experiments.study import outcome
from experiments.study.study import Study, crossed
from experiments.workloads.fashion import Fashion, plain_loop
from jax_ssp.files import write_json
from jax_ssp.report.environment import environment
from jax_ssp.report.tables import markdown_table

WORKERS = 4
SAMPLES = 60_000  # images that each method trains on: one epoch
METHODS: dict[str, dict[str, Any]] = {
    "BSP": {"policy": ssp.BSP()},
    "SSP(3)": {"policy": ssp.SSP(bound=3)},
    "SSP(3), 4 local steps": {"policy": ssp.SSP(bound=3), "local_steps": 4},
    "BSP, bfloat16": {"policy": ssp.BSP(), "dtype": "bfloat16"},
    "SSP(3), bfloat16": {"policy": ssp.SSP(bound=3), "dtype": "bfloat16"},
}
RATE = 0.1  # one for all, tuned for none
PLAIN = "plain loop"
SEEDS = (0, 1, 2)


def made(name: str, seed: int, samples: int = SAMPLES) -> ssp.Experiment:
    """The run of a method."""
    method = {"local_steps": 1, "dtype": "float32", **METHODS[name]}
    workload = Fashion(learning_rate=RATE, dtype=method["dtype"])
    return ssp.Experiment(
        name=name,
        workload=workload,
        policy=method["policy"],
        runtime=ssp.Virtual(WORKERS, ssp.delays.Exponential(mean=1.0), seed=seed),
        local_steps=method["local_steps"],
        max_updates=samples // (workload.batch_size * method["local_steps"]),
        seed=seed,
    )


def get_sweep() -> list[ssp.Experiment]:
    return [made(name, seed) for name in METHODS for seed in SEEDS]


def measured(name: str, seed: int, samples: int) -> dict[str, Any]:
    """What a method, or the plain loop on batches of all workers' size, comes to."""
    if name == PLAIN:
        workload = Fashion(learning_rate=RATE)
        return plain_loop(workload, WORKERS * workload.batch_size, samples, seed)
    result = outcome.run(made(name, seed, samples))
    variances = [leaf.min() for path, leaf in result.params.items() if path.endswith(".var")]
    return {
        "status": result.status,
        **result.metrics,
        "seconds": result.seconds,
        "smallest_variance": float(min(variances)),
    }


def table(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a method: median and range of the test accuracy and loss."""
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys(run["name"] for run in runs):
        own = [run for run in runs if run["name"] == name]
        row: dict[str, Any] = {"method": name}
        for metric in ("test_accuracy", "test_loss"):
            ends = [run[metric] for run in own]
            row[metric] = f"{statistics.median(ends):.4f}"
            row[f"{metric} range"] = f"{min(ends):.4f} to {max(ends):.4f}"
        seconds = [run["seconds"] for run in own if "seconds" in run]
        row["virtual seconds"] = f"{statistics.median(seconds):.0f}" if seconds else ""
        rows.append(row)
    return rows


def main() -> None:
    """Measure the table of experiments/results/fashion_compare/README.md."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="images a run trains on")
    parser.add_argument("--folder", type=Path, default=Path("runs/fashion_compare"))
    options = parser.parse_args()
    meta, kept = environment(), options.folder / "runs.jsonl"
    study = Study(
        cells=crossed(name=(PLAIN, *METHODS)),
        rates=(RATE,),
        seeds=SEEDS,
        run=lambda cell, rate, seed: measured(cell["name"], seed, options.samples),
        kept=kept,
        about={"commit": meta["commit"], "samples": options.samples},
        each=lambda row: print(row, flush=True),
    )
    content = {"meta": meta, "samples": options.samples, "runs": study.grid()}
    write_json(options.folder / "table.json", content, indent=1)
    (options.folder / "table.md").write_text(markdown_table(table(content["runs"])) + "\n")
    kept.unlink()


if __name__ == "__main__":
    main()
