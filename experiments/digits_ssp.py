"""Handwritten digits on 4 devices, one of them slow in bursts, under SSP.

Paper:    Ho et al. 2013, "More effective distributed ML via a stale synchronous parallel parameter
          server" (the method, with eager adoption: Dai et al. 2015, arXiv:1410.8043)
Command:  jax-ssp run experiments/digits_ssp.py
Time:     under a minute on 2 cores
Expected: test_accuracy at least 0.97
"""

import jax_ssp as ssp
from experiments.workloads.digits import Digits


def get_config() -> ssp.Experiment:
    return ssp.Experiment(
        name="digits_ssp",
        workload=Digits(),
        policy=ssp.SSP(bound=3),
        # 4 workers on the first 4 devices, or on virtual CPU devices where there are fewer. A clock
        # takes 20 ms at least; on worker 0, 10 clocks in every 50 take 5 times as long.
        runtime=ssp.Devices(
            num_workers=4,
            cpu_devices=4,
            delay=ssp.delays.Straggler(
                base=ssp.delays.Constant(seconds=0.02), worker=0, factor=5.0, burst=10, every=50
            ),
        ),
        num_clocks=300,
        eval_every=20,
        seed=0,
    )
