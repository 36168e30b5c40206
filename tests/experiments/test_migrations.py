"""Loops that were moved here: BSP comes to what the loop comes to; the table says what it is."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import jax_ssp as ssp
from tests.experiments.test_configs import FOLDER
from tests.experiments.test_fashion import folder

__all__ = ["folder"]  # a fixture: small files of Fashion-MNIST's form


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch, standard_promotion):
    monkeypatch.syspath_prepend(FOLDER.parent)


def module(name):
    return importlib.import_module(f"experiments.migrations.{name}")


def bsp(config, workload, steps=1):
    """What BSP comes to in as many rounds as the loop has."""
    samples = workload.rounds * steps * 4 * workload.batch_size
    config = dataclasses.replace(
        config, workload=workload, policy=ssp.BSP(), max_samples=samples, eval_every=None
    )
    result = config.run()
    assert (result.status, result.version) == ("done", workload.rounds)
    return result.params


def agree(ours, loops, atol):
    for path, leaf in jax.tree.leaves_with_path(loops):
        one = ours
        for key in path:
            one = one[key.key]
        np.testing.assert_allclose(one, leaf, rtol=0, atol=atol, err_msg=str(path))


class Pairs(linen.Module):
    """Predicts a byte by the one before: compiled sooner than a transformer."""

    @linen.compact
    def __call__(self, tokens):
        return linen.Dense(256)(linen.Embed(256, 4)(tokens))


class Flat(nnx.Module):
    """What a ResNet has beside its convolutions: kernels, BatchNorm, dropout."""

    def __init__(self, width, dropout, rngs):
        self.hidden = nnx.Linear(784, width, rngs=rngs)
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.out = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, images):
        x = self.hidden(images.reshape(images.shape[0], -1))
        return self.out(self.dropout(nnx.relu(self.norm(x))))


whole = pytest.mark.parametrize(
    "whole", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["small", "whole"]
)


@whole
@pytest.mark.slow
def test_bsp_is_the_loop_of_the_language_model(whole, monkeypatch):
    """AdamW, clipping, masked decay, schedule, and the mean over two batches."""
    byte_lm = module("byte_lm")
    if not whole:
        monkeypatch.setattr(byte_lm, "Transformer", Pairs)
    # Another workload for another model: what equal ones build is built once.
    workload = byte_lm.ByteLM(batch_size=2, rounds=10 if whole else 11)
    loops = byte_lm.plain(workload, seed=0)
    agree(bsp(byte_lm.get_config(), workload, byte_lm.ACCUMULATED), loops, atol=1e-5)


def loop_of_groups(fashion, workload):
    """The loop of the ResNet, but that each worker's images are normalized by themselves."""
    model = workload.model(0)
    model.train()
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    optimizer = fashion.make_optimizer(workload.learning_rate, workload.rounds)

    @jax.jit
    def update(params, rest, state, groups):
        def loss_fn(params, batch):
            model = nnx.merge(graph, params, rest, copy=True)
            return fashion.loss(model, batch)[0], nnx.split(model, nnx.Param, ...)[2]

        grads = jax.grad(loss_fn, has_aux=True)
        grads, rest = jax.vmap(grads, in_axes=(None, 0))(params, groups)
        grads = jax.tree.map(lambda leaf: leaf.mean(0), grads)
        updates, state = optimizer.update(grads, state, params)
        first = jax.tree.map(
            lambda x: x.mean(0) if jnp.issubdtype(x.dtype, jnp.floating) else x[0], rest
        )
        return optax.apply_updates(params, updates), first, state

    state = optimizer.init(params)
    train, _ = fashion.load_fashion(workload.folder)
    shards = ssp.data.Shards(train, workload.batch_size, 4, 0)
    workers = [shards(worker) for worker in range(4)]
    for _ in range(workload.rounds):
        groups = jax.tree.map(lambda *parts: np.stack(parts), *map(next, workers))
        params, rest, state = update(params, rest, state, groups)
    return {
        ".".join(map(str, path)): leaf[...]
        for part in (params, rest)
        for path, leaf in nnx.to_flat_state(part)
        if jnp.issubdtype(leaf[...].dtype, jnp.floating)
    }


@whole
@pytest.mark.slow
def test_bsp_is_the_loop_of_the_resnet_but_for_the_groups_of_batchnorm(whole, folder, monkeypatch):
    """Without dropout: momentum, masked decay, schedule, and statistics that are averaged."""
    fashion = module("fashion_resnet")
    if not whole:
        monkeypatch.setattr(fashion, "DroppingResNet", Flat)
    workload = fashion.FashionResNet(
        width=2, dropout=0.0, batch_size=8, rounds=5, test_images=8, folder=folder
    )
    ours = bsp(fashion.get_config(), workload)
    loops = loop_of_groups(fashion, workload)
    assert loops.keys() == ours.keys()
    agree(ours, loops, atol=1e-5)


@whole
@pytest.mark.slow
def test_the_loop_of_the_resnet_is_bsp_with_one_worker(whole, folder, monkeypatch):
    """Then BatchNorm sees the same images, and the loop as it stands is BSP."""
    fashion = module("fashion_resnet")
    if not whole:
        monkeypatch.setattr(fashion, "DroppingResNet", Flat)
    monkeypatch.setattr(fashion, "WORKERS", 1)
    workload = fashion.FashionResNet(width=1, dropout=0.0, rounds=4, test_images=8, folder=folder)
    config = dataclasses.replace(
        fashion.get_config(),
        workload=workload,
        policy=ssp.BSP(),
        runtime=ssp.Virtual(num_workers=1),
        max_samples=4 * workload.batch_size,
    )
    agree(config.run().params, fashion.plain(workload, seed=0), atol=1e-5)


def rows_of(losses, seconds):
    """Rows as they are measured, but for their numbers; `losses` of SSP(3) by seed."""
    same = (1.0, 1.0, 1.0)
    ends = {"plain loop": same, "BSP, server": (1.0001, 1.0, 1.0), "BSP, workers": same}
    ends |= {"SSP(3), server": losses, "SSP(3), workers": same}
    rows = [{"method": "BSP, server", "seed": 10, "test_loss": 7.0}]  # on which rates are picked
    for method, values in ends.items():
        for seed, loss in enumerate(values):
            row = {"method": method, "seed": seed, "marked": "0.1", "test_loss": loss}
            took = {"seconds": seconds if "SSP" in method else 100.0} if "," in method else {}
            rows.append({**row, **took})
    return rows


@pytest.mark.parametrize(
    ("losses", "seconds", "holds"),
    [
        ((1.005, 1.01, 0.9), 66.0, ["yes", "yes", "yes"]),
        ((1.02, 1.005, 0.9), 66.0, ["yes", "on 2 of 3 seeds", "yes"]),
        ((1.02, 1.02, 1.03), 66.0, ["yes", "**no**", "yes"]),
        ((1.005, 1.005, 1.005), 67.0, ["yes", "**no**", "**no**"]),
    ],
)
def test_findings_are_what_was_measured(losses, seconds, holds):
    main = module("__main__")
    rows = rows_of(losses, seconds)
    assert [row["holds"] for row in main.findings(rows)] == holds
    plain, server, *_ = main.table(rows)
    assert (plain["test loss"], plain["virtual seconds"]) == ("1.0000", "")
    assert (server["optimizer"], server["virtual seconds"]) == ("BSP, server", "100")


@pytest.mark.parametrize("name", ["byte_lm", "fashion_resnet"])
def test_every_method_sees_as_many_examples_as_its_rounds_say(name):
    main = module("__main__")
    for method, (_, where, longer) in main.METHODS.items():
        run = main.made(name, method, 0.1, 0, rounds=100)
        batches = main.MIGRATIONS[name].steps * round(100 * longer)
        assert run.max_samples == batches * 4 * run.workload.batch_size
        # On the workers a round is one step of each, on the server one clock.
        assert run.workload.rounds == (round(100 * longer) if where == "server" else batches)
        assert run.optimizer_on == where
