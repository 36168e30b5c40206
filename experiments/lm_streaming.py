"""Streaming DiLoCo on a byte language model: fragments of layers in turn, behind the next steps.

Paper:    Douillard et al. 2025, "Streaming DiLoCo with overlapping communication",
          arXiv:2501.18512
Command:  jax-ssp run experiments/lm_streaming.py
Time:     laptop 5 minutes on 2 cores, smoke seconds; paper is for accelerators
Expected: bits_per_byte below those of lm_diloco (2.19 and 2.54 in lm_compare); a push is a
          fragment of its size
"""

import jax_ssp as ssp
from experiments.workloads.lm import WORKLOADS
from experiments.workloads.sizes import Size

LOCAL_STEPS: dict[Size, int] = {"smoke": 4, "laptop": 20, "paper": 100}  # to a fragment's next turn
FRAGMENTS: dict[Size, int] = {"smoke": 2, "laptop": 2, "paper": 4}
OVERLAP: dict[Size, int] = {"smoke": 1, "laptop": 2, "paper": 5}  # steps


def get_config(size: Size = "laptop") -> ssp.Experiment:
    workload = WORKLOADS[size]
    fragments = ssp.Fragments(FRAGMENTS[size], by="strided", layers="layers")
    fields = ssp.methods.streaming_diloco(LOCAL_STEPS[size], fragments, OVERLAP[size])
    clocks = workload.rounds // fields["local_steps"]
    return ssp.Experiment(
        name="lm_streaming",
        workload=workload,
        runtime=ssp.Devices() if size == "paper" else ssp.Devices(num_workers=2, cpu_devices=2),
        num_clocks=clocks,
        eval_every=max(1, clocks // 10),
        **fields,
    )
