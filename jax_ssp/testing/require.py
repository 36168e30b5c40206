"""An assertion that is one also where Python leaves them out (`python -O`)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def require(holds: bool, what: str, *about: Any) -> None:
    """Raise AssertionError unless this holds: also where Python leaves assertions out.

    Args:
        holds: whether all is well.
        what: is wrong, if it does not.
        *about: what it is wrong of.
    """
    if not holds:
        raise AssertionError(f"{what}: {', '.join(map(str, about))}" if about else what)


def hold(check: Callable[..., None], part: Any, seed: int) -> None:
    """Make one check of a part; what it finds says what must hold, and how to see it again.

    Args:
        check: its docstring says what must hold.
        part: to be checked.
        seed: of the check.
    """
    try:
        check(part, seed)
    except Exception as error:
        must = (inspect.getdoc(check) or check.__name__).split("\n")[0]
        kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        where = f"{check.__module__}.{check.__name__}"
        raise AssertionError(
            f"{must} But {kind}{str(error).strip()}\n  See it again: {where}(..., seed={seed})"
        ) from error
