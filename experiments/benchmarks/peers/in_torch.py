"""Systems of PyTorch, whose workers are processes that exchange by gloo: DDP, averaging, torchft.

A process has its share of the cores as threads, at least one. The bound is the same steps in the
same processes without exchange. A worker that straggles sleeps in its own process.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import tempfile
from collections.abc import Iterator, Set
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from experiments.benchmarks.common import seconds
from experiments.benchmarks.peers.case import BOUND, Case, Sleeps, System
from experiments.benchmarks.peers.torch_worker import Place, worker

LONGEST = 60.0  # seconds that a process may take to answer, or to end by itself


@contextlib.contextmanager
def opened(case: Case, peers: Set[str]) -> Iterator[dict[str, System]]:
    """The systems of these peers, by name; the processes end with it."""
    names = [BOUND]
    if "ddp" in peers and case.local_steps == 1:
        names.append("PyTorch DDP")
    if "averager" in peers:
        names.append("PyTorch averager")
    if "torchft" in peers:
        names.append("torchft LocalSGD")
    spawning = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "store")
        pipes, processes = [], []
        try:
            for rank in range(case.workers):
                here, there = spawning.Pipe()
                place = Place(rank, case.workers, store)
                of_it = spawning.Process(target=worker, args=(there, place, case, names))
                of_it.start()
                there.close()
                pipes.append(here)
                processes.append(of_it)
            _answers(pipes)
            yield {name: partial(_run, pipes, name) for name in names}
            for pipe in pipes:
                pipe.send(None)
            for process in processes:
                process.join(LONGEST)
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
                process.join()


def _run(pipes: list[Connection], name: str, sleeps: Sleeps) -> float:
    """Have all processes make the steps of a system."""

    def all_of_them() -> None:
        for pipe, mine in zip(pipes, sleeps, strict=True):
            pipe.send((name, mine))
        _answers(pipes)

    return sleeps.size / seconds(all_of_them)


def _answers(pipes: list[Connection]) -> None:
    """Wait until all have done what they were told.

    Raises:
        EOFError: if one of them has ended.
        TimeoutError: if one of them hangs.
    """
    for rank, pipe in enumerate(pipes):
        if not pipe.poll(LONGEST):
            raise TimeoutError(f"worker {rank} has not answered within {LONGEST:g} seconds.")
        pipe.recv()
