"""How often Python looks for garbage while a run makes many small records.

The collector walks all that was made since it looked last, and now and then everything there is,
JAX's own objects included. The records of a simulated run are freed without it, and those of
thousands of workers have it look all the time. So meanwhile it looks seldom; what it is there for,
objects in circles that somebody else makes, it finds later.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG = 100_000
"""So many objects more than were freed may be there before it looks."""


class _Runs:
    """Those that go on, in any thread."""

    lock = threading.Lock()
    count = 0
    before = gc.get_threshold()  # as it was when the first of them began


@contextmanager
def collecting_seldom() -> Iterator[None]:
    """Until the last of the runs within is over, `gc` looks at `YOUNG` new objects at once.

    Where it is off, or looks more seldom already, it stays so.

    Example:
        >>> import gc
        >>> before = gc.get_threshold()
        >>> with collecting_seldom():
        ...     gc.get_threshold()[0] >= YOUNG, gc.get_threshold()[1:] == before[1:]
        (True, True)
        >>> gc.get_threshold() == before
        True
    """
    with _Runs.lock:
        if not _Runs.count:
            _Runs.before = young, *older = gc.get_threshold()
            gc.set_threshold(max(young, YOUNG) if young else 0, *older)
        _Runs.count += 1
    try:
        yield
    finally:
        with _Runs.lock:
            _Runs.count -= 1
            if not _Runs.count:
                gc.set_threshold(*_Runs.before)
