"""The store in this process: who needs a version, what is kept of a push, what bases are."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp.controller.commands import Merge, Merged, StartClock
from jax_ssp.controller.events import Token
from jax_ssp.server.local_store import LocalStore
from jax_ssp.server.memory import Memory
from jax_ssp.server.snapshot import Snapshot


def start(grant, worker=0, clock=0, version=0, pending=(), weight=1.0):
    return StartClock(worker, clock, 1, version, pending, 1, weight, Token(0, grant))


def merge(version, *starts, weight=1.0):
    deltas = (Merged(s.worker, s.clock, s.version, 0, 0, weight, s.token) for s in starts)
    return Merge(version, tuple(deltas), 1)


def push(store, start, value):
    store.push(start.finished(), [{"w": jnp.float32([value])}], {})


def store_of(**server):
    return LocalStore(ssp.Server({"w": np.zeros(1, np.float32)}, weight="sum", **server))


def held(store):
    """The versions that can be read."""
    versions = []
    for version in range(store.version + 1):
        try:
            store.snapshot(version).release()
        except LookupError:
            continue
        versions.append(version)
    return versions


# Who needs a version.


def test_a_version_stays_until_its_clock_is_settled_and_its_worker_reads_another():
    store = store_of()
    first, other = start(0), start(1, worker=1)
    store.lease(first)
    store.lease(other)
    push(store, first, 1.0)
    store.merge(merge(1, first))
    assert held(store) == [0]  # of worker 1's clock; and worker 0 may be granted it once more
    again = start(2, clock=1)
    store.lease(again)
    assert held(store) == [0]
    push(store, other, 1.0)
    store.merge(merge(2, other))
    store.lease(start(3, worker=1, clock=1, version=2))
    assert held(store) == [0, 2]
    store.drop(again.token)
    assert held(store) == [0, 2]  # the clock is over, but worker 0 holds it
    store.lease(start(4, clock=2, version=2))
    assert held(store) == [2]


def test_a_version_is_compressed_once_though_all_who_read_it_have_left():
    server = ssp.Server({"w": np.linspace(0.0, 1.0, 7, dtype=np.float32)})
    store = LocalStore(server, snapshot_wire=ssp.compression.Int8())
    first = start(0)
    store.lease(first)
    store.push(first.finished(), [{"w": jnp.full(7, 0.3)}], {})
    store.merge(merge(1, first))
    read = []
    for grant in (2, 3, 4):
        running = start(grant, worker=grant, version=1)
        store.lease(running)
        snapshot = store.snapshot(1)
        read.append(jax.tree.map(np.asarray, snapshot.pieces))
        snapshot.release()
        store.leave(grant)
        store.leave(0)
        assert held(store) == []
    for other in read[1:]:
        jax.tree.map(np.testing.assert_array_equal, other, read[0])


INT8 = ssp.compression.Int8(block=4)


class InFragments:
    """A store of two fragments, a and b, whose snapshots are compressed, and its one worker."""

    def __init__(self):
        first = {name: np.linspace(0.0, 1.0, 7, dtype=np.float32) for name in "ab"}
        server = ssp.Server(first, weight="sum", fragments=ssp.Fragments(paths=(("a",), ("b",))))
        self.store, self.compressed = LocalStore(server, snapshot_wire=INT8), []
        compress = self.store._published._compress

        def counting(piece, residual):
            self.compressed.append(jax.tree.map(np.array, (piece, residual)))
            return compress(piece, residual)

        self.store._published._compress = counting

    def merged(self, running):
        """The fragment that this clock pushes is merged."""
        delta = dict.fromkeys("ab", jnp.zeros(0)) | {self.of(running): jnp.full(7, 0.31)}
        self.store.push(running.finished(), [delta], {})
        self.store.merge(merge(running.version + 1, running))

    def granted(self, clock):
        """Its next clock, and the version that it reads."""
        running = start(clock, clock=clock, version=clock)
        self.store.lease(running)
        snapshot = self.store.snapshot(clock)
        snapshot.release()
        return running, list(snapshot.pieces)

    @staticmethod
    def of(running):
        return "ab"[running.clock % 2]


def test_only_the_fragment_that_changed_is_compressed_anew():
    """The others keep their message, and what was lost of them is lost once."""
    own = InFragments()
    running, before = own.granted(0)
    assert own.compressed == []  # version 0 was, as the store was made
    for clock in range(1, 5):
        own.merged(running)
        name, changed = own.of(running), running.clock % 2
        running, after = own.granted(clock)
        assert after[changed] is not before[changed]
        assert after[1 - changed] is before[1 - changed]
        piece, residual = own.compressed[-1]
        read, lost = INT8.decode(after[changed], piece), own.store._published.residuals[changed]
        wanted = piece[name] + residual[name] - read[name]
        np.testing.assert_allclose(lost[name], wanted, atol=1e-6)
        assert np.abs(lost[name]).max() > 1e-4  # so that it would show if it came twice
        before = after
    assert len(own.compressed) == 4


def test_a_fragment_that_is_compressed_is_so_where_a_store_goes_on():
    """Of a version that nobody has read yet some pieces are as they travel, and some are not."""
    was, here = InFragments(), InFragments()
    running, _ = was.granted(0)
    for clock in (1, 2):
        was.merged(running)
        here.store.load(*was.store.save([]))
        before = len(here.compressed)
        (running, wanted), (_, found) = was.granted(clock), here.granted(clock)
        jax.tree.map(np.testing.assert_array_equal, found, wanted)
        assert len(here.compressed) == before + 1
        lost = here.store._published.residuals, was.store._published.residuals
        jax.tree.map(np.testing.assert_array_equal, *lost)


def test_who_leaves_needs_nothing_more_but_what_is_pushed_is_merged():
    store = store_of()
    pushed, running = start(0), start(1, clock=1)
    store.lease(pushed)
    push(store, pushed, 3.0)
    store.lease(running)
    store.leave(0)
    store.merge(merge(1, pushed))
    assert store.params["w"].tolist() == [3.0]
    assert held(store) == []
    store.leave(0)
    push(store, running, 5.0)  # late; it is fenced
    store.drop(running.token)
    assert (store._pushes, store.leases.clocks) == ({}, {})


def test_nothing_is_left_of_what_is_dropped():
    store = store_of()
    dropped = start(0)
    store.lease(dropped)
    push(store, dropped, 1.0)
    for _ in range(2):
        store.drop(dropped.token)
    with pytest.raises(KeyError):
        store.merge(merge(1, dropped))


def test_a_version_that_nobody_has_leased_cannot_be_read():
    store = store_of()
    store.lease(start(0))
    for number in range(1, 4):
        clock = start(number, worker=1, clock=number, version=number - 1)
        store.lease(clock)
        push(store, clock, 1.0)
        store.merge(merge(number, clock))
    assert held(store) == [0, 2]
    for version in (1, 3, 7):
        with pytest.raises(LookupError, match=f"nobody has leased version {version}"):
            store.snapshot(version)


def test_memory_is_given_back_by_the_last_who_lets_go():
    given = []

    class Keeps(Memory):
        def give(self, tree):
            given.append(tree)

    piece = {"w": jnp.zeros(2)}
    snapshot = Snapshot(0, [piece], [Keeps(piece, jax.devices("cpu")[0])])
    reader = snapshot.hold()
    snapshot.release()
    assert given == []
    reader.release()
    assert given == [piece]
    for misuse in (reader.release, reader.hold):
        with pytest.raises(AssertionError):
            misuse()


# Bases.


def looking(seen):
    """A transform that tells the bases of deltas."""

    def update(updates, state, params=None, *, stale_params, **_):
        jax.debug.callback(lambda base: seen.append(float(base[0])), stale_params["w"])
        return updates, state

    return optax.GradientTransformationExtraArgs(lambda params: (), update)


def test_a_base_is_what_was_read_and_the_own_deltas_that_it_lacked():
    seen = []
    store = store_of(delta_tx=looking(seen))
    seen.clear()
    clocks = [
        start(0),
        start(1, clock=1, pending=(0,), weight=0.5),
        start(2, clock=2, pending=(0, 1), weight=0.25),
    ]
    for clock, value in zip(clocks, (8.0, 16.0, 32.0), strict=True):
        store.lease(clock)
        push(store, clock, value)
    store.merge(merge(1, *clocks, weight=0.0))
    jax.effects_barrier()
    assert seen == [0.0, 0.5 * 8, 0.25 * (8 + 16)]


def test_a_base_holds_own_deltas_that_are_merged_in_a_version_it_does_not_read():
    seen = []
    store = store_of(delta_tx=looking(seen))
    seen.clear()
    first, lazy = start(0), start(1, clock=1, pending=(0,))
    store.lease(first)
    push(store, first, 8.0)
    store.merge(merge(1, first))
    store.lease(lazy)  # on version 0 still
    push(store, lazy, 16.0)
    store.merge(merge(2, lazy))
    newest = start(2, clock=2, version=2)
    store.lease(newest)
    push(store, newest, 0.0)
    store.merge(merge(3, newest))
    jax.effects_barrier()
    assert seen == [0.0, 8.0, 24.0]


def test_who_comes_again_adds_nothing_of_its_first_stay():
    seen = []
    store = store_of(delta_tx=looking(seen))
    seen.clear()
    lost, again = start(0), start(1)
    store.lease(lost)
    push(store, lost, 8.0)
    store.leave(0)
    store.lease(again)
    push(store, again, 1.0)
    after = start(2, clock=1, pending=(0,))
    store.lease(after)
    push(store, after, 0.0)
    store.merge(merge(1, lost, again, after, weight=0.0))
    jax.effects_barrier()
    assert seen == [0.0, 0.0, 1.0]


def test_a_version_is_opened_once_and_that_is_kept_as_long_as_the_version():
    store = store_of(delta_tx=looking([]))
    store = LocalStore(store.server, snapshot_wire=INT8)
    for number in range(3):
        clock = start(number, clock=number, version=number)
        store.lease(clock)
        assert set(store._opened) == {number}
        push(store, clock, 1.0)
        store.merge(merge(number + 1, clock))
