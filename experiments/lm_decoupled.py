"""Decoupled DiLoCo on a byte language model: a quorum, a window that costs nobody time, carry-over.

Paper:    Douillard, Rush, Donchev et al. 2026, "Decoupled DiLoCo for resilient distributed
          pre-training", arXiv:2604.21428
Command:  jax-ssp run experiments/lm_decoupled.py
Time:     laptop 5 minutes on 2 cores, smoke seconds; paper is for accelerators
Expected: bits_per_byte within a few per cent of lm_diloco
"""

from dataclasses import replace

import jax_ssp as ssp
from experiments.workloads.lm import WORKLOADS
from experiments.workloads.sizes import Size

LOCAL_STEPS: dict[Size, int] = {"smoke": 4, "laptop": 20, "paper": 50}
QUORUM: dict[Size, int] = {"smoke": 1, "laptop": 1, "paper": 4}


def get_config(size: Size = "laptop") -> ssp.Experiment:
    # Workers may be lost and may join, so all of them share each epoch.
    workload = replace(WORKLOADS[size], elastic=True)
    return ssp.Experiment(
        name="lm_decoupled",
        workload=workload,
        runtime=ssp.Devices() if size == "paper" else ssp.Devices(num_workers=2, cpu_devices=2),
        num_clocks=workload.rounds // LOCAL_STEPS[size],
        eval_every=max(1, workload.rounds // LOCAL_STEPS[size] // 10),
        **ssp.methods.decoupled_diloco(LOCAL_STEPS[size], QUORUM[size]),
    )
