"""Systems on a Ray cluster of this machine: a parameter server of bare actors, and ours.

Each worker is an actor, a process with a JAX of its own. The parameter server is the pattern that
Ray's documentation teaches: workers compute gradients, one more actor applies them, and the driver
moves references. Synchronous, it applies the gradients of all workers at once; asynchronous, it
waits for whichever is ready (`ray.wait`) and gives that worker the newest parameters. Such workers
push gradients, so there are no local steps. The bound is the same gradients, applied by each worker
to its own parameters.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Set
from functools import partial
from typing import Any

import numpy as np

from experiments.benchmarks.common import seconds
from experiments.benchmarks.overhead import loss_fn
from experiments.benchmarks.peers.case import BOUND, Case, Sleeps, System, pause
from experiments.benchmarks.peers.in_jax import OnTop
from jax_ssp.runtimes.ray.cluster import connect

RATE = 1e-3  # of learning
Params = dict[str, np.ndarray]


@contextlib.contextmanager
def opened(case: Case, peers: Set[str]) -> Iterator[dict[str, System]]:
    """The systems of these peers, by name; their actors end with it."""
    import ray

    connect(None)
    params, batch = model_of(case)
    trainer, server = ray.remote(num_cpus=0)(Trainer), ray.remote(num_cpus=0)(Server)
    trainers, of_all = [trainer.remote(params, batch) for _ in range(case.workers)], None
    try:
        systems: dict[str, System] = {BOUND: partial(_bound, trainers)}
        if "ray" in peers and case.local_steps == 1:
            of_all = server.remote(params)
            systems["Ray parameter server, sync"] = partial(_sync, trainers, of_all)
            systems["Ray parameter server, async"] = partial(_async, trainers, of_all)
        if "ours-on-ray" in peers:
            systems["SSP(3) on Ray"] = partial(_ours, case, params, batch)
        yield systems
    finally:
        for actor in (*trainers, of_all):
            if actor is not None:
                ray.kill(actor)


def model_of(case: Case) -> tuple[Params, np.ndarray]:
    """Four square tanh layers, and a batch."""
    rng, width = np.random.default_rng(0), case.size.width
    params = {
        f"layer{number}": (width**-0.5 * rng.normal(size=(width, width))).astype(np.float32)
        for number in range(4)
    }
    return params, rng.normal(size=(case.size.batch, width)).astype(np.float32)


class Trainer:
    """An actor that computes gradients."""

    def __init__(self, params: Params, batch: np.ndarray) -> None:
        import jax

        self._gradient = jax.jit(jax.grad(lambda *given: loss_fn(*given)[0]))
        self._mine = jax.device_put(params)
        self._batch = jax.device_put(batch)
        self._step = jax.jit(
            lambda params: jax.tree.map(
                lambda param, slope: param - RATE * slope,
                params,
                self._gradient(params, self._batch, None),
            )
        )

    def gradient(self, params: Params, sleep: float) -> Params:
        """Of these parameters, after a sleep."""
        pause(sleep)
        found = self._gradient(params, self._batch, None)
        return {name: np.asarray(each) for name, each in found.items()}

    def alone(self, sleeps: np.ndarray) -> None:
        """As many steps as sleeps, with nobody else."""
        import jax

        for sleep in sleeps:
            pause(sleep)
            self._mine = jax.block_until_ready(self._step(self._mine))


class Server:
    """An actor that applies gradients."""

    def __init__(self, params: Params) -> None:
        self._params = {name: each.copy() for name, each in params.items()}

    def apply(self, workers: int, *gradients: Params) -> Params:
        """Apply gradients, each a share of one for each worker; gives the parameters."""
        for gradient in gradients:
            for name, each in gradient.items():
                self._params[name] -= RATE / workers * each
        return self._params

    def params(self) -> Params:
        return self._params


def _bound(trainers: list[Any], sleeps: Sleeps) -> float:
    import ray

    def all_of_them() -> None:
        ray.get([each.alone.remote(mine) for each, mine in zip(trainers, sleeps, strict=True)])

    return sleeps.size / seconds(all_of_them)


def _sync(trainers: list[Any], server: Any, sleeps: Sleeps) -> float:
    import ray

    def rounds() -> None:
        params = server.params.remote()
        for late in sleeps.T.tolist():
            each = zip(trainers, late, strict=True)
            gradients = [trainer.gradient.remote(params, sleep) for trainer, sleep in each]
            params = server.apply.remote(len(trainers), *gradients)
        ray.get(params)

    return sleeps.size / seconds(rounds)


def _async(trainers: list[Any], server: Any, sleeps: Sleeps) -> float:
    import ray

    def updates() -> None:
        params = server.params.remote()
        left = [iter(mine) for mine in sleeps.tolist()]
        begun = {
            trainer.gradient.remote(params, next(mine)): worker
            for worker, (trainer, mine) in enumerate(zip(trainers, left, strict=True))
        }
        while begun:
            (gradient,), _ = ray.wait(list(begun))
            worker = begun.pop(gradient)
            params = server.apply.remote(len(trainers), gradient)
            for sleep in itertools.islice(left[worker], 1):
                begun[trainers[worker].gradient.remote(params, sleep)] = worker
        ray.get(params)

    return sleeps.size / seconds(updates)


def _ours(case: Case, params: Params, batch: np.ndarray, sleeps: Sleeps) -> float:
    import optax

    import jax_ssp as ssp

    result = ssp.train(
        ssp.make_step(loss_fn, optax.sgd(RATE)),
        progress=False,
        params=params,
        data=lambda worker: itertools.repeat(batch),
        policy=ssp.SSP(3),
        runtime=ssp.Ray(case.workers, delay=OnTop(sleeps) if sleeps.any() else None),
        num_clocks=sleeps.shape[1] // case.local_steps,
        local_steps=case.local_steps,
    )
    return sleeps.size / result.seconds
