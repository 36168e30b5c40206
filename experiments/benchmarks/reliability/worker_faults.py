"""What faults of workers cost a run on real devices: no hang, and nothing of the others.

    python -m experiments.benchmarks.reliability.worker_faults [--quick] [--json FILE]
        [--faults 200] [--seed 0] [--phases step,data,push]
        [--faults 200] [--seed 0] [--clocks 200] [--workers 4]

The digits are trained under SSP(3) with a `Recovery`. In each run some faults are raised, drawn by
its seed: in the step of a clock, in the data, or in a push. Runs are made until so many faults have
struck, a third in each phase. Of every run the contract is proved from its tape, and the tape is
replayed to the last bit. With each goes a run of the same seed without faults, and accuracies are
compared pair by pair. Takes about 10 minutes on 2 cores (`--quick`: one).

Columns, a row for each phase and one for all: `runs`; `faults` that struck; `again`, how many of
the workers lost came again before the run was over; `hangs`, runs that came to no end;
`lost_steps`, local steps of clocks that were started and neither merged nor lost with their worker;
`other_bits`, runs whose replay has other parameters; `accuracy`, the mean of the runs; `without`,
the same of runs with these seeds and without faults; `lower`, by how much it is lower with faults,
and `interval`, half of the 95 % confidence interval of that (Student's t over the pairs). The file
has each pair too.

Expected: no hangs, no lost steps, no other bits, and over all runs an accuracy within a point of
that without.
"""

from __future__ import annotations

import functools
import itertools
import random
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

from experiments.benchmarks.common import arguments, report

COLUMNS = ("phase", "runs", "faults", "again", "hangs", "lost_steps", "other_bits")
COLUMNS += ("accuracy", "without", "lower", "interval")
PHASES = ("step", "data", "push")
EACH_RUN = 12  # faults
LONGEST = 300.0  # seconds that a run may take before it counts as one that hangs


class Outcome(NamedTuple):
    """What came of a run.

    Attributes:
        faults: how often a worker was lost.
        again: how often one came again.
        lost_steps: of clocks that were started, and neither merged nor lost with their worker.
        same: whether the replay of its tape has the same parameters.
        accuracy: of the last version.
    """

    faults: int
    again: int
    lost_steps: int
    same: bool
    accuracy: float


class Faults:
    """Faults of one phase, of which each strikes once.

    Args:
        phase: "step", "data" or "push".
        where: (worker, clock) of each; in the data that is the worker's batch of this number.
    """

    def __init__(self, phase: str, where: Iterable[tuple[int, int]]) -> None:
        self._phase = phase
        self._left = set(where)

    @classmethod
    def drawn(cls, phase: str, seed: int, workers: int, clocks: int, count: int) -> Faults:
        """So many faults at random, none in a worker's first clock or its last few."""
        rng = random.Random(f"{phase} {seed}")
        places = [(w, c) for w in range(workers) for c in range(1, max(2, clocks - 5))]
        return cls(phase, rng.sample(places, min(count, len(places))))

    def raised(self) -> list[Any]:
        """Those that a runtime plays."""
        from jax_ssp import faults

        if self._phase == "data":
            return []
        return [faults.Raise(*where, phase=self._phase) for where in sorted(self._left)]

    def data(self, data: Callable[[int], Iterable[Any]]) -> Callable[[int], Iterator[Any]]:
        """Batches that raise where the faults are in the data; the first is always given."""

        def failing(worker: int) -> Iterator[Any]:
            for number, batch in enumerate(data(worker)):
                if self._phase == "data" and (worker, number) in self._left:
                    self._left.discard((worker, number))
                    raise OSError(f"batch {number} of worker {worker} cannot be read")
                yield batch

        return failing


def lost_steps(tape: Any) -> int:
    """Local steps of clocks that were started, and neither settled nor lost with their worker."""
    from jax_ssp.controller import Cancel, Drop, Merge, StartClock, WorkerDone, WorkerLost

    started: dict[Any, int] = {}
    running: dict[int, Any] = {}
    for _, event, commands in tape:
        if isinstance(event, (WorkerLost, WorkerDone)):
            started.pop(running.pop(event.worker, None), None)
        elif hasattr(event, "token") and running.get(event.worker) == event.token:
            del running[event.worker]
        for command in commands:
            if isinstance(command, StartClock):
                started[command.token] = command.local_steps
                running[command.worker] = command.token
            elif isinstance(command, Merge):
                for delta in command.deltas:
                    del started[delta.token]
            elif isinstance(command, (Drop, Cancel)):
                started.pop(command.token, None)
    return sum(started.values())


def outcome(task: dict[str, Any], faults: Faults, workers: int, clocks: int) -> Outcome:
    """Train with these faults; prove the contract, and replay the tape.

    Args:
        task: what `ssp.train` is given of what is trained, with `evaluate` for the accuracy.
        faults: that are raised; none strikes the replay.
        workers: that share the first device.
        clocks: of each.
    """
    import jax
    import numpy as np

    import jax_ssp as ssp

    runtime = ssp.Devices(
        num_workers=workers,
        workers_per_device=workers,
        faults=faults.raised(),
        recovery=ssp.Recovery(restarts=2 * EACH_RUN, backoff=0.01),
        delay=ssp.delays.Constant(0.002),  # else the others may be done before one comes again
    )
    spec = {**task, "data": faults.data(task["data"]), "policy": ssp.SSP(3), "num_clocks": clocks}
    spec |= {"eval_every": clocks}
    result = ssp.train(runtime=runtime, **spec)
    ssp.check_contract(result.tape)
    assert result.status == "done", result.status
    again = ssp.train(
        runtime=ssp.Replay(result.tape), **{**spec, "evaluate": None, "eval_every": None}
    )
    pairs = zip(jax.tree.leaves(result.params), jax.tree.leaves(again.params), strict=True)
    same = all(np.array_equal(*map(np.asarray, pair)) for pair in pairs)
    came = sum(loss.back_after is not None for loss in result.losses)
    accuracy = next(iter(result.metrics.values()), 0.0)
    return Outcome(len(result.losses), came, lost_steps(result.tape), same, accuracy)


def in_time(call: Callable[[], Outcome], seconds: float = LONGEST) -> Outcome | None:
    """What a call gives; None if it hangs. An error that it raises is raised here."""
    came: list[Outcome | BaseException] = []

    def run() -> None:
        try:
            came.append(call())
        except BaseException as error:  # raised below
            came.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if came and isinstance(came[0], BaseException):
        raise came[0]
    return came[0] if came else None  # pyright: ignore[reportReturnType]


def row(phase: str, make: Callable[[int], dict[str, Any]], args: Any, count: int) -> dict[str, Any]:
    """Runs with faults of one phase, until so many have struck."""
    found: list[Outcome] = []
    pairs: list[dict[str, Any]] = []
    hangs, seed = 0, args.seed
    while sum(each.faults for each in found) < count and not hangs:
        missing = count - sum(each.faults for each in found)
        faults = Faults.drawn(phase, seed, args.workers, args.clocks, min(EACH_RUN, missing))
        run = functools.partial(outcome, make(seed), workers=args.workers, clocks=args.clocks)
        came = in_time(functools.partial(run, faults=faults))
        if came is None:
            hangs += 1
            break
        found.append(came)
        without = run(faults=Faults(phase, [])).accuracy
        pairs.append({"phase": phase, "seed": seed, "with": came.accuracy, "without": without})
        seed += 1
        print(f"{pairs[-1]}: {came}", file=sys.stderr, flush=True)
    return {
        "phase": phase,
        "runs": len(found) + hangs,
        "faults": sum(each.faults for each in found),
        "again": sum(each.again for each in found),
        "hangs": hangs,
        "lost_steps": sum(each.lost_steps for each in found),
        "other_bits": sum(not each.same for each in found),
        **compared(pairs),
        "pairs": pairs,
    }


def compared(pairs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Accuracy with faults and without, how much lower it is, and how sure that is.

    Example:
        >>> compared([{"with": 0.97, "without": 0.98}, {"with": 0.98, "without": 0.98}])["lower"]
        0.005
    """
    if not pairs:
        return dict.fromkeys(COLUMNS[-4:], 0.0)
    lower = [each["without"] - each["with"] for each in pairs]
    accuracy, without = (mean(each[name] for each in pairs) for name in ("with", "without"))
    interval = 0.0
    if len(pairs) > 1:
        from scipy.stats import t

        interval = float(t.ppf(0.975, len(pairs) - 1)) * stdev(lower) / len(pairs) ** 0.5
    return dict(zip(COLUMNS[-4:], (accuracy, without, mean(lower), interval), strict=True))


def of_all(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One row for all phases: sums, and all pairs together."""
    pairs = [pair for row in rows for pair in row["pairs"]]
    sums = {name: sum(row[name] for row in rows) for name in COLUMNS[1:-4]}
    return {"phase": "all", **sums, **compared(pairs), "pairs": pairs}


def digits(workers: int) -> Callable[[int], dict[str, Any]]:
    """What is trained, by the seed."""
    from experiments.workloads.digits import Digits

    def make(seed: int) -> dict[str, Any]:
        task = Digits().build(workers, seed)
        return {name: getattr(task, name) for name in ("step", "params", "data", "evaluate")}

    return make


def main(argv: Sequence[str] | None = None) -> None:
    more = {"faults": 200, "seed": 0, "clocks": 200, "workers": 4, "phases": ",".join(PHASES)}
    args = arguments(__doc__, argv, **more)
    if args.quick:
        args.faults, args.clocks = min(args.faults, 9), min(args.clocks, 20)
    make, phases = digits(args.workers), args.phases.split(",")
    ends = [args.faults * number // len(phases) for number in range(len(phases) + 1)]
    shares = [end - before for before, end in itertools.pairwise(ends)]
    rows = [row(phase, make, args, count) for phase, count in zip(phases, shares, strict=True)]
    rows.append(of_all(rows))
    report("worker_faults", COLUMNS, rows, args, pairs=rows[-1]["pairs"])


if __name__ == "__main__":
    main()
