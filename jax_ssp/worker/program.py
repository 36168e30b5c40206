"""The programs that workers run, each jitted once for all workers of a step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_ssp.buckets import of_states
from jax_ssp.checks import integer
from jax_ssp.controller.constructors import constructor
from jax_ssp.layout import Delta, Layout
from jax_ssp.shardings import Specs
from jax_ssp.trees import Params, all_finite, flatten, squared_norm
from jax_ssp.worker.adopt import entered, gone_on, mixed, nothing
from jax_ssp.worker.clock import clock_fn
from jax_ssp.worker.lies import Lies
from jax_ssp.worker.replica import Part, new_part
from jax_ssp.worker.step import Step


class Inputs(NamedTuple):
    """What a program of a clock takes first.

    Attributes:
        base: parameters that the delta is measured from.
        state: of the step; the program takes it over.
        batch: of its steps, stacked if there are several.
        key: of the worker.
        when: int32, two numbers: the clock, and the round at its first step (see `rounds.py`). They
            are one array, since each that a program is given takes some microseconds.
        frozen: what the step reads and never changes, the same arrays for all workers of a device.
    """

    base: Params
    state: Any
    batch: Any
    key: jax.Array
    when: np.ndarray
    frozen: Any = ()


new_inputs = constructor(Inputs)
FREE = len(Inputs._fields)  # behind them comes memory that a program may put its delta in


class Program:
    """The jitted functions that all workers of a run share.

    Parameters are masters throughout (see `layout.py`). Those that make a delta take over (donate)
    the worker state and, last, memory to put it in; and say, last, whether every number of the
    delta is finite. On slices they leave parameters, deltas and states as `specs` say.

    Args:
        step: what workers repeat.
        layout: of the parameters.
        specs: how these lie on slices; None where workers have one device each.
        states: how the step's states lie between programs; by default it is found out.

    Attributes:
        layout, states: as given.
    """

    def __init__(
        self,
        step: Step,
        layout: Layout,
        specs: Specs | None = None,
        states: Layout | None = None,
    ) -> None:
        self._step = step
        self._counts = getattr(step, "tokens", None) is not None
        self.layout = layout
        self.states = of_states(layout, step.init) if states is None else states
        self._lies = None if specs is None else Lies(layout, specs)
        self.init = jax.jit(self._init)
        self.add = jax.jit(self._kept(layout.added))
        self.mixed = jax.jit(self._kept(functools.partial(mixed, layout)))
        self.entered = jax.jit(self._kept(functools.partial(entered, layout)))
        self.nothing = jax.jit(self._kept(functools.partial(nothing, layout)))
        self.norm = jax.jit(self._norm)
        self.clock = functools.cache(self._clock)
        self.ahead = functools.cache(self._ahead)
        self.rest = functools.cache(self._rest)
        self._run_together = functools.cache(self._together)

    def run_together(self, steps: int, inputs: Sequence[Inputs]) -> list[tuple[Delta, Any, Part]]:
        """A whole clock of several workers in one program.

        Gives for each its delta, its new state, and what is to be said of it.
        """
        bases, states, batches, keys, when, (frozen, *_) = zip(*inputs, strict=True)
        deltas, states, metrics, finite = self._run_together(steps)(
            bases, states, batches, keys, np.stack(when), frozen
        )
        flags = np.asarray(finite)
        values = {name: np.asarray(value) for name, value in metrics.items()}
        parts = [
            self.part(steps, each.batch, flags[n], {name: v[n] for name, v in values.items()})
            for n, each in enumerate(inputs)
        ]
        return list(zip(deltas, states, parts, strict=True))

    def _kept(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that gives a tree like the parameters, laid out like them on a slice."""
        if self._lies is None:
            return function
        lies = self._lies
        return lambda *arguments: lies.like_params(function(*arguments))

    def _init(self, params: Params) -> Any:
        params = self.layout.user.rounded(self.layout.unpacked(params))
        state = self.states.packed(self._step.init(params))
        return state if self._lies is None else self._lies.state(state, params)

    def _run(self, steps: int, first: int = 0) -> Callable[..., Any]:
        """See `clock_fn`; gives too whether the delta is finite."""

        def reporting(inputs: Inputs, *carried: Any) -> Any:
            base, state, batch, key, (clock, round), frozen = inputs
            run = clock_fn(holding(self._step, frozen), steps, first, self.layout.user)
            base, *carried = map(self.layout.unpacked, (base, *carried))
            state = self.states.unpacked(state)
            delta, state, metrics = run(base, state, batch, key, clock, round, *carried)
            delta, state = self.layout.packed(delta), self.states.packed(state)
            if self._lies is not None:
                delta = self._lies.like_params(delta)
                state = self._lies.state(state, base)
            delta = jax.lax.optimization_barrier(delta)  # made once, whoever looks at it
            return delta, state, metrics, all_finite(self.layout.trained(delta))

        return reporting

    def _clock(self, steps: int) -> Any:
        """A whole clock: (*inputs, free)."""
        run = self._run(steps)

        def clock(*arguments: Any) -> Any:
            *inputs, _ = arguments
            return run(Inputs(*inputs))

        return jax.jit(clock, donate_argnums=(1, FREE), keep_unused=True)

    def _ahead(self, steps: int) -> Any:
        """A clock's first steps on what the last left: (*inputs, delta, free)."""
        run = self._run(steps)

        def ahead(base: Params, *others: Any) -> Any:
            *others, delta, _ = others
            return run(Inputs(gone_on(self.layout, base, delta), *others))

        return jax.jit(ahead, donate_argnums=(1, FREE + 1), keep_unused=True)

    def _rest(self, first: int, steps: int) -> Any:
        """The steps of a clock from number `first` on: (*inputs, carried)."""
        run = self._run(steps - first, first)

        def rest(*arguments: Any) -> Any:
            *inputs, carried = arguments
            return run(Inputs(*inputs), carried)

        return jax.jit(rest, donate_argnums=(1, FREE))

    def _together(self, steps: int) -> Any:
        """A whole clock of several workers in one program, each with its own base and state."""
        run = self._run(steps)

        def together(*inputs: Any) -> Any:
            *trees, when, frozen = inputs
            each = [_stacked(of_all) for of_all in trees]
            whole = jax.vmap(lambda *of_one: run(Inputs(*of_one, frozen)))
            deltas, states, metrics, finite = whole(*each, when)
            count = len(when)
            return _unstacked(deltas, count), _unstacked(states, count), metrics, finite

        return jax.jit(together, donate_argnums=1)

    def part(self, steps: int, batch: Any, finite: Any, metrics: Any) -> Part:
        """What is to be said of so many steps, computed from this batch."""
        tokens = tokens_in(self._step, batch, steps) if self._counts else 0
        return new_part(steps, samples_in(batch, steps), tokens, finite, metrics)

    def _norm(self, delta: Delta) -> jax.Array:
        """The l2 norm of what is trained, summed in at least float32."""
        return jnp.sqrt(squared_norm(self.layout.trained(delta)))


def frozen_of(step: Step) -> Any:
    """The arrays that a step reads and never changes, if it says so."""
    return getattr(step, "frozen", ()) if hasattr(step, "holding") else ()


def holding(step: Any, frozen: Any) -> Step:
    """The step with these arrays in place of its frozen ones; itself, if it has none."""
    return step if not jax.tree.leaves(frozen) else step.holding(frozen)


def _stacked(trees: tuple[Any, ...]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _unstacked(tree: Any, count: int) -> tuple[Any, ...]:
    leaves, structure = jax.tree.flatten(tree)
    return tuple(structure.unflatten([leaf[number] for leaf in leaves]) for number in range(count))


@functools.lru_cache(maxsize=8)
def _kept(step: Step, layout: Layout, specs: Specs | None, states: Layout) -> Program:
    return Program(step, layout, specs, states)


def program_of(step: Step, layout: Layout, specs: Specs | None = None) -> Program:
    """The program of a step, the same one as the last time if that is not long ago.

    Its states must lie as they did then: with another setting of JAX, say, they have other dtypes.
    """
    states = of_states(layout, step.init)
    try:
        return _kept(step, layout, specs, states)
    except TypeError:  # a step that cannot be hashed
        return Program(step, layout, specs, states)


def samples_in(batch: Any, steps: int) -> int:
    """Examples in the batches of so many steps, stacked if there are several.

    The size of the first array that has an axis of examples; without one, one example a step.

    Example:
        >>> samples_in(np.zeros((3, 8, 2)), steps=3), samples_in(np.zeros((8, 2)), steps=1)
        (24, 8)
    """
    axis = 0 if steps == 1 else 1
    for leaf in flatten(batch)[0]:
        shape = getattr(leaf, "shape", ())
        if len(shape) > axis:
            return steps * shape[axis]
    return steps


def tokens_in(step: Any, batch: Any, steps: int) -> int:
    """Tokens in the batches of so many steps, as the step counts them by the shapes of one.

    0 if the step has no `tokens`.

    Raises:
        TypeError, ValueError: if what it gives is no count.
    """
    count = getattr(step, "tokens", None)
    if count is None:
        return 0
    axis = 0 if steps == 1 else 1

    def shape(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(np.shape(leaf)[axis:], getattr(leaf, "dtype", type(leaf)))

    return steps * integer("step.tokens(batch)", count(jax.tree.map(shape, batch)), least=0)
