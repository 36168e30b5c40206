"""BSP, SSP at bounds 1, 3 and 7, and ASP under the same delays: loss per update and per second.

Paper:    Ho et al. 2013, "More effective distributed ML via a stale synchronous parallel parameter
          server", figures of convergence per iteration and per second (on our own workload)
Command:  jax-ssp run experiments/digits_compare.py
Time:     2 minutes on 2 cores
Expected: per update no method gains on BSP; per virtual second the larger the bound the sooner a
          loss is reached, with most of the gain at bound 3
"""

import jax_ssp as ssp
from experiments.workloads.digits import Digits

POLICIES = {
    "BSP": ssp.BSP(),
    "SSP(1)": ssp.SSP(bound=1),
    "SSP(3)": ssp.SSP(bound=3),
    "SSP(7)": ssp.SSP(bound=7),
    "ASP": ssp.ASP(),
}
SEEDS = (0, 1, 2)


def get_sweep() -> list[ssp.Experiment]:
    return [
        ssp.Experiment(
            name=name,
            workload=Digits(),
            policy=policy,
            runtime=ssp.Virtual(num_workers=8, delay=ssp.delays.Exponential(mean=1.0), seed=seed),
            max_updates=800,
            eval_every=4,
            seed=seed,
        )
        for name, policy in POLICIES.items()
        for seed in SEEDS
    ]
