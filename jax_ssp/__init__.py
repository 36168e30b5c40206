"""Stale-synchronous parallel training for JAX: the public names, each imported when first used.

What a run is made of:

    train, Result                     a run in one call, and what it gives
    make_step, make_nnx_step          what a worker repeats: from a loss, of a flax.nnx model
    data                              batches: Shards, one for each worker; Epochs, shared by all
    SSP, BSP, ASP, ... in policies    who may start, and what is merged when; Policy is their base
    Devices, Virtual, Ray, Replay     the worlds: devices, virtual time, a cluster, a tape
    delays, Network, faults           how long clocks and exchange take; what goes wrong
    mitigations, outer                optax transforms on the server: of each delta, of a merge
    methods                           the DiLoCo family, as arguments of a run
    PostLocal, DyLU, Fixed            schedules of `local_steps`; LocalSteps is their base
    Mix, Fragments, compression       how deltas and versions travel and are adopted
    Recovery, Checkpoints             what becomes of a run in which something fails

A run that is watched, kept and asked:

    Observer, Version, Kept           an observer of your own, what it sees and what it keeps
    Ema, Best, EarlyStop              averages, the best version, an early end
    Progress, loggers                 what a person sees; trackers
    RunFolder, read_run, Run          all of a run in a folder, and its reader; also in checkpoint
    save_params, load_params          parameters alone
    Tape, read_tape, write_tape       the record from which a run is replayed and proved
    check_contract, ContractViolation, TapeMismatch

As a config, for the command line:

    Experiment, Workload, Task        a run, and what it trains
    configured, chained, as_given     transforms with their arguments; several; one as it is
    sweep                             many runs at once, compared

And by themselves: Server; Controller and Ends, in controller; testing, contract tests for parts of
your own.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from jax_ssp.policies import ALL_POLICIES, ALL_SCHEDULES, LocalSteps, Policy

if TYPE_CHECKING:  # what editors know; a test holds it to the tables below
    from jax_ssp import checkpoint as checkpoint
    from jax_ssp import compression as compression
    from jax_ssp import controller as controller
    from jax_ssp import data as data
    from jax_ssp import delays as delays
    from jax_ssp import mitigations as mitigations
    from jax_ssp import policies as policies
    from jax_ssp import testing as testing
    from jax_ssp.checkpoint import Checkpoints as Checkpoints
    from jax_ssp.checkpoint import Run as Run
    from jax_ssp.checkpoint import RunFolder as RunFolder
    from jax_ssp.checkpoint import load_params as load_params
    from jax_ssp.checkpoint import read_run as read_run
    from jax_ssp.checkpoint import save_params as save_params
    from jax_ssp.controller import ContractViolation as ContractViolation
    from jax_ssp.controller import Controller as Controller
    from jax_ssp.controller import Ends as Ends
    from jax_ssp.controller import check_contract as check_contract
    from jax_ssp.controller.errors import TapeMismatch as TapeMismatch
    from jax_ssp.controller.tape import Tape as Tape
    from jax_ssp.controller.tape_file import read_tape as read_tape
    from jax_ssp.controller.tape_file import write_tape as write_tape
    from jax_ssp.delays.network import Network as Network
    from jax_ssp.fragments import Fragments as Fragments
    from jax_ssp.mitigations import outer as outer
    from jax_ssp.mitigations.as_given import as_given as as_given
    from jax_ssp.policies import *  # noqa: F403
    from jax_ssp.report import loggers as loggers
    from jax_ssp.report.progress import Progress as Progress
    from jax_ssp.runtimes import faults as faults
    from jax_ssp.runtimes.devices import Devices as Devices
    from jax_ssp.runtimes.observer import Kept as Kept
    from jax_ssp.runtimes.observer import Observer as Observer
    from jax_ssp.runtimes.ray.runtime import Ray as Ray
    from jax_ssp.runtimes.recovery import Recovery as Recovery
    from jax_ssp.runtimes.replay import Replay as Replay
    from jax_ssp.runtimes.task import Task as Task
    from jax_ssp.runtimes.version import Version as Version
    from jax_ssp.runtimes.virtual import Virtual as Virtual
    from jax_ssp.server.server import Server as Server
    from jax_ssp.training import methods as methods
    from jax_ssp.training.configured import chained as chained
    from jax_ssp.training.configured import configured as configured
    from jax_ssp.training.experiment import Experiment as Experiment
    from jax_ssp.training.hooks import Best as Best
    from jax_ssp.training.hooks import EarlyStop as EarlyStop
    from jax_ssp.training.hooks import Ema as Ema
    from jax_ssp.training.result import Result as Result
    from jax_ssp.training.sweep import sweep as sweep
    from jax_ssp.training.train import train as train
    from jax_ssp.training.workload import Workload as Workload
    from jax_ssp.worker.adopt import Mix as Mix
    from jax_ssp.worker.nnx import make_nnx_step as make_nnx_step
    from jax_ssp.worker.step import make_step as make_step

__version__ = "0.1.0"

# Lazy, so that `import jax_ssp.controller` stays free of JAX.
_ROOMS = ("checkpoint", "compression", "controller", "data", "delays", "mitigations", "policies")
_MODULES = {
    **{room: room for room in _ROOMS},
    "faults": "runtimes.faults",
    "loggers": "report.loggers",
    "methods": "training.methods",
    "testing": "testing",
}
_NAMES = {
    **{kind.__name__: "policies" for kind in (Policy, LocalSteps, *ALL_POLICIES, *ALL_SCHEDULES)},
    **dict.fromkeys(("Best", "EarlyStop", "Ema"), "training.hooks"),
    "Checkpoints": "checkpoint",
    "ContractViolation": "controller",
    "Controller": "controller",
    "Devices": "runtimes.devices",
    "Ends": "controller",
    "Experiment": "training.experiment",
    "Fragments": "fragments",
    "Mix": "worker.adopt",
    "Network": "delays.network",
    **dict.fromkeys(("Kept", "Observer"), "runtimes.observer"),
    "Progress": "report.progress",
    "Ray": "runtimes.ray.runtime",
    "Recovery": "runtimes.recovery",
    "Replay": "runtimes.replay",
    "Result": "training.result",
    "Run": "checkpoint",
    "RunFolder": "checkpoint",
    "Server": "server.server",
    "Tape": "controller.tape",
    "TapeMismatch": "controller.errors",
    "Task": "runtimes.task",
    "Version": "runtimes.version",
    "Virtual": "runtimes.virtual",
    "Workload": "training.workload",
    "as_given": "mitigations.as_given",
    "chained": "training.configured",
    "check_contract": "controller",
    "configured": "training.configured",
    "load_params": "checkpoint",
    "make_nnx_step": "worker.nnx",
    "make_step": "worker.step",
    "outer": "mitigations",
    "read_run": "checkpoint",
    "read_tape": "controller.tape_file",
    "save_params": "checkpoint",
    "sweep": "training.sweep",
    "train": "training.train",
    "write_tape": "controller.tape_file",
}

__all__ = sorted([*_MODULES, *_NAMES])


if not TYPE_CHECKING:  # to which a name that is not in its list is an error

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return importlib.import_module(f"jax_ssp.{_MODULES[name]}")
        if name in _NAMES:
            value = getattr(importlib.import_module(f"jax_ssp.{_NAMES[name]}"), name)
            globals()[name] = value
            return value
        message = f"module 'jax_ssp' has no attribute {name!r}"
        raise AttributeError(message, name=name, obj=sys.modules[__name__])  # "Did you mean ...?"

    def __dir__() -> list[str]:
        return __all__
