"""A cut through a run: all that it is at one row of its tape, as facts and arrays by name.

The store, the workers, the evaluator and the observers are in it. The controller is not, nor is
the clock: who has the tape up to there makes them anew. A cut is made under the lock of the loop,
between two events, and nobody waits for it: only while a cut is wanted does a worker keep what it
is before a clock (see `saving.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from jax_ssp.controller.events import Token
from jax_ssp.failures import AGAIN
from jax_ssp.records import from_hex, in_hex, within

if TYPE_CHECKING:
    from jax_ssp.runtimes.carrying import Carrying
    from jax_ssp.worker.kept import Kept
    from jax_ssp.worker.worker import Worker


class SpoiledCheckpoint(RuntimeError):
    """Something is not finite, just after a run went on: perhaps its checkpoint was bad.

    Attributes:
        exit_code: of a process that ends with it. 75: run it again, and it goes on from the
            checkpoint before. 3: that has come to the same, so no checkpoint is to blame.
    """

    exit_code = AGAIN


class NotKept(RuntimeError):
    """What a worker was cannot be had: something is wrong with it, as will be heard soon."""


class Cut(NamedTuple):
    """What is saved of a run.

    Attributes:
        rows: of the tape, up to which it is that.
        facts: for JSON.
        arrays: by name; nobody changes them.
    """

    rows: int
    facts: Mapping[str, Any]
    arrays: Mapping[str, Any]


def cut(loop: Carrying, states: Sequence[Kept | None]) -> Cut:
    """All that a run is now.

    Args:
        loop: of the run.
        states: what each worker was before the clock that it runs; None of one that was lost, and
            has begun none since.
    """
    assert loop.store is not None
    parts: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "store": loop.store.save({start.token for start in loop.fold.running.values()}),
        "evaluations": loop.evaluating.save(),
        "observers": loop.observers.save(),
    }
    facts: dict[str, Any] = {name: part for name, (part, _) in parts.items()}
    arrays = {f"{name}/{key}": each for name in parts for key, each in parts[name][1].items()}
    facts["workers"] = []
    for index, state in enumerate(states):
        about, more = ({}, {}) if state is None else state.pack(f"worker/{index}/")
        facts["workers"].append(about)
        arrays |= more
    facts["metrics"] = [
        [*token, in_hex(metrics)] for token, metrics in loop.records.metrics.items()
    ]
    facts["told"] = loop.records.told, len(loop.history), len(loop.evaluations)
    return Cut(len(loop.tape), facts, arrays)


def take_up(loop: Carrying, workers: Sequence[Worker], made: Cut) -> None:
    """Be what was cut, but for the controller, the clock and who runs; before the first event.

    Raises:
        ValueError: if it is no cut of such a run.
    """
    store, facts, arrays = loop.store, made.facts, made.arrays
    assert store is not None
    store.load(facts["store"], within("store/", arrays))
    if len(facts["workers"]) > len(workers):
        raise ValueError(f"it is of {len(facts['workers'])} workers, and here are {len(workers)}.")
    for worker, about in zip(workers, facts["workers"], strict=False):  # others are to join
        if about:  # else it begins anew
            worker.take_up(store, f"worker/{worker.index}/", about, arrays)
    loop.evaluating.load(facts["evaluations"], within("evaluations/", arrays), store)
    loop.observers.load(facts["observers"], within("observers/", arrays), loop.newest())
    loop.records.told = facts["told"][0]
    for term, grant, metrics in facts["metrics"]:
        loop.records.metrics[Token(term, grant)] = from_hex(metrics)
