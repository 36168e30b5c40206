"""What the keys of a tape's header must be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from jax_ssp.records import (
    NUMBER,
    RECORD,
    TEXT,
    TRUTH,
    Kind,
    check_record,
    either,
    one_of,
    whole,
)

_NOTHING = one_of(None)


def _is_place(value: Any) -> bool:
    place = cast("list[Any]", value) if isinstance(value, list) else []
    return len(place) == 2 and TEXT.holds(place[0]) and whole(0).holds(place[1])


def _is_places(value: Any) -> bool:
    places = cast("list[Any]", value) if isinstance(value, list) else [None]
    return all(map(_is_place, places))


def _is_part(value: Any) -> bool:
    part = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    return TEXT.holds(part.get("type"))


_PLACES = Kind("a list of devices, each a platform and a number", _is_places)
_PART = Kind("an object with a `type`", _is_part)
HEADER = {
    "name": either(TEXT, _NOTHING),
    "policy": TEXT,
    "bound": either(whole(0), _NOTHING),
    "max_staleness": either(whole(0), _NOTHING),
    "reads_own": TRUTH,
    "waits_for_own": TRUTH,
    "num_workers": whole(1),
    "time": one_of("virtual", "wall"),
    "devices": _PLACES,
    "server": _PLACES,
    "batch": whole(1),
    "experiment": RECORD,
}
"""What the keys of a header must be; `train` writes all of them."""
EXPERIMENT = {
    "policy": _PART,
    "num_workers": whole(1),
    "num_clocks": either(whole(1), _NOTHING),
    "max_updates": either(whole(1), _NOTHING),
    "local_steps": either(whole(1), _PART),
    "weight": either(one_of("mean", "sum", "merged"), NUMBER),
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
    experiment = header.get("experiment", {})
    check_record("`experiment` in the header", experiment, EXPERIMENT, needed=of_a_run)
    told, workers = experiment.get("num_workers"), header.get("num_workers")
    if None not in (told, workers) and told != workers:
        raise ValueError(f"the header says {workers} workers, and {told} in `experiment`.")
    devices, server = header.get("devices"), header.get("server", [])
    if devices and ((workers is not None and len(devices) != workers) or not server):
        raise ValueError(f"the header must name the devices of {workers} workers, and a server's.")
