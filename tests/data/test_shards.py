"""Shards cover the examples exactly."""

import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from jax_ssp.data.shards import Shards


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


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
@pytest.mark.parametrize("examples", [12, 13, 23])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_samples_per_epoch_is_what_all_workers_are_given_in_one_pass(examples, workers, size):
    shards = Shards(np.arange(examples), size, workers, seed=1)
    given = [epochs(shards, worker, 1)[0] for worker in range(workers)]
    assert shards.samples_per_epoch == sum(map(len, given))
    assert len(set(np.concatenate(given).tolist())) == shards.samples_per_epoch
    assert examples - workers * (size - 1) <= shards.samples_per_epoch <= examples


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


@pytest.mark.slow
def test_shards_touch_no_device():
    program = (
        "import numpy as np; from jax._src import xla_bridge; from jax_ssp.data import Shards\n"
        "next(Shards(np.arange(4), 1, 2)(0)); assert not xla_bridge.backends_are_initialized()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
