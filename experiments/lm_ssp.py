"""A byte language model on the standard library's source, each worker stale by 3 clocks at most.

Paper:    Ho et al. 2013, "More effective distributed ML via a stale synchronous parallel parameter
          server" (the method; the model is one of today)
Command:  jax-ssp run experiments/lm_ssp.py
Time:     laptop 5 minutes on 2 cores, smoke seconds; paper is for accelerators
Expected: bits_per_byte about 2.1 at size laptop
"""

import jax_ssp as ssp
from experiments.workloads.lm import WORKLOADS
from experiments.workloads.sizes import Size


def get_config(size: Size = "laptop") -> ssp.Experiment:
    workload = WORKLOADS[size]
    return ssp.Experiment(
        name="lm_ssp",
        workload=workload,
        policy=ssp.SSP(bound=3),
        # 2 workers on the first 2 devices, or on virtual CPU devices; at size paper on all devices.
        runtime=ssp.Devices() if size == "paper" else ssp.Devices(num_workers=2, cpu_devices=2),
        num_clocks=workload.rounds,
        eval_every=max(1, workload.rounds // 10),
    )
