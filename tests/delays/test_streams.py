"""The streams of a run's workers are those that NumPy makes of the seed and the worker."""

import pickle

import numpy as np
import pytest

from jax_ssp.delays.streams import Streams, first_states


@pytest.mark.parametrize("seed", [0, 1, 7, 2**32 - 1, 2**32, 2**64 + 3, 2**130 + 5, 2**500 + 1])
def test_the_streams_of_all_workers_are_seeded_as_numpy_seeds_each(seed):
    states = first_states(seed, 5)
    for worker in range(5):
        theirs = np.random.SeedSequence([seed, worker]).generate_state(4, np.uint64)
        np.testing.assert_array_equal(states[worker], theirs)
        here, there = Streams(seed, 5).of(worker), np.random.default_rng([seed, worker])
        assert here.bit_generator.state == there.bit_generator.state
        assert here.random(3).tolist() == there.random(3).tolist()


def test_a_stream_goes_on_where_it_is():
    streams, alone = Streams(3, 2), np.random.default_rng([3, 1])
    drawn = [streams.of(1).random(), streams.of(0).random(), streams.of(1).random()]
    assert drawn[::2] == alone.random(2).tolist()


def test_a_stream_is_all_that_a_generator_is():
    here, there = Streams(7, 3).of(2), np.random.default_rng([7, 2])
    for _ in range(2):  # each time others
        children = zip(here.spawn(2), there.spawn(2), strict=True)
        assert all(ours.random() == theirs.random() for ours, theirs in children)
    seeds, others = here.bit_generator.seed_seq, there.bit_generator.seed_seq
    assert (seeds.entropy, seeds.n_children_spawned) == ([7, 2], others.n_children_spawned)
    assert seeds.generate_state(9).tolist() == others.generate_state(9).tolist()
    again = pickle.loads(pickle.dumps(here))
    assert again.random() == there.random()
    with pytest.raises(AttributeError):
        seeds.no_such_thing  # noqa: B018
