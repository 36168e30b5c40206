"""Waiting for what comes into an inbox, but not for longer than so many seconds.

Inboxes are `queue.SimpleQueue`s: a signal handler may put something in, and an interrupt leaves
none locked. Up to Python 3.12 their `get` waits without an end if its time is over before it has
begun to wait: it looks at the clock once more in between, and takes what is left, if that is
negative, for no limit. Just after an attempt that does not wait, it does not look.
"""

from __future__ import annotations

import queue
from typing import TypeVar

T = TypeVar("T")


def next_in(inbox: queue.SimpleQueue[T], seconds: float) -> T:
    """What comes next.

    Args:
        inbox: of which this thread alone takes.
        seconds: to wait at most; 0 or less does not wait.

    Raises:
        queue.Empty: if nothing comes in time.

    Example:
        >>> inbox = queue.SimpleQueue()
        >>> inbox.put("news")
        >>> next_in(inbox, seconds=1.0)
        'news'
    """
    try:
        return inbox.get_nowait()
    except queue.Empty:
        if seconds <= 0:
            raise
    return inbox.get(timeout=seconds)
