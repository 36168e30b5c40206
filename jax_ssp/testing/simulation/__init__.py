"""Deterministic simulation: runs that are stopped anywhere, and come back as what they were.

A seed stands for a run of the real controller, loop, tape and policies, with a store, a disk and
workers that compute with integers. Everything happens in any order: workers are lost and join
again, with a live worker's state or with none, pushes come late, twice and under old tokens,
checkpoints are saved meanwhile and damaged later, and the process or the whole machine dies at any
row and in the middle of any write. After each seed it is checked that the contract was kept, that
every delta and every batch counts exactly once, that what a donor had pushed is in no heir's state
too, that nothing that had come to the disk was lost, and that all that a resumed process knows is
what the process knows that was never stopped.

    python -m experiments.benchmarks.reliability.simulate --seeds 20000 --jobs 2

For a policy of your own:

    for seed in range(500):
        simulate(scenario(seed, MyPolicy()))

It starts no JAX; a seed takes about 5 ms. (Idea: FoundationDB's simulation; Zhou et al. 2021,
"FoundationDB: A Distributed Unbundled Transactional Key Value Store", SIGMOD.)
"""

from jax_ssp.testing.simulation.many import Progress, run_many
from jax_ssp.testing.simulation.scenario import Scenario, scenario
from jax_ssp.testing.simulation.seeds import Counts, simulate
from jax_ssp.testing.simulation.shrinking import Failure, failure, shrunk

__all__ = [
    "Counts",
    "Failure",
    "Progress",
    "Scenario",
    "failure",
    "run_many",
    "scenario",
    "shrunk",
    "simulate",
]
