"""`train` refuses bad input before anything computes, and says what it should be."""

import itertools

import jax
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp.server.server import Server
from jax_ssp.worker.worker import Worker
from tests.helpers.training import SPEC, loss_fn, ones, virtual


@pytest.fixture
def nothing_computes(monkeypatch):
    """Fails a test in which an array is put on a device, or a worker or a server is made."""

    def no(*_, **__):
        raise AssertionError("a device was touched before the arguments were checked")

    monkeypatch.setattr(jax, "device_put", no)
    monkeypatch.setattr(Worker, "__init__", no)
    monkeypatch.setattr(Server, "__init__", no)


class Misfit:
    """A step whose delta is what it is told to be."""

    def __init__(self, delta):
        self.delta = delta

    def init(self, params):
        return ()

    def __call__(self, params, worker_state, batch, key):
        return self.delta, worker_state, {}


W = r"`params\['w'\]`"
BAD_VALUES = {
    "no end": ({"num_clocks": None}, r"give `num_clocks`, `max_updates`, .* \(or several\)"),
    "no clock": ({"num_clocks": 0}, r"`num_clocks` must be at least 1, got 0\."),
    "no update": ({"max_updates": 0}, r"`max_updates` must be at least 1, got 0\."),
    "no step in a clock": ({"local_steps": 0}, r"`local_steps` must be at least 1, got 0\."),
    "eval_every": (
        {"eval_every": 0, "evaluate": dict},
        r"`eval_every` must be at least 1, got 0\.",
    ),
    "evaluate": ({"eval_every": 1}, "`eval_every` and `target` need `evaluate`, a function"),
    "target alone": ({"target": "loss <= 1"}, "`eval_every` and `target` need `evaluate`"),
    "target": (
        {"target": "loss < 1", "evaluate": dict},
        r'`target` must read like "test_accuracy >= 0.97" or "loss <= 0.1", with a finite '
        r"number, got 'loss < 1'",
    ),
    **{
        f"target {value}": (
            {"target": f"loss >= {value}", "evaluate": dict},
            rf"`target` must read like .* with a finite number, got 'loss >= {value}'",
        )
        for value in ("nan", "inf", "-inf", "1e999", "infinity")
    },
    "target value": (
        {"target": "loss <= low", "evaluate": dict},
        "`target` must read like .* got 'loss <= low'",
    ),
    "weight": (
        {"weight": "median"},
        "`weight` must be .* or a finite number, got 'median'",
    ),
    "infinite weight": ({"weight": float("inf")}, "`weight` must be .* got inf"),
    "step missing": ({"step": None}, r"`train\(step=...\)` is missing; only `Virtual\(compute=F"),
    "params missing": ({"params": None}, r"`train\(params=...\)` is missing"),
    "data missing": ({"data": None}, r"`train\(data=...\)` is missing"),
    "devices": (
        {"runtime": ssp.Devices(num_workers=5)},
        r"`Devices\(num_workers=5\)` needs 5 places, but there are 4 devices",
    ),
    "shard": (
        {"data": lambda worker: iter([] if worker == 2 else [np.float32(1)])},
        r"`data\(worker=2\)` gives no batch at all; its iterator was empty",
    ),
    "integers": (
        {"params": {"w": np.zeros(2, np.int32)}},
        rf"{W} is int32; parameters must be floating point",
    ),
    "delta shape": (
        {"step": Misfit({"w": np.zeros(3, np.float32)})},
        rf"`delta\['w'\]` is float32\[3\], but {W} is float32\[2\]; they must agree",
    ),
    "delta dtype": (
        {"step": Misfit({"w": np.zeros(2, np.int32)})},
        rf"`delta\['w'\]` is int32\[2\], but {W} is float32\[2\]; they must agree, but any float",
    ),
    "delta structure": (
        {"step": Misfit({"v": np.zeros(2, np.float32)})},
        rf"no leaf for {W}; it has delta\['v'\] instead",
    ),
    "seed below": ({"seed": -1}, r"`seed` must be non-negative, got -1\."),
    "seed above": ({"seed": 2**32}, r"`seed` must be at most 4294967295, got 4294967296\."),
}
BAD_TYPES = {
    "policy class": ({"policy": ssp.SSP}, r"`policy` must be a Policy such as `ssp.SSP\(bound=3\)"),
    "policy": ({"policy": "ssp"}, "`policy` must be a Policy such as .*, got 'ssp'"),
    "runtime": ({"runtime": 4}, r"`runtime` must be a Runtime such as `ssp.Devices\(\)`, got 4"),
    "num_clocks": ({"num_clocks": 2.5}, r"`num_clocks` must be an integer, got 2\.5\."),
    "max_updates": ({"max_updates": "9"}, r"`max_updates` must be an integer, got '9'\."),
    "local_steps": (
        {"local_steps": True},
        "`local_steps` must be an integer, .*, got True",
    ),
    "seed": ({"seed": 0.5}, r"`seed` must be an integer, got 0\.5\."),
    "observer": ({"observers": ssp.Observer()}, "`observers` must be a list of `ssp.Observer`s"),
    "observers": (
        {"observers": [ssp.Observer]},
        r"`observers\[0\]` must be an `ssp.Observer`, got Observer; ",
    ),
    "data": (
        {"data": [1, 2]},
        r"`data` must be a function \(worker\) -> batches, got \[1, 2\]; each worker needs one",
    ),
    "no batches": (
        {"data": lambda worker: 3},
        r"`data\(worker=0\)` must return an iterator of batches, got int",
    ),
    "step": (
        {"step": loss_fn},
        r"`step` must be callable and have an `init\(params\)`, got loss_fn; ",
    ),
    "results": ({"step": ssp.make_step(lambda p, b, k: p["w"][0], optax.sgd(0.1))}, "a loss func"),
    "evaluate": (
        {"evaluate": 0.5},
        r"`evaluate` must be a function \(params\) -> metrics, got 0\.5",
    ),
}


@pytest.mark.usefixtures("nothing_computes")
@pytest.mark.parametrize("runtime", [ssp.Virtual(4), ssp.Devices()], ids=["virtual", "devices"])
@pytest.mark.parametrize(("change", "message"), BAD_VALUES.values(), ids=BAD_VALUES)
def test_a_bad_value_is_refused_before_anything_computes(change, message, runtime):
    with pytest.raises(ValueError, match=message):
        ssp.train(**{**SPEC, "runtime": runtime, **change})


@pytest.mark.usefixtures("nothing_computes")
@pytest.mark.parametrize("runtime", [ssp.Virtual(4), ssp.Devices()], ids=["virtual", "devices"])
@pytest.mark.parametrize(("change", "message"), BAD_TYPES.values(), ids=BAD_TYPES)
def test_a_bad_type_is_refused_before_anything_computes(change, message, runtime):
    with pytest.raises(TypeError, match=message):
        ssp.train(**{**SPEC, "runtime": runtime, **change})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ssp.SSP(bound=-1), r"`SSP\(bound=...\)` must be non-negative, got -1\."),
        (lambda: ssp.Virtual(num_workers=0), r"`Virtual\(num_workers=...\)` must be at least 1"),
        (lambda: ssp.Devices(num_workers=0), r"`Devices\(num_workers=...\)` must be at least 1"),
    ],
)
def test_bad_parts_cannot_even_be_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_exactly_enough_data_is_enough():
    def data(worker):
        return itertools.islice(ones(worker), 6)

    result = ssp.train(**{**SPEC, "data": data}, runtime=virtual(1, 1), local_steps=3)
    assert result.updates == 4


def test_an_evaluation_that_gives_no_metrics_is_refused():
    with pytest.raises(TypeError, match=r"`evaluate` must return a dict of scalars, got 1\.0\."):
        ssp.train(**SPEC, runtime=virtual(1, 1), evaluate=lambda params: 1.0)
    message = r"`target` asks for 'accuracy', which is not among .* \['loss'"
    with pytest.raises(ValueError, match=message):
        ssp.train(
            **SPEC,
            runtime=virtual(1, 1),
            evaluate=lambda params: {"loss": 1.0},
            target="accuracy >= 0.5",
        )
