"""What ends first comes first; what ends at one time, in the order in which it was added."""

import math

from hypothesis import given
from hypothesis import strategies as st

from jax_ssp.controller import StartClock, Token
from jax_ssp.runtimes.timetable import Timetable

TIMES = st.sampled_from([0.0, 0.5, 1.0, 1.5])
STEPS = st.lists(st.one_of(TIMES, st.none(), st.integers(0, 3)), max_size=60)


def start(worker, grant):
    return StartClock(worker, 0, 1, 0, (), 4, 1.0, Token(0, grant))


@given(STEPS)
def test_it_is_a_list_sorted_by_time_and_then_as_they_were_added(steps):
    """A time is added, None takes the first out, and a number takes out all of a worker."""
    table, model = Timetable(), []
    for grant, step in enumerate(steps):
        if step is None and model:
            assert table.first is model[0][2]
            when, _, first = model.pop(0)
            assert table.pop() == (when, first)
        elif type(step) is float:
            clock = start(grant % 4, grant)
            table.add(step, clock)
            model = sorted([*model, (step, grant, clock)])
        elif type(step) is int:
            table.keep(lambda clock, worker=step: clock.worker != worker)
            model = [each for each in model if each[2].worker != step]
        assert [*table] == [(when, clock) for when, _, clock in model]
        assert table.next == (model[0][0] if model else math.inf)


def test_one_that_takes_no_time_ends_after_those_that_end_now():
    table = Timetable()
    for grant in range(3):
        table.add(1.0, start(grant, grant))
    assert table.pop()[1].worker == 0
    table.add(1.0, start(3, 3))
    assert [table.pop()[1].worker for _ in range(3)] == [1, 2, 3]
    assert table.next == math.inf
