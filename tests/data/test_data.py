"""Shards cover the examples exactly; a Feed gives the batches in order, whatever is prefetched."""

import itertools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_ssp.data.shards import Feed, Shards

DEVICE = jax.devices()[0]


def epochs(shards: Shards, worker: int, count: int) -> list[np.ndarray]:
    """The examples of each of the first epochs of a worker, in the order of its batches."""
    batches = shards(worker)
    per_epoch = len(range(worker, shards.num_examples, shards.num_workers)) // shards.batch_size
    return [np.concatenate([next(batches) for _ in range(per_epoch)]) for _ in range(count)]


def test_workers_share_all_examples_and_each_epoch_is_a_new_order():
    shards = Shards(np.arange(60), batch_size=5, num_workers=3)
    per_worker = [epochs(shards, worker, 3) for worker in range(3)]
    owned = [set(first.tolist()) for first, _, _ in per_worker]
    assert set.union(*owned) == set(range(60))
    assert sum(len(examples) for examples in owned) == 60
    for examples, orders in zip(owned, per_worker, strict=True):
        assert all(set(order.tolist()) == examples for order in orders)
        assert not np.array_equal(orders[0], orders[1])
        assert not np.array_equal(orders[1], orders[2])


def test_an_epoch_is_the_permutation_of_seed_worker_and_epoch():
    shards = Shards(np.arange(20), batch_size=4, num_workers=2, seed=7)
    mine = shards.order[1::2]
    for epoch, order in enumerate(epochs(shards, worker=1, count=3)):
        expected = np.random.default_rng([7, 1, epoch]).permutation(mine)
        np.testing.assert_array_equal(order, expected[: len(order)])


def test_the_incomplete_last_batch_is_left_out():
    shards = Shards(np.arange(11), batch_size=3, num_workers=1)
    batches = shards(0)
    first = [next(batches) for _ in range(3)]
    assert all(len(batch) == 3 for batch in first)
    assert len(set(np.concatenate(first).tolist())) == 9
    assert all(len(next(batches)) == 3 for _ in range(10))


def test_batches_keep_the_structure_and_the_examples_together():
    arrays = {"x": np.arange(12.0).reshape(6, 2), "y": [jnp.arange(6)]}
    batch = next(Shards(arrays, batch_size=2, num_workers=2, seed=3)(1))
    np.testing.assert_array_equal(batch["x"][:, 0], 2.0 * batch["y"][0])
    assert isinstance(batch["y"][0], np.ndarray)


def test_the_seed_decides_and_iterators_are_independent():
    def first(seed, worker=0):
        return next(Shards(np.arange(100), 10, 2, seed)(worker)).tolist()

    assert first(0) == first(0)
    assert first(0) != first(1)
    shards = Shards(np.arange(100), 10, 2)
    one, other = shards(0), shards(0)
    next(one)
    assert next(other).tolist() == first(0)


@pytest.mark.parametrize("taken", [0, 1, 2, 3, 7])
def test_a_state_resumes_exactly_through_json(taken):
    shards = Shards(np.arange(14), batch_size=2, num_workers=2)
    batches = shards(1)
    for _ in range(taken):
        next(batches)
    state = json.loads(json.dumps(batches.get_state()))
    expected = [next(batches).tolist() for _ in range(5)]
    resumed = shards(1)
    resumed.set_state(state)
    assert [next(resumed).tolist() for _ in range(5)] == expected


def test_a_state_of_other_data_is_refused():
    shards = Shards(np.arange(14), batch_size=2, num_workers=2)
    with pytest.raises(ValueError, match="worker is 0 in the state and 1 here"):
        shards(1).set_state(shards(0).get_state())
    with pytest.raises(ValueError, match="batch_size is 3 in the state and 2 here"):
        shards(1).set_state(Shards(np.arange(14), 3, 2)(1).get_state())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: Shards(np.arange(4), 0, 1),
            r"`Shards\(batch_size=...\)` must be at least 1, got 0",
        ),
        (lambda: Shards(np.arange(4), 1, 0), r"`Shards\(num_workers=...\)` must be at least 1"),
        (
            lambda: Shards(np.arange(4), 1, 1, -1),
            r"`Shards\(seed=...\)` must be non-negative, got -1",
        ),
        (lambda: Shards({}, 1, 1), "at least one array"),
        (lambda: Shards({"x": np.float32(1)}, 1, 1), r"but arrays\['x'\] is a scalar"),
        (
            lambda: Shards({"x": np.ones((5, 2)), "y": np.ones(4)}, 1, 1),
            r"one length, but arrays\['x'\] has 5, arrays\['y'\] has 4",
        ),
        (
            lambda: Shards(np.arange(3), 2, 5),
            r"leaves worker 3 with 0 of the 3 examples of `arrays`; lower `num_workers` to at m",
        ),
        (
            lambda: Shards(np.arange(11), 4, 3),
            r"`Shards\(batch_size=4\)` is more than the 3 examples of worker 2, of .* "
            r"lower `batch_size` to at most 3",
        ),
        (lambda: Shards(np.arange(4), 1, 2)(2), r"must be in 0..1, got 2"),
        (lambda: Shards(np.arange(4), 1, 2)(-1), r"must be in 0..1, got -1"),
    ],
)
def test_errors_say_what_to_change(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch_size", "8"), ("batch_size", 8.5), ("num_workers", 2.0), ("seed", None)],
)
def test_numbers_that_are_not_whole_are_refused(name, value):
    arguments = {"batch_size": 1, "num_workers": 1, name: value}
    message = rf"`Shards\({name}=...\)` must be an integer, got {value!r}\."
    with pytest.raises(TypeError, match=message):
        Shards(np.arange(9), **arguments)


def test_numpy_integers_are_whole_numbers():
    shards = Shards(np.arange(9), np.int64(2), np.int32(2), np.uint8(1))
    assert next(shards(1)).tolist() == next(Shards(np.arange(9), 2, 2, 1)(1)).tolist()
    json.dumps(shards(1).get_state())


def test_shards_touch_no_device():
    program = (
        "import numpy as np; from jax._src import xla_bridge; from jax_ssp.data import Shards\n"
        "next(Shards(np.arange(4), 1, 2)(0)); assert not xla_bridge.backends_are_initialized()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


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
