"""Workers that come and go over resumes: is every sample of an epoch given out exactly once?

    python -m experiments.benchmarks.reliability.workers [--chains 20] [--seed 0] [--quick]
        [--json FILE]

A run over `ssp.data.Epochs` begins with 4 workers, is told to end (SIGTERM) at a moment that is
drawn, goes on with 3, is told to end again, and goes on with 6 to the end of its third epoch; in
virtual time, and with threads on 6 CPU devices. Each batch has one sample whose value is its
number, and the step adds one where the sample stands, so the parameters count what was trained on.

Columns: `world`; `chains`; `resumes`, with the exit code of each SIGTERM; `epochs`, that are over;
`once`, of their samples those that were trained on exactly once; `twice` and `never`, in these and
in the epochs that have begun; `dropped`, with the clocks that ran at the end; `replayed`, how many
of the tapes replay to the last bit.

Expected: all of them once, in every chain.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jax_ssp as ssp
from experiments.benchmarks.common import arguments, report

COLUMNS = ("world", "chains", "resumes", "epochs", "once", "twice", "never", "dropped", "replayed")
SAMPLES = 120
EPOCHS = 3
WORKERS = (4, 3, 6)


class Told(ssp.Observer):
    """Sends this process a SIGTERM after so many deltas, of the run from its beginning.

    Args:
        updates: how many; None for never.
    """

    def __init__(self, updates: int | None) -> None:
        self._updates = updates

    def on_clock(self, row: Any) -> None:
        if self._updates is not None and row["updates"] >= self._updates:
            self._updates = None
            os.kill(os.getpid(), signal.SIGTERM)


def spec(seed: int) -> dict[str, Any]:
    """Training that counts on which samples it was done."""
    numbers = np.arange(SAMPLES, dtype=np.int32)

    def loss(params: Any, batch: Any, key: Any) -> Any:
        return -params["seen"][batch].sum(), {}

    return {
        "step": ssp.make_step(loss, optax.sgd(1.0)),
        "params": {"seen": jnp.zeros(SAMPLES)},
        "data": ssp.data.Epochs(numbers, batch_size=1, seed=seed),
        "policy": ssp.SSP(bound=2),
        "weight": "sum",
        "num_epochs": EPOCHS,
        "progress": False,
    }


def runtime(world: str, count: int, seed: int) -> ssp.Virtual | ssp.Devices:
    delay = ssp.delays.Exponential(1.0 if world == "virtual time" else 0.002)
    if world == "virtual time":
        return ssp.Virtual(count, delay, seed=seed)
    return ssp.Devices(num_workers=count, cpu_devices=max(WORKERS), delay=delay, seed=seed)


def chain(world: str, seed: int, codes: Counter[int]) -> ssp.Result:
    """A run with 4, 3 and 6 workers."""
    rng = random.Random(seed)
    third = SAMPLES * EPOCHS // 3
    ends = [rng.randrange(5, third), rng.randrange(third + 10, 2 * third), None]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        for count, end in zip(WORKERS, ends, strict=True):
            saved = ssp.Checkpoints(folder, every=5)
            where, told = runtime(world, count, seed), [Told(end)]
            try:
                return ssp.train(runtime=where, checkpoint=saved, observers=told, **spec(seed))
            except SystemExit as ended:
                codes[ended.code] += 1  # pyright: ignore[reportArgumentType]
    raise AssertionError("the last run has an end")


def row_of(world: str, chains: int, first: int) -> dict[str, Any]:
    """What came of so many chains."""
    codes: Counter[int] = Counter()
    found: Counter[str] = Counter()
    for seed in range(first, first + chains):
        result = chain(world, seed, codes)
        seen = np.asarray(result.params["seen"]).round().astype(int)
        data, whole = result.data, result.data.whole or 0
        begun = len(data.epochs or ())  # the last merges may be of epochs that are not over
        once = int(np.minimum(seen, whole).sum())
        found["epochs"] += whole
        found["once"] += once
        found["never"] += SAMPLES * whole - once
        found["twice"] += int(np.maximum(seen - whole - begun, 0).sum()) + (data.twice or 0)
        found["dropped"] += data.dropped or 0
        again = ssp.train(runtime=ssp.Replay(result.tape), **spec(seed))
        found["replayed"] += int(again.tape.params == result.tape.params)
    assert codes.total() == 2 * chains, codes
    told = " ".join(f"{code}:{count}" for code, count in sorted(codes.items()))
    counts = {name: found[name] for name in COLUMNS[3:]}
    return {"world": world, "chains": chains, "resumes": told, **counts}


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(__doc__, argv, chains=20, seed=0)
    jax.config.update("jax_num_cpu_devices", max(WORKERS))
    chains = 2 if args.quick else args.chains
    rows = [row_of(world, chains, args.seed) for world in ("virtual time", "CPU devices")]
    report("workers", COLUMNS, rows, args)
    wrong = any(row["twice"] or row["never"] or row["replayed"] < row["chains"] for row in rows)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
