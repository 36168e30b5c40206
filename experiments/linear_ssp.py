"""Least squares with a known answer, under SSP: the one to read first.

Paper:    Ho et al. 2013, "More effective distributed ML via a stale synchronous parallel parameter
          server" (the method, at bound 3)
Command:  jax-ssp run experiments/linear_ssp.py
Time:     4 seconds on 2 cores
Expected: `distance`, |w - w*| / |w*|, at most 0.01
"""

import jax_ssp as ssp
from experiments.workloads.linear import LeastSquares


def get_config() -> ssp.Experiment:
    return ssp.Experiment(
        name="linear_ssp",
        workload=LeastSquares(),
        policy=ssp.SSP(bound=3),  # nobody runs more than 3 clocks ahead of the slowest
        runtime=ssp.Virtual(  # 8 workers in virtual time, real gradients
            num_workers=8,
            delay=ssp.delays.Exponential(mean=1.0),  # a clock takes 1 virtual second on average
        ),
        num_clocks=100,  # each worker does 100 clocks
        eval_every=10,  # evaluate each time 10 clocks for every worker are merged
        seed=0,
    )
