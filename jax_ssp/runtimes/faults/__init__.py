"""Faults as data: what is to go wrong, in which clock of which worker, or in which phase of a run.

    ssp.Virtual(num_workers=4, faults=[ssp.faults.Crash(worker=2, clock=5)])

The same in words, as the command line takes them: `--runtime.faults crash:2:5`. Every world plays
them, so what a policy makes of a lost worker, or of one that hangs, can be tried before it happens.
A replay repeats them: that a worker was lost is on the tape, when a slow clock ended too, and
deltas that were not finite are named in its header.
"""

from jax_ssp.runtimes.faults.base import Act, Fault
from jax_ssp.runtimes.faults.clocks import Crash, Hang, NaN, OutOfMemory, Raise, Slow
from jax_ssp.runtimes.faults.pushes import Duplicate, Late, LostPush
from jax_ssp.runtimes.faults.saves import DiskFull, SaveFails
from jax_ssp.runtimes.faults.schedule import Poisson, Schedule
from jax_ssp.runtimes.faults.system import HoldLock, Kill, Stopped, Terminate
from jax_ssp.runtimes.faults.words import from_words, in_words

__all__ = [
    "Act",
    "Crash",
    "DiskFull",
    "Duplicate",
    "Fault",
    "Hang",
    "HoldLock",
    "Kill",
    "Late",
    "LostPush",
    "NaN",
    "OutOfMemory",
    "Poisson",
    "Raise",
    "SaveFails",
    "Schedule",
    "Slow",
    "Stopped",
    "Terminate",
    "from_words",
    "in_words",
]
