"""A Feed gives the batches in order, whatever is prefetched."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_ssp.data.feed import Feed
from jax_ssp.data.shards import Shards
from jax_ssp.placement import separate_memory

DEVICE = jax.devices()[0]


def finite(count: int):
    return ({"x": np.full((2,), i, np.float32), "n": np.int32(i)} for i in range(count))


@pytest.mark.parametrize("on_host", [True, False])
def test_a_feed_places_batches_and_stacks_steps(on_host):
    """NumPy arrays stay what they are on the CPU, whose programs read them without a copy."""
    arrays = finite(6) if on_host else ({**b, "x": jnp.asarray(b["x"])} for b in finite(6))
    feed = Feed(arrays, DEVICE, worker=0)
    one = feed.take(1)
    assert one["x"].shape == (2,)
    three = feed.take(3)
    assert three["x"].shape == (3, 2)
    for batch in (one, three):
        assert isinstance(batch["x"], np.ndarray) or batch["x"].devices() == {DEVICE}
    assert isinstance(three["x"], np.ndarray) == on_host
    assert three["n"].tolist() == [1, 2, 3]
    assert feed.take(2)["n"].tolist() == [4, 5]


def test_to_a_device_with_memory_of_its_own_batches_are_copied_ahead(monkeypatch):
    put = []
    monkeypatch.setattr(jax, "device_put", lambda tree, *where: put.append(where) or tree)
    with separate_memory():
        feed = Feed(finite(6), DEVICE, worker=0)
        feed.prefetch(3)
        assert put == [(DEVICE,)]
        assert feed.take(3)["n"].tolist() == [0, 1, 2]
        assert len(put) == 1


@pytest.mark.parametrize("ahead", [False, True])
def test_arrays_on_another_device_are_brought_here_whatever_came_before_them(ahead):
    there = jax.device_put(np.ones(2), jax.devices()[-1])
    mixed = [np.zeros(2), there, {"x": np.zeros(2), "y": there}, np.zeros(2)]
    feed = Feed(mixed, DEVICE, worker=0)
    places = []
    for _ in mixed:
        if ahead:
            feed.prefetch()
        leaves = jax.tree.leaves(feed.take())
        places.append(
            [isinstance(leaf, np.ndarray) or leaf.devices() == {DEVICE} for leaf in leaves]
        )
    assert places == [[True], [True], [True, True], [True]]


def test_arrays_that_are_on_the_device_stay_what_they_are():
    mine = {"x": jax.device_put(np.ones(2), DEVICE), "k": jax.device_put(jax.random.key(0), DEVICE)}
    assert Feed([mine], DEVICE, worker=0).take() is mine
    others = {
        "not committed": jnp.ones(2),
        "elsewhere": jax.device_put(np.ones(2), jax.devices()[-1]),
        "of NumPy": np.ones(2),
    }
    for other in others.values():
        batch = Feed([{**mine, "y": other}], DEVICE, worker=0).take()
        assert all(leaf.devices() == {DEVICE} and leaf.committed for leaf in batch.values())


def test_what_is_drawn_ahead_is_not_taken_yet():
    feed = Feed(finite(9), DEVICE, worker=0)
    feed.prefetch(4)
    feed.peek()
    feed.ready(6)
    assert feed.taken == 0
    feed.take(2)
    feed.skip(3)
    feed.prefetch(2)
    assert feed.taken == 5
    assert feed.take()["n"] == 5


def test_peek_takes_nothing_and_stays_on_the_host():
    feed = Feed(finite(2), DEVICE, worker=0)
    assert isinstance(feed.peek()["x"], np.ndarray)
    assert feed.peek()["n"] == 0
    assert feed.take()["n"] == 0
    assert feed.peek()["n"] == 1


def test_prefetch_places_what_the_next_take_returns():
    drawn = []

    def batches():
        for i in itertools.count():
            drawn.append(i)
            yield np.full(3, i)

    feed = Feed(batches(), DEVICE, worker=0)
    feed.prefetch(2)
    feed.prefetch(2)
    assert drawn == [0, 1]
    assert feed.take(2)[:, 0].tolist() == [0, 1]
    assert drawn == [0, 1]


def refilled(count: int):
    buffer = {"x": aligned(3)}
    for i in range(count):
        buffer["x"][:] = i
        yield buffer


def aligned(size: int) -> np.ndarray:
    """NumPy memory that JAX's CPU backend uses as it is, without a copy."""
    raw = np.zeros(4 * size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + 4 * size].view(np.float32)


def test_an_iterator_may_fill_the_same_buffer_again():
    feed = Feed(refilled(7), DEVICE, worker=0)
    assert feed.peek()["x"][0] == 0
    assert feed.take(2)["x"][:, 0].tolist() == [0, 1]
    feed.prefetch(3)
    assert feed.take(3)["x"][:, 0].tolist() == [2, 3, 4]
    kept = feed.take(1)  # a program that runs still may read it
    feed.prefetch(1)
    assert (kept["x"][0], feed.take(1)["x"][0]) == (5, 6)


def test_only_arrays_that_are_said_to_be_fresh_are_not_copied():
    class Fresh:
        fresh = True

        def __iter__(self):
            return self

        def __next__(self):
            return batch

    batch = {"x": np.zeros(2), "y": jnp.zeros(2)}
    assert Feed(Fresh(), DEVICE, worker=0).peek() is batch
    copy = Feed([batch], DEVICE, worker=0).peek()
    assert not np.shares_memory(copy["x"], batch["x"])
    assert copy["y"] is batch["y"]
    batches = Shards(np.arange(8), batch_size=2, num_workers=1)(0)
    assert batches.fresh
    one, other = next(batches), next(batches)
    assert not np.shares_memory(one, other)


operations = st.lists(st.tuples(st.sampled_from(["peek", "prefetch", "take"]), st.integers(1, 4)))


@settings(max_examples=60, deadline=None)
@given(operations=operations, count=st.integers(0, 9))
def test_whatever_is_prefetched_nothing_is_lost_and_nothing_comes_twice(operations, count):
    feed = Feed((np.array([i]) for i in range(count)), DEVICE, worker=4)
    taken = 0
    for name, steps in operations:
        needed = {"peek": 1, "take": steps, "prefetch": 0}[name]
        if taken + needed > count:
            with pytest.raises(ValueError, match=r"`data\(worker=4\)` (ended after|gives no)"):
                feed.take(steps) if name == "take" else feed.peek()
        elif name == "peek":
            assert feed.peek().tolist() == [taken]
        elif name == "prefetch":
            feed.prefetch(steps)
        else:
            assert feed.take(steps).reshape(-1).tolist() == list(range(taken, taken + steps))
            taken += steps


def test_the_end_of_the_iterator_is_an_error_of_the_take_that_needs_more():
    feed = Feed(finite(3), DEVICE, worker=2)
    feed.take(2)
    feed.prefetch(1)
    feed.prefetch(2)
    message = r"`data\(worker=2\)` ended after 3 batches\."
    with pytest.raises(ValueError, match=message):
        feed.take(2)
    assert feed.take(1)["n"] == 2
    feed.prefetch(1)
    with pytest.raises(ValueError, match=message):
        feed.take(1)
    with pytest.raises(ValueError, match=r"after 1 batch\."):
        Feed(finite(1), DEVICE, worker=0).take(2)
    with pytest.raises(ValueError, match="gives no batch at all; its iterator was empty"):
        Feed([], DEVICE, worker=0).peek()


def test_the_last_clock_has_as_many_steps_as_there_are_batches():
    feed = Feed(finite(5), DEVICE, worker=0)
    assert [feed.ready(3), feed.ready(1), feed.ready(5)] == [3, 1, 5]
    assert feed.take(3)["n"].tolist() == [0, 1, 2]
    feed.prefetch(3)  # there are not as many: nothing is lost by that
    assert feed.ready(3) == 2
    assert feed.ready(0) == 0  # of a clock that is run ahead whole
    assert feed.take(2)["n"].tolist() == [3, 4]
    assert feed.ready(3) == feed.ready(1) == 0


@pytest.mark.parametrize("whole", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_an_incomplete_last_batch_is_a_step_by_itself(whole, steps):
    sizes = [4] * whole + [3]
    feed = Feed((np.full(size, number) for number, size in enumerate(sizes)), DEVICE, worker=0)
    clocks = []
    while ready := feed.ready(steps):
        feed.prefetch(steps)
        clocks.append(feed.take(ready).reshape(ready, -1)[:, 0].tolist())
    assert [number for clock in clocks for number in clock] == list(range(whole + 1))
    assert clocks[-1] == [whole]
    assert all(len(clock) == steps for clock in clocks[:-2])


def test_an_incomplete_batch_that_is_not_the_last_is_refused_where_batches_are_stacked():
    sizes = [4, 3, 4, 4]
    feed = Feed(map(np.zeros, sizes), DEVICE, worker=0)
    for _ in range(2):
        assert feed.ready(2) == 2
        with pytest.raises(ValueError, match="must give batches of one shape to a clock of 2"):
            feed.take(2)
    one_by_one = Feed(map(np.zeros, sizes), DEVICE, worker=0)
    assert [one_by_one.take(one_by_one.ready(1)).size for _ in sizes] == sizes


def test_an_error_before_the_last_batch_is_no_end():
    def batches():
        yield np.zeros(1)
        raise OSError("disk on fire")

    feed = Feed(batches(), DEVICE, worker=0)
    assert feed.ready(1) == 1
    for call in (feed.ready, feed.take, feed.skip):
        with pytest.raises(OSError, match="disk on fire"):
            call(2)


def test_what_is_passed_over_may_be_less_than_a_clock():
    feed = Feed(finite(3), DEVICE, worker=0)
    feed.skip(2)
    feed.skip(2)
    assert feed.ready(1) == 0


def test_an_error_of_the_iterator_arrives_where_its_batch_is_needed():
    def batches():
        yield np.zeros(1)
        raise OSError("disk on fire")

    feed = Feed(batches(), DEVICE, worker=0)
    feed.prefetch(2)
    assert feed.take(1).tolist() == [0.0]
    for _ in range(2):
        with pytest.raises(OSError, match="disk on fire"):
            feed.take(1)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (
            {"x": np.zeros((3, 2), np.float32)},
            r"batch\['x'\] is float32\[4, 2\] in batch 1 and floa",
        ),
        ({"x": np.zeros((4, 2), np.float64)}, r"and float64\[4, 2\] in batch 2; leave out"),
        ({"y": np.zeros((4, 2), np.float32)}, r"batch\['x'\] is float32\[4, 2\] in .* and missing"),
        ([np.zeros((4, 2), np.float32)], r"batch\['x'\] is"),
        ({"x": jnp.zeros((3, 2))}, r"and float32\[3, 2\] in batch 2"),
    ],
)
def test_batches_that_cannot_be_stacked_are_named_only_when_needed(second, message):
    first = {"x": np.zeros((4, 2), np.float32)}
    feed = Feed([first, first, second], DEVICE, worker=0)
    feed.take(1)
    feed.prefetch(2)
    with pytest.raises(ValueError, match=message):
        feed.take(2)
    feed.take(1)
    feed.take(1)


@pytest.mark.parametrize("dtype", [np.float32, np.int8, ">f4", np.bool_])
@pytest.mark.parametrize("shape", [(), (3,), (2, 5), (0, 4)])
def test_what_is_stacked_is_what_numpy_stacks(shape, dtype):
    arrays = [np.full(shape, number, dtype).T for number in range(3)]
    whole = Feed([{"x": array, "n": 0.5} for array in arrays], DEVICE, worker=0).take(3)
    assert whole["x"].dtype == dtype
    assert whole["x"].tobytes() == np.stack(arrays).astype(dtype).tobytes()
    assert whole["n"].tolist() == [0.5] * 3


def test_lists_and_tuples_are_different_structures():
    feed = Feed([[np.zeros(1)], (np.zeros(1),)], DEVICE, worker=0)
    with pytest.raises(ValueError, match="the structure is PyTreeDef"):
        feed.take(2)


def test_data_must_be_an_iterator():
    with pytest.raises(TypeError, match=r"`data\(worker=1\)` must return an iterator .* got int"):
        Feed(3, DEVICE, worker=1)


def test_jax_arrays_and_keys_are_stacked_on_the_device():
    keys = jax.random.split(jax.random.key(0), 4)
    mine = [{"k": key, "x": jnp.full(2, float(i))} for i, key in enumerate(keys)]
    feed = Feed(mine, DEVICE, worker=0)
    feed.prefetch(2)
    batch = feed.take(2)
    assert batch["k"].shape == (2,)
    assert batch["x"].tolist() == [[0.0, 0.0], [1.0, 1.0]]
    assert feed.take(1)["x"].tolist() == [2.0, 2.0]
    assert not any(batch["x"].is_deleted() for batch in mine)


def test_the_step_axis_of_a_sharded_batch_stays_whole():
    mesh = jax.make_mesh((1,), ("data",), devices=[DEVICE])
    sharding = jax.sharding.NamedSharding(mesh, jax.P("data"))
    feed = Feed((np.ones((4, 2), np.float32) for _ in range(3)), sharding, worker=0)
    assert feed.take(1).sharding.spec == jax.P("data")
    assert feed.take(2).sharding.spec == jax.P(None, "data")
