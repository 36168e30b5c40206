"""A feed can be made again where it stood, whatever was drawn ahead; and which cannot is said."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_ssp.data import Feed, Shards


class Counts:
    """Numbers from 0 on, with a state, as grain's iterators have one."""

    def __init__(self, worker, as_bytes=False, nested=False):
        self.next, self.as_bytes, self.nested = 0, as_bytes, nested
        self.own = {"in": {"next": 0}}

    def __iter__(self):
        return self

    def __next__(self):
        self.next += 1
        self.own["in"]["next"] = self.next
        return np.int32(self.next - 1)

    def get_state(self):
        if self.nested:
            return self.own  # itself, which it changes
        return json.dumps(self.next).encode() if self.as_bytes else {"next": self.next}

    def set_state(self, state):
        if self.nested:
            self.own, self.next = state, state["in"]["next"]
        else:
            self.next = json.loads(state) if self.as_bytes else state["next"]


def anew(worker):
    """Numbers from 0 on, with no state."""
    return map(np.int32, itertools.count())


def pretrained(worker):
    return Counts(worker, as_bytes=True)


ONE = Counts(0)
SOURCES = {
    "with a state": Counts,
    "in bytes": pretrained,
    "nested": lambda worker: Counts(worker, nested=True),
    "made anew": anew,
    "the same object": lambda worker: ONE,
}
operations = st.lists(
    st.tuples(st.sampled_from(["take", "prefetch", "skip", "peek"]), st.integers(1, 4)),
    max_size=8,
)


def carry_out(feed, what):
    for name, steps in what:
        feed.peek() if name == "peek" else getattr(feed, name)(steps)


@pytest.mark.parametrize("source", [name for name in SOURCES if name != "the same object"])
@settings(max_examples=40, deadline=None)
@given(before=operations, after=operations)
def test_a_feed_goes_on_from_its_state_in_another_process(source, before, after):
    data = SOURCES[source]
    feed = Feed.of(data, None, worker=0)
    carry_out(feed, before)
    state, cursor = json.loads(json.dumps(feed.state())), feed.taken
    carry_out(feed, after)  # which is lost
    there = Feed.of(data, None, worker=0).at(cursor, state)
    assert (there.taken, int(there.take())) == (cursor, cursor)


@pytest.mark.parametrize("source", SOURCES)
@settings(max_examples=40, deadline=None)
@given(before=operations, after=operations, steps=st.integers(1, 4))
@pytest.mark.every(5)
def test_a_feed_is_rewound_to_the_beginning_of_a_clock(source, before, after, steps):
    kept = SOURCES[source](0)
    if source == "the same object":
        kept.set_state({"next": 0})
    feed = Feed.of(SOURCES[source], None, worker=0)
    carry_out(feed, before)
    cursor = feed.taken
    first = feed.take(steps).reshape(-1).tolist()
    carry_out(feed, after[:2])
    again = feed.rewound(cursor)
    assert again.take(steps).reshape(-1).tolist() == first
    assert again.rewound(cursor).take(steps).reshape(-1).tolist() == first
    assert int(again.rewound(0).take()) == 0


def test_an_iterator_with_a_state_draws_nothing_that_was_taken():
    feed = Feed.of(Counts, None, worker=0)
    for _ in range(100):
        feed.take()
    feed.prefetch(7)
    there = feed.at(100, feed.state())
    assert there.iterator.next == 100
    rewound = feed.rewound(98)
    assert rewound.iterator.next == 98


def test_passing_over_holds_one_batch_at_a_time():
    held = []
    feed = Feed.of(anew, None, worker=0)
    draw = feed._drawn.draw
    feed._drawn.draw = lambda steps: draw(steps) and (held.append(len(feed._drawn.batches)) or True)
    feed.skip(50)
    assert (max(held), int(feed.take())) == (1, 50)


def test_shards_are_resumed_by_their_state():
    shards = Shards(np.arange(40), batch_size=2, num_workers=2)
    feed = Feed.of(shards, None, worker=1)
    feed.take(7)
    feed.prefetch(3)
    state = json.loads(json.dumps(feed.state()))
    assert state["cursor"] == 7
    expected = feed.take(9).tolist()
    assert Feed.of(shards, None, worker=1).at(7, state).take(9).tolist() == expected


@pytest.mark.parametrize("kind", ["DataLoader", "MapDataset"])
def test_iterators_of_grain_are_resumed_by_their_state(kind):
    grain = pytest.importorskip("grain")

    def data(worker):
        if kind == "MapDataset":
            source = grain.MapDataset.range(1000).seed(worker).shuffle().repeat().batch(4)
            return iter(source.to_iter_dataset())
        sampler = grain.samplers.IndexSampler(1000, shuffle=True, seed=worker)
        operations = [grain.transforms.Batch(4)]
        return iter(
            grain.DataLoader(
                data_source=np.arange(1000), sampler=sampler, operations=operations, worker_count=0
            )
        )

    feed = Feed.of(data, None, worker=1)
    feed.take(5)
    feed.prefetch(3)
    state = json.loads(json.dumps(feed.state()))
    assert len(state) == 2  # the cursor is not all
    expected = feed.take(9).tolist()
    there = Feed.of(data, None, worker=1).at(5, state)
    assert there.take(9).tolist() == expected
    assert feed.rewound(5).take(9).tolist() == expected


def test_a_state_that_json_cannot_hold_is_none():
    class Tuples(Counts):
        def get_state(self):
            return {"at": (self.next, 0)}

    class Refuses(Counts):
        def get_state(self):
            raise NotImplementedError

    for kind in (Tuples, Refuses):
        feed = Feed.of(kind, None, worker=0)
        feed.take(3)
        assert feed.state() == {"cursor": 3}
        assert int(feed.rewound(2).take()) == 2


def test_data_that_ends_before_is_refused():
    feed = Feed.of(lambda worker: map(np.int32, range(3)), None, worker=1)
    with pytest.raises(ValueError, match=r"`data\(worker=1\)` ended after 3 batches, of which 5"):
        feed.at(5)
    with pytest.raises(ValueError, match=r"`Feed.at\(cursor=...\)` must be non-negative, got -1"):
        feed.at(-1)
    with pytest.raises(ValueError, match="holds no bytes in base64"):
        Feed.of(pretrained, None, worker=0).at(5, {"cursor": 5, "base64": "?"})


def test_what_cannot_go_back_is_named():
    shared = map(np.int32, itertools.count())
    rng = np.random.default_rng(0)
    once = [map(np.int32, range(5)) for _ in range(4)]
    cannot = {
        "gives the same iterator each time": [lambda worker: shared, lambda worker: once[worker]],
        "gives other batches when it is called again": [
            lambda worker: (rng.normal(size=2) for _ in range(9)),
            lambda worker: map(abs, shared),  # another iterator over the same one
        ],
    }
    for message, sources in cannot.items():
        for data in sources:
            feed = Feed.of(data, None, worker=3)
            feed.peek()
            with pytest.raises(ValueError, match=rf"`data\(worker=3\)` {message}") as caught:
                feed.check_goes_back()
            assert "get_state" in str(caught.value)
    bare = Feed(iter([np.zeros(1)]), None, worker=0)
    with pytest.raises(ValueError, match="gives the same iterator each time"):
        bare.check_goes_back()
    with pytest.raises(ValueError, match="gives the same iterator each time"):
        bare.rewound(0)


@pytest.mark.parametrize("source", SOURCES)
def test_what_can_go_back_is_let_be(source):
    feed = Feed.of(SOURCES[source], None, worker=0)
    feed.prefetch(2)
    feed.check_goes_back()
    assert feed.taken == 0
    assert int(feed.take(2)[1]) == int(feed.rewound(1).take())
