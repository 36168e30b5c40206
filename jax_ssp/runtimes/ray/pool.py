"""Makes the processes of actors; on a cluster of its own, keeps them for the next run."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping
from typing import Any

from jax_ssp.runtimes.ray.calls import BESIDE, THERE, Actor
from jax_ssp.runtimes.ray.sent import variables

REST_SECONDS = 5.0  # for one to be at rest, else it is ended
AT_REST = "a process at rest"  # what one is called

_resting: dict[Any, list[Actor]] = {}
_lock = threading.Lock()


def new_actor(
    kind: type, arguments: tuple[Any, ...], options: Mapping[str, Any], alone: bool
) -> Actor:
    """An actor that is nobody yet: one that rests, or a new process.

    Args:
        kind: its class.
        arguments: that it is made with; one that rests was made with the same.
        options: what Ray is to give it, such as `num_gpus`.
        alone: whether the cluster is of this process's own, whose environment its processes have.
    """
    environment = variables()
    key = _key((kind, *arguments), options, environment)
    while alone and (resting := _pop(key)) is not None:
        if resting.answers():
            return resting
        resting.kill()  # it has ended meanwhile, or hangs
    reserves = any(options.get(each) for each in ("num_cpus", "num_gpus", "resources"))
    if reserves:
        make_room()
    more: dict[str, Any] = {}
    if not alone and environment:
        more["runtime_env"] = {"env_vars": environment}
    made = _remote(kind).options(max_restarts=0, **options, **more).remote(*arguments)
    actor = Actor(made, "a new process")
    actor.key, actor.reserves = key, reserves
    return actor


def _pop(key: Any) -> Actor | None:
    with _lock:
        resting = _resting.get(key)
        return resting.pop() if resting else None


def make_room() -> None:
    """End those that rest and for which something is reserved: others may need it now."""
    with _lock:
        for resting in _resting.values():
            for actor in resting:
                if actor.reserves:
                    actor.kill()
            resting[:] = [actor for actor in resting if not actor.killed]


@functools.cache
def _remote(kind: type) -> Any:
    """A class as Ray has it, which is then sent to the cluster once."""
    import ray

    return ray.remote(concurrency_groups={BESIDE: 1, THERE: 1})(kind)


def forget() -> None:
    """Those that rest are no more: their cluster is not."""
    with _lock:
        _resting.clear()


def keep(actor: Actor, answer: Any) -> bool:
    """Keep an actor for a later run, if it comes to rest.

    Args:
        actor: that was told to.
        answer: a reference to its answer.
    """
    import ray

    try:
        ray.get(answer, timeout=REST_SECONDS)
    except Exception:  # whatever it is, this one is of no use any more
        return False
    fresh = Actor(actor.handle, AT_REST)
    fresh.key, fresh.reserves = actor.key, actor.reserves
    actor.killed = True  # whoever has it still has nobody
    with _lock:
        _resting.setdefault(fresh.key, []).append(fresh)
    return True


def _key(made: Any, options: Mapping[str, Any], environment: Mapping[str, str]) -> Any:
    parts = {**options, **(options.get("resources") or {}), **environment}
    parts.pop("resources", None)
    return made, tuple(sorted(parts.items()))
