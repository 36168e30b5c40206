"""Small merges in one thread: XLA's CPU backend would divide each of their loops among threads.

A loop over a few megabytes takes less time than to wake a thread for half of it. The pass that
divides loops is left out where such a program is compiled; all else is compiled as ever, so that
the same numbers are computed, to the last bit.
"""

from __future__ import annotations

import jax

from jax_ssp.placement import Placement

MOST = 8 << 20  # bytes of parameters that one thread merges sooner than several
DIVIDES = "cpu-parallel-task-assigner"  # XLA's name of the pass; one that is not there is ignored


def compiler_options(place: jax.sharding.Sharding, nbytes: int) -> dict[str, str]:
    """For `jax.jit` of a program over so many bytes of parameters at this place.

    Example:
        >>> place = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
        >>> compiler_options(place, 1 << 20)
        {'xla_disable_hlo_passes': 'cpu-parallel-task-assigner'}
        >>> compiler_options(place, 1 << 30)
        {}
    """
    on_host = all(Placement.of(device).reuses for device in place.device_set)
    return {"xla_disable_hlo_passes": DIVIDES} if on_host and nbytes <= MOST else {}
