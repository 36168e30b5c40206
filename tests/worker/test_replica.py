"""What becomes of a replica, from the definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_ssp.worker import replica as of
from jax_ssp.worker.replica import Ahead, Own, Part, Replica

KEY = jax.random.key(0)
PART = Part(2, 8, 0, True, {"loss": 1.0})


def some(**others):
    """A replica in the middle of a run."""
    fields = {
        "version": 4,
        "held": {"w": jnp.arange(3.0)},
        "base": {"w": jnp.arange(3.0) + 1},
        "delta": {"w": jnp.full(3, 0.5)},
        "state": {"momentum": jnp.ones(3)},
        "residual": [{"w": jnp.full(3, 0.25)}],
        "own": {3: Own("sent 3", "delta 3"), 5: Own("sent 5", "delta 5")},
        "ahead": None,
        "cursor": 7,
        "key": KEY,
        "round": 6,
    }
    return Replica(**{**fields, **others})


def changed(before, after):
    """The fields that are another object in one than in the other."""
    return {name for name in Replica._fields if getattr(before, name) is not getattr(after, name)}


def test_before_its_first_clock_it_has_nothing_to_go_on_with():
    state, residual = {"momentum": jnp.zeros(2)}, [jnp.zeros(2)]
    born = of.born({"w": jnp.ones(2)}, state, residual, KEY)
    assert born.version == -1
    assert (born.base, born.delta, born.ahead, born.own, born.cursor) == (None, None, None, {}, 0)
    assert born.ran == 0
    assert changed(born, some(held=born.held, state=state, residual=residual)) == {
        *("version", "base", "delta", "own", "cursor", "round"),
    }


@settings(deadline=None)
@given(own=st.sets(st.integers(0, 9)), pending=st.sets(st.integers(0, 9)))
def test_with_a_clock_it_keeps_the_own_deltas_that_are_pending(own, pending):
    before = some(own={stamp: Own(f"sent {stamp}", f"delta {stamp}") for stamp in sorted(own)})
    after, gone = of.begun(before, 6, "held", tuple(pending))
    assert list(after.own) == sorted(own & pending)
    assert all(after.own[stamp] is before.own[stamp] for stamp in after.own)
    assert gone == [f"delta {stamp}" for stamp in sorted(own - pending)]
    assert (after.version, after.held, after.base, after.delta) == (6, "held", None, None)
    assert changed(before, after) <= {"version", "held", "base", "delta", "own"}


@settings(deadline=None)
@given(
    held=st.floats(-10, 10),
    own=st.lists(st.floats(-10, 10), max_size=4),
    weight=st.floats(0.125, 1),
)
def test_it_reads_the_snapshot_and_each_pending_delta_times_the_weight(held, own, weight):
    sent = {n: Own(delta, None) for n, delta in enumerate(own)}
    found = of.read(held, sent, lambda params, delta, factor: params + factor * delta, weight)
    np.testing.assert_allclose(found, held + weight * sum(own), rtol=1e-9, atol=1e-9)


AHEAD = Ahead("progress", PART)


@pytest.mark.parametrize(
    ("ahead", "delta", "mixes", "expected"),
    [
        (None, "delta", False, None),
        (AHEAD, "delta", False, "progress"),
        (None, None, True, None),  # before the first clock
        (AHEAD, None, True, "progress"),  # behind a clock that was not finite
        (None, "delta", True, ("old", "base", "delta")),
        (AHEAD, "delta", True, ("old", "base", "delta", "progress")),
    ],
)
def test_what_a_clock_begins_with(ahead, delta, mixes, expected):
    replica = some(base="old", delta=delta, ahead=ahead)
    mixed = (lambda *arguments: arguments) if mixes else None
    assert of.carried(replica, "base", mixed) == expected


def test_what_is_run_ahead_counts_until_its_clock_is_dispatched():
    before = some()
    ahead = of.ran_ahead(before, AHEAD, "state", cursor=9)
    assert changed(before, ahead) == {"ahead", "state", "cursor"}
    assert (before.ran, ahead.ran) == (0, 2)
    begun, _ = of.begun(ahead, 5, "held", (3, 5))
    assert begun.ran == 2
    after = of.dispatched(begun, "base", "delta", "state", ["lost"], {6: "own"}, cursor=10, round=8)
    assert after == Replica(
        5, "held", "base", "delta", "state", ["lost"], {6: "own"}, None, 10, before.key, 8
    )


@pytest.mark.parametrize("carries", [True, False])
def test_a_cancelled_clock_leaves_all_as_it_was_but_the_batches_and_the_snapshot(carries):
    before = some()
    kept = jax.tree.map(np.array, before._replace(key=None))
    undo = of.undoable(before, carries)
    begun, _ = of.begun(before, 5, {"w": jnp.zeros(3)}, pending=(5,))
    base, own = {"w": jnp.zeros(3)}, {6: Own(1, 1)}
    running = of.dispatched(begun, base, None, None, [], own, cursor=9, round=1)
    jax.tree.map(lambda leaf: leaf.delete(), (before.state, before.residual))  # as programs do
    after = of.cancelled(running, undo)
    assert (after.version, after.held, after.cursor, after.ahead) == (-1, None, 9, None)
    assert (after.own, after.key) == (before.own, before.key)
    lost = {"version", "held", "cursor", "key"} | (set() if carries else {"base", "delta"})
    for name in set(Replica._fields) - lost:
        found, expected = getattr(after, name), getattr(kept, name)
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    if not carries:
        assert (after.base, after.delta) == (None, None)


def test_what_is_spoiled_has_no_finite_number():
    delta = {"w": jnp.arange(3.0), "count": jnp.arange(2)}
    spoiled, parts = of.spoiled(delta, [PART, PART])
    assert np.isnan(spoiled["w"]).all()
    np.testing.assert_array_equal(spoiled["count"], delta["count"])
    assert [bool(part.finite) for part in parts] == [True, False]


def test_a_replica_is_a_tree_of_arrays():
    replica = some(
        own={5: Own(jnp.ones(2), None), 3: Own(jnp.zeros(2), jnp.zeros(2))},
        ahead=Ahead(jnp.ones(2), PART),
    )
    leaves, structure = jax.tree.flatten(replica)
    again = jax.tree.unflatten(structure, leaves)
    assert isinstance(again, Replica)
    assert changed(replica, again) <= set(Replica._fields) - {"version", "cursor", "key"}
    assert list(again.own) == [3, 5]  # added in the order of their clocks
    assert again.ahead.part == PART
