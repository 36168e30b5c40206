"""Data that all workers share: each epoch holds each example once, in whole batches."""

import pickle
import threading

import jax.numpy as jnp
import numpy as np
import pytest

from jax_ssp.data import Elastic, Epochs, Feed, Shards
from jax_ssp.data.elastic import check_change, check_elastic, is_elastic
from jax_ssp.data.ledger import Ledger


def epoch_of(epochs, number):
    return np.concatenate(
        [epochs.batch(number, index) for index in range(epochs.batches_per_epoch)]
    )


def test_an_epoch_is_a_new_order_of_the_examples():
    epochs = Epochs(np.arange(24), batch_size=4, seed=3)
    orders = [epoch_of(epochs, number) for number in range(20)]
    assert all(sorted(order.tolist()) == list(range(24)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 20
    again = Epochs(np.arange(24), batch_size=4, seed=3)
    np.testing.assert_array_equal(epoch_of(again, 7), orders[7])
    assert not np.array_equal(epoch_of(Epochs(np.arange(24), 4, seed=4), 7), orders[7])


def test_an_epoch_is_the_permutation_of_seed_and_epoch():
    order = np.random.default_rng([5, 2, 0, 2]).permutation(11)
    np.testing.assert_array_equal(epoch_of(Epochs(np.arange(11), 3, seed=5), 2), order[:9])


def test_the_incomplete_last_batch_is_left_out():
    epochs = Epochs({"x": np.arange(11)}, batch_size=3)
    assert (epochs.batches_per_epoch, epochs.samples_per_epoch) == (3, 9)
    with pytest.raises(ValueError, match=r"`Epochs.batch\(index=...\)` must be at most 2, got 3"):
        epochs.batch(0, 3)


def test_batches_keep_the_structure_and_are_new_arrays():
    epochs = Epochs({"x": np.arange(12.0).reshape(6, 2), "y": [jnp.arange(6)]}, batch_size=2)
    batch, again = epochs.batch(1, 2), epochs.batch(1, 2)
    np.testing.assert_array_equal(batch["x"][:, 0], 2.0 * batch["y"][0])
    assert not np.shares_memory(batch["x"], again["x"])
    assert not np.shares_memory(batch["x"], epochs.arrays["x"])


def test_few_orders_are_kept_and_none_travels():
    epochs = Epochs(np.arange(8), batch_size=2)
    for number in range(50):
        epochs.batch(number, 0)
    assert len(epochs._orders) <= 8
    other = pickle.loads(pickle.dumps(epochs))
    assert other._orders == {}
    np.testing.assert_array_equal(other.batch(3, 1), epochs.batch(3, 1))


def test_threads_may_ask_at_one_time():
    epochs, found = Epochs(np.arange(400), batch_size=4), {}

    def ask(worker):
        found[worker] = [epochs.batch(number, worker).tolist() for number in range(40)]

    threads = [threading.Thread(target=ask, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = Epochs(np.arange(400), batch_size=4)
    for worker, batches in found.items():
        assert batches == [alone.batch(number, worker).tolist() for number in range(40)]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Epochs(np.arange(4), 0), r"`Epochs\(batch_size=...\)` must be at least 1, got 0"),
        (lambda: Epochs(np.arange(4), 5), r"batch_size=5\)` is more than the 4 examples"),
        (lambda: Epochs(np.arange(4), 1, -1), r"`Epochs\(seed=...\)` must be non-negative"),
        (lambda: Epochs({}, 1), r"`Epochs\(arrays=...\)` must hold at least one array"),
        (lambda: Epochs({"x": np.float32(1)}, 1), r"but arrays\['x'\] is a scalar"),
    ],
)
def test_what_cannot_be_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


class Own:
    """A source of the user's."""

    batches_per_epoch, samples_per_epoch = 5, 10

    def batch(self, epoch, index):
        return np.array([epoch, index])


def test_a_source_of_ones_own_has_two_numbers_and_a_function():
    assert is_elastic(Own())
    assert isinstance(Own(), Elastic)
    assert not is_elastic(Shards(np.arange(8), 2, 2))
    assert check_elastic("data", Own()).batches_per_epoch == 5
    wrong = Own()
    wrong.samples_per_epoch = 11
    with pytest.raises(ValueError, match=r"`data` says 11 `samples_per_epoch` in 5 `batches_per"):
        check_elastic("data", wrong)
    wrong.samples_per_epoch = None
    with pytest.raises(TypeError, match=r"`data.samples_per_epoch` must be an integer, got None"):
        check_elastic("data", wrong)


def test_shards_are_refused_by_name_where_the_number_of_workers_changes():
    shards = Shards(np.arange(12), batch_size=2, num_workers=3)
    check_change(shards, before=3, now=3)
    check_change(Epochs(np.arange(12), 2), before=4, now=3)
    check_change(lambda worker: iter([1.0]), before=4, now=3)
    with pytest.raises(ValueError, match=r"begun by 4 workers.* a Shards,.* so 3 cannot go on"):
        check_change(shards, before=4, now=3)


# The feed of a worker.


def test_a_feed_gives_what_the_ledger_has_given_whatever_was_drawn_ahead():
    ledger = Ledger(5, num_workers=2)
    feeds = [Feed.dealt(Own(), ledger, None, worker) for worker in range(2)]
    assert feeds[0].peek().tolist() == [0, 0]
    feeds[1].prefetch(2)  # 1 and 3 are expected
    ledger.started(0, "a", steps=1)
    assert feeds[0].take().tolist() == [0, 0]
    ledger.left(0)
    ledger.started(1, "b", steps=2)
    assert feeds[1].take(2).tolist() == [[0, 0], [0, 1]]
    feeds[1].prefetch(2)
    ledger.pushed(1, "b")
    ledger.started(1, "c", steps=3)
    assert feeds[1].ready(3) == 3
    assert feeds[1].take(3).tolist() == [[0, 2], [0, 3], [0, 4]]
    assert feeds[1].taken == 5
    ledger.pushed(1, "c")
    ledger.started(1, "d", steps=2)
    feeds[1].skip(1)
    assert feeds[1].take().tolist() == [1, 1]


def test_what_was_expected_rightly_is_not_made_again():
    made = []

    class Counted(Own):
        def batch(self, epoch, index):
            made.append((epoch, index))
            return super().batch(epoch, index)

    ledger = Ledger(5, num_workers=2)
    feed = Feed.dealt(Counted(), ledger, None, worker=1)
    feed.prefetch(3)
    ledger.started(1, "a", steps=2)
    feed.take(2)
    ledger.left(0)
    ledger.pushed(1, "a")
    ledger.started(1, "b", steps=2)
    feed.take(2)
    assert made == [(0, 1), (0, 3), (1, 0), (0, 0), (0, 2)]


def test_a_feed_is_made_again_at_its_cursor():
    ledger = Ledger(5, num_workers=2)
    feed = Feed.dealt(Own(), ledger, None, worker=1)
    ledger.started(1, "a", steps=2)
    feed.take(2)
    ledger.pushed(1, "a")
    ledger.started(1, "b", steps=2)
    state = feed.state()
    assert state == {"cursor": 2}
    before = feed.take(2).tolist()
    assert feed.at(2, state).take(2).tolist() == before
    ledger.left(1)
    again = feed.rewound(2)
    assert again.peek().shape == (2,)  # whatever it is, to be compiled with
    ledger.started(0, "c", steps=4)
    ledger.joined(1)
    ledger.started(1, "d", steps=1)
    assert again.take().tolist() == [1, 2]
    assert feed.rewound(3).taken == 3


def test_an_error_of_the_source_is_raised_where_its_batch_is_needed():
    class Fails(Own):
        def batch(self, epoch, index):
            if index == 3:
                raise OSError("disk on fire")
            return super().batch(epoch, index)

    ledger = Ledger(5, num_workers=1)
    feed = Feed.dealt(Fails(), ledger, None, worker=0)
    feed.prefetch(4)
    ledger.started(0, "a", steps=4)
    assert feed.take(3)[:, 1].tolist() == [0, 1, 2]
    for _ in range(2):
        with pytest.raises(OSError, match="disk on fire") as caught:
            feed.take()
        assert "in `data.batch(epoch=0, index=3)`" in caught.value.__notes__


def test_a_source_that_is_no_function_is_named():
    class Draws(Own):
        def batch(self, epoch, index):
            return np.random.default_rng().normal(size=2)

    ledger = Ledger(5, num_workers=1)
    Feed.dealt(Own(), ledger, None, worker=0).check_goes_back()
    with pytest.raises(ValueError, match=r"`data.batch\(epoch=0, index=0\)` gives another batch"):
        Feed.dealt(Draws(), ledger, None, worker=0).check_goes_back()


def test_long_streams_are_trimmed():
    ledger = Ledger(5, num_workers=2)
    feed = Feed.dealt(Own(), ledger, None, worker=0)
    for token in range(6000):
        ledger.started(0, token, steps=1)
        feed.skip(1)
        ledger.pushed(0, token)
        ledger.merged(token)
    assert len(feed._drawn._stream) < 5000
    ledger.started(0, "a", steps=1)
    assert feed.take().tolist() == list(divmod(12000, 5))
