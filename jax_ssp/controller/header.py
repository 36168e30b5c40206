"""What the keys of a tape's header must be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from jax_ssp.controller.weight import NAMED
from jax_ssp.records import (
    NUMBER,
    RECORD,
    TEXT,
    TEXTS,
    TRUTH,
    Kind,
    check_record,
    either,
    one_of,
    whole,
)

_NOTHING = one_of(None)


def _pairs(says: str, first: Kind, second: Kind) -> Kind:
    """A list of pairs, each of one value of either kind."""

    def is_pair(value: Any) -> bool:
        pair = cast("list[Any]", value) if isinstance(value, list) else []
        return len(pair) == 2 and first.holds(pair[0]) and second.holds(pair[1])

    def holds(value: Any) -> bool:
        return all(map(is_pair, cast("list[Any]", value) if isinstance(value, list) else [None]))

    return Kind(says, holds)


def _is_part(value: Any) -> bool:
    part = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    return TEXT.holds(part.get("type"))


def _is_fragments(value: Any) -> bool:
    part = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    return whole(1).holds(part.get("number"))


def _is_data(value: Any) -> bool:
    data = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    counts = [data.get("batches_per_epoch"), data.get("samples_per_epoch")]
    if set(data) != {"batches_per_epoch", "samples_per_epoch"} or not all(map(_ONE.holds, counts)):
        return False
    return not data["samples_per_epoch"] % data["batches_per_epoch"]


_ONE = whole(1)
_PLACES = _pairs("a list of devices, each a platform and a number", TEXT, whole(0))
_CLOCKS = _pairs("a list of clocks, each a worker and its clock", whole(0), whole(0))
_PART = Kind("an object with a `type`", _is_part)
HEADER = {
    "name": either(TEXT, _NOTHING),
    "policy": TEXT,
    "bound": either(whole(0), _NOTHING),
    "max_staleness": either(whole(0), _NOTHING),
    "reads_own": TRUTH,
    "waits_for_own": TRUTH,
    "gives_weights": TRUTH,
    "num_workers": whole(1),
    "time": one_of("virtual", "wall"),
    "devices": _PLACES,
    "server": _PLACES,
    "batch": whole(1),
    "round_samples": whole(0),
    "experiment": RECORD,
}
"""What the keys of a header must be; `train` writes all of them."""
OPTIONAL = {
    "max_workers": whole(1),
    "nan": _CLOCKS,
    "faults": TEXTS,
    "network": _PART,
    "data": Kind("what an epoch of the data holds", _is_data),
}
"""The same of keys that only some runs have."""
EXPERIMENT = {
    "policy": _PART,
    "num_workers": whole(1),
    "num_clocks": either(whole(1), _NOTHING),
    "max_updates": either(whole(1), _NOTHING),
    "max_steps": either(whole(1), _NOTHING),
    "max_samples": either(whole(1), _NOTHING),
    "num_epochs": either(whole(1), _NOTHING),
    "optimizer_on": one_of("workers", "server"),
    "local_steps": either(whole(1), _PART),
    "weight": either(one_of(*NAMED), NUMBER),
    "fragments": either(Kind("an object with a `number`", _is_fragments), _NOTHING),
    "overlap": whole(0),
    "seed": whole(0),
}


def check_header(header: Mapping[str, Any], of_a_run: bool = False) -> None:
    """Raise ValueError, naming the key, unless each key of a header is what it must be.

    Args:
        header: of a tape.
        of_a_run: whether all keys must be there, as `train` writes them.
    """
    check_record("the header", header, HEADER, needed=of_a_run)
    check_record("the header", header, OPTIONAL, needed=False)
    experiment = header.get("experiment", {})
    check_record("`experiment` in the header", experiment, EXPERIMENT, needed=of_a_run)
    told, workers = experiment.get("num_workers"), header.get("num_workers")
    most = header.get("max_workers")
    if most is not None and (workers is None or most <= workers):
        raise ValueError(f"the header says `max_workers` {most}, and {workers} that begin the run.")
    if None not in (told, workers) and told != workers:
        raise ValueError(f"the header says {workers} workers, and {told} in `experiment`.")
    devices, server = header.get("devices"), header.get("server", [])
    if devices and ((workers is not None and len(devices) != workers) or not server):
        raise ValueError(f"the header must name the devices of {workers} workers, and a server's.")
