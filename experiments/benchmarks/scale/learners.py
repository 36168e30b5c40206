"""Few learners of many workers each, under `Decoupled`: the arrangement of its source.

A learner is one program over its workers: it waits for the slowest of them in each clock, and each
failure among them makes its clock longer by what a failure takes. Nothing of it is lost, and the
other learners go on. To the controller it is one worker, with clocks of unequal length; the runs
are those of `ssp.Virtual`, over a network of some latency, so that steps are run ahead as in a run.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import jax_ssp as ssp
from experiments.benchmarks.scale.clocks import Clocks, Failing
from jax_ssp.controller.commands import Drop, Merge

LATENCY = 0.1  # seconds, each way


class Program(NamedTuple):
    """How long the clocks of one program over many workers take; a delay model.

    Attributes:
        workers: of the learner.
        clocks: of one worker.
        failing: of one worker.
    """

    workers: int
    clocks: Clocks
    failing: Failing

    def __call__(self, worker: int, clock: int, steps: int, rng: np.random.Generator) -> float:
        slowest = float(self.clocks.slowest(rng, 1, self.workers)[0])
        failures = rng.poisson(slowest / self.failing.among(self.workers))
        return slowest + failures * self.failing.pauses


class Learned(NamedTuple):
    """What became of the learners' time.

    Attributes:
        goodput: the work of the clocks that were merged over what all workers could have done.
        dropped: deltas that came too late, of all.
        failures: that are expected in the time.
    """

    goodput: float
    dropped: float
    failures: int


def learned(
    learners: int,
    program: Program,
    policy: ssp.policies.Policy,
    steps: int,
    clocks: int,
    seed: int = 0,
) -> Learned:
    """A run of so many learners, each for so many clocks.

    Args:
        learners: that there are.
        program: what each of them is.
        policy: of the run.
        steps: H of a clock.
        clocks: that each finishes.
        seed: of the draws.
    """
    network = ssp.Network(latency=LATENCY)
    runtime = ssp.Virtual(learners, program, seed=seed, compute=False, network=network)
    overlap = min(steps, getattr(policy, "tau", 0))
    run = ssp.train(
        runtime=runtime,
        policy=policy,
        local_steps=steps,
        overlap=overlap,
        max_updates=learners * clocks,
        progress=False,
    )
    commands = [command for entry in run.tape for command in entry.commands]
    merged = sum(len(each.deltas) for each in commands if type(each) is Merge)
    dropped = sum(type(each) is Drop for each in commands)
    failing, total = program.failing, learners * program.workers
    could = learners * run.seconds
    away = failing.back / failing.mtbf
    goodput = merged * program.clocks.seconds / could * (1 - away)
    failures = round(run.seconds / failing.among(total))
    return Learned(goodput, dropped / max(1, merged + dropped), failures)
