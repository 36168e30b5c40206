"""What transforms are told: a fact more is a row more."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp.server import transforms
from jax_ssp.server.transforms import FACTS, Fact, arrival, facts_of, supposed, table_of

MORE = {
    "tokens": Fact(lambda delta: delta.metrics.get("tokens", 0) * delta.push.steps),
    "samples": Fact(lambda delta: delta.push.samples),
    "loss": Fact(lambda delta: delta.metrics.get("loss", 0.0), np.float32),
}


@pytest.fixture
def more(monkeypatch):
    for name, fact in MORE.items():
        monkeypatch.setitem(transforms.FACTS, name, fact)


def keeping(*names):
    """A transform that keeps what it was told last, as floats; and makes nothing of it."""

    def update(updates, state, params=None, **facts):
        return updates, jnp.stack([jnp.asarray(facts[name], jnp.float32) for name in names])

    return optax.GradientTransformationExtraArgs(lambda params: jnp.zeros(len(names)), update)


@pytest.mark.parametrize("where", ["delta_tx", "server_tx"])
@pytest.mark.parametrize("runtime", [ssp.Virtual(2), ssp.Devices(num_workers=2)], ids=repr)
@pytest.mark.every(4)
def test_every_transform_that_names_a_new_fact_gets_it(where, runtime, more):
    def loss_fn(params, batch, key):
        loss = jnp.sum((params["w"] - batch.mean(axis=0)) ** 2)
        return loss, {"tokens": 7.0 + 0 * loss, "loss": loss}

    result = ssp.train(
        ssp.make_step(loss_fn, optax.sgd(0.1)),
        params={"w": np.zeros(2, np.float32)},
        data=lambda worker: iter(np.ones((6, 3, 2), np.float32)),
        policy=ssp.ASP(),
        local_steps=3,
        num_clocks=2,
        runtime=runtime,
        **{where: keeping("tokens", "samples", "loss", "num_workers")},
    )
    told = result.states.server if where == "server_tx" else result.states.deltas
    last = result.history[-1]["metrics"]["loss"]
    np.testing.assert_array_equal(told, np.array([21, 9, last, 2], np.float32))


def test_a_merge_is_told_of_in_one_array_of_int32(more):
    told = {"num_workers": 4, "round": 6}
    deltas = [arrival(staleness, lag=staleness + 5, **told) for staleness in (1, 3, 3, 0)]
    table = table_of(deltas)
    assert table.dtype == np.int32
    assert table.shape == (5, len(FACTS))
    assert table[-1].tolist() == table[1].tolist()
    assert {name: int(value) for name, value in facts_of(jnp.asarray(table[-1])).items()} == {
        **dict.fromkeys(MORE, 0),
        "staleness": 3,
        "lag": 8,
        "worker": 0,
        "num_workers": 4,
        "round": 6,
    }


def test_a_float_is_told_to_the_bit_and_a_large_number_as_the_largest(monkeypatch):
    monkeypatch.setitem(transforms.FACTS, "third", Fact(lambda delta: -1 / 3, np.float32))
    monkeypatch.setitem(transforms.FACTS, "tokens", Fact(lambda delta: 10**12))
    facts = facts_of(jnp.asarray(table_of([arrival()])[0]))
    assert facts["third"].dtype == np.float32
    assert facts["third"] == np.float32(-1 / 3)
    assert facts["tokens"] == 2**31 - 1
    assert supposed()["third"].dtype == np.float32
