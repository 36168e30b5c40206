"""What else a part of an experiment may be: the names that the command line takes for it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import optax

from jax_ssp import compression, delays, mitigations, policies
from jax_ssp.checkpoint.checkpoints import Checkpoints
from jax_ssp.fragments import Fragments
from jax_ssp.mitigations.as_given import as_given
from jax_ssp.runtimes.devices import Devices
from jax_ssp.runtimes.ray.runtime import Ray
from jax_ssp.runtimes.recovery import Recovery
from jax_ssp.runtimes.runtime import Runtime
from jax_ssp.runtimes.virtual import Virtual
from jax_ssp.training.configured import Configured, configured
from jax_ssp.training.hooks.ema import Ema
from jax_ssp.worker.adopt import Mix


def alternatives(runtime: Runtime | None = None) -> dict[str, dict[str, Callable[[], Any]]]:
    """By field of an experiment and by name: what else it may be, made at its defaults.

    Args:
        runtime: the experiment's. `Virtual` in its place keeps its workers, delays, their seed and
            its network; `Ray` its workers.

    Example:
        >>> alternatives()["policy"]["KSync"]()
        KSync(k=4)
        >>> alternatives(Devices(num_workers=8))["runtime"]["Virtual"]().num_workers
        8
    """
    transforms: dict[str, Callable[[], Configured]] = {
        name: functools.partial(configured, getattr(mitigations, name))
        for name in mitigations.ALL_MITIGATIONS
    }
    diloco = functools.partial(configured, optax.sgd, momentum=0.9, nesterov=True)
    transforms["outer"] = lambda: configured(mitigations.outer, optimizer=diloco(learning_rate=0.7))
    plain = functools.partial(configured, optax.scale, step_size=1.0)
    transforms["as_given"] = lambda: configured(as_given, tx=plain())
    transforms["identity"] = functools.partial(configured, optax.identity)
    wires = {kind.__name__: kind for kind in compression.ALL_COMPRESSORS}
    return {
        "policy": {kind.__name__: kind for kind in policies.ALL_POLICIES},
        "runtime": {
            "Devices": Devices,
            "Ray": functools.partial(_on_cluster, runtime),
            "Virtual": functools.partial(_rehearsal, runtime),
        },
        "runtime.delay": {**_DELAYS, "None": lambda: None},
        "runtime.network": {"Network": delays.Network, "None": lambda: None},
        "runtime.recovery": {"Recovery": Recovery, "None": lambda: None},
        "local_steps": {kind.__name__: kind for kind in policies.ALL_SCHEDULES},
        "server_tx": transforms,
        "delta_tx": transforms,
        "delta_wire": {**wires, "None": lambda: None},
        "snapshot_wire": {**wires, "None": lambda: None},
        "adopt": {"Mix": Mix, "rebase": lambda: "rebase"},
        "fragments": {"Fragments": Fragments, "None": lambda: None},
        "checkpoint": {"Checkpoints": Checkpoints, "None": lambda: None},
        "hooks": {"Ema": lambda: (Ema(0.999),), "None": lambda: ()},
    }


# A step takes 1 s or about that by default. Models of a number for each worker are not among them.
_DELAYS: dict[str, Callable[[], Any]] = {
    "Constant": delays.Constant,
    "Exponential": delays.Exponential,
    "ShiftedExponential": functools.partial(delays.ShiftedExponential, shift=0.8, mean=0.2),
    "Pareto": functools.partial(delays.Pareto, minimum=0.6, shape=2.5),
    "LogNormal": functools.partial(delays.LogNormal, median=0.9, sigma=0.5),
    "Straggler": delays.Straggler,
}


def _on_cluster(runtime: Runtime | None) -> Ray:
    """A cluster with as many workers as this runtime says."""
    num_workers = getattr(runtime, "num_workers", None)
    return Ray() if num_workers is None else Ray(num_workers=num_workers)


def _rehearsal(runtime: Runtime | None) -> Virtual:
    """Virtual time with what this runtime says of its workers and delays."""
    said: dict[str, Any] = {"delay": delays.Exponential(mean=1.0)}
    for name in ("num_workers", "delay", "seed", "network"):
        value = getattr(runtime, name, None)
        if value is not None:
            said[name] = value
    return Virtual(**said)
