"""An assertion that is one also where Python leaves them out (`python -O`)."""

from __future__ import annotations

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
