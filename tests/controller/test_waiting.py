"""The waiting room against a list of who waits for what."""

from hypothesis import given, settings
from hypothesis import strategies as st

from jax_ssp.controller.waiting import WaitingRoom

WORKERS = st.integers(0, 3)
STEPS = st.lists(
    st.tuples(st.just("enter"), WORKERS, st.sampled_from(["coverage", "version", None]))
    | st.tuples(st.just("leave"), WORKERS, st.none())
    | st.tuples(st.just("reach"), st.integers(0, 2), st.integers(0, 3))
    | st.tuples(st.just("no more"), st.none(), st.none()),
    min_size=10,
    max_size=60,
)


@settings(deadline=None, max_examples=300)
@given(STEPS, st.integers(1, 3))
def test_lets_go_exactly_of_those_whose_time_has_come(steps, ahead):
    room, waiting, reached = WaitingRoom(), {}, {"coverage": 0, "version": 0}
    for what, first, second in steps:
        if what == "enter" and first not in waiting:
            waiting[first] = (second, reached[second] + ahead if second else 0)
            room.enter(first, **{second: waiting[first][1]} if second else {})
        elif what == "leave":
            waiting.pop(first, None)
            room.leave(first)
        elif what == "no more":
            waiting = dict.fromkeys(waiting, (None, 0))
            room.wait_no_more()
        elif what == "reach":
            reached = {
                "coverage": reached["coverage"] + first,
                "version": reached["version"] + second,
            }
            due = [w for w, (kind, at) in waiting.items() if kind is None or at <= reached[kind]]
            gone = list(room.leave_reached(**reached))
            assert sorted(gone) == sorted(due)
            if len({waiting[worker] for worker in due}) == 1:  # one lot: who came first goes first
                assert gone == due
            for worker in due:
                del waiting[worker]
        assert list(room) == list(waiting)
        assert len(room) == len(waiting)
