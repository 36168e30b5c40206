"""DiLoCo on a byte language model: many local AdamW steps, then one outer step with Nesterov.

Paper:    Douillard et al. 2023, "DiLoCo: distributed low-communication training of language
          models", arXiv:2311.08105
Command:  jax-ssp run experiments/lm_diloco.py
Time:     laptop 5 minutes on 2 cores, smoke seconds; paper is for accelerators
Expected: bits_per_byte below 2.6 at size laptop, with a twentieth of the exchanges
"""

import jax_ssp as ssp
from experiments.workloads.lm import WORKLOADS
from experiments.workloads.sizes import Size

LOCAL_STEPS: dict[Size, int] = {"smoke": 4, "laptop": 20, "paper": 500}


def get_config(size: Size = "laptop") -> ssp.Experiment:
    workload, steps = WORKLOADS[size], LOCAL_STEPS[size]
    return ssp.Experiment(
        name="lm_diloco",
        workload=workload,
        runtime=ssp.Devices() if size == "paper" else ssp.Devices(num_workers=2, cpu_devices=2),
        num_clocks=workload.rounds // steps,
        eval_every=max(1, workload.rounds // steps // 10),
        **ssp.methods.diloco(h=steps),
    )
