"""Trees that lie on slices are cut by fragment and position: the same numbers, and no traffic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from jax_ssp.compression import nbytes
from jax_ssp.fragments import Fragments
from jax_ssp.layout import Statistic
from jax_ssp.server.partition import Cut, Parts, ranges_of
from jax_ssp.server.shards import ShardCut
from jax_ssp.slices import Slice

P = jax.P
RNG = np.random.default_rng(0)


def leaf(*shape):
    return jnp.float32(RNG.normal(size=shape))


TREE = {
    "blocks": {"down": leaf(8, 4), "up": leaf(8, 2, 2)},
    "head": leaf(4, 6),
    "scale": leaf(),
    "wide": leaf(2, 8),
}
LIES = {
    "blocks": {"down": P("x", "y"), "up": P(None, "y")},
    "head": P(None, "x"),
    "scale": P(),
    "wide": P(None, ("x", "y")),
}
KINDS = {
    "bytes": Fragments(3),
    "strided": Fragments(3, by="strided", layers="blocks"),
    "sequential": Fragments(2, by="sequential", layers="blocks"),
    "paths": Fragments(paths=(("blocks/up", "scale"), ("head",), ("blocks/down", "wide"))),
    "one": None,
}


def there(kind=AxisType.Auto):
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("x", "y"), axis_types=(kind, kind))
    return Slice(mesh, tuple(jax.tree.leaves(LIES)))


def lying(tree, on):
    return jax.tree.map(jax.device_put, tree, on.tree(tree))


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


QUICK = {"strided"}  # which cuts along an axis that is sharded, one that is not, and by whole leaf
CASES = [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in KINDS]


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("shares", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_each_number_is_in_one_piece_and_comes_back(kind, shares):
    on = there()
    cut, plain = ShardCut(TREE, on, shares, KINDS[kind]), Parts(TREE, 1, KINDS[kind])
    tree = lying(TREE, on)
    pieces = []
    for fragment in range(plain.num_fragments):
        mine = cut.shards(tree, on, fragment)
        assert nbytes(mine) == nbytes(plain.pieces_of(TREE, fragment))
        devices = [on.devices[position] for position in cut.positions]
        for piece, device in zip(mine, devices, strict=True):
            assert all(leaf.devices() == {device} for leaf in jax.tree.leaves(piece))
        pieces += mine
    assert len(pieces) == cut.num_pieces
    equal(pieces, cut.apart(TREE))
    assert [jax.tree.map(jnp.shape, each) for each in pieces] == [
        jax.tree.map(jnp.shape, each) for each in cut.shapes
    ]
    again = cut.together(pieces, on)
    equal(again, TREE)
    assert jax.tree.map(lambda leaf: leaf.sharding, again) == on.tree(TREE)


@pytest.mark.parametrize("kind", CASES[:-1])
@pytest.mark.parametrize(
    "axes", [AxisType.Auto, pytest.param(AxisType.Explicit, marks=pytest.mark.slow)], ids=str
)
def test_a_fragment_on_a_slice_has_the_same_numbers_and_nothing_moves(kind, axes):
    on = there(axes)
    cut, plain = ShardCut(TREE, on, 1, KINDS[kind]), Cut(TREE, ranges=ranges_of(KINDS[kind], TREE))
    other = jax.tree.map(lambda leaf: leaf + 1, TREE)
    tree, others = lying(TREE, on), lying(other, on)
    take = jax.jit(cut.whole.piece, static_argnums=1)
    put = jax.jit(cut.whole.put, static_argnums=1)
    for fragment in range(cut.num_fragments):
        with on.entered():
            piece = take(others, fragment)
            new = put(tree, fragment, piece)
            texts = [
                take.lower(others, fragment).compile().as_text(),
                put.lower(tree, fragment, piece).compile().as_text(),
            ]
        for text in texts:
            assert not [word for word in ("all-", "collective", "permute") if word in text]
        equal(new, plain.put(TREE, fragment, plain.piece(other, fragment)))
        for leaf, sharding in zip(*map(jax.tree.leaves, (new, on.tree(TREE))), strict=True):
            assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
        # What is sent comes to the same: rows of other fragments are 0 where they are there at all.
        sent = cut.assembled(cut.shards(others, on, fragment), on, fragment)
        equal(sent, piece)
        numbers = [
            sum(float(jnp.sum(each)) for each in jax.tree.leaves(some))
            for some in (piece, plain.piece(other, fragment))
        ]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-5)
        for like, leaf in zip(
            *map(jax.tree.leaves, (cut.whole.like(fragment, tree), sent)), strict=True
        ):
            assert (like.shape, like.dtype) == (leaf.shape, leaf.dtype)
            assert like.sharding == leaf.sharding


@pytest.mark.slow
def test_statistics_are_cut_with_their_moves():
    on = there()
    cut = ShardCut(TREE, on, 1, KINDS["strided"])
    tree = lying(TREE, on)
    tree["blocks"]["down"] = Statistic(tree["blocks"]["down"], -tree["blocks"]["down"])
    pieces = [p for each in range(3) for p in cut.shards(tree, on, each)]
    equal(cut.together(pieces, on), tree)
    with on.entered():
        piece = jax.jit(cut.whole.piece, static_argnums=1)(tree, 1)
    equal(cut.assembled(pieces[cut.of(1)], on, 1), piece)
