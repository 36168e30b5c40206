"""The cluster that a run is on: one that is there, or one on this machine alone."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from jax_ssp.checks import number, shown, text

LOOPBACK = "127.0.0.1"
LOCAL = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""The variable by which Ray's processes stay on the loopback address where it is "0", as by default
on systems that would ask their user about a firewall. By itself the address does not say so."""
ITS_OWN = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # its processes are what this machine is to do
    # By default memory comes back once a second: what is stored meanwhile goes where none was.
    "RAY_free_objects_period_milliseconds": "0",
    # What each call does is written down for a dashboard, and there is none: that took a third.
    "RAY_task_events_report_interval_ms": "0",
    "RAY_event_stats": "0",
    "RAY_enable_metrics_collection": "0",
}
"""Variables that a cluster of this process's own is started with, unless they are set."""
OBJECTS = 0.3  # the share of this machine's memory for the object store of a cluster of its own
LEAST_OBJECTS, MOST_OBJECTS = 200 << 20, 8 << 30  # bytes


def the_ray() -> Any:
    """Ray.

    Raises:
        ImportError: naming the command that installs it.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            "`ssp.Ray(...)` needs Ray, which is not installed: `pip install 'jax_ssp[ray]'`."
        ) from error
    return ray


_joined: list[Any] = [None, None]
"""The cluster that this process was on last, and the folder that it has shipped there by itself."""


def connect(address: str | None, working_dir: str | None = None) -> dict[str, float]:
    """Be on a cluster; gives what it has in all, by Ray's names for it.

    Args:
        address: of a cluster, "auto" for the one that this machine is part of; None for one of this
            process's own, on this machine, which ends with the process.
        working_dir: a folder that is copied to each machine; None for none.

    Raises:
        ImportError: if Ray is not installed.
        ConnectionError: if there is no cluster at the address.
        ValueError: if this process is on one already with another folder.
    """
    from jax_ssp.runtimes.ray.pool import forget

    ray, shipped = the_ray(), None
    if not ray.is_initialized():
        os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # each is raised to who waits
        with _sigterm_as_it_was():
            _start(ray, address, working_dir)
        shipped = working_dir
    context = ray.get_runtime_context()
    cluster = context.gcs_address, context.get_job_id(), context.get_node_id()
    if cluster != _joined[0]:
        forget()
        _joined[:] = cluster, shipped
    if working_dir not in (None, _joined[1]):
        raise ValueError(
            f"`Ray(working_dir={working_dir!r})`: this process is on a cluster already, and what "
            "is shipped is said when it joins: leave it out, or call `ray.shutdown()` before."
        )
    return ray.cluster_resources()


def be_among(working_dir: str | None) -> None:
    """Be one of a run's actors that makes others: what the driver has shipped is here.

    Args:
        working_dir: the folder that it has.
    """
    connect(None)
    _joined[1] = working_dir


def beside_driver() -> dict[str, Any]:
    """What has Ray make an actor on this machine of a cluster: it takes some of its address."""
    address = the_ray().util.get_node_ip_address()
    return {"resources": {f"node:{address}": 0.001}}


def amounts(field: str, value: Any) -> dict[str, float]:
    """How much of each resource, by Ray's name for it.

    Raises:
        TypeError: if it is no dict of numbers by names.
        ValueError: if a name is blank, a number negative, or the name has an argument of its own.
    """
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        must = 'a dict of numbers by names, such as {"TPU": 4}'
        raise TypeError(f"`{field}` must be {must}, got {shown(value)}.")
    for name in value:
        if text(f"{field}: a name", name) in ("CPU", "GPU"):
            raise ValueError(f"`{field}[{name!r}]`: give it as `{name.lower()}s_per_worker`.")
    return {name: number(f"{field}[{name!r}]", each, least=0) for name, each in value.items()}


def check_room(needs: Mapping[str, float], there: Mapping[str, float]) -> None:
    """Raise ValueError unless what a run's actors take in all is there, by Ray's names for it."""
    for name, needed in needs.items():
        if needed > there.get(name, 0.0):
            raise ValueError(
                f"`Ray(...)`: the run's actors take {needed:g} {name} in all, and the cluster has "
                f"{there.get(name, 0.0):g}. Ask for fewer workers, give each less "
                "(`cpus_per_worker`, `gpus_per_worker`, `resources`), or add machines."
            )


def _start(ray: Any, address: str | None, working_dir: str | None) -> None:
    job: dict[str, Any] = {"logging_level": logging.ERROR}
    if working_dir is not None:
        job["runtime_env"] = {"working_dir": working_dir}
    if address is not None:
        try:
            ray.init(address=address, **job)
        except (ConnectionError, RuntimeError) as error:
            raise ConnectionError(
                f"`Ray(address={address!r})`: there is no cluster there that this machine can join "
                f"({error}). Start one with `ray start --head`, or leave `address` out for one on "
                "this machine."
            ) from error
        return
    for name, value in ITS_OWN.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings(), _on_loopback():
        warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)  # to start a program
        job |= {"include_dashboard": False, "_node_ip_address": LOOPBACK}
        ray.init(address="local", object_store_memory=_object_bytes(), **job)


@contextlib.contextmanager
def _sigterm_as_it_was() -> Iterator[None]:
    """Leave SIGTERM, which Ray takes for itself, to whoever has taken it before."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Have Ray's processes that are started listen on the loopback address alone."""
    from ray._private import ray_constants

    before = getattr(ray_constants, "ENABLE_RAY_CLUSTER", None)  # read when that was imported
    os.environ[LOCAL] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _object_bytes() -> int:
    """How large the object store is: without room in shared memory, Ray puts it into files."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    wanted = int(min(OBJECTS * memory, MOST_OBJECTS))
    if os.path.isdir("/dev/shm"):
        shared = os.statvfs("/dev/shm")
        room = int(0.8 * shared.f_bavail * shared.f_frsize)
        wanted = min(wanted, room) if room >= LEAST_OBJECTS else wanted
    return wanted
