"""What is different about the programs of a worker whose place is a slice."""

from __future__ import annotations

import functools
from typing import Any

import jax

from jax_ssp.placement import Place, Placement
from jax_ssp.slices import Slice
from jax_ssp.worker.program import Program


class _There:
    """A jitted function that runs on a slice."""

    def __init__(self, function: Any, place: Placement) -> None:
        self._function = function
        self._place = place

    def __call__(self, *arguments: Any) -> Any:
        return self._place.run(self._function, *arguments)

    def lower(self, *arguments: Any) -> jax.stages.Lowered:
        assert self._place.slice is not None
        with self._place.slice.entered():
            return self._function.lower(*arguments)


class SlicedProgram:
    """The programs of a worker on a slice, each dispatched under its mesh; see `Program`.

    Args:
        program: that all workers share.
        place: the slice.

    Attributes:
        program: as given.
        there: has another jitted function dispatched so.
    """

    def __init__(self, program: Program, place: Slice) -> None:
        self.program = program
        self.layout, self.states, self.part = program.layout, program.states, program.part
        self.there = there = functools.partial(_There, place=Placement.of(place))
        self.init, self.add, self.mixed = map(there, (program.init, program.add, program.mixed))
        self.entered, self.nothing = there(program.entered), there(program.nothing)
        self.norm = there(program.norm)
        self.clock = functools.cache(lambda steps: there(program.clock(steps)))
        self.ahead = functools.cache(lambda steps: there(program.ahead(steps)))
        self.rest = functools.cache(lambda first, steps: there(program.rest(first, steps)))


def program_on(program: Program | SlicedProgram, place: Place) -> Program | SlicedProgram:
    """The programs of a worker there."""
    program = program.program if isinstance(program, SlicedProgram) else program
    return SlicedProgram(program, place) if isinstance(place, Slice) else program
