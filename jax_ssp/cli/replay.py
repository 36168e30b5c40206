"""`jax-ssp replay`: repeat a run and compare it to the last bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jax_ssp.cli.exits import BUG, DONE
from jax_ssp.cli.inputs import config_in, tape_in
from jax_ssp.cli.run import trained
from jax_ssp.config_file import UsageError, parsed, usage_errors


def replay(run: Path, file: Path | None) -> int:
    import jax
    import numpy as np

    from jax_ssp.checkpoint import load_params
    from jax_ssp.controller import ProtocolError
    from jax_ssp.report.environment import environment
    from jax_ssp.report.progress import Progress
    from jax_ssp.runtimes.replay import Replay, TapeMismatch
    from jax_ssp.tape import read_tape

    with usage_errors():
        tape = read_tape(tape_in(run))
        config = json.loads(config_in(run).read_text())
    experiments, _ = parsed(file or Path(config["file"]), config["overrides"])
    experiment = experiments[config["index"]]
    _same_experiment(config["experiment"], experiment.describe())
    with usage_errors():
        experiment.runtime.count()  # splits the CPU as the run did, before JAX starts
        arguments = experiment.arguments(Replay(tape))
    try:
        result = trained(arguments, [Progress()])
    except (TapeMismatch, ProtocolError) as error:
        print(f"the run does NOT repeat: {error}")
        return BUG
    print(f"{len(tape)} events repeated, every answer of the controller the same")
    if result.params is None:
        return DONE
    if not tape.complete:
        print("the tape breaks off before the end of its run, so there is nothing to compare")
        return DONE
    with usage_errors():
        saved = load_params(run, like=result.params)
    named = jax.tree_util.tree_leaves_with_path(result.params)
    differing = [
        jax.tree_util.keystr(path)
        for (path, here), there in zip(named, jax.tree.leaves(saved), strict=True)
        if np.asarray(here).tobytes() != np.asarray(there).tobytes()
    ]
    if differing:
        print(f"parameters DIFFER in {len(differing)} of {len(named)} leaves: {differing[:8]}")
        here, there = environment(), config.get("environment", {})
        for name in [name for name in there if here.get(name) != there[name]]:
            print(f"  {name}: recorded with {there[name]}, here {here.get(name)}")
        return BUG
    print(f"parameters the same to the last bit ({len(named)} leaves)")
    return DONE


def _same_experiment(recorded: dict[str, Any], here: dict[str, Any]) -> None:
    here = json.loads(json.dumps(here))
    names = [name for name in {**recorded, **here} if recorded.get(name) != here.get(name)]
    if names:
        differences = "; ".join(
            f"{name}: recorded {recorded.get(name)}, here {here.get(name)}" for name in names
        )
        raise UsageError(f"the config file has changed since the run, in {differences}")
