"""Which devices a run may use, and what is said where it may not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jax_ssp as ssp

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
def test_a_mesh_of_several_devices_is_refused(runtime):
    message = r"`jax\.set_mesh` has set a mesh of 2 devices, .* Call `train` outside of it"
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
        (MESH, "Mesh"),
        ([MESH, MESH], "Mesh"),
        (MESH.abstract_mesh, "AbstractMesh"),
        (NamedSharding(MESH, PartitionSpec("x")), "NamedSharding"),
        ([NamedSharding(MESH, PartitionSpec())], "NamedSharding"),
    ],
)
def test_a_worker_on_several_devices_is_refused(devices, kind):
    message = rf"`Devices\(devices=...\)\[0\]` is a {kind}, but a worker computes on one device"
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
    assert ssp.Devices(devices=MESH.devices).place() == ALL[:2]
    assert ssp.Devices(devices=[ALL[1], ALL[1]]).count() == 2
