"""A worker in an actor may be a slice of its process's devices, and is to a run as any other."""

import numpy as np
import pytest

import jax_ssp as ssp
from jax_ssp.controller import WorkerJoined, WorkerLost
from tests.runtimes.ray.test_failures import SOON, Struck, events, trained
from tests.runtimes.test_slices import FSDP, TWO, P, same, train

pytestmark = pytest.mark.ray
slow = pytest.mark.slow

WIRES = {"delta_wire": ssp.compression.RandK(0.5), "snapshot_wire": ssp.compression.Int8()}
AHEAD = {"overlap": 1, "local_steps": 2}
HALVES = {"devices_per_worker": 2, "shardings": {"w": P("model")}}


@pytest.mark.parametrize("shares", [2, pytest.param(1, marks=slow)])
def test_barriers_come_to_the_bits_of_slices_of_one_process(shares):
    spec = {"policy": ssp.BSP(), "num_clocks": 3}
    train(ssp.Ray(2), num_clocks=1)  # in processes that rest then, with one device each
    here = train(ssp.Devices(**TWO), **spec)
    there = train(ssp.Ray(2, server_shards=shares, **TWO), **spec)
    assert same(there.params, here.params)
    assert same(there.states, here.states)
    told = there.tape.header["slices"]
    assert told["devices"] == [[["cpu", 0], ["cpu", 1]]] * 2
    assert {**told, "devices": 0} == {**here.tape.header["slices"], "devices": 0}
    assert len(there.tape.header["server"]) == 2 * shares


@pytest.mark.parametrize(
    ("shares", "how"),
    [
        (2, {"fragments": 2, "adopt": ssp.Mix(0.5), **AHEAD}),
        pytest.param(2, {"fragments": 2, **WIRES, **AHEAD}, marks=slow),
        pytest.param(2, {"delta_tx": ssp.mitigations.delay_compensation(0.5)}, marks=slow),
        pytest.param(1, {**WIRES, **AHEAD}, marks=slow),
    ],
    ids=["fragments", "fragments and wires", "stale params", "wires"],
)
def test_every_way_to_exchange_replays_to_the_bit(shares, how):
    evaluate = {"evaluate": lambda params: {"sum": np.sum(params["w1"])}, "eval_every": 2}
    result = train(ssp.Ray(2, server_shards=shares, **TWO), **how, **evaluate)
    ssp.check_contract(result.tape)
    again = train(ssp.Replay(result.tape), **how, **evaluate)
    assert same(result.params, again.params)
    assert same(result.states, again.states)
    assert len(result.evaluations) > 1


@pytest.mark.parametrize("mode", [{"adopt": ssp.Mix(0.5)}, pytest.param({}, marks=slow)])
def test_one_whose_process_is_killed_comes_again(tmp_path, mode):
    """Where workers keep progress of their own, with that of a live one, sharded as its own."""
    data = Struck(tmp_path, {9})
    result = trained(ssp.Ray(2, recovery=SOON, **HALVES), data=data, num_clocks=10, **mode)
    assert len(events(result, WorkerLost)) == 1
    donors = [event.donor for event in events(result, WorkerJoined)[2:]]
    assert all((donor is not None) == ("adopt" in mode) for donor in donors)


@slow
def test_a_run_on_slices_goes_on(tmp_path):
    def run(folder, clocks):
        more = {"checkpoint": ssp.Checkpoints(every=2), "delta_wire": ssp.compression.Int8()}
        more |= {"observers": [ssp.RunFolder(tmp_path / folder)], "policy": ssp.BSP()}
        return train(ssp.Ray(2, **TWO), num_clocks=clocks, **more)

    run("a", 3)
    result, whole = run("a", 5), run("b", 5)
    assert same(result.params, whole.params)
    assert same(result.states, whole.states)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"devices_per_worker": 3, "axes": {"a": 2}}, r"`Ray\(.*does not fit: a slice .* 2 dev"),
        ({"axes": {"a": 0}}, r"`Ray\(axes=...\)\['a'\]` must be at least 1, got 0"),
        ({"batch_spec": P("a")}, r"`Ray\(batch_spec=...\)` says .* each worker has one device"),
        ({"devices_per_worker": 2, "gpus_per_worker": 0.5}, r"gpus_per_worker=0.5.*give 2 or 0"),
    ],
)
def test_slices_that_cannot_be_are_named(how, message):
    with pytest.raises(ValueError, match=message):
        ssp.Ray(**how)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"shardings": {**FSDP, "b": P("other")}}, r"`params\['b'\]` is sharded as P.*'other'"),
        ({"batch_spec": P("other")}, r"`batch\['x'\]` is sharded as P.*'other'"),
    ],
)
def test_what_cannot_be_sharded_so_is_named_before_anything_starts(how, message, monkeypatch):
    monkeypatch.setattr(ssp.Ray, "elsewhere", None)
    with pytest.raises(ValueError, match=message):
        train(ssp.Ray(**{**TWO, **how}))
