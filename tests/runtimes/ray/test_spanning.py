"""A worker may span processes: to everybody else it is one, in what it does and when it ends."""

import signal

import jax.numpy as jnp
import numpy as np
import pytest

import jax_ssp as ssp
from jax_ssp.controller import WorkerJoined, WorkerLost
from jax_ssp.runtimes.ray.pieces import Held, merged
from tests.runtimes.ray.test_failures import SOON, Struck, events, trained
from tests.runtimes.ray.test_runs import listening
from tests.runtimes.ray.test_slices_there import HALVES
from tests.runtimes.ray.test_spares import KillsOnce, counting
from tests.runtimes.test_slices import TWO, P, same, train

ray = pytest.mark.ray
slow = pytest.mark.slow
SPANNING = {"processes_per_worker": 2}


@ray
@pytest.mark.parametrize(("workers", "shares"), [(1, 2), pytest.param(2, 1, marks=slow)])
def test_barriers_come_to_the_bits_of_slices_of_one_process(workers, shares):
    spec = {"policy": ssp.BSP(), "num_clocks": 3}
    here = train(ssp.Devices(num_workers=workers, **TWO), **spec)
    there = train(ssp.Ray(workers, server_shards=shares, **TWO, **SPANNING), **spec)
    assert same(there.params, here.params)
    assert same(there.states, here.states)
    assert there.tape.header["slices"]["devices"] == [[["cpu", 0], ["cpu", 1]]] * workers


@ray
@slow
@pytest.mark.parametrize("ends", [signal.SIGTERM, signal.SIGKILL])
def test_one_of_whose_processes_ends_comes_again(tmp_path, ends):
    """From what both processes of a live one have of its state; all meet on this machine alone."""
    addresses = []

    def evaluate(params):
        addresses.append(listening())
        return {"sum": jnp.sum(params["w"])}

    how = {"adopt": ssp.Mix(0.5), "fragments": 2, "overlap": 1, "local_steps": 2}
    how |= {"snapshot_wire": ssp.compression.Int8(), "evaluate": evaluate, "eval_every": 5}
    data = Struck(tmp_path, {9}, ends)
    runtime = ssp.Ray(2, recovery=SOON, **HALVES, **SPANNING)
    result = trained(runtime, data=data, num_clocks=10, **how)
    assert len(events(result, WorkerLost)) == 1
    assert all(event.donor is not None for event in events(result, WorkerJoined)[2:])
    assert all(each.endswith("0100007F") for some in addresses for each in some)  # 127.0.0.1


@ray
@slow
def test_a_spare_of_as_many_processes_takes_the_place_of_one(monkeypatch):
    recovery = ssp.Recovery(backoff=0.01)
    delay = ssp.delays.Constant(0.1)
    runtime = ssp.Ray(1, recovery=recovery, spares=1, delay=delay, **TWO, **SPANNING)
    kills = counting(KillsOnce(1), monkeypatch)
    result = train(runtime, num_clocks=10_000, observers=[kills])
    assert kills.there[:3] == [2, 2, 3]
    assert len(events(result, WorkerLost)) == 1
    ssp.check_contract(result.tape)


@ray
@slow
@pytest.mark.parametrize("shares", [1, 2])
def test_a_slice_of_two_axes_spans_processes(shares):
    """Of four devices in two processes, of which one axis is within each, and one between them."""
    four = {"devices_per_worker": 4, "axes": {"a": 2, "b": 2}}
    four["shardings"] = {"b": P("a"), "w1": P("a", "b"), "w2": P("b")}
    spec = {"policy": ssp.BSP(), "num_clocks": 3}
    here = train(ssp.Devices(num_workers=1, **four), **spec)
    there = train(ssp.Ray(1, server_shards=shares, **four, **SPANNING), **spec)
    for name, leaf in here.params.items():  # what is summed in which order is gloo's affair
        np.testing.assert_allclose(there.params[name], leaf, rtol=1e-5, atol=1e-7)
    assert there.tape.header["slices"]["axes"] == four["axes"]
    ssp.check_contract(there.tape)


@ray
@slow
def test_a_run_goes_on(tmp_path):
    more = {"policy": ssp.BSP(), "checkpoint": ssp.Checkpoints(every=2)}
    for clocks in 3, 5:
        runtime, observers = ssp.Ray(1, **TWO, **SPANNING), [ssp.RunFolder(tmp_path)]
        result = train(runtime, num_clocks=clocks, observers=observers, **more)
    whole = train(ssp.Devices(num_workers=1, **TWO), num_clocks=5, policy=ssp.BSP())
    assert same(result.params, whole.params)
    assert same(result.states, whole.states)


def test_what_cannot_be_is_said_before_anything_starts():
    with pytest.raises(ValueError, match=r"`Ray\(processes_per_worker=2, devices_per_worker=3\)`"):
        ssp.Ray(devices_per_worker=3, processes_per_worker=2)
    with pytest.raises(ValueError, match=r"`Ray\(processes_per_worker=2, devices_per_worker=1\)`"):
        ssp.Ray(processes_per_worker=2)


@ray
def test_wires_for_deltas_are_refused(monkeypatch):
    monkeypatch.setattr("jax_ssp.runtimes.ray.runtime.connect", None)
    with pytest.raises(ValueError, match="`delta_wire` cannot both be had"):
        train(ssp.Ray(2, **TWO, **SPANNING), delta_wire=ssp.compression.Int8())


def test_what_processes_hold_comes_together():
    rows = [Held((2, 2), np.int32, [((slice(n, n + 1),), np.full((1, 2), n))]) for n in (0, 1)]
    both = [{"a": each, name: 1.0} for each, name in zip(rows, "bc", strict=True)]
    found = merged([(both[0], [None, 5], "x"), (both[1], [4, None], "x")])
    assert found[0].pop("a").tolist() == [[0, 0], [1, 1]]
    assert found == ({"b": 1.0, "c": 1.0}, [4, 5], "x")
