"""Every policy, schedule, mitigation and compressor trains the digits under the same straggler.

Paper:    none: each method's own is named in its docstring, and in the README's table of methods
Command:  jax-ssp run experiments/methods.py
Time:     4 minutes on 2 cores
Expected: test_accuracy at least 0.95 in every row
"""

from __future__ import annotations

from typing import Any

import optax

import jax_ssp as ssp
from experiments.workloads.digits import Digits
from jax_ssp import compression, mitigations

WORKERS = 8
STEPS = 1600  # local steps in all: with more than one a clock, so many fewer updates

# A clock takes 1 s, a fifth of it memoryless; on worker 0, 10 clocks in every 50 take 5 times as
# long.
DELAY = ssp.delays.Straggler(
    base=ssp.delays.ShiftedExponential(shift=0.8, mean=0.2),
    worker=0,
    factor=5.0,
    burst=10,
    every=50,
)


def experiment(name: str, **fields: Any) -> ssp.Experiment:
    """SSP(3) at one step a clock, and the digits as in the other configs, or what `fields` say."""
    given: dict[str, Any] = {
        "workload": Digits(),
        "max_updates": STEPS,
        "eval_every": 10,
        "runtime": ssp.Virtual(num_workers=WORKERS, delay=DELAY),
        **fields,
    }
    return ssp.Experiment(name=name, **given)


def local(h: int) -> dict[str, Any]:
    """So many updates, and evaluations, that clocks of h steps add up to as many steps as all."""
    return {"max_updates": STEPS // h, "eval_every": max(1, 10 // h)}


POLICIES = {policy.__name__: {"policy": policy()} for policy in ssp.policies.ALL_POLICIES}

SCHEDULES = {
    "DyLU": {"local_steps": ssp.DyLU(), **local(8)},
    "Fixed": {"local_steps": ssp.Fixed(h=4), **local(4)},  # 1 by default, as in all other rows
    "PostLocal": {"local_steps": ssp.PostLocal(), **local(2)},
}

# A momentum on the server takes the place of the workers' own: 0.9 on both would be 100 times
# plain SGD. Delay compensation is exact for plain SGD.
PLAIN = Digits(momentum=0.0)

MITIGATIONS = {
    "clip_outliers": {"delta_tx": ssp.configured(mitigations.clip_outliers)},
    "delay_compensation": {
        "delta_tx": ssp.configured(
            mitigations.delay_compensation, learning_rate=PLAIN.learning_rate
        ),
        "workload": PLAIN,
    },
    "delayed_nesterov": {
        "server_tx": ssp.configured(mitigations.delayed_nesterov),
        "weight": "sum",
        "workload": PLAIN,
    },
    "drop_stale": {"delta_tx": ssp.configured(mitigations.drop_stale)},
    "elastic_average": {
        "delta_tx": ssp.configured(mitigations.elastic_average),
        "adopt": ssp.Mix(0.9),
        "weight": "sum",
    },
    "outer": {
        "server_tx": ssp.configured(
            mitigations.outer,
            optimizer=ssp.configured(optax.sgd, learning_rate=0.7, momentum=0.9, nesterov=True),
        ),
        "policy": ssp.BSP(),
        "workload": PLAIN,
        "local_steps": 8,
        **local(8),
    },
    "scale_by_gap": {"delta_tx": ssp.configured(mitigations.scale_by_gap)},
    "scale_by_staleness": {"delta_tx": ssp.configured(mitigations.scale_by_staleness)},
    "skip_nonfinite": {"delta_tx": ssp.configured(mitigations.skip_nonfinite)},
}

COMPRESSORS: dict[str, dict[str, Any]] = {
    compressor.__name__: {"delta_wire": compressor()} for compressor in compression.ALL_COMPRESSORS
}
# A number waits for its turn for ten clocks on average: too long for a momentum of 0.9 beside it.
COMPRESSORS["RandK"]["workload"] = PLAIN


def get_sweep() -> list[ssp.Experiment]:
    rows = {**POLICIES, **SCHEDULES, **MITIGATIONS, **COMPRESSORS}
    return [experiment(name, **fields) for name, fields in rows.items()]
