"""Whether two runs are one: the same mathematics, and ends that were only raised.

All that decides a run's numbers is compared, field by field, with what was written down when it
began. What only ends it may be raised.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jax_ssp.records import short
from jax_ssp.runtimes.evaluation import Target
from jax_ssp.runtimes.plan import COMPUTED, Plan, describe

COUNTS = ("num_clocks", "max_updates", "max_steps", "max_samples", "num_epochs")
_DIGESTS = {
    "params": "the first parameters",
    "batches": "the first batches of each worker",
    "step": "the step, as it is compiled",
    "server_tx": "the transforms on the server, as they are compiled",
}
_COMPILED = ("step", "server_tx")  # whose text is another one with another JAX


def settings_of(plan: Plan) -> dict[str, Any]:
    """What is compared of a plan before anything is built, as JSON has it.

    Args:
        plan: checked, as the user gave it.
    """
    facts = {
        "experiment": {k: v for k, v in plan.identity().items() if k not in COUNTS},
        "ends": {name: getattr(plan, name) for name in (*COUNTS, "target")},
        "time": plan.runtime.time,
        "runtime": describe(plan.runtime),
        "workload": describe(getattr(plan, "workload", None)),
    }
    return json.loads(json.dumps(facts))


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """In which fields facts differ, each with what it is there and here.

    Example:
        >>> differences({"policy": {"bound": 3}, "seed": 0}, {"policy": {"bound": 5}, "seed": 0})
        ['`policy.bound` is 3 there, and 5 here']
    """
    has, wanted = flat(there), flat(here)
    return [
        f"`{name}` is {short(has.get(name))} there, and {short(wanted.get(name))} here"
        for name in {**has, **wanted}
        if has.get(name) != wanted.get(name)
    ]


def setting_differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """The same of what `settings_of` gives; of the run there, as much as is known.

    In virtual time the runtime decides what happens when; on real devices it does not. The number
    of workers is compared later, when it is known whether the data can be dealt to another one.
    """
    told = differences(there["experiment"], here["experiment"])
    told += differences({"time": there["time"]}, {"time": here["time"]})
    compared = ("workload", "runtime") if here["time"] == "virtual" else ("workload",)
    for name in compared:
        if there.get(name) is not None and here.get(name) is not None and not told:
            has, wanted = ({**each[name], "num_workers": None} for each in (there, here))
            told += differences({name: has}, {name: wanted})
    return told


def computed_differences(
    there: Mapping[str, Any], here: Mapping[str, Any], elastic: bool
) -> tuple[list[str], list[str]]:
    """In what two runs differ by what they compute, as their tapes' headers say; and what warns.

    Args:
        there, here: `experiment` of either header.
        elastic: whether the data can be dealt to another number of workers.
    """
    told: list[str] = []
    warnings = differences(
        *({name: each.get(name) for name in ("jax", "platforms")} for each in (there, here))
    )
    workers = there.get("num_workers"), here.get("num_workers")
    if workers[0] != workers[1] and not elastic:
        told.append(f"`num_workers` is {workers[0]} there, and {workers[1]} here")
    for name in COMPUTED:
        skipped = (name in _COMPILED and warnings) or (
            name == "batches" and workers[0] != workers[1]
        )
        if name in _DIGESTS and not skipped and there.get(name) != here.get(name):
            told.append(f"`{name}` ({_DIGESTS[name]}) is another one")
    return told, warnings


def raised(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Which ends are higher here, or gone.

    Raises:
        ValueError: if one is lower, or was not there.

    Example:
        >>> raised({"num_clocks": 3, "target": None}, {"num_clocks": 5, "target": None})
        ['num_clocks']
    """
    higher: list[str] = []
    for name in (*COUNTS, "target"):
        was, now = there.get(name), here.get(name)
        if was == now:
            continue
        if was is None or not (now is None or _is_higher(was, now)):
            raise ValueError(
                f"`{name}` is {short(was)} there, and {short(now)} here: what ends a run can only "
                "be raised"
            )
        higher.append(name)
    return higher


def _is_higher(was: Any, now: Any) -> bool:
    if not isinstance(was, str):
        return now > was
    before, after = Target.parse(was), Target.parse(now)
    if (before.metric, before.at_least) != (after.metric, after.at_least):
        return False
    return after.value > before.value if after.at_least else after.value < before.value


def flat(facts: Any, name: str = "") -> dict[str, Any]:
    """Facts by their path, such as `policy.bound`."""
    if not isinstance(facts, dict):
        return {name: facts}
    parts = [flat(value, f"{name}.{key}".lstrip(".")) for key, value in facts.items()]
    return {path: value for part in parts for path, value in part.items()}
