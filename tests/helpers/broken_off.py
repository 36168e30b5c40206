"""Runs that are broken off somewhere and go on, in memory."""

import json

import numpy as np

from jax_ssp.controller.tape import Tape
from jax_ssp.runtimes.cut import Cut
from jax_ssp.runtimes.plan import Plan
from jax_ssp.runtimes.resuming import Unfinished
from jax_ssp.runtimes.saving import Saving
from jax_ssp.runtimes.task import Task
from jax_ssp.training.run import run

TASK = ("step", "params", "data", "evaluate")


def parts(spec):
    """The plan, the task and the observers that `train` would make of this."""
    spec = dict(spec)
    task = Task(**{name: spec.pop(name) for name in TASK if name in spec})
    observers = spec.pop("observers", ())
    return Plan(**spec), task, observers


class Memory:
    """Keeps the cuts of a run, as they would be read from a disk; says when to make them."""

    def __init__(self, clocks=1, past=None):
        self.cuts = []
        self._clocks = clocks
        self._past = past

    def tape(self):
        return None if self._past is None else self._past.tape

    def past(self, header):
        return self._past

    def saving(self, half_way):
        return Saving(self._save, clocks=self._clocks)

    def close(self):
        pass

    def _save(self, made):
        self.cuts.append(as_read(made))


def as_read(made):
    arrays = {name: np.array(array) for name, array in made.arrays.items()}
    return Cut(made.rows, json.loads(json.dumps(made.facts)), arrays)


def broken_off(result, rows, cut, plan):
    """What is left of a run of this result: so many rows of the tape, and a cut before them."""
    tape = Tape(result.tape.header)
    for number, entry in enumerate(result.tape):
        if number < rows:
            tape.append(*entry)
    _, told, evaluated = cut.facts["told"] if cut is not None else (0, 0, 0)
    history, evaluations = result.history[:told], result.evaluations[:evaluated]
    return Unfinished(tape, cut, history, evaluations, plan.ends, plan.ends)


def whole(spec, clocks=1):
    """The run as it is if nobody breaks it off, and its cuts before the last, which is its end."""
    plan, task, observers = parts(spec)
    memory = Memory(clocks)
    result = run(plan, task, observers, keeper=memory)
    return result, [made for made in memory.cuts if made.rows < len(result.tape)]


def gone_on(spec, result, rows, cut):
    """The run once it was broken off after so many rows, and has gone on from a cut."""
    plan, task, observers = parts(spec)
    past = broken_off(result, rows, cut, plan)
    return run(plan, task, observers, keeper=Memory(10**9, past))
