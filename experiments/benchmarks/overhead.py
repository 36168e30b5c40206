"""What the exchange costs: worker-steps a second against two yardsticks, in the same run.

The bound is the same steps on the same devices without any exchange: a thread for each device that
dispatches a step as soon as the last one is done. The synchronous baseline is one SPMD program over
the same devices (parameters replicated, the batch sharded) that waits each step. All take turns;
figures are medians of the rounds' ratios. Nobody straggles: where nothing is to be gained by not
waiting, this is what our machinery costs. The last row of each case is another yardstick: the
barest loop of threads that keeps the bound of SSP(3), and does nothing else (`bare.py`). (The
larger models with 16 local steps run on 2 workers only: each round takes minutes with more.)

    python -m experiments.benchmarks.overhead [--quick] [--json FILE]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.benchmarks.common import alternating, arguments, median_ratio, report, seconds

COLUMNS = ("model", "batch", "workers", "local_steps", "policy", "ratio_to_bound", "ratio_to_sync")
ROUNDS = 5
SECONDS = 0.8  # that one measurement takes, about


class Size(NamedTuple):
    """Square tanh layers, four of them."""

    width: int
    batch: int

    @property
    def name(self) -> str:
        return f"4x{self.width}x{self.width}"


SIZES = (Size(64, 64), Size(256, 64), Size(1024, 256), Size(2048, 64))  # 66 kB, 1, 17 and 67 MB
QUICK = (Size(64, 64), Size(256, 64))


def at_once(*which: int) -> None:
    """Nobody pauses."""


class Problem:
    """The same training three ways, as functions of the number of steps of each worker.

    Workers straggle where a `pause` is given: it is called before a step, in the thread of whoever
    begins it.
    """

    def __init__(self, size: Size, workers: int, local_steps: int) -> None:
        import jax
        import numpy as np
        import optax

        import jax_ssp as ssp

        self.devices = jax.devices()[:workers]
        self.local_steps = local_steps
        rng = np.random.default_rng(0)
        scale = size.width**-0.5
        self.params = {
            f"layer{number}": (scale * rng.normal(size=(size.width, size.width))).astype(np.float32)
            for number in range(4)
        }
        self.batch = rng.normal(size=(size.batch, size.width)).astype(np.float32)
        self.step = ssp.make_step(loss_fn, optax.sgd(1e-3))
        self._bound: Callable[[int, Callable[[int, int], None]], None] | None = None
        self._sync: Callable[[int, Callable[[int], None]], None] | None = None
        self._bare: Callable[[int], None] | None = None

    def bound(self, steps: int, pause: Callable[[int, int], None] = at_once) -> float:
        """Worker-steps a second without exchange; `pause(worker, step)`."""
        self._bound = self._bound or self._make_bound()
        return len(self.devices) * steps / seconds(lambda: self._bound(steps, pause))

    def sync(self, steps: int, pause: Callable[[int], None] = at_once) -> float:
        """Worker-steps a second of the SPMD program; `pause(step)`."""
        self._sync = self._sync or self._make_sync()
        return len(self.devices) * steps / seconds(lambda: self._sync(steps, pause))

    def ours(self, policy: Any, steps: int, delay: Any = None, **others: Any) -> float:
        """Worker-steps a second of `train`; `delay` is a delay model."""
        import jax_ssp as ssp

        clocks = max(2, steps // self.local_steps)
        result = ssp.train(
            self.step,
            progress=False,
            params=self.params,
            data=self._batches,
            policy=policy,
            runtime=ssp.Devices(self.devices, delay=delay),
            num_clocks=clocks,
            local_steps=self.local_steps,
            **others,
        )
        return len(self.devices) * clocks * self.local_steps / result.seconds

    def bare(self, steps: int) -> float:
        """Worker-steps a second of the least that asynchronous training can do."""
        from experiments.benchmarks.bare import Bare

        given = self.step, self.params, self.batch, len(self.devices), self.local_steps
        self._bare = self._bare or Bare(*given)
        clocks = max(2, steps // self.local_steps)
        total = len(self.devices) * clocks * self.local_steps
        return total / seconds(lambda: self._bare(clocks))

    def _batches(self, worker: int) -> Any:
        while True:
            yield self.batch

    def applied(self, params: Any, state: Any, batch: Any, key: Any) -> tuple[Any, Any, Any]:
        """A step, and its delta applied: parameters, state, metrics."""
        import optax

        delta, state, metrics = self.step(params, state, batch, key)
        return optax.apply_updates(params, delta), state, metrics

    def _make_bound(self) -> Callable[[int, Callable[[int, int], None]], None]:
        import jax

        program = jax.jit(self.applied, donate_argnums=(0, 1))
        states = []
        for device in self.devices:
            params = jax.device_put(self.params, device, may_alias=False)
            key = jax.device_put(jax.random.key(0), device)
            state = jax.device_put(self.step.init(params), device)
            states.append([params, state, jax.device_put(self.batch, device), key])

        def work(worker: int, steps: int, pause: Callable[[int, int], None]) -> None:
            mine = states[worker]
            for step in range(steps):
                pause(worker, step)
                mine[0], mine[1], metrics = program(*mine)
                jax.block_until_ready(metrics)
            jax.block_until_ready(mine)

        def run(steps: int, pause: Callable[[int, int], None]) -> None:
            workers = range(len(states))
            threads = [threading.Thread(target=work, args=(w, steps, pause)) for w in workers]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        run(2, at_once)
        return run

    def _make_sync(self) -> Callable[[int, Callable[[int], None]], None]:
        import jax
        import numpy as np
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        mesh = Mesh(np.array(self.devices), ("workers",))
        whole = NamedSharding(mesh, PartitionSpec())
        shards = NamedSharding(mesh, PartitionSpec("workers"))
        program = jax.jit(
            self.applied, donate_argnums=(0, 1), in_shardings=(whole, whole, shards, whole)
        )
        params = jax.device_put(self.params, whole, may_alias=False)
        batch = jax.device_put(np.concatenate([self.batch] * len(self.devices)), shards)
        key = jax.device_put(jax.random.key(0), whole)
        mine = [params, jax.device_put(self.step.init(params), whole)]

        def run(steps: int, pause: Callable[[int], None]) -> None:
            for step in range(steps):
                pause(step)
                *mine[:], metrics = program(*mine, batch, key)
                jax.block_until_ready((mine, metrics))

        run(2, at_once)
        return run


def loss_fn(params: Any, batch: Any, key: Any) -> tuple[Any, dict[str, Any]]:
    import jax.numpy as jnp

    for weights in params.values():
        batch = jnp.tanh(batch @ weights)
    return jnp.mean(batch**2), {}


def measured(workers: int, quick: bool) -> list[dict[str, Any]]:
    """The rows of this number of workers; JAX must not have started yet."""
    import jax

    jax.config.update("jax_num_cpu_devices", workers)
    import jax_ssp as ssp

    modes = {
        "BSP()": (ssp.BSP(), {}),
        "SSP(3)": (ssp.SSP(3), {}),
        "SSP(3), overlap 1": (ssp.SSP(3), {"overlap": 1}),
        "ASP()": (ssp.ASP(), {}),
    }
    rows = []
    for size in QUICK if quick else SIZES:
        for local_steps in (1, 4, 16):
            if size.width >= 1024 and local_steps == 16 and workers > 2:
                continue
            problem = Problem(size, workers, local_steps)
            rate = problem.bound(4) and problem.bound(8) / workers
            steps = max(4, local_steps, round(rate * SECONDS / (4 if quick else 1)))
            steps = -(-steps // local_steps) * local_steps
            measures: dict[str, Callable[[], float]] = {
                "bound": lambda: problem.bound(steps),  # noqa: B023
                "sync": lambda: problem.sync(steps),  # noqa: B023
                "bare loop": lambda: problem.bare(steps),  # noqa: B023
            }
            for name, (policy, others) in modes.items():
                measures[name] = lambda policy=policy, others=others: problem.ours(  # noqa: B023
                    policy,
                    steps,  # noqa: B023
                    **others,
                )
            taken = alternating(measures, 3 if quick else ROUNDS)
            about = (size.name, size.batch, workers, local_steps)
            for name in (*modes, "bare loop"):
                ratios = [median_ratio(taken[name], taken[yard]) for yard in ("bound", "sync")]
                rows.append(dict(zip(COLUMNS, (*about, name, *ratios), strict=True)))
                print(*rows[-1].values(), sep="\t", file=sys.stderr)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, workers=0)
    if args.workers:
        report("overhead", COLUMNS, measured(args.workers, args.quick), args)
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for workers in (2, 4) if args.quick else (2, 4, 8):
            # A process for each, since JAX cannot change its number of devices.
            path = Path(folder) / "rows.json"
            command = [sys.executable, "-m", __spec__.name, "--workers", str(workers)]
            quick = ["--quick"] * args.quick
            subprocess.run([*command, "--json", str(path), *quick], check=True, stdout=2)
            rows += json.loads(path.read_text())["rows"]
    report("overhead", COLUMNS, rows, args)


if __name__ == "__main__":
    main()
