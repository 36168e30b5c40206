"""The threads of runs, which end with them."""

import contextlib
import threading

PATIENCE = 10.0  # seconds, for a thread that has nothing left to do


def of_runs() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("ssp-")}


@contextlib.contextmanager
def none_is_left_behind():
    """What a test has found there may be of another test, and end at any time."""
    before = of_runs()
    yield
    for thread in of_runs() - before:
        thread.join(PATIENCE)
        assert not thread.is_alive(), f"{thread.name} is left behind"
