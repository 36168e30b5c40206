"""Asynchronous local SGD on a byte language model: delayed Nesterov, DyLU, a grace window.

Paper:    Liu et al. 2024, "Asynchronous local-SGD training for language modeling",
          arXiv:2401.09135
Command:  jax-ssp run experiments/lm_async.py
Time:     laptop 5 minutes on 2 cores, smoke seconds; paper is for accelerators
Expected: bits_per_byte above those of lm_diloco (2.91 and 2.54 in lm_compare), without a barrier:
          a worker that is slow makes fewer steps a clock
"""

import jax_ssp as ssp
from experiments.workloads.lm import WORKLOADS
from experiments.workloads.sizes import Size

LOCAL_STEPS: dict[Size, int] = {"smoke": 4, "laptop": 20, "paper": 50}
WORKERS: dict[Size, int] = {"smoke": 2, "laptop": 2, "paper": 4}
GRACE: dict[Size, float] = {"smoke": 0.01, "laptop": 0.2, "paper": 1.0}  # seconds
SLOW: dict[Size, float] = {"smoke": 0.01, "laptop": 0.15, "paper": 0.5}  # seconds


def get_config(size: Size = "laptop") -> ssp.Experiment:
    workload, workers = WORKLOADS[size], WORKERS[size]
    # On the last one a step takes so many seconds at least, which makes it slower than the others.
    slow = ssp.delays.PerWorker((0.0,) * (workers - 1) + (SLOW[size],))
    return ssp.Experiment(
        name="lm_async",
        workload=workload,
        runtime=ssp.Devices(num_workers=workers, cpu_devices=workers, delay=slow),
        max_samples=workload.rounds * workers * workload.batch_size,
        eval_every=max(1, workload.rounds // LOCAL_STEPS[size] // 10),
        **ssp.methods.async_local_sgd(LOCAL_STEPS[size], workers, GRACE[size]),
    )
