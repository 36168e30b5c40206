"""The least that asynchronous training costs in Python, which `overhead` measures beside ours.

A thread a worker: it takes the newest parameters, dispatches a clock, waits for its delta, reads
its loss, and merges the delta under a lock; then it waits, if it is more than a bound ahead of the
slowest. That is all: there is no controller, tape or history, no batch is drawn, no own delta is
added, nothing can be lost, resumed or cancelled, and nobody sees whether a number is finite. A
clock is two programs, and nothing is copied, since all arrays are on one device (on the CPU that
keeps no core from anybody).
"""

from __future__ import annotations

import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

BOUND = 3  # clocks


class Bare:
    """The same training as `Problem`'s.

    Args:
        step: what workers repeat.
        params: that they begin with.
        batch: of each step.
        workers: how many.
        local_steps: of a clock.
    """

    def __init__(self, step: Any, params: Any, batch: Any, workers: int, local_steps: int) -> None:
        self._step = step
        self._local_steps = local_steps
        self._device = jax.devices()[0]
        self._server = self._put(params)
        self._batch = self._put(batch)
        self._states = [self._put(step.init(params)) for _ in range(workers)]
        self._keys = [self._put(jax.random.key(worker)) for worker in range(workers)]
        self._clocks = [0] * workers
        self._changed = threading.Condition()
        self._weight = np.float32(1 / workers)
        self._run = jax.jit(self._clock, donate_argnums=1)
        self._merge = jax.jit(_merged, donate_argnums=1)
        self(2)  # compiles

    def __call__(self, clocks: int) -> None:
        """Run so many clocks of each worker."""
        workers = range(len(self._states))
        threads = [threading.Thread(target=self._work, args=(w, clocks)) for w in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        jax.block_until_ready(self._server)

    def _work(self, worker: int, clocks: int) -> None:
        done = self._clocks
        for _ in range(clocks):
            number = np.int32(done[worker])
            inputs = self._states[worker], self._batch, self._keys[worker], number
            delta, self._states[worker], loss = self._run(self._server, *inputs)
            jax.block_until_ready(delta)
            float(loss)
            with self._changed:
                self._server = self._merge(self._server, delta, self._weight)
                done[worker] += 1
                self._changed.notify_all()
                while done[worker] - min(done) > BOUND:
                    self._changed.wait()

    def _clock(self, base: Any, state: Any, batch: Any, key: Any, number: Any) -> Any:
        def one(carry: tuple[Any, Any], key: Any) -> Any:
            params, state = carry
            delta, state, metrics = self._step(params, state, batch, key)
            return (optax.apply_updates(params, delta), state), (delta, metrics["loss"])

        key = jax.random.fold_in(key, number)
        if self._local_steps == 1:
            (_, state), (delta, loss) = one((base, state), key)
            return delta, state, loss
        keys = jax.random.split(key, self._local_steps)
        (params, state), losses = jax.lax.scan(
            lambda carry, key: _without_delta(one(carry, key)), (base, state), keys
        )
        return jax.tree.map(jnp.subtract, params, base), state, jnp.mean(losses)

    def _put(self, tree: Any) -> Any:
        return jax.device_put(tree, self._device, may_alias=False)


def _without_delta(stepped: Any) -> Any:
    carry, (_, loss) = stepped
    return carry, loss


def _merged(params: Any, delta: Any, weight: Any) -> Any:
    return jax.tree.map(lambda old, delta: old + weight * delta, params, delta)
