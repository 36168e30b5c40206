"""The clock vector against a plain dictionary."""

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
            clocks.join(worker, at=lowest + number)
        elif what == "advance" and worker in model:
            for _ in range(number):
                model[worker] += 1
                clocks.advance(worker)
                assert clocks.min == min(model.values())
        elif what == "leave" and worker in model:
            del model[worker]
            clocks.leave(worker)
        lowest = min(model.values(), default=lowest)
        assert clocks.min == lowest
        assert clocks.of == model


def test_keeps_its_minimum_when_everybody_leaves():
    clocks = ClockVector()
    clocks.join(7, at=0)
    for _ in range(5):
        clocks.advance(7)
    clocks.leave(7)
    assert (clocks.min, clocks.of) == (5, {})
    clocks.join(8, at=6)
    assert clocks.min == 6


def test_a_stranger_has_no_clock():
    with pytest.raises(KeyError):
        ClockVector().advance(0)
    with pytest.raises(KeyError):
        ClockVector().leave(0)
