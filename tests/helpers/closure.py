"""All that a run is at a row of its tape, found by walking over its objects.

Nothing says here what to save. Each attribute of each object is looked at, whatever its name; only
those listed in `DERIVED` are passed over, each for the reason that is given there. So an attribute
that is new, and is neither saved nor made anew where a run goes on, makes two digests differ.
"""

import itertools
import threading
from collections.abc import Mapping
from functools import partial

import jax
import numpy as np

from jax_ssp.controller.tape import Tape
from jax_ssp.data.feed import Feed
from jax_ssp.data.ledger import Ledger
from jax_ssp.delays.links import Links
from jax_ssp.placement import Placement
from jax_ssp.runtimes.clockwork import VirtualClock
from jax_ssp.server.memory import Memory
from jax_ssp.server.snapshot import Snapshot
from jax_ssp.worker.holding import Holding
from jax_ssp.worker.program import Program
from jax_ssp.worker.worker import Worker

DERIVED = {
    "Loop": {
        *("_watch", "_held_back", "_lock", "_closed", "status"),  # of the process
        *("observers", "executor", "saving"),  # their state has tests of its own; the world's
        "evaluating",  # what it has left to do is compared as its rows
    },
    "History": {"_observers", "_hyperparameters"},
    "Starts": {"term", "_first"},  # what a resume is for
    "Controller": {"term"},
    "Fold": set(),
    "VirtualClock": {
        *("_executor", "_passed", "_fates", "_count"),  # numbers that only break ties
        *("_finishing", "_cancelled"),  # see `_walk`
    },
    "Course": {"_fates", "_computing", "_arrived"},  # of the clocks under way, who has more
    "Traffic": {"network", "sizes"},
    "Links": {"_network", "_entering", "_groups", "_first", "_flows", "_count"},  # see `_walk`
    "Worker": {
        *("_holding", "memory", "armed", "began"),  # whose memory is used again; for a cut
        *("program", "wire", "exchange", "seat", "recorded", "device", "_outbox"),  # as it was made
        *("_mixed", "_factors", "_spoiled"),  # functions; what faults are to come
        *("replica", "_before"),  # see `_walk`
    },
    "LocalStore": {
        *("_programs", "_reads", "_lock", "_opened", "wire", "layout", "shapes"),
        *("devices", "wants_base"),  # as it was made
    },
    "Published": {"_wire"},
    "Bases": {"_opened", "_add", "_compressed", "_weight"},
    "Server": {
        *("layout", "shapes", "_split", "_join", "_measured", "_rounded", "_whole", "_shapes"),
        *("devices", "_shown", "weight", "wants_base"),  # as it was made, and the newest rounded
    },
    "Versions": {"merging", "_memory", "_used_again", "_weight", "_known"},
    "_Seat": {"stream"},  # what is left of it; see `_next`
    "DelayDraws": {"_delay", "_draws_ahead"},
    "Streams": {"_states"},  # of the seed
}
PASSED_OVER = (Memory, Holding, Program, Placement, threading.Event)


def of_run(loop, workers):
    """By path, everything that the run is."""
    found = {}
    _walk("loop", loop, found, set())
    for worker in workers:
        _walk(f"worker/{worker.index}", worker, found, set())
        found[f"worker/{worker.index}/next batch"] = _next(worker.feed)
    return found


def _next(feed):
    if not feed.ready(1):
        return None
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(feed.peek())]


def _walk(path, thing, found, above):
    if isinstance(thing, partial) and isinstance(thing.args[0], Ledger):
        thing = thing.args[0]
    if isinstance(thing, PASSED_OVER) or callable(thing) or id(thing) in above:
        return
    assert len(found) < 50_000, path
    above = above | {id(thing)}
    go = partial(_walk, found=found, above=above)
    if isinstance(thing, Worker):
        go(f"{path}.keep", thing.keep())  # the snapshot that it holds it adopts once more
    if isinstance(thing, VirtualClock):
        due = [each for each in thing._finishing if each[1].token not in thing._cancelled]
        go(f"{path}.due", due)
    if isinstance(thing, Links):
        go(f"{path}.under_way", thing.under_way)
    if isinstance(thing, Feed):
        found[path] = thing.taken  # what is drawn ahead is drawn again; see `_next`
    elif isinstance(thing, Snapshot):
        go(f"{path}.pieces", thing.pieces)
    elif isinstance(thing, Tape):
        found[path] = len([entry for entry in thing if type(entry.event).__name__ != "Resumed"])
    elif isinstance(thing, np.random.Generator):
        found[path] = repr(thing.bit_generator.state)
    elif isinstance(thing, (jax.Array, np.ndarray, np.generic)):
        found[path] = _bits(thing)
    elif type(thing).__name__ == "Token":
        found[path] = thing.grant
    elif isinstance(thing, Mapping):
        for key, value in thing.items():
            go(f"{path}[{getattr(key, 'grant', key)!r}]", value)
    elif isinstance(thing, (set, frozenset)):
        found[path] = sorted(map(repr, thing))
    elif hasattr(thing, "_fields"):
        for name in thing._fields:
            go(f"{path}.{name}", getattr(thing, name))
    elif isinstance(thing, (str, int, float, bool, type(None), bytes)):
        found[path] = repr(thing)
    elif hasattr(thing, "__iter__"):
        for number, value in enumerate(thing):
            go(f"{path}[{number}]", value)
        found[f"{path}.len"] = len(thing)
    else:
        derived = set().union(*(DERIVED.get(kind.__name__, ()) for kind in type(thing).__mro__))
        for name in attributes(thing):
            if name not in derived:
                go(f"{path}.{name}", getattr(thing, name))


def attributes(thing):
    """The names of all that an object has, in a dict or in slots."""
    slots = itertools.chain.from_iterable(
        getattr(kind, "__slots__", ()) for kind in type(thing).__mro__
    )
    names = [name for name in slots if hasattr(thing, name) and name != "__weakref__"]
    return sorted({*names, *getattr(thing, "__dict__", ())})


def _bits(array):
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    array = np.asarray(array)
    return f"{array.dtype}{array.shape}", array.tobytes()
