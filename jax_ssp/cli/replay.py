"""`jax-ssp replay`: repeat a run and compare it to the last bit."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from jax_ssp.cli.inputs import config_of, experiment_of, run_of, tape_of
from jax_ssp.cli.one import trained
from jax_ssp.cli.usage import UsageError, usage_errors
from jax_ssp.failures import BUG, DONE
from jax_ssp.records import short


def declare(commands: Any) -> None:
    parser = commands.add_parser(
        "replay",
        help="repeat a run and compare it to the last bit",
        description="Repeat a run and compare it to the last bit. This executes the run's config "
        "file, which is Python: the one that the folder names, if it lies outside the folder and "
        "has not changed since the run (its digest is recorded), or the one that --file names. "
        "`jax-ssp verify` executes nothing.",
    )
    parser.add_argument("run", type=Path, help="a run's folder")
    trusted = "a config file to trust: executed even if it has changed"
    parser.add_argument("--file", type=Path, help=trusted)
    parser.set_defaults(command=replay)


def replay(options: argparse.Namespace, rest: list[str]) -> int:
    from jax_ssp.controller import (
        ContractViolation,
        PolicyError,
        ProtocolError,
        TapeMismatch,
        check_contract,
    )
    from jax_ssp.report.progress import Progress
    from jax_ssp.runtimes.replay import Replay

    tape, run = tape_of(options.run), run_of(options.run)
    config = config_of(run)
    try:
        check_contract(tape)  # before anything is executed
    except ContractViolation as violation:
        print(f"the run does NOT repeat: {violation}")
        return BUG
    experiment = experiment_of(run.path, config, options.file)
    _check_same(config["experiment"], experiment.describe())
    with usage_errors():
        # Asked first: it splits the CPU as the run did, before JAX starts.
        here, there = experiment.runtime.count(), tape.header["num_workers"]
        if here != there:
            raise UsageError(f"the tape is of {there} workers, and the config file makes {here}")
        plan, task = replace(experiment, runtime=Replay(tape)).ready()
    try:
        result = trained(plan, task, [Progress()])
    except (TapeMismatch, ProtocolError, PolicyError) as error:
        print(f"the run does NOT repeat: {error}")
        return BUG
    print(f"{len(tape)} events repeated, every answer of the controller the same")
    if result.params is None:
        return DONE
    if not tape.complete:
        print("the tape breaks off before the end of its run, so there is nothing to compare")
        return DONE
    return _compared(run.path, result.params, config.get("environment"))


def _check_same(recorded: dict[str, Any], here: dict[str, Any]) -> None:
    here = json.loads(json.dumps(here))
    names = [name for name in {**recorded, **here} if recorded.get(name) != here.get(name)]
    if names:
        differences = "; ".join(
            f"{name}: recorded {_cut(recorded.get(name))}, here {_cut(here.get(name))}"
            for name in names
        )
        raise UsageError(f"the config file has changed since the run, in {differences}")


def _cut(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 400 else f"{text[:400]} ..."


def _compared(run: Path, params: Any, recorded: Any) -> int:
    """Say whether these are the parameters that the run saved, to the last bit."""
    import jax
    import numpy as np

    from jax_ssp.checkpoint import load_params
    from jax_ssp.report.environment import environment

    with usage_errors():
        saved = load_params(run, like=params)
    named = jax.tree_util.tree_leaves_with_path(params)
    differing = [
        jax.tree_util.keystr(path)
        for (path, here), there in zip(named, jax.tree.leaves(saved), strict=True)
        if np.asarray(here).tobytes() != np.asarray(there).tobytes()
    ]
    if not differing:
        print(f"parameters the same to the last bit ({len(named)} leaves)")
        return DONE
    print(f"parameters DIFFER in {len(differing)} of {len(named)} leaves: {differing[:8]}")
    now, then = environment(), recorded if isinstance(recorded, dict) else {}
    for name in [name for name in then if now.get(name) != then[name]]:
        print(f"  {name}: recorded with {short(then[name])}, here {now.get(name)}")
    return BUG
