"""What a run that goes on is made of equals what it was, to the last leaf of every part of it."""

import itertools

import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp import delays
from jax_ssp.controller.events import Resumed
from jax_ssp.training import run as module
from tests.helpers.broken_off import Memory, broken_off, parts, whole
from tests.helpers.closure import of_run
from tests.helpers.problems import linear, loss_fn

OWN = ssp.make_step(loss_fn, optax.sgd(0.05, momentum=0.9))
KINDS = {
    "plain": {},
    "momentum at the server": {"server_tx": ssp.outer(optax.sgd(0.7, momentum=0.9))},
    "rate kept": {"server_tx": ssp.outer("auto")},
    "optimizer at the server": {"optimizer_on": "server", "step": OWN},
    "each worker's own": {"step": OWN, "delta_wire": ssp.compression.Int8(block=4)},
    "overlap": {"overlap": 1, "local_steps": 2, "snapshot_wire": ssp.compression.BFloat16()},
    "mix": {"overlap": 1, "local_steps": 2, "adopt": ssp.Mix(0.5)},
    "dealt": {"data": ssp.data.Epochs(next(linear()["data"](0)), batch_size=2)},
    "network": {"overlap": 1, "local_steps": 2, "snapshot_wire": ssp.compression.BFloat16()},
    "fragments": {"fragments": 2, "snapshot_wire": ssp.compression.Int8(block=4)},
    "bases": {"delta_tx": ssp.mitigations.delay_compensation(lam=1e-3, learning_rate=0.05)},
}
NETWORK = ssp.Network(0.1, bandwidth=60.0, server_bandwidth=80.0, merge_rate=300.0)
POLICIES = {"ssp": ssp.SSP(2), "ksync": ssp.KSync(2), "quorum": ssp.Quorum(2, grace=0.3)}
POLICIES["decoupled"] = ssp.Decoupled(2, gamma=1.0)


class Stop(Exception):
    """The run is to be looked at here."""


class StopAt(ssp.Observer):
    """Stops a run at a row of its tape, or where it goes on."""

    def __init__(self, rows):
        self.rows = rows

    def on_entry(self, now, event, commands):
        self.rows -= 1
        if self.rows == 0 or isinstance(event, Resumed):
            raise Stop


def at(monkeypatch, spec, observer, keeper):
    """All that a run is when the observer stops it."""
    loops, sessions = [], []
    with monkeypatch.context() as patched:
        made = module.Loop.__init__
        session_of = module.make_session

        def looping(self, *args, **others):
            made(self, *args, **others)
            loops.append(self)

        patched.setattr(module.Loop, "__init__", looping)
        patched.setattr(
            module, "make_session", lambda *a: sessions.append(session_of(*a)) or sessions[-1]
        )
        plan, task, _ = parts(spec)
        with pytest.raises(Stop):
            module.run(plan, task, [observer], keeper=keeper)
    return of_run(loops[0], sessions[0].workers)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.every(23)
def test_all_that_a_run_is_is_there_again(monkeypatch, kind, policy):
    if policy == "ksync" and "overlap" in kind:
        pytest.skip("a policy that cancels grants nothing ahead")
    if not POLICIES[policy].takes_fragments and kind == "fragments":
        pytest.skip("the policy does not go with fragments")
    network = NETWORK if kind == "network" else None
    runtime = ssp.Virtual(3, delays.Exponential(), seed=2, network=network)
    evaluate = {"evaluate": lambda p: {"n": float(np.linalg.norm(p["w"]))}, "eval_every": 2}
    spec = linear(runtime=runtime, policy=POLICIES[policy], num_clocks=6, **evaluate)
    spec["observers"] = [ssp.Observer()]
    spec |= KINDS[kind]
    result, cuts = whole(spec)
    made = cuts[len(cuts) // 2]
    for rows in (made.rows, min(made.rows + 4, len(result.tape) - 1)):
        was = at(monkeypatch, spec, StopAt(rows), Memory(10**9))
        plan, _, _ = parts(spec)
        past = broken_off(result, rows, made, plan)
        here = at(monkeypatch, spec, StopAt(0), Memory(10**9, past))
        keys = {*was, *here}
        different = sorted(key for key in keys if was.get(key) != here.get(key))
        assert not different, [(key, was.get(key), here.get(key)) for key in different[:8]]
        assert len(keys) > 100
        assert any("_course._up.under_way" in key for key in keys) == (kind == "network")


def test_the_walk_sees_what_is_not_restored(monkeypatch):
    """An attribute of each part of a run that is not saved makes the digests differ."""
    spec = linear(runtime=ssp.Virtual(2), policy=ssp.BSP(), num_clocks=4, **KINDS["bases"])
    counter = itertools.count()
    for kind in ("Worker", "LocalStore", "Versions"):
        mine = {"Worker": module_of("jax_ssp.worker.worker").Worker}
        mine["LocalStore"] = module_of("jax_ssp.server.local_store").LocalStore
        mine["Versions"] = module_of("jax_ssp.server.versions").Versions
        with monkeypatch.context() as patched:
            begin = mine[kind].__init__

            def counting(self, *args, begin=begin, **others):
                begin(self, *args, **others)
                self.forgotten = next(counter)

            patched.setattr(mine[kind], "__init__", counting)
            one = at(patched, spec, StopAt(4), None)
            other = at(patched, spec, StopAt(4), None)
        assert any("forgotten" in key and one[key] != other[key] for key in one), kind


def test_the_walk_sees_who_is_given_which_batches(monkeypatch):
    spec = linear(runtime=ssp.Virtual(2), policy=ssp.BSP(), num_clocks=4, **KINDS["dealt"])
    one, other = (at(monkeypatch, spec, StopAt(rows), None) for rows in (4, 6))
    assert any("dealing._clocks" in key and one[key] != other.get(key) for key in one)
    assert any("dealing.settled" in key and one[key] != other.get(key) for key in one)


def module_of(name):
    import importlib

    return importlib.import_module(name)
