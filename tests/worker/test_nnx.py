"""What optimizers see of an nnx model, and what becomes of all else that a model holds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jax_ssp as ssp

pytestmark = pytest.mark.usefixtures("standard_promotion")


class Net(nnx.Module):
    """Kernels at several depths: beside statistics, in a list, under a name with a dot."""

    def __init__(self, rngs):
        self.first = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(2)])
        self.named = nnx.Dict({"a.b": nnx.Linear(4, 1, rngs=rngs)})

    def __call__(self, x):
        x = self.norm(self.first(x))
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return self.named["a.b"](x)


KERNELS = ["first.kernel", "layers.0.kernel", "layers.1.kernel", r"named.a\.b.kernel"]
BATCH = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)


def loss(model, batch):
    return jnp.mean((model(batch) - 1) ** 2), {}


def by_last_key(params):
    return jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", params)


def by_any_key(params):
    return jax.tree.map_with_path(
        lambda path, _: any(getattr(key, "key", None) == "kernel" for key in path), params
    )


def by_state(params):
    return nnx.map_state(lambda path, _: path[-1] == "kernel", params)


def as_state():
    paths = [path for path, _ in nnx.to_flat_state(nnx.state(Net(nnx.Rngs(0)), nnx.Param))]
    return nnx.from_flat_state([(path, path[-1] == "kernel") for path in paths])


def as_variables():
    state = nnx.state(Net(nnx.Rngs(0)), nnx.Param)
    return jax.tree.map_with_path(lambda path, _: "kernel" in jax.tree_util.keystr(path), state)


def as_flat():
    names = ssp.make_nnx_step(Net(nnx.Rngs(0)), loss, optax.sgd(0.1)).params
    return {name: "kernel" in name for name in names if not name.endswith(("mean", "var"))}


MASKS = {
    "last key": by_last_key,
    "any key": by_any_key,
    "state function": by_state,
    "dicts": by_last_key(nnx.to_pure_dict(nnx.state(Net(nnx.Rngs(0)), nnx.Param))),
    "state": as_state(),
    "variables": as_variables(),
    "flat": as_flat(),
}


def train(step, **more):
    spec = {
        "data": lambda worker: iter([BATCH] * 40),
        "policy": ssp.BSP(),
        "runtime": ssp.Virtual(num_workers=2),
        "num_clocks": 4,
    }
    return ssp.train(step, **{**spec, **more})


def plain(optimizer, steps):
    """A loop without jax_ssp, of a model in training mode; what it comes to, flat."""
    model = Net(nnx.Rngs(0))
    model.train()
    tx = nnx.Optimizer(model, optimizer, wrt=nnx.Param)
    for _ in range(steps):
        grads = nnx.grad(lambda model: loss(model, BATCH)[0])(model)
        tx.update(model, grads)
    state = nnx.to_flat_state(nnx.state(model))
    return [np.asarray(variable[...]) for _, variable in state]


def assert_same(params, expected):
    assert len(params) == len(expected)
    for value, other in zip((params[name] for name in sorted(params)), expected, strict=True):
        np.testing.assert_allclose(value, other, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.slow
def test_a_mask_on_a_worker_is_that_of_a_plain_loop(name):
    def adamw(mask):  # a bias before BatchNorm has no gradient but noise, which eps drowns
        return optax.adamw(1e-3, eps=0.1, weight_decay=50.0, mask=mask)

    step = ssp.make_nnx_step(Net(nnx.Rngs(0)), loss, adamw(MASKS[name]))
    result = train(step)
    assert_same(result.params, plain(adamw(as_state()), 4))
    assert result.params.keys() == step.params.keys()


@pytest.mark.parametrize(
    ("name", "placement", "where"),
    [
        *((name, None, "server_tx") for name in MASKS),
        ("last key", "devices", "server_tx"),
        ("variables", "devices", "server_tx"),
        ("last key", None, "delta_tx"),
    ],
)
@pytest.mark.every(17)
def test_a_mask_on_the_server_decays_exactly_the_kernels(name, placement, where):
    step = ssp.make_nnx_step(Net(nnx.Rngs(0)), loss, optax.sgd(0.0))
    decay = optax.add_decayed_weights(-0.25, mask=MASKS[name])
    runtime = ssp.Devices(num_workers=2) if placement else ssp.Virtual(num_workers=2)
    result = train(step, num_clocks=1, placement=placement, runtime=runtime, **{where: decay})
    for name, value in result.params.items():
        if not name.startswith(("norm.mean", "norm.var")):
            factor = 0.75 if name in KERNELS else 1.0
            np.testing.assert_allclose(value, factor * step.params[name], rtol=1e-6)


@pytest.mark.parametrize("where", ["worker", "server"])
@pytest.mark.slow
def test_labels_by_path_choose_the_transform(where):
    def labels(params):
        return jax.tree.map(lambda kernel: "kernel" if kernel else "rest", by_last_key(params))

    parts = {"kernel": optax.sgd(0.1), "rest": optax.set_to_zero()}
    choice = optax.multi_transform(parts, labels)
    if where == "worker":
        step, server_tx = ssp.make_nnx_step(Net(nnx.Rngs(0)), loss, choice), None
    else:
        step = ssp.make_nnx_step(Net(nnx.Rngs(0)), loss, optax.sgd(0.1))
        kept = {"kernel": optax.identity(), "rest": optax.set_to_zero()}
        server_tx = optax.multi_transform(kept, labels)
    result = train(step, server_tx=server_tx)
    tree = jax.tree.map(lambda kernel: "kernel" if kernel else "rest", as_state())
    assert_same(result.params, plain(optax.multi_transform(parts, tree), 4))
    moved = {name for name in KERNELS if np.any(result.params[name] != step.params[name])}
    assert moved == set(KERNELS)
    assert np.array_equal(result.params["first.bias"], step.params["first.bias"])


@pytest.mark.slow
def test_the_outer_optimizer_sees_the_same():
    step = ssp.make_nnx_step(Net(nnx.Rngs(0)), loss, optax.sgd(0.0))
    outer = ssp.outer(optax.adamw(0.5, weight_decay=0.5, mask=by_last_key))
    result = train(step, num_clocks=1, server_tx=outer)
    for name in (*KERNELS, "first.bias", "layers.0.bias"):
        factor = 0.75 if name in KERNELS else 1.0
        np.testing.assert_allclose(result.params[name], factor * step.params[name], rtol=1e-6)


def test_a_mask_that_fits_no_view_is_told():
    with pytest.raises(ValueError, match=r"nonsense"):
        ssp.make_nnx_step(Net(nnx.Rngs(0)), loss, optax.masked(optax.sgd(0.1), {"nonsense": True}))


def test_a_dot_in_a_name_is_not_a_path():
    class Ambiguous(nnx.Module):
        def __init__(self, rngs):
            self.d = nnx.Dict({"a.b": nnx.Linear(2, 1, rngs=rngs)})
            self.d["a"] = nnx.Dict({"b": nnx.Linear(2, 1, rngs=rngs)})

        def __call__(self, x):
            return self.d["a.b"](x) + self.d["a"]["b"](x)

    model = Ambiguous(nnx.Rngs(0))
    step = ssp.make_nnx_step(model, loss, optax.sgd(0.1))
    assert sorted(step.params) == ["d.a.b.bias", "d.a.b.kernel", r"d.a\.b.bias", r"d.a\.b.kernel"]
    again = step.model(step.params)
    for one, other in ((again.d["a.b"], model.d["a.b"]), (again.d["a"]["b"], model.d["a"]["b"])):
        assert np.array_equal(one.kernel[...], other.kernel[...])


# All else that a model holds.


class Holds(nnx.Module):
    """A linear model beside everything that is not trained; `use` says what a call does with it."""

    def __init__(self, use=lambda model, x: x, **held):
        self.out = nnx.Linear(4, 1, rngs=nnx.Rngs(0))
        for name, value in held.items():
            setattr(self, name, nnx.data(value))
        self.use = use

    def __call__(self, x):
        return self.out(self.use(self, x))


def counted(model, x):
    model.calls[...] += 1
    return x


def cached(model, x):
    model.cache[...] = x[:2]
    return x


def summed(model, x):
    model.total[...] = model.total[...] + jnp.mean(x, axis=0)
    return x


OTHERS = {
    "plain array": {"held": jnp.full((1, 4), 2.0), "use": lambda model, x: x * model.held},
    "plain numpy": {"order": np.array([3, 2, 1, 0]), "use": lambda model, x: x[:, model.order]},
    "plain key": {"key": jax.random.key(3), "use": lambda m, x: x + jax.random.normal(m.key)},
    "positions": {"order": nnx.Variable(jnp.arange(4)), "use": lambda m, x: x[:, m.order[...]]},
    "number": {"number": nnx.Variable(2), "use": lambda m, x: x * m.number.get_value()},
    "word": {"word": nnx.Variable("relu"), "use": lambda m, x: getattr(nnx, m.word.get_value())(x)},
    "mask": {
        "mask": nnx.Variable(jnp.array([True, False, True, True])),
        "use": lambda model, x: jnp.where(model.mask[...], x, 0),
    },
    "infinite mask": {
        "bias": nnx.Variable(jnp.array([[0.0, -np.inf, 0.0, 0.0]])),
        "use": lambda model, x: jax.nn.softmax(x + model.bias[...]),
    },
    "tree": {
        "pair": nnx.Variable({"n": jnp.int32(0), "x": (jnp.ones((1, 4)), None)}),
        "use": lambda model, x: x * model.pair.get_value()["x"][0],
    },
    "counter": {"calls": nnx.Variable(jnp.int32(0)), "use": counted},
    "cache": {"cache": nnx.Cache(jnp.zeros((2, 4))), "use": cached},
    "statistics": {"total": nnx.BatchStat(jnp.zeros(4)), "use": summed},
    "integer param": {"codes": nnx.Param(jnp.arange(4)), "use": lambda m, x: x[:, m.codes[...]]},
    "low rank": {"lora": nnx.LoRA(4, 2, 4, rngs=nnx.Rngs(1)), "use": lambda m, x: x + m.lora(x)},
    "nested lists": {
        "deep": nnx.List([nnx.List([nnx.Linear(4, 4, rngs=nnx.Rngs(2))])]),
        "use": lambda model, x: model.deep[0][0](x),
    },
}  # fmt: skip
INPUT = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)


def holding(name):
    model = Holds(**OTHERS[name])
    return model, ssp.make_nnx_step(model, loss, optax.sgd(0.1))


@pytest.mark.parametrize(
    ("name", "local_steps"),
    [*((name, 2) for name in OTHERS), ("counter", 1), ("statistics", 1)],
)
@pytest.mark.every(19)
def test_a_model_that_holds_other_things_trains(name, local_steps):
    model, step = holding(name)
    result = ssp.train(
        step,
        data=lambda worker: iter([INPUT] * 9),
        policy=ssp.BSP(),
        runtime=ssp.Virtual(num_workers=2),
        num_clocks=3,
        local_steps=local_steps,
    )
    trained = step.model(result.params)
    assert trained(INPUT).shape == (6, 1)
    assert result.history[-1]["metrics"]["loss"] < result.history[0]["metrics"]["loss"]
    # All of the same kind and shape as it was.
    before, after = (jax.tree.leaves(nnx.state(each)) for each in (model, trained))
    assert [jnp.shape(leaf) for leaf in before] == [jnp.shape(leaf) for leaf in after]
    assert all(jnp.issubdtype(value.dtype, jnp.inexact) for value in result.params.values())


def test_what_cannot_be_averaged_is_counted_by_each_worker():
    _, step = holding("counter")
    assert sorted(step.params) == ["out.bias", "out.kernel"]
    state = step.init(step.params)
    for _ in range(3):
        _, state, _ = step(step.params, state, INPUT, jax.random.key(0))
    assert state.kept == {"calls": 3}
    assert step.model(step.params).calls[...] == 0
    assert step.model(step.params, state).calls[...] == 3


def test_floating_point_attributes_travel_and_infinite_ones_stay():
    assert "held" in holding("plain array")[1].params
    assert "pair.x.0" in holding("tree")[1].params
    for name, kept in (
        *(("infinite mask", "bias"), ("cache", "cache"), ("tree", "pair.n")),
        *(("plain key", "key"), ("integer param", "codes"), ("number", "number")),
    ):
        step = holding(name)[1]
        assert kept not in step.params
        assert kept in step.init(step.params).kept


def test_what_a_call_adds_to_the_model_is_for_the_loss_alone():
    class Sows(nnx.Module):
        def __init__(self):
            self.out = nnx.Linear(4, 1, rngs=nnx.Rngs(0))

        def __call__(self, x):
            self.seen = nnx.Intermediate(x)
            self.of_mine = nnx.Variable(x)
            return self.out(x)

    def loss_of_seen(model, batch):
        value, _ = loss(model, batch)
        return value + 0.1 * jnp.mean(model.seen[...] ** 2), {"seen": jnp.mean(model.seen[...])}

    used = Sows()
    used(INPUT[:2])
    for model in (Sows(), used):
        step = ssp.make_nnx_step(model, loss_of_seen, optax.sgd(0.1))
        assert "seen" not in step.params
        result = ssp.train(
            step,
            data=lambda worker: iter([INPUT[:2]] * 9),
            runtime=ssp.Virtual(num_workers=2),
            num_clocks=3,
        )
        assert result.history[0]["metrics"]["seen"] == pytest.approx(INPUT[:2].mean(), rel=1e-5)
        assert not hasattr(step.model(result.params), "seen")


def test_tied_parameters_are_one():
    class Tied(nnx.Module):
        def __init__(self):
            self.embed = nnx.Embed(5, 4, rngs=nnx.Rngs(0))
            self.head = self.embed

        def __call__(self, x):
            return self.head.attend(self.embed(x))

    step = ssp.make_nnx_step(
        Tied(), lambda model, batch: (jnp.mean(model(batch) ** 2), {}), optax.sgd(0.1)
    )
    assert list(step.params) == ["embed.embedding"]
    result = ssp.train(
        step,
        data=lambda worker: iter([np.arange(5)] * 9),
        runtime=ssp.Virtual(num_workers=2),
        num_clocks=3,
    )
    model = step.model(result.params)
    assert model.head is model.embed
    assert np.array_equal(model.embed.embedding[...], result.params["embed.embedding"])


class Samples(nnx.Module):
    """Draws from a stream of its own in evaluation too, as a variational model does."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(2, 1, rngs=rngs)
        self.noise = rngs.fork()

    def __call__(self, x):
        return self.linear(x) + jax.random.normal(self.noise(), (len(x), 1))


def test_an_evaluated_model_has_streams_of_its_own_in_a_program_too():
    step = ssp.make_nnx_step(Samples(nnx.Rngs(0)), lambda m, x: (m(x).mean(), {}), optax.sgd(0.1))

    def outputs(params):
        model = step.model(params)
        return jnp.stack([model(jnp.ones((1, 2))) for _ in range(2)])

    jitted = jax.jit(outputs)
    first, second = outputs(step.params)
    assert first != second
    for again in (jitted(step.params), outputs(step.params), jitted(step.params)):
        np.testing.assert_allclose(again, jnp.stack([first, second]), rtol=1e-6)
