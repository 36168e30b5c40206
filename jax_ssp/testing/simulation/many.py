"""Many seeds, on several processors, going on where an earlier call was stopped."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from jax_ssp.files import write_json
from jax_ssp.records import NUMBER, RECORD, TEXTS, check_record, read_record, whole
from jax_ssp.testing.simulation.scenario import scenario
from jax_ssp.testing.simulation.seeds import Counts, simulate
from jax_ssp.testing.simulation.shrinking import failure

CHUNK = 50  # seeds that a process is given at a time
SHOWN = 5  # seeds of a chunk that go wrong and are shrunk


class Progress(NamedTuple):
    """What the seeds so far came to.

    Attributes:
        first: seed.
        done: how many were run.
        counts: of those that are well.
        wrong: how many are not.
        failures: texts of some of these.
        seconds: that they took (of processors).
    """

    first: int
    done: int = 0
    counts: Counts = Counts()
    wrong: int = 0
    failures: tuple[str, ...] = ()
    seconds: float = 0.0

    def plus(self, other: Progress) -> Progress:
        """With what more seeds came to."""
        counts = Counts(*map(sum, zip(self.counts, other.counts, strict=True)))
        return Progress(
            self.first,
            self.done + other.done,
            counts,
            self.wrong + other.wrong,
            (self.failures + other.failures)[:SHOWN],
            self.seconds + other.seconds,
        )

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        facts = self._asdict()
        return {**facts, "counts": self.counts._asdict(), "failures": list(self.failures)}


def run_seeds(first: int, end: int) -> Progress:
    """Run the seeds from one up to another."""
    began = time.process_time()
    done = Progress(first)
    for seed in range(first, end):
        try:
            done = done.plus(Progress(seed, 1, simulate(scenario(seed))))
        except Exception as error:  # of any part: it is what is looked for
            small = len(done.failures) < SHOWN
            text = str(failure(seed)) if small else f"seed {seed}: {error}"
            done = done.plus(Progress(seed, 1, wrong=1, failures=(text,)))
    return done._replace(seconds=time.process_time() - began)


def run_many(first: int, seeds: int, jobs: int = 1, kept: Path | None = None) -> Iterator[Progress]:
    """Run many seeds; gives what the seeds so far came to, again and again.

    Args:
        first: seed.
        seeds: how many.
        jobs: processes that run them at the same time.
        kept: a file that keeps what came so far; with one that is there it goes on.

    Raises:
        ValueError: if the file is damaged, or is of seeds that begin elsewhere.
    """
    done = Progress(first) if kept is None or not kept.exists() else read_progress(kept, first)
    end = first + seeds
    spans = [(at, min(at + CHUNK, end)) for at in range(first + done.done, end, CHUNK)]
    yield done
    with closing(_chunks(spans, jobs)) as chunks:
        for chunk in chunks:
            done = done.plus(chunk)
            if kept is not None:
                write_json(kept, done.facts())
            yield done


def _chunks(spans: list[tuple[int, int]], jobs: int) -> Iterator[Progress]:
    if jobs == 1 or len(spans) <= 1:
        for span in spans:
            yield run_seeds(*span)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(_run_span, spans)


def _run_span(span: tuple[int, int]) -> Progress:
    return run_seeds(*span)


def read_progress(path: Path, first: int) -> Progress:
    """What a file keeps of the seeds that begin with `first`."""
    kinds = {"first": whole(0), "done": whole(0), "counts": RECORD, "wrong": whole(0)}
    facts = read_record(path, {**kinds, "failures": TEXTS, "seconds": NUMBER})
    check_record(str(path), facts["counts"], dict.fromkeys(Counts._fields, whole(0)))
    if facts["first"] != first:
        raise ValueError(
            f"{path} is of the seeds from {facts['first']} on, not from {first}: name another file."
        )
    counts = Counts(*[facts["counts"][name] for name in Counts._fields])
    failures = tuple(facts["failures"])
    return Progress(first, facts["done"], counts, facts["wrong"], failures, facts["seconds"])
