"""How processes that are a worker together meet: `jax.distributed`, for these alone."""

from __future__ import annotations

import functools
import socket

import jax

from jax_ssp.runtimes.ray.cluster import LOOPBACK

WAITS = 24 * 3600  # seconds, for those for which a cluster has no room yet


def free_address(local: bool) -> tuple[socket.socket, str]:
    """An address of this machine where nobody listens, and what keeps it so until it is closed.

    JAX's service listens there beside it: it shares its port, which nobody gets who asks for any.

    Args:
        local: whether it is the loopback's.
    """
    import ray

    host = LOOPBACK if local else ray.util.get_node_ip_address()
    kept = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    kept.bind((host, 0))
    port = kept.getsockname()[1]
    return kept, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def join(address: str, rank: int, count: int) -> None:
    """Be one of so many processes whose devices make meshes together; before JAX has started.

    JAX's preemption service is left out: a process that is told to end is to end, and not to be
    asked for a checkpoint. On the CPU, collectives listen where all else does.

    Args:
        address: where the first one listens.
        rank: of this process.
        count: of the processes.
    """
    import ray
    from jax._src.lib import _jax  # it alone can be told a host name; no other worker needs it

    local = address.startswith(LOOPBACK)
    host = LOOPBACK if local else ray.util.get_node_ip_address()
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    _jax.make_gloo_tcp_collectives = functools.partial(
        _jax.make_gloo_tcp_collectives, hostname=host
    )
    jax.distributed.initialize(
        address,
        count,
        rank,
        coordinator_bind_address=address,
        cluster_detection_method="deactivate",
        initialization_timeout=WAITS,
    )
