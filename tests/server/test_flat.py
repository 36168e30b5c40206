"""A tree as one flat array, from one memory to another."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp import placement
from jax_ssp.placement import PINNED, Placement, separate_memory
from jax_ssp.server import flat as module
from jax_ssp.server.flat import Flat, Form
from jax_ssp.server.packing import ALIGNMENT
from jax_ssp.server.snapshot import Snapshot
from jax_ssp.worker.outbox import Dispatched, Outbox, Seat
from jax_ssp.worker.replica import Part
from tests.helpers.problems import batches, bits

MIXED = {
    "float": np.linspace(-1, 1, 7, dtype=np.float32).reshape(7, 1),
    "nan": np.array([0x7FC01234, 0x00000001], np.uint32).view(np.float32),
    "half": np.array([1.5, -0.0, np.inf], ml_dtypes.bfloat16),
    "none": np.zeros((0, 3), np.float32),
    "nested": (np.int8(3), np.array([True, False]), np.array([1 - 2j], np.complex64)),
    "empty": [],
    "eighth": np.array([1, -2, 3], ml_dtypes.float8_e4m3fn),
    "fourth": np.array([1, -2, 3], ml_dtypes.int4),  # its numbers are no whole bytes: it goes alone
}
MOST = {
    "of 4 bytes": {},
    "of 2 bytes": {"more": np.arange(300, dtype=np.float32).astype(ml_dtypes.bfloat16)},
    "of 1 byte": {"more": np.arange(120, dtype=np.int8)},
}
FIRST, SECOND, _, LAST = jax.devices()  # in the test mode the last one is the host


@pytest.fixture
def apart():
    with separate_memory():
        yield


def on(device, tree):
    return jax.device_put(tree, device)


@pytest.mark.parametrize("most", MOST)
@pytest.mark.parametrize("way", [(FIRST, LAST), (FIRST, SECOND), (LAST, FIRST)], ids=str)
@pytest.mark.every(4)
def test_what_arrives_has_the_same_bits(apart, most, way):
    source, to = map(Placement.of, way)
    tree = MIXED | MOST[most]
    flat = Flat.of(on(source.device, tree), source)
    assert len(flat.arrays) == 2
    assert flat.form.word.itemsize == int(most.split()[1])
    for arrived in (flat.sent(source, to).received(to), flat.received(to)):
        assert bits(arrived) == bits(tree)


def test_wide_numbers_go_with_narrow_ones(apart):
    with jax.enable_x64(True):
        tree = {"wide": np.array([1.5, 2.5]), "narrow": np.ones(3, np.float32)}
        tree |= {"pairs": np.array([1 + 2j, 3 - 4j])}
        source, to = Placement.of(FIRST), Placement.of(SECOND)
        flat = Flat.of(on(FIRST, tree), source)
        assert flat.form.word == np.uint64
        assert bits(flat.sent(source, to).received(to)) == bits(tree)
        assert bits(flat.sent(source, Placement.host()).received(Placement.host())) == bits(tree)


def test_on_the_host_arrays_are_views_of_pinned_memory(apart):
    tree = on(FIRST, {"a": np.ones(3, np.float32), "b": np.ones((2, 5), np.float32)})
    source, host = Placement.of(FIRST), Placement.host()
    sent = Flat.of(tree, source).sent(source, host)
    (flat,) = sent.arrays
    assert flat.sharding.memory_kind == PINNED
    start = flat.unsafe_buffer_pointer()
    at = [leaf.ctypes.data - start for leaf in jax.tree.leaves(sent.received(host))]
    assert at == [0, ALIGNMENT]


def test_one_array_is_flat_as_it_is(apart):
    delta = on(FIRST, {"w": np.ones((2, 3), np.float32)})
    assert Flat.of(delta, Placement.of(FIRST)).arrays[0] is delta["w"]
    assert not Form.of(delta).is_flat


def test_what_leaves_the_host_goes_together_where_it_is_small(apart, monkeypatch):
    tree = {name: np.ones(size, np.float32) for name, size in zip("abc", (2, 3, 64), strict=True)}
    monkeypatch.setattr(module, "SMALL", 16)
    for device, sizes in ((LAST, [2 * ALIGNMENT, 256]), (FIRST, [2 * ALIGNMENT + 256])):
        flat = Flat.of(on(device, tree), Placement.of(device))
        assert [array.nbytes for array in flat.arrays] == sizes
        assert bits(flat.received(Placement.of(SECOND))) == bits(tree)


def test_keys_of_random_numbers_go_alone(apart):
    tree = {"key": jax.random.key(3), "a": jnp.ones(2), "b": jnp.ones(3)}
    there = Placement.of(SECOND)
    arrived = Flat.of(on(FIRST, tree), Placement.of(FIRST)).received(there)
    assert (jax.random.key_data(arrived["key"]) == jax.random.key_data(tree["key"])).all()


# Where it is used.


def test_a_snapshot_is_laid_out_once_for_all_who_read_it(apart, monkeypatch):
    laid = []
    lay_out = module._laid_out
    monkeypatch.setattr(module, "_laid_out", lambda *a, **k: laid.append(1) or lay_out(*a, **k))
    tree = {"a": np.ones(3, np.float32), "b": np.zeros(2, np.float32)}
    snapshot = Snapshot(0, [on(LAST, tree)])
    for device in (FIRST, SECOND, FIRST):
        (piece,) = snapshot.to([device])
        assert bits(piece) == bits(tree)
        assert {leaf.device for leaf in jax.tree.leaves(piece)} == {device}
    assert len(laid) == 1
    assert snapshot.to([LAST])[0] is snapshot.pieces[0]
    snapshot.release()
    assert not snapshot._flat


def loss_fn(params, batch, key):
    x, y = batch
    return jnp.mean((x @ params["w"] + sum(b.sum() for b in params["b"]) - y) ** 2), {}


PROBLEM = {
    "step": ssp.make_step(loss_fn, optax.sgd(0.01)),
    "params": {"w": np.zeros(6, np.float32), "b": [np.zeros(3, np.float32)] * 2},
    "data": batches,
    "num_clocks": 4,
    "progress": False,
}


@pytest.fixture
def copies(monkeypatch):
    """How many arrays each copy of deltas and snapshots brought at once."""
    seen = {"send": [], "receive": []}

    def count(name):
        function = getattr(Placement, name)

        def counted(self, tree, *to):
            arrived = function(self, tree, *to)
            if arrived is not tree:
                seen[name].append(len(jax.tree.leaves(tree)))
            return arrived

        monkeypatch.setattr(Placement, name, counted)

    any(map(count, seen))
    return seen


@pytest.mark.parametrize("wire", [None, ssp.compression.BFloat16(), ssp.compression.Int8(block=4)])
@pytest.mark.parametrize("fragments", [None, ssp.Fragments(2)], ids=["whole", "fragments"])
@pytest.mark.every(7)
def test_each_part_is_one_copy_either_way(apart, copies, wire, fragments, monkeypatch):
    """And the mathematics is what it is without."""
    spec = {"policy": ssp.BSP(), "fragments": fragments, "delta_wire": wire, "snapshot_wire": wire}
    runtime = ssp.Devices(devices=[FIRST, SECOND])
    result = ssp.train(**PROBLEM, **spec, runtime=runtime, placement="host")
    assert result.updates == 8
    assert {name: {*seen} for name, seen in copies.items()} == {"send": {1}, "receive": {1}}
    monkeypatch.setattr(placement, "_separate", False)
    shared = ssp.train(**PROBLEM, **spec, runtime=runtime, placement="host")
    assert bits(shared.params) == bits(result.params)


@pytest.mark.parametrize("wire", [None, ssp.compression.Int8(block=4)])
@pytest.mark.every(2)
def test_each_part_of_a_slice_is_one_copy_either_way(apart, copies, wire):
    shardings = {"w": jax.P("fsdp"), "b": [jax.P(), jax.P()]}
    runtime = ssp.Devices(
        num_workers=1, devices_per_worker=2, axes={"fsdp": 2}, shardings=shardings
    )
    spec = {"policy": ssp.BSP(), "delta_wire": wire, "snapshot_wire": wire, "placement": "host"}
    result = ssp.train(**PROBLEM, **spec, runtime=runtime)
    assert result.updates == 4
    assert {name: {*seen} for name, seen in copies.items()} == {"send": {1}, "receive": {1}}


@pytest.mark.parametrize("where", ["host", "cpu:1"])
def test_nothing_is_compiled_once_clocks_are_sent(apart, where, compilations, monkeypatch):
    """Neither what lays out and takes out, nor another merge of what arrives as NumPy arrays."""
    module._laid_out.clear_cache()
    module._taken_out.clear_cache()
    since, send = [], Outbox.send
    monkeypatch.setattr(Outbox, "send", lambda *a: since.append(compilations()) or send(*a))

    class Count(ssp.Observer):
        def on_clock(self, row):
            since.append(compilations())

    ssp.train(
        **PROBLEM,
        policy=ssp.BSP(),
        runtime=ssp.Devices(devices=[FIRST]),
        placement=where,
        observers=[Count()],
    )
    assert since[1:] == [0] * 7


def test_what_is_on_its_way_can_be_kept_and_sent_again(apart):
    tree = {"a": np.ones(3, np.float32), "b": np.arange(2, dtype=np.float32)}
    seat = Seat(FIRST, FIRST, (LAST, SECOND))
    first, again = Outbox(seat), Outbox(seat)
    part = Part(1, 4, 32, jnp.array(True), {})
    first.send(Dispatched(0, 0, [on(FIRST, tree)] * 2, [part], None))
    kept = first.last
    assert [bits(each) for each in kept.payload] == [bits(tree)] * 2
    again.send(kept._replace(payload=on(FIRST, kept.payload)))
    for outbox in (first, again):
        assert [bits(each) for each in outbox.wait().payload] == [bits(tree)] * 2
