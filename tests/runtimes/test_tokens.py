"""Tokens are counted by the step, reported with each push, and may say a delta's weight."""

from dataclasses import replace

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp.controller import Merge
from jax_ssp.worker.program import tokens_in

LENGTHS = 3, 5  # of the sequences of each worker; a batch has two


def loss_fn(params, batch, key):
    return jnp.mean((params["w"] - batch) ** 2), {}


def by_shape(batch):
    return batch.size


STEP = ssp.make_step(loss_fn, optax.sgd(0.1), tokens=by_shape)


def batches(worker):
    return iter([np.full((2, LENGTHS[worker]), 1.0, np.float32)] * 8)


def train(step=STEP, **more):
    spec = {"params": {"w": jnp.float32(0)}, "data": batches, "policy": ssp.BSP()}
    spec |= {"num_clocks": 4, "local_steps": 2}
    return ssp.train(step, **{"runtime": ssp.Virtual(2), **spec, **more})


def merges_of(result):
    return [c for _, _, commands in result.tape for c in commands if isinstance(c, Merge)]


@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.parametrize(
    "world", [ssp.Virtual(2), ssp.Devices(jax.devices()[:2])], ids=["virtual", "devices"]
)
@pytest.mark.every(5)
def test_a_push_reports_the_tokens_of_all_its_steps(world, overlap):
    result = train(runtime=world, overlap=overlap, evaluate=lambda params: {}, eval_every=2)
    a_clock = [2 * 2 * length for length in LENGTHS]
    for row in result.history:
        assert row["tokens"] == a_clock[row["worker"]]
        assert row["tokens_seen"] == sum(a_clock) * row["merge_version"]
    assert result.schedule["tokens"].sum() == result.tokens == 4 * sum(a_clock)
    assert result.evaluations[-1]["tokens"] == result.tokens
    assert result.tokens_per_second == result.tokens / result.seconds
    assert f"; {result.tokens} tokens, " in result.summary()


def test_a_step_that_does_not_count_reports_none():
    result = train(ssp.make_step(loss_fn, optax.sgd(0.1)))
    assert result.tokens == result.tokens_per_second == 0
    assert "tokens" not in result.summary()


def test_shares_of_tokens_are_what_the_server_merges_by():
    result = train(weight="tokens")
    for merge in merges_of(result):
        assert [delta.weight for delta in merge.deltas] == [3 / 8, 5 / 8]
    assert {d.weight for m in merges_of(train(weight="samples")) for d in m.deltas} == {0.5}
    again = train(weight="tokens", runtime=ssp.Replay(result.tape))
    np.testing.assert_array_equal(again.params["w"], result.params["w"])


def test_workers_of_equal_data_and_unequal_tokens_are_weighted_so():
    # Each worker goes to a target of its own; where they settle says how they were weighted.
    def data(worker):
        return iter([np.full((2, LENGTHS[worker]), worker, np.float32)] * 200)

    result = train(data=data, weight="tokens", num_clocks=100)
    assert float(result.params["w"]) == pytest.approx(5 / 8, abs=1e-3)


def test_a_replay_of_other_tokens_is_refused():
    result = train()
    more = ssp.make_step(loss_fn, optax.sgd(0.1), tokens=lambda batch: 3 * batch.shape[1])
    with pytest.raises(ssp.TapeMismatch, match=r"hold 18 tokens, and 12 on the tape"):
        train(more, runtime=ssp.Replay(result.tape))


def test_an_nnx_step_counts_too():
    model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))

    def loss(model, batch):
        return jnp.mean(model(batch) ** 2), {}

    step = ssp.make_nnx_step(model, loss, optax.sgd(0.1), tokens=by_shape)
    assert tokens_in(step, np.zeros((4, 2, 3)), 4) == 24
    assert tokens_in(step.gradient, np.zeros((2, 3)), 1) == 6


def test_only_shapes_are_seen_so_that_nothing_is_waited_for():
    def looks(batch):
        return int(batch.sum())

    with pytest.raises(AttributeError, match="sum"):
        train(ssp.make_step(loss_fn, optax.sgd(0.1), tokens=looks))


@pytest.mark.parametrize("given", [2.5, -1, None, "many"], ids=repr)
def test_what_is_no_count_is_refused_before_the_first_clock(given):
    step = ssp.make_step(loss_fn, optax.sgd(0.1), tokens=lambda batch: given)
    with pytest.raises((TypeError, ValueError), match=r"`step.tokens\(batch\)` must be"):
        train(step)


def test_tokens_that_nobody_counts_cannot_weigh():
    plain = replace(STEP, tokens=None)
    with pytest.raises(ValueError, match=r"`weight=\"tokens\"` needs to know how many tokens are"):
        train(plain, weight="tokens")
    with pytest.raises(TypeError, match=r"`make_step\(tokens=...\)` must be a function \(batch\)"):
        ssp.make_step(loss_fn, optax.sgd(0.1), tokens=64)


def test_a_server_alone_is_given_the_weights():
    server = ssp.Server({"w": jnp.zeros(())}, weight="tokens")
    with pytest.raises(ValueError, match=r"`Server\(weight='tokens'\)` does not know the tokens"):
        server.merge([{"w": jnp.ones(())}])
    server.merge([{"w": jnp.ones(())}, {"w": jnp.zeros(())}], weights=[0.75, 0.25])
    assert server.params["w"] == 0.75
    with pytest.raises(ValueError, match="one number for each of 1 deltas"):
        server.merge([{"w": jnp.ones(())}], weights=[1.0, 2.0])
