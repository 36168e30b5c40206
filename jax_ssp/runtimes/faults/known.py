"""The kinds of faults by the names that words have for them."""

from __future__ import annotations

import difflib
import re
from typing import Any

from jax_ssp import checks
from jax_ssp.runtimes.faults.base import Fault
from jax_ssp.runtimes.faults.clocks import Crash, Hang, NaN, OutOfMemory, Raise, Slow
from jax_ssp.runtimes.faults.pushes import Duplicate, Late, LostPush
from jax_ssp.runtimes.faults.saves import DiskFull, SaveFails
from jax_ssp.runtimes.faults.system import HoldLock, Kill, Stopped, Terminate

KINDS: dict[str, type[Fault]] = {
    "crash": Crash,
    "hang": Hang,
    "slow": Slow,
    "nan": NaN,
    "raise": Raise,
    "out_of_memory": OutOfMemory,
    "duplicate": Duplicate,
    "late": Late,
    "lost_push": LostPush,
    "save_fails": SaveFails,
    "disk_full": DiskFull,
    "hold_lock": HoldLock,
    "stopped": Stopped,
    "kill": Kill,
    "terminate": Terminate,
}
_NAMES = {kind: name for name, kind in KINDS.items()}


def name_of(kind: type[Any]) -> str:
    """What words call a kind; one of the user's own has its own name.

    Example:
        >>> name_of(LostPush)
        'lost_push'
    """
    return _NAMES.get(kind, kind.__name__)


def kind_named(field: str, kind: Any) -> type[Fault]:
    """The class of faults that is given, or named.

    Raises:
        ValueError: if there is none of that name.
        TypeError: if it is neither.
    """
    if isinstance(kind, type) and issubclass(kind, Fault):
        return kind
    if not isinstance(kind, str):
        must = 'kinds of faults or their names, such as "crash"'
        raise TypeError(f"`{field}` must hold {must}, got {checks.shown(kind)}.")
    return KINDS[known(field, kind, KINDS)]


def known(field: str, name: str, names: Any) -> str:
    """A name as it is written here; ValueError if there is none like it."""
    found = re.sub(r"(?<=[a-z])(?=[A-Z])|-", "_", name.strip()).lower()
    if found in names:
        return found
    near = difflib.get_close_matches(found, names, n=1)
    did = f" (did you mean {near[0]}?)" if near else ""
    raise ValueError(
        f"`{field}`: there is no fault {checks.shown(name)}{did}. There are {', '.join(names)}."
    )
