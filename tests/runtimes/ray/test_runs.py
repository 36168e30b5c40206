"""Runs whose workers and shares of the server are in Ray actors are runs like any other."""

import contextlib
import itertools
import os
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp import delays
from jax_ssp.controller.commands import StartClock
from jax_ssp.policies import ALL_POLICIES
from tests.helpers.problems import PARAMS, bits, distance, linear
from tests.runtimes.test_modes import MODES, SLOW, fits

pytestmark = pytest.mark.ray

JITTER = delays.ShiftedExponential(shift=0.0, mean=0.002)
HERE = {name: mode for name, mode in MODES.items() if "placement" not in mode}
HERE["fragments and wires"] = {
    "fragments": 3,
    "adopt": ssp.Mix(0.5),
    "snapshot_wire": MODES["all"]["snapshot_wire"],
    "delta_wire": MODES["all"]["delta_wire"],
    "overlap": 1,
    "local_steps": 2,
}
HERE["transforms"] = {
    "server_tx": ssp.outer(optax.sgd(0.7, momentum=0.5)),
    "delta_tx": optax.scale(0.9),
}
HERE["stale params"] = {"delta_tx": ssp.mitigations.delay_compensation(0.1)}


def policy_of(kind):
    """A policy of this kind at its defaults, as far as three workers can have it."""
    small = {"KSync": 2, "KAsync": 2, "KBatchSync": 2, "KBatchAsync": 2, "Softsync": 2}
    name = kind.__name__
    return kind(small[name]) if name in small else kind()


TABLE = [
    pytest.param(mode, policy_of(kind), id=f"{mode}-{kind.__name__}")
    for mode, kind in itertools.product(HERE, ALL_POLICIES)
]


def trained(runtime=None, **spec):
    """A run that keeps the contract, and that its tape repeats here to the last bit."""
    spec = linear(**{"num_clocks": 8, **spec})
    result = ssp.train(runtime=runtime or ssp.Ray(3, delay=JITTER), **spec)
    assert result.status == "done"
    ssp.check_contract(result.tape)
    again = ssp.train(runtime=ssp.Replay(result.tape), **spec)
    assert bits(again.params) == bits(result.params)
    assert bits(again.masters) == bits(result.masters)
    return result


@pytest.mark.parametrize(("mode", "policy"), TABLE)
@pytest.mark.every(9)
def test_every_policy_and_exchange(mode, policy):
    exchange = HERE[mode]
    if not fits(exchange, policy):
        pytest.skip("refused everywhere")
    trained(ssp.Ray(3, server_shards=1 + len(mode) % 2, delay=JITTER), policy=policy, **exchange)


@pytest.mark.parametrize("mode", ["plain", "fragments and wires", "transforms"])
def test_barriers_come_to_the_bits_of_one_process_however_many_shares_there_are(mode):
    spec = {"policy": ssp.BSP(), **HERE[mode]}
    here = ssp.train(runtime=ssp.Virtual(3), num_clocks=8, **linear(**spec))
    if mode != "fragments and wires":  # what a wire compresses at a time depends on the pieces
        for shares in (1, 2, 3):
            assert bits(trained(ssp.Ray(3, server_shards=shares), **spec).params) == bits(
                here.params
            )
    else:
        assert bits(trained(ssp.Ray(3), **spec).params) == bits(here.params)


def test_several_small_arrays_come_to_the_bits_of_one_process():
    params = {"w": np.zeros(6, np.float32), "b": np.zeros((), np.float32)}

    def loss(params, batch, key):
        x, y = batch
        return jnp.mean((x @ params["w"] + params["b"] - y) ** 2), {}

    step = ssp.make_step(loss, optax.sgd(0.01, momentum=0.9))
    spec = {"step": step, "params": params, "policy": ssp.BSP()}
    here = ssp.train(runtime=ssp.Virtual(2), num_clocks=8, **linear(**spec))
    for shares in (1, 2):
        there = trained(ssp.Ray(2, server_shards=shares), **spec)
        assert bits(there.params) == bits(here.params)
        assert bits(there.states.workers) == bits(here.states.workers)


def test_it_trains_and_says_what_a_run_says():
    result = trained(ssp.Ray(3, server_shards=2), num_clocks=60, policy=ssp.SSP(3))
    assert distance(result.params) < 0.3
    assert result.tape.header["server"] == [["cpu", 0]] * 2
    assert result.tape.header["devices"] == [["cpu", 0]] * 3
    assert len(result.states.workers) == 3
    assert result.updates == 180
    assert {row["staleness"] >= 0 for row in result.history} == {True}


def test_optimizers_in_the_server_and_their_measures():
    outer = ssp.outer(optax.sgd(0.7, momentum=0.9, nesterov=True))
    spec = {"server_tx": outer, "policy": ssp.BSP(), "local_steps": 2}
    one, two = (trained(ssp.Ray(2, server_shards=shares), **spec) for shares in (1, 2))
    here = ssp.train(runtime=ssp.Virtual(2), num_clocks=8, **linear(**spec))
    assert bits(one.params) == bits(two.params) == bits(here.params)
    spec["server_tx"] = ssp.outer(optax.sgd(0.7, momentum=0.9), measured=True)
    here = ssp.train(runtime=ssp.Virtual(2), num_clocks=8, **linear(**spec))
    wanted = here.history[-1]["metrics"]
    names = [name for name in wanted if name.startswith("outer/")]
    assert names
    for shares in (1, 2):
        there = trained(ssp.Ray(2, server_shards=shares), **spec)
        for name in names:
            found = there.history[-1]["metrics"][name]
            assert found == pytest.approx(wanted[name], rel=1e-5)


def test_a_share_knows_of_a_clock_before_it_gets_its_delta():
    """Else it makes the base of the next one, on the version that is held, without that delta."""
    policy, quicker = ssp.SSP(3, adopt="lazy"), lambda worker, *_: 0.03 if worker else 0.01
    result = trained(ssp.Ray(2, delay=quicker), policy=policy, **HERE["stale params"])
    commands = [each for entry in result.tape for each in entry.commands]
    assert any(isinstance(each, StartClock) and each.pending for each in commands)


def test_data_that_ends_and_data_that_is_dealt():
    few = dict(enumerate((5, 3, 4)))
    data = lambda worker: itertools.islice(linear()["data"](worker), few[worker])  # noqa: E731
    result = trained(data=data, num_clocks=8, policy=ssp.SSP(2))
    assert result.updates == 12
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 6)).astype(np.float32)
    source = ssp.data.Epochs((x, x @ np.arange(6, dtype=np.float32)), batch_size=4)
    result = trained(data=source, num_clocks=None, num_epochs=3, local_steps=2, overlap=1)
    assert result.samples >= 120


def test_evaluation_and_half_precision():
    params = {"w": jnp.zeros(6, jnp.bfloat16)}
    step = ssp.make_step(lambda p, batch, key: (_wide(p, batch), {}), SLOW)
    result = trained(
        ssp.Ray(2, server_shards=2),
        step=step,
        params=params,
        evaluate=lambda params: {"far": jnp.sum(params["w"].astype(jnp.float32))},
        eval_every=2,
    )
    assert result.params["w"].dtype == jnp.bfloat16
    assert result.masters["w"].dtype == jnp.float32
    assert len(result.evaluations) > 2


def _wide(params, batch):
    x, y = batch
    return jnp.mean((x @ params["w"].astype(jnp.float32) - y) ** 2)


def wide_batches(worker):
    for batch in linear()["data"](worker):
        yield tuple(each.astype(np.float64) for each in batch)


def test_settings_of_this_thread_hold_there():
    with jax.enable_x64(True):
        params = {"w": np.zeros(6, np.float64)}
        result = trained(ssp.Ray(2), params=params, data=wide_batches)
    assert result.params["w"].dtype == np.float64


def test_what_cannot_be_is_said_before_anything_is_computed():
    with pytest.raises(ValueError, match=r"take 2 quantum in all, and the cluster has 0"):
        ssp.train(runtime=ssp.Ray(2, resources={"quantum": 1}), **linear(num_clocks=1))
    with pytest.raises(ValueError, match=r"`placement='devices'`.*server_shards"):
        ssp.train(runtime=ssp.Ray(2), placement="devices", **linear(num_clocks=1))
    spec = linear(num_clocks=1, delta_tx=optax.clip_by_global_norm(1.0))
    with pytest.raises(ValueError, match=r"elementwise|server_shards"):
        ssp.train(runtime=ssp.Ray(2, server_shards=2), **spec)
    lock = threading.Lock()
    spec = linear(num_clocks=1, data=lambda worker: (lock, linear()["data"](worker))[1])
    with pytest.raises(TypeError, match=r"cannot be sent to other processes.*lock"):
        ssp.train(runtime=ssp.Ray(2), **spec)


def test_an_error_there_is_raised_here_with_whose_it_is():
    def data(worker):
        yield from itertools.islice(linear()["data"](worker), 3)
        raise OSError("the disk is gone")

    runtime = ssp.Ray(2, recovery=None)
    with pytest.raises(OSError, match="the disk is gone") as caught:
        ssp.train(runtime=runtime, **linear(data=data, num_clocks=8, params=PARAMS))
    assert any("in the process of worker" in each for each in caught.value.__notes__)
    assert caught.value.result.updates > 0


def test_what_goes_wrong_as_a_worker_is_made_is_said():
    driver = os.getpid()

    def data(worker):
        if os.getpid() != driver:
            raise OSError("no disk here")
        return linear()["data"](worker)

    with pytest.raises(OSError, match="no disk here"):
        ssp.train(runtime=ssp.Ray(1), **linear(data=data, num_clocks=2))


def listening():
    """The addresses on which this process and those that it has started listen, in hexadecimal."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    mine = {os.getpid()}
    while more := {each for each, parent in parents.items() if parent in mine} - mine:
        mine |= more
    inodes = set()
    for each in mine:
        for number in Path(f"/proc/{each}/fd").glob("*"):
            with contextlib.suppress(OSError):
                inodes.add(os.readlink(number))
    tables = Path("/proc/net/tcp"), Path("/proc/net/tcp6")
    rows = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
    return {
        row[1].split(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes
    }


def test_nothing_listens_beyond_this_machine():
    trained(ssp.Ray(2))
    addresses = listening()
    assert addresses
    assert all(each.endswith("0100007F") for each in addresses)  # 127.0.0.1, in either family
