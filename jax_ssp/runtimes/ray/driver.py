"""The process of the driver, with which the actor of the controller is to end.

It is on the same machine. Ray ends an actor some seconds after the driver has ended, and until then
the run's folder would be in use.
"""

from __future__ import annotations

import os
import select
import threading
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """A process of this machine.

    Attributes:
        pid: its number.
        began: when, as the kernel counts it; the number alone may be another's by now.
    """

    pid: int
    began: str

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The one that has this number now; None if the system does not say."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        return cls(pid, stat.rpartition(")")[2].split()[19])


def end_with(process: Process | None) -> bool:
    """Have this process end, whatever it does, as soon as that one has.

    Gives whether the system can do that, and has such a process.
    """
    if process is None or not hasattr(os, "pidfd_open"):
        return False
    try:
        ends = os.pidfd_open(process.pid)
    except OSError:
        return False
    if Process.of(process.pid) != process:
        os.close(ends)
        return False

    def wait() -> None:
        found = select.poll()
        found.register(ends, select.POLLIN)
        found.poll()
        os._exit(1)

    threading.Thread(target=wait, name="ssp-driver", daemon=True).start()
    return True
