"""Which devices a run may use, how arrays come to them, and what is said where they cannot."""

import dataclasses
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jax_ssp as ssp
from jax_ssp.placement import PINNED, Placement, separate_memory

ALL = jax.devices()
MESH = Mesh(np.array(ALL[:2]), ("x",))


class Elsewhere:
    """A device of another process, as far as is asked."""

    process_index = 1
    platform = "cpu"
    __class__ = jax.Device

    def __str__(self):
        return "TFRT_CPU_9"


def loss_fn(params, batch, key):
    return (params["w"] - batch) ** 2, {}


def run(runtime, **more):
    return ssp.train(
        ssp.make_step(loss_fn, optax.sgd(0.1)),
        params={"w": jnp.float32(0)},
        data=lambda worker: iter([np.float32(1)] * 9),
        runtime=runtime,
        num_clocks=2,
        **more,
    )


@pytest.mark.parametrize("runtime", [ssp.Virtual(num_workers=2), ssp.Devices(num_workers=2)])
@pytest.mark.every(2)
def test_several_processes_are_refused(monkeypatch, runtime):
    tape = run(runtime).tape
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    message = (
        r"JAX spans 2 processes here .*a model of its own\. Run one process, without `jax\.dis"
    )
    for world in (runtime, ssp.Replay(tape)):
        with pytest.raises(RuntimeError, match=message):
            run(world)
    # Where nothing is computed, nothing is trained twice.
    rehearsal = ssp.Virtual(num_workers=2, compute=False)
    assert ssp.train(runtime=rehearsal, num_clocks=2).updates == 4


@pytest.mark.parametrize("runtime", [ssp.Virtual(num_workers=2), ssp.Devices(num_workers=2)])
@pytest.mark.every(2)
def test_a_mesh_of_several_devices_is_refused(runtime):
    message = (
        r"`jax\.set_mesh` has set a mesh of 2 devices, but a worker computes on one device\. For "
        r".*`Devices\(devices_per_worker=2, axes=\{'x': 2\}\)`, or call `train` outside of it"
    )
    with jax.set_mesh(MESH), pytest.raises(ValueError, match=message):
        run(runtime)
    with jax.set_mesh(Mesh(np.array(ALL[:1]), ("x",))):
        run(runtime)


@pytest.mark.parametrize(
    ("devices", "kind"),
    [
        (((ALL[0], ALL[1]), (ALL[2], ALL[3])), "tuple"),
        ([[ALL[0]], [ALL[1]]], "list"),
        (np.array(ALL).reshape(2, 2), "ndarray"),
        ([MESH.abstract_mesh], "AbstractMesh"),
        ([NamedSharding(MESH, PartitionSpec())], "NamedSharding"),
    ],
)
def test_a_worker_on_several_devices_is_named(devices, kind):
    message = rf"`Devices\(devices=...\)\[0\]` is a {kind}; give a flat list of devices, .*Mesh`es"
    with pytest.raises(TypeError, match=message):
        ssp.Devices(devices=devices)


@pytest.mark.parametrize(
    ("devices", "kind"),
    [
        (MESH, "Mesh"),
        (MESH.abstract_mesh, "AbstractMesh"),
        (NamedSharding(MESH, PartitionSpec("x")), "NamedSharding"),
    ],
)
def test_one_mesh_is_no_list_of_them(devices, kind):
    message = rf"`Devices\(devices=...\)` is one {kind}; give a list of meshes, one for each worker"
    with pytest.raises(TypeError, match=message):
        ssp.Devices(devices=devices)


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ([0, 1], r"`Devices\(devices=...\)\[0\]` must be a JAX device, .*, got 0"),
        ([ALL[0], "cpu:1"], r"`Devices\(devices=...\)\[1\]` must be a JAX device.* got 'cpu:1'"),
        (ALL[0], r"`Devices\(devices=...\)` must be a list of JAX devices"),
        ("cpu", r"`Devices\(devices=...\)` must be a list of JAX devices.* got 'cpu'"),
        (2, r"`Devices\(devices=...\)` must be a list of JAX devices.* got 2"),
    ],
)
def test_what_is_no_device_is_told(devices, message):
    with pytest.raises(TypeError, match=message):
        ssp.Devices(devices=devices)


def test_devices_of_another_process_are_refused():
    message = r"is TFRT_CPU_9, which belongs to process 1; only devices of this process"
    with pytest.raises(ValueError, match=r"`Devices\(devices=...\)\[1\]` " + message):
        ssp.Devices(devices=[ALL[0], Elsewhere()])
    with pytest.raises(ValueError, match=r"`placement` " + message):
        run(ssp.Virtual(num_workers=2), placement=Elsewhere())


def test_a_flat_array_of_devices_is_a_list_of_them():
    assert ssp.Devices(devices=MESH.devices).worker_devices() == ALL[:2]
    assert ssp.Devices(devices=[ALL[1], ALL[1]]).count() == 2


# How arrays come to a device.


def places():
    return [Placement.of(device) for device in ALL]


def made(place):
    """A tree of arrays that a program makes there."""
    return jax.jit(lambda x: {"a": x + 1, "b": x * 2})(jax.device_put(np.float32(1), place.device))


def addresses(tree):
    return [
        leaf.ctypes.data if isinstance(leaf, np.ndarray) else leaf.unsafe_buffer_pointer()
        for leaf in jax.tree.leaves(tree)
    ]


def test_between_cpu_devices_nothing_is_copied():
    first, second, *_ = places()
    assert first.shares_memory(second)
    tree = made(first)
    assert first.send(tree, second) is tree
    first.wait(tree)
    assert first.receive(tree) is tree
    views = second.receive(tree)
    assert addresses(views) == addresses(tree)
    assert jax.tree.map(float, views) == {"a": 2.0, "b": 2.0}


def test_with_memory_of_its_own_a_device_sends_to_pinned_memory_of_the_host():
    with separate_memory():
        first, *_, last = places()
        assert Placement.host() == last
        assert (first.on_host, last.on_host, first.shares_memory(last)) == (False, True, False)
        tree = made(first)
        sent = first.send(tree, last)
        assert {leaf.sharding.memory_kind for leaf in jax.tree.leaves(sent)} == {PINNED}
        first.wait(sent)
        views = last.receive(sent)
        assert addresses(views) == addresses(sent) != addresses(tree)
        assert jax.tree.map(float, views) == {"a": 2.0, "b": 2.0}


def test_without_pinned_memory_it_sends_to_the_device():
    with separate_memory():
        *_, last = places()
        first = dataclasses.replace(places()[0], pins=False)
        sent = first.send(made(first), last)
        assert {leaf.device for leaf in jax.tree.leaves(sent)} == {last.device}
        assert last.receive(sent) is sent


def test_devices_with_memory_of_their_own_copy_to_each_other():
    with separate_memory():
        first, second, *_ = places()
        assert not first.shares_memory(second)
        assert first.shares_memory(first)
        for tree in (first.send(made(first), second), second.receive(made(first))):
            assert {leaf.device for leaf in jax.tree.leaves(tree)} == {second.device}


def test_numbers_are_fetched_from_a_device_with_memory_of_its_own(monkeypatch):
    fetched = []
    fetch = lambda leaf: fetched.append(leaf)  # noqa: E731
    monkeypatch.setattr(type(jnp.ones(1)), "copy_to_host_async", fetch)
    places()[0].fetch(made(places()[0]))
    assert not fetched
    with separate_memory():
        places()[0].fetch(made(places()[0]))
    assert len(fetched) == 2


@pytest.mark.slow
def test_the_switch_is_an_environment_variable_too():
    program = (
        "from jax_ssp.placement import Placement; import jax\n"
        "print([Placement.of(each).on_host for each in jax.devices()], Placement.host().name)"
    )
    said = {}
    for value in ("0", "1", "yes"):
        environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2", "JAX_SSP_SEPARATE_MEMORY": value}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True
        )
        said[value] = done.stdout.strip() or done.stderr.splitlines()[-1]
    assert said == {
        "0": "[True, True] ('cpu', 0)",
        "1": "[False, True] ('cpu', 1)",
        "yes": 'ValueError: `JAX_SSP_SEPARATE_MEMORY` must be "0" or "1", got \'yes\'.',
    }
