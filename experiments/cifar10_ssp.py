"""CIFAR-10 with its residual network, pad-crop and flips, each worker stale by 3 clocks at most.

Paper:    He et al. 2016, "Deep residual learning for image recognition", arXiv:1512.03385 (the
          network, ResNet-20, its recipe but for the schedule); Ho et al. 2013 (SSP)
Command:  jax-ssp run experiments/cifar10_ssp.py
Time:     laptop about an hour on 2 cores, smoke seconds; paper is for accelerators. The data are
          cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html in a folder that
          --workload.folder names
Expected: not measured yet, since the data are not here; the paper has test_accuracy 0.91 (paper)
"""

import jax_ssp as ssp
from experiments.workloads.cifar10 import Cifar10
from experiments.workloads.sizes import Size

WORKLOADS: dict[Size, Cifar10] = {
    "smoke": Cifar10(blocks=1, width=4, batch_size=4, rounds=3, test_images=16),
    "laptop": Cifar10(blocks=1, rounds=4_000, test_images=2_000),
    "paper": Cifar10(blocks=3, rounds=64_000),
}


def get_config(size: Size = "laptop") -> ssp.Experiment:
    workload = WORKLOADS[size]
    workers = 4 if size == "paper" else 2  # 128 images a round, as in the paper
    return ssp.Experiment(
        name="cifar10_ssp",
        workload=workload,
        policy=ssp.SSP(bound=3),
        runtime=ssp.Devices(num_workers=workers, cpu_devices=workers),
        num_clocks=workload.rounds,
        eval_every=max(1, workload.rounds // 20),
    )
