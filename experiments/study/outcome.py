"""What a run came to, as a row of plain numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

import jax_ssp as ssp
from jax_ssp.report.papers import Row
from jax_ssp.runtimes.evaluation import Target


def run(experiment: ssp.Experiment) -> ssp.Result:
    """Run it to its end."""
    return whole(experiment.run(progress=False))


def whole(result: ssp.Result) -> ssp.Result:
    """What was given; what Ctrl-C has cut short is no result, and interrupts."""
    if result.status == "interrupted":
        raise KeyboardInterrupt
    return result


def clockwork(policy: ssp.Policy, workers: int, delay: Any, seed: int, **how: Any) -> ssp.Result:
    """A run without gradients: its tape and its schedule.

    Args:
        policy: to run.
        workers: how many.
        delay: model of the seconds of a clock.
        seed: of the delays.
        how: `max_updates` or `num_clocks`, and what else `train` takes.
    """
    runtime = ssp.Virtual(workers, delay, seed, compute=False)
    return whole(ssp.train(policy=policy, runtime=runtime, progress=False, **how))


def curve(experiment: ssp.Experiment, metric: str) -> Row:
    """Run it: the curve of a metric of its evaluations, and what its schedule was like."""
    result = run(experiment)
    stale = staleness(result)
    values = [row["metrics"][metric] for row in result.evaluations]
    return {
        "kind": "run",
        "status": result.status,
        "last": values[-1],
        "metrics": result.metrics,
        "updates": [row["updates"] for row in result.evaluations],
        "seconds": [row["time"] for row in result.evaluations],
        "values": values,
        "total_updates": result.updates,
        "total_seconds": result.seconds,
        "computing": result.computing,
        "mean_staleness": float(stale.mean()) if len(stale) else 0.0,
        "max_staleness": int(stale.max(initial=0)),
        "staleness": np.bincount(stale).tolist() if len(stale) else [],
    }


def end(experiment: ssp.Experiment) -> Row:
    """Run it: test loss and test error (%) of the end, None if it diverged."""
    result = run(experiment)
    metrics, diverged = result.metrics, result.status == "diverged"
    stale = staleness(result)
    return {
        "loss": None if diverged else metrics["test_loss"],
        "error": None if diverged else 100 * (1 - metrics["test_accuracy"]),
        "mean_staleness": float(stale.mean()) if len(stale) else 0.0,
    }


def needed(experiment: ssp.Experiment, column: str) -> Row:
    """Run it to its target: the `column` of the evaluation that reached it, None if none did.

    Args:
        experiment: has a target, such as "test_loss <= 0.4".
        column: "updates" or "version".
    """
    result, target = run(experiment), Target.parse(str(experiment.target))
    reached = (row[column] for row in result.evaluations if target.reached(row["metrics"]))
    mean = float(result.schedule["staleness"].mean())
    return {column: next(reached, None), "mean_staleness": mean}


def staleness(result: ssp.Result) -> np.ndarray:
    """Of the deltas that were merged (versions)."""
    return result.schedule["staleness"][result.schedule["merge_version"] >= 0]
