"""Fashion-MNIST with a residual network and BatchNorm, each worker stale by 3 clocks at most.

Paper:    Xiao et al. 2017, arXiv:1708.07747 (the images); Ho et al. 2013 (SSP)
Command:  jax-ssp run experiments/fashion_ssp.py
Time:     laptop 3 minutes on 2 cores, smoke seconds; the data are Debian's dataset-fashion-mnist,
          or --workload.folder
Expected: test_accuracy about 0.85 at size laptop (fashion_compare has the methods side by side)
"""

import jax_ssp as ssp
from experiments.workloads.fashion import Fashion
from experiments.workloads.sizes import Size

WORKLOADS: dict[Size, Fashion] = {
    "smoke": Fashion(width=2, batch_size=4),
    "laptop": Fashion(),
    "paper": Fashion(width=32),
}
EPOCHS: dict[Size, int | None] = {"smoke": None, "laptop": 2, "paper": 30}


def get_config(size: Size = "laptop") -> ssp.Experiment:
    epochs = EPOCHS[size]
    return ssp.Experiment(
        name="fashion_ssp",
        workload=WORKLOADS[size],
        policy=ssp.SSP(bound=3),
        runtime=ssp.Devices() if size == "paper" else ssp.Devices(num_workers=2, cpu_devices=2),
        num_epochs=epochs,
        num_clocks=2 if epochs is None else None,
        eval_every=None if epochs is None else 500,
    )
