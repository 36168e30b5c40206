"""What a worker cuts for shares, and puts together of theirs, is what its programs would make."""

import gc

import jax
import jax.numpy as jnp
import numpy as np

from jax_ssp.layout import Statistic
from jax_ssp.runtimes.ray.whole import Whole
from jax_ssp.server.partition import Parts
from tests.helpers.problems import bits

TREE = {
    "table": np.arange(50, dtype=np.float32).reshape(10, 5),
    "more": [np.float32(7), np.arange(9, dtype=np.float16)],
    "narrow": np.arange(3, dtype=jnp.bfloat16),
}


def test_pieces_are_those_of_parts_and_come_together_again():
    for shares in (2, 3, 5):
        parts, whole = Parts(TREE, shares), Whole(TREE, shares)
        pieces = whole.apart(TREE)
        assert [bits(each) for each in pieces] == [bits(each) for each in parts.split(TREE)]
        again = whole.together(iter(pieces))
        assert bits(again) == bits(TREE)
        assert {leaf.ctypes.data % 64 for leaf in jax.tree.leaves(again)} == {0}


def test_a_leaf_may_have_several_arrays_and_large_ones_are_not_copied():
    whole = Whole({"s": np.zeros(6, np.float32)}, 2)
    delta = {"s": Statistic(np.arange(6, dtype=np.float32), np.ones(6, np.float32))}
    first, second = whole.apart(delta)
    assert first["s"].value.tolist() == [0, 1, 2]
    assert second["s"].value.tolist() == [3, 4, 5]
    assert np.shares_memory(second["s"].value, delta["s"].value)


def test_memory_is_not_used_again_while_a_program_or_a_view_refers_to_it():
    size = 1 << 16
    whole = Whole({"w": np.zeros(size, np.float32)}, 2)
    halves = [{"w": np.full(size // 2, each, np.float32)} for each in (1, 2)]
    tree = whole.together(halves)
    where, held = tree["w"].ctypes.data, jax.device_put(tree["w"])
    view = tree["w"][5:]
    del tree
    others = [{"w": -half["w"]} for half in halves]
    for _ in range(3):
        assert whole.together(others)["w"].ctypes.data != where
    assert (np.asarray(held[:3]).tolist(), view[:3].tolist()) == ([1, 1, 1], [1, 1, 1])
    del held
    gc.collect()
    assert whole.together(others)["w"].ctypes.data != where  # for the view
    del view
    both = [whole.together(others) for _ in range(3)]
    assert where in [tree["w"].ctypes.data for tree in both]
