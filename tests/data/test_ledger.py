"""The ledger gives each batch out once, whoever comes and goes."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_ssp.data.ledger import Ledger
from jax_ssp.data.settled import Epoch


def clock(ledger, worker, token, steps=1):
    """A clock that is started, finished and merged; gives the numbers of its batches."""
    numbers = list(ledger.started(worker, token, steps))
    ledger.pushed(worker, token)
    ledger.merged(token)
    return numbers


@pytest.mark.parametrize("workers", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("size", [1, 3, 4, 7])
def test_as_long_as_nobody_comes_or_goes_batch_n_of_worker_i_is_n_times_w_plus_i(workers, size):
    ledger, rng = Ledger(size, workers), random.Random(workers)
    given = {worker: [] for worker in range(workers)}
    for number in range(60):
        worker = rng.randrange(workers)
        given[worker] += clock(ledger, worker, number, steps=rng.randint(1, 3))
    for worker, numbers in given.items():
        assert numbers == [turn * workers + worker for turn in range(len(numbers))]


def test_nobody_is_there_before_the_start_and_joining_then_changes_nothing():
    ledger = Ledger(4, num_workers=2)
    first = clock(ledger, 0, "a")
    for worker in range(2):
        ledger.joined(worker)
    assert first + clock(ledger, 0, "b") == [0, 2]
    assert clock(ledger, 1, "c") == [1]


def test_what_a_lost_worker_ran_goes_to_the_others_and_what_it_pushed_does_not():
    ledger = Ledger(9, num_workers=3)
    clock(ledger, 1, "merged")
    for worker in range(3):
        ledger.started(worker, worker, steps=2)  # 0 3, 4 7, 2 5
    ledger.pushed(1, 1)
    ledger.granted_ahead(0, 1)  # 6
    ledger.left(2)
    ledger.left(1)
    assert ledger.started(0, "next", steps=3) == [6, 2, 5]
    ledger.dropped(1)
    assert clock(ledger, 0, "last", steps=2) == [8, 9]  # the next epoch
    assert ledger.settled.rows(10) == [
        Epoch(0, seen=20, twice=0, dropped=20, never=50),
        Epoch(1, seen=10, twice=0, dropped=0, never=80),
    ]


def test_who_comes_takes_turns_and_who_comes_again_begins_with_what_is_left():
    ledger = Ledger(6, num_workers=2)
    ledger.started(0, "a", steps=1)
    ledger.joined(4)
    assert clock(ledger, 4, "b", steps=2) == [3, 6]  # 1, 2 and 4, 5 are those of workers 0 and 1
    ledger.left(0)
    assert clock(ledger, 1, "c") == [0]
    ledger.joined(0)
    assert [clock(ledger, worker, f"d{worker}") for worker in (0, 1, 4)] == [[1], [2], [4]]
    assert clock(ledger, 0, "e", steps=2) == [5, 9]  # 7 and 8 are those of the others


def test_nobody_is_left_and_somebody_comes():
    ledger = Ledger(3, num_workers=1)
    ledger.started(0, "a", steps=2)
    ledger.left(0)
    ledger.left(0)
    ledger.joined(7)
    assert clock(ledger, 7, "b", steps=4) == [0, 1, 2, 3]


def test_a_cancelled_clock_is_dropped_and_a_late_push_is_nothing():
    ledger = Ledger(4, num_workers=2)
    ledger.started(0, "a", steps=2)
    ledger.cancelled(0, "a")
    ledger.started(0, "b", steps=1)
    ledger.pushed(0, "a")
    ledger.left(0)  # it runs b still, so that goes back
    assert clock(ledger, 1, "c", steps=3) == [1, 3, 4]
    assert ledger.settled.rows(1)[0] == Epoch(0, seen=2, twice=0, dropped=2, never=0)


def test_what_is_granted_ahead_is_of_the_next_clock():
    ledger = Ledger(8, num_workers=2)
    stream = ledger.open(0)
    ledger.started(0, "a", steps=1)
    ledger.granted_ahead(0, 2)
    assert stream == [0, 2, 4]
    ledger.pushed(0, "a")
    assert ledger.started(0, "b", steps=3) == [2, 4, 6]
    assert stream == [0, 2, 4, 6]
    assert ledger.open(0, cursor=1) == [2, 4, 6]
    assert ledger.open(0, cursor=3) == [6]
    with pytest.raises(ValueError, match="worker 0 has taken 0 batches, but it was given 4"):
        ledger.open(0, cursor=0)


def test_what_is_expected_is_what_is_given_if_nobody_comes_or_goes():
    ledger = Ledger(5, num_workers=3)
    clock(ledger, 1, "a", steps=4)
    following = ledger.following(1)
    assert [next(following) for _ in range(3)] == clock(ledger, 1, "b", steps=3)
    stranger = ledger.following(9)
    assert next(stranger) >= 0


def test_begun_anew_it_fills_the_same_streams():
    ledger = Ledger(5, num_workers=3)
    stream = ledger.open(1)
    clock(ledger, 1, "a", steps=4)
    ledger.begin(num_workers=2)
    assert stream == []
    assert clock(ledger, 1, "a", steps=2) == stream == [1, 3]


def test_an_epoch_is_whole_once_all_of_it_is_merged():
    ledger = Ledger(2, num_workers=1)
    clock(ledger, 0, "a", steps=5)
    assert (ledger.settled.whole, ledger.settled.rows(1)) == (2, [Epoch(2, 1, 0, 0, 1)])


def test_what_was_merged_twice_is_said():
    settled = Ledger(2, num_workers=1).settled
    settled.give([0, 1])
    settled.merged([0, 0])
    assert settled.rows(3) == [Epoch(0, seen=3, twice=3, dropped=0, never=3)]
    settled.dropped([1])
    assert (settled.whole, settled.rows(3)) == (0, [Epoch(0, 3, 3, 3, 0)])


class Everybody:
    """Workers that do anything in any order, and an account of what they hold."""

    def __init__(self, size, workers):
        self.ledger = Ledger(size, workers)
        self.live = set(range(workers))
        self.running, self.pushed = {}, {}
        self.settled, self.tokens = [], 0

    def step(self, rng, most=6):
        what = rng.choice(["start", "start", "push", "push", "merge", "drop", "cancel", "move"])
        worker = rng.randrange(most)
        if what == "move":
            if worker in self.live:
                self.ledger.left(worker)
                self.live.discard(worker)
                self.running.pop(worker, None)
            else:
                self.ledger.joined(worker)
                self.live.add(worker)
        elif what == "start" and worker in self.live and worker not in self.running:
            self.start(worker, rng.randint(1, 4))
        elif what == "push" and worker in self.running:
            self.push(worker)
        elif what == "cancel" and worker in self.running:
            token, numbers = self.running.pop(worker)
            self.ledger.cancelled(worker, token)
            self.settled += numbers
        elif what in ("merge", "drop") and self.pushed:
            self.settle(rng.choice(sorted(self.pushed)), merged=what == "merge")

    def start(self, worker, steps):
        self.tokens += 1
        numbers = list(self.ledger.started(worker, self.tokens, steps))
        assert len(numbers) == steps  # nobody idles
        self.running[worker] = self.tokens, numbers

    def push(self, worker):
        token, numbers = self.running.pop(worker)
        self.ledger.pushed(worker, token)
        self.pushed[token] = numbers

    def settle(self, token, merged):
        (self.ledger.merged if merged else self.ledger.dropped)(token)
        self.settled += self.pushed.pop(token)

    def held(self):
        """All that is given out: each batch by one."""
        clocks = [numbers for _, numbers in self.running.values()] + list(self.pushed.values())
        return self.settled + [number for numbers in clocks for number in numbers]


@settings(max_examples=150, deadline=None)
@given(
    size=st.integers(1, 9),
    workers=st.integers(1, 4),
    seed=st.integers(0, 2**32),
    steps=st.integers(0, 80),
)
def test_each_batch_of_an_epoch_is_settled_once(size, workers, seed, steps):
    rng, all_of_them = random.Random(seed), Everybody(size, workers)
    for _ in range(steps):
        all_of_them.step(rng)
        held = all_of_them.held()
        assert len(held) == len(set(held))
    # Whoever is there goes on, until all that is begun is settled.
    if not all_of_them.live:
        all_of_them.ledger.joined(5)
        all_of_them.live.add(5)
    begun = max(all_of_them.held(), default=-1) // size + 1
    for _ in range(400):
        for worker in sorted(all_of_them.live):
            if worker not in all_of_them.running:
                all_of_them.start(worker, 1)
            all_of_them.push(worker)
        for token in sorted(all_of_them.pushed):
            all_of_them.settle(token, merged=True)
        if set(range(begun * size)) <= set(all_of_them.settled):
            break
    assert set(range(begun * size)) <= set(all_of_them.settled)
    assert len(all_of_them.settled) == len(set(all_of_them.settled))
    ledger = all_of_them.ledger
    rows = {row.epoch: row for row in ledger.settled.rows(1)}
    assert all(rows[epoch].never == 0 for epoch in range(begun) if epoch in rows)
    assert all(row.twice == 0 for row in rows.values())
    seen = ledger.settled.whole * size + sum(row.seen + row.dropped for row in rows.values())
    assert seen == len(all_of_them.settled)
