"""Systems of one process, whose workers are CPU devices: ours, one SPMD program, DrJAX.

The bound is that of `overhead`: a thread a device that dispatches a step as soon as the last one is
done. XLA shares all cores among the devices, whichever the system.

A synchronous program is one for all workers, so nobody can be late in it by himself: it is
dispatched once the slowest would be there. That is as good as a synchronous program can be.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Set
from functools import partial
from typing import Any

from experiments.benchmarks.common import seconds
from experiments.benchmarks.overhead import Problem
from experiments.benchmarks.peers.case import BOUND, Case, Sleeps, System, pause, rounds_of


@contextlib.contextmanager
def opened(case: Case, peers: Set[str]) -> Iterator[dict[str, System]]:
    """The systems of these peers, by name; JAX has a CPU device for each worker."""
    import jax_ssp as ssp

    problem = Problem(case.size, case.workers, case.local_steps)
    systems: dict[str, System] = {BOUND: partial(_bound, problem)}
    if "ours" in peers:
        for policy in (ssp.BSP(), ssp.SSP(3), ssp.ASP()):
            name = type(policy).__name__ + ("(3)" if policy == ssp.SSP(3) else "")
            systems[name] = partial(_ours, problem, policy)
    if "spmd" in peers and case.local_steps == 1:
        systems["SPMD program"] = partial(_spmd, problem)
    if "drjax" in peers:
        systems["DrJAX"] = _drjax(problem)
    yield systems


class OnTop:
    """A delay model that sleeps by itself, so that a clock takes its steps and the sleep.

    Other delay models say how long a clock takes at least, which would be less than what the other
    systems take here.
    """

    def __init__(self, sleeps: Sleeps) -> None:
        self._sleeps = sleeps

    def __call__(self, worker: int, clock: int, steps: int, rng: Any) -> float:
        pause(self._sleeps[worker, clock * steps : (clock + 1) * steps].sum())
        return 0.0


def _bound(problem: Problem, sleeps: Sleeps) -> float:
    return problem.bound(sleeps.shape[1], lambda worker, step: pause(sleeps[worker, step]))


def _ours(problem: Problem, policy: Any, sleeps: Sleeps) -> float:
    delay = OnTop(sleeps) if sleeps.any() else None
    return problem.ours(policy, sleeps.shape[1], delay=delay)


def _spmd(problem: Problem, sleeps: Sleeps) -> float:
    late = rounds_of(sleeps, 1)
    return problem.sync(len(late), lambda step: pause(late[step]))


def _drjax(problem: Problem) -> System:
    """Rounds of DrJAX: broadcast the parameters, map the local steps, average."""
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(problem.devices), ("workers",))
    whole = NamedSharding(mesh, PartitionSpec())
    shards = NamedSharding(mesh, PartitionSpec("workers"))
    program = jax.jit(
        _drjax_round(problem), donate_argnums=0, in_shardings=(whole, shards), out_shardings=whole
    )
    params = jax.device_put(problem.params, whole, may_alias=False)
    batches = jax.device_put(np.stack([problem.batch] * len(problem.devices)), shards)

    def run(sleeps: Sleeps) -> float:
        late = rounds_of(sleeps, problem.local_steps)

        def rounds() -> None:
            nonlocal params
            for each in late:
                pause(each)
                params = jax.block_until_ready(program(params, batches))

        with jax.set_mesh(mesh):
            return sleeps.size / seconds(rounds)

    return run


def _drjax_round(problem: Problem) -> Callable[[Any, Any], Any]:
    import drjax
    import jax

    key = jax.random.key(0)

    def trained(params: Any, batch: Any) -> Any:
        def step(carried: Any, _: None) -> tuple[Any, None]:
            *carried, _ = problem.applied(*carried, batch, key)
            return tuple(carried), None

        carried = params, problem.step.init(params)
        (params, _), _ = jax.lax.scan(step, carried, length=problem.local_steps)
        return params

    @drjax.program(placements={"workers": len(problem.devices)})
    def one_round(params: Any, batches: Any) -> Any:
        return drjax.reduce_mean(drjax.map_fn(trained, (drjax.broadcast(params), batches)))

    return one_round
