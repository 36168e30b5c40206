"""The counted clocks against a plain dictionary."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_ssp.controller.clocks import ClockVector

WORKERS = st.integers(0, 4)
STEPS = st.lists(
    st.tuples(st.just("join"), WORKERS, st.integers(0, 3))
    | st.tuples(st.just("advance"), WORKERS, st.integers(1, 4))
    | st.tuples(st.just("leave"), WORKERS, st.none()),
    max_size=60,
)


@settings(deadline=None)
@given(STEPS)
def test_agrees_with_a_dictionary(steps):
    clocks, model, lowest = ClockVector(), {}, 0
    for what, worker, number in steps:
        if what == "join" and worker not in model:
            model[worker] = lowest + number
            clocks.join(at=lowest + number)
        elif what == "advance" and worker in model:
            for _ in range(number):
                clocks.advance(model[worker])
                model[worker] += 1
                assert clocks.min == min(model.values())
        elif what == "leave" and worker in model:
            clocks.leave(at=model.pop(worker))
        lowest = min(model.values(), default=lowest)
        assert clocks.min == lowest


def test_keeps_its_minimum_when_everybody_leaves():
    clocks = ClockVector()
    clocks.join(at=0)
    for clock in range(5):
        clocks.advance(clock)
    clocks.leave(at=5)
    assert clocks.min == 5
    clocks.join(at=6)
    assert clocks.min == 6


def test_nobody_leaves_a_clock_where_nobody_is():
    with pytest.raises(KeyError):
        ClockVector().advance(0)
    with pytest.raises(KeyError):
        ClockVector().leave(at=0)
