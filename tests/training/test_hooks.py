"""`Ema`, `Best` and `EarlyStop`: what they are, in every world, and what is left of them."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jax_ssp as ssp
from jax_ssp.checkpoint.run_folder import RunFolder
from jax_ssp.policies import ALL_POLICIES
from jax_ssp.server.local_store import LocalStore
from tests.helpers.problems import PARAMS, STEP, batches, bits, linear, loss_fn

QUICK = (ssp.BSP, ssp.SSP, ssp.KSync, ssp.FedBuff)
POLICIES = [
    pytest.param(each, marks=() if each in QUICK else pytest.mark.slow) for each in ALL_POLICIES
]
VIRTUAL = ssp.Virtual(num_workers=3, delay=ssp.delays.Exponential())
FOUR = ssp.Virtual(num_workers=4, delay=ssp.delays.Exponential())
DEVICES = ssp.Devices(num_workers=3)


def train(runtime=VIRTUAL, **others):
    usual = {"policy": ssp.BSP(), "num_clocks": 8}
    return ssp.train(runtime=runtime, **linear(**{**usual, **others}))


def scripted(values, name="loss"):
    """An evaluation that gives these values, then the last one for ever."""
    values = list(values)
    return lambda params: {name: values.pop(0) if len(values) > 1 else values[0], "other": 0.0}


def turning(params):
    """A metric that is best on the way: how near the last number is to half of what it goes to."""
    return {"distance": jnp.abs(params["w"][5] - 2.5)}


# The average.


class Sees(ssp.Observer):
    def __init__(self):
        self.seen = []

    def on_version(self, version):
        self.seen.append(version.params["w"])


SLICES = ssp.Devices(devices_per_worker=2, axes={"x": 2}, shardings=jax.P("x"))


@pytest.mark.parametrize(
    ("how", "dtype"),
    [
        ({"placement": "devices"}, jnp.float32),
        ({}, jnp.bfloat16),
        ({"runtime": SLICES}, jnp.float32),
    ],
    ids=["devices", "half", "slices"],
)
def test_an_average_leaves_the_version_to_others(how, dtype):
    ema, sees = ssp.Ema(0.5), Sees()

    def loss(params, batch, key):
        return jnp.sum(
            (params["w"].astype(jnp.float32) - jnp.arange(6, dtype=jnp.float32)) ** 2
        ), {}

    how = {"runtime": ssp.Devices(num_workers=2), "params": {"w": jnp.zeros(6, dtype)}, **how}
    train(**how, step=ssp.make_step(loss, optax.sgd(0.05)), observers=[ema, sees])
    average = np.zeros(6)
    for version in sees.seen[1:]:
        average = 0.5 * average + 0.5 * np.asarray(version, np.float64)
    assert {each.dtype for each in sees.seen} == {ema.params["w"].dtype} == {jnp.dtype(dtype)}
    np.testing.assert_allclose(np.asarray(ema.params["w"], float), average, rtol=2e-2)


@pytest.mark.parametrize(("where", "local_steps"), [("workers", 1), ("workers", 2), ("server", 1)])
@pytest.mark.every(3)
def test_the_average_is_that_of_a_plain_loop_after_each_step(where, local_steps):
    """All workers have the same data, so BSP on one optimizer is a plain loop on one worker's."""
    ema, decay = ssp.Ema(0.8), 0.8
    same = {"data": lambda worker: batches(0), "local_steps": local_steps, "optimizer_on": where}
    train(observers=[ema], **same)
    optimizer, params, state = STEP.optimizer, PARAMS, STEP.optimizer.init(PARAMS)
    expected, source = PARAMS, batches(0)
    for _ in range(8):
        for _ in range(local_steps):
            grads = jax.grad(lambda p, b: loss_fn(p, b, None)[0])(params, next(source))
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        keep = decay**local_steps  # a version is as many rounds on
        expected = jax.tree.map(lambda e, p: keep * e + (1 - keep) * p, expected, params)  # noqa: B023
    np.testing.assert_allclose(ema.params["w"], expected["w"], rtol=1e-5)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: p.__name__)
def test_the_average_goes_by_rounds_under_every_policy(policy):
    """Whatever makes the versions, it is the same function of versions and their rounds."""
    policy = policy() if policy is not ssp.PSP else ssp.PSP(2, 1)
    seen = []

    class Sees(ssp.Observer):
        def on_version(self, version):
            seen.append((version.round, np.asarray(version.params["w"], np.float64)))

    ema = ssp.Ema(0.7)
    result = train(FOUR, policy=policy, observers=[ema, Sees()])
    average, last = seen[0][1], 0
    for at, params in seen[1:]:
        if at > last:
            keep = 0.7 ** (at - last)
            average, last = keep * average + (1 - keep) * params, at
    np.testing.assert_allclose(ema.params["w"], average, rtol=1e-5)
    merged = int(result.schedule[result.schedule["merge_version"] >= 0]["samples"].sum())
    assert seen[-1][0] == merged // 16
    assert last > 0


def test_the_average_of_half_precision_is_kept_in_float32():
    """Steps that are far below what bfloat16 can tell apart add up in it."""
    ema, size = ssp.Ema(0.999), 4

    class Creeps:
        init = staticmethod(lambda params: ())

        def __call__(self, params, worker_state, batch, key):
            return jax.tree.map(lambda p: jnp.full_like(p, 1e-3), params), worker_state, {}

    result = ssp.train(
        Creeps(),
        params={"w": jnp.ones(size, jnp.bfloat16)},
        data=lambda worker: iter([np.zeros((2, 1), np.float32)] * 600),
        policy=ssp.BSP(),
        runtime=ssp.Virtual(num_workers=2),
        num_clocks=600,
        observers=[ema],
    )
    assert ema.params["w"].dtype == jnp.bfloat16
    expected, at = 1.0, 1.0
    for _ in range(600):
        at += float(jnp.bfloat16(1e-3))
        expected += 1e-3 * (at - expected)
    np.testing.assert_allclose(np.float32(ema.params["w"]), np.full(size, expected), rtol=4e-3)
    assert float(result.params["w"][0]) > 1.5


@pytest.mark.slow
def test_statistics_are_averaged_like_the_rest():
    class Norm(nnx.Module):
        def __init__(self):
            self.norm = nnx.BatchNorm(2, rngs=nnx.Rngs(0), momentum=0.5)
            self.out = nnx.Linear(2, 1, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.out(self.norm(x))

    def loss(model, batch):
        return jnp.mean(model(batch) ** 2), {}

    seen, ema = [], ssp.Ema(0.5)

    class Sees(ssp.Observer):
        def on_version(self, version):
            seen.append(version.params)

    rng = np.random.default_rng(0)
    given = [rng.normal(3, 2, (8, 2)).astype(np.float32) for _ in range(4)]
    ssp.train(
        ssp.make_nnx_step(Norm(), loss, optax.sgd(0.1)),
        data=lambda worker: iter(given),
        policy=ssp.BSP(),
        runtime=ssp.Virtual(num_workers=2),
        num_clocks=4,
        observers=[ema, Sees()],
    )
    expected = seen[0]
    for params in seen[1:]:
        expected = jax.tree.map(lambda e, p: 0.5 * e + 0.5 * p, expected, params)
    leaves = jax.tree.leaves(expected)
    assert len(leaves) == 6  # scale, bias, mean and variance; kernel and bias
    for mine, other in zip(jax.tree.leaves(ema.params), leaves, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5)


def test_the_average_is_the_users_own_and_begins_anew_with_each_run():
    ema = ssp.Ema(0.5)
    assert ema.params is None
    train(observers=[ema])
    first = ema.params
    copied = bits(first)
    first["w"].delete()
    assert bits(ema.params) == copied
    train(observers=[ema])
    assert bits(ema.params) == copied


def test_an_evaluation_may_look_at_the_average_from_its_own_thread():
    """Which takes over the memory of the one before while it is read."""
    ema = ssp.Ema(0.9)

    def evaluate(params):
        average = ema.params or params  # none before the run
        return {"norm": jnp.sum(average["w"] ** 2)}

    spec = {"evaluate": evaluate, "eval_every": 1, "observers": [ema], "num_clocks": 40}
    last = train(DEVICES, **spec).metrics["norm"]
    assert last == pytest.approx(float(jnp.sum(ema.params["w"] ** 2)))
    assert train(**spec).metrics["norm"] == last


def test_the_average_reads_a_version_once_a_round(monkeypatch):
    """Under `KAsync` of half of the workers each version is half a round."""
    rounds, read, masters = [], [], LocalStore.masters.fget
    whole = property(lambda store: read.append(store.version) or masters(store))
    monkeypatch.setattr(LocalStore, "masters", whole)

    class Sees(ssp.Observer):
        def on_version(self, version):
            rounds.append(version.round)

    policy = ssp.KAsync(k=2)
    train(ssp.Virtual(num_workers=4), policy=policy, observers=[ssp.Ema(0.9), Sees()])
    assert rounds[:7] == [0, 0, 1, 1, 2, 2, 3]
    assert read[:4] == [0, 2, 4, 6]


# All three in every world.


def hooks():
    return [ssp.Ema(0.9), ssp.Best("distance", "min"), ssp.EarlyStop("distance", 3, "min")]


def test_all_of_them_come_to_the_same_versions_and_bits_in_every_world():
    spec = {"evaluate": turning, "eval_waits": True, "num_clocks": 400}
    told = []

    def come_to(runtime):
        ema, best, stop = hooks()
        result = train(runtime, observers=[ema, best, stop], **spec)
        told.append((result.status, result.reason, result.version, best.version, best.value))
        told[-1] += (str(bits((ema.params, best.params, result.params))),)
        assert bits(best.params) != bits(result.params)
        return result

    for runtime in (VIRTUAL, DEVICES):
        come_to(ssp.Replay(come_to(runtime).tape))
    assert len(told) == 4
    assert set(told) == {told[0]}
    status, reason, version, best, _, _ = told[0]
    assert status == "early"
    assert reason.startswith("distance has been no better than")
    assert version == best + 3 + 1  # the clocks that had been started by then are merged


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: p.__name__)
@pytest.mark.every(5)
def test_under_every_policy_a_replay_comes_to_the_same(policy):
    policy = policy() if policy is not ssp.PSP else ssp.PSP(2, 1)
    spec = {"policy": policy, "evaluate": turning, "num_clocks": 60}
    come_to = []
    result = None
    for _ in range(2):
        ema, best, stop = hooks()
        runtime = FOUR if result is None else ssp.Replay(result.tape)
        result = train(runtime, observers=[ema, best, stop], **spec)
        come_to.append((result.status, result.version, best.version, best.value))
        come_to[-1] += (str(bits((ema.params, best.params))),)
    assert come_to[0] == come_to[1]
    assert result.status == "early"


def test_a_replay_of_real_devices_without_a_barrier_comes_to_the_same():
    spec = {"policy": ssp.SSP(2), "evaluate": turning, "eval_waits": True, "num_clocks": 60}
    ema, best, stop = hooks()
    recorded = train(DEVICES, observers=[ema, best, stop], **spec)
    again = hooks()
    replayed = train(ssp.Replay(recorded.tape), observers=again, **spec)
    come_to = [(ema, best, recorded), (again[0], again[1], replayed)]
    facts = [
        (b.version, b.value, r.status, r.version, str(bits((e.params, b.params))))
        for e, b, r in come_to
    ]
    assert facts[0] == facts[1]


# The best.


@pytest.mark.parametrize(
    ("values", "mode", "version", "value"),
    [
        ([3.0, 1.0, 1.0, 2.0], "min", 1, 1.0),
        ([3.0, 1.0, 1.0, 2.0], "max", 0, 3.0),
        ([3.0, 1.0, 2.0], None, 1, 1.0),  # a loss
        ([math.nan, 5.0, math.nan], "max", 1, 5.0),
        ([math.inf, -math.inf, 0.0], "min", 1, -math.inf),
    ],
)
def test_the_best_is_the_first_of_the_best(values, mode, version, value):
    best = ssp.Best("loss", mode)
    train(evaluate=scripted(values), observers=[best])
    assert (best.version, best.value) == (version, value)


def test_nothing_is_the_best_where_nothing_is_a_number():
    best = ssp.Best("loss")
    result = train(evaluate=scripted([math.nan]), observers=[best])
    assert (best.version, best.value, best.params) == (None, None, None)
    assert result.kept == {}


def test_what_is_better_is_seen_in_the_name_of_a_metric():
    for name, better in {"accuracy": 2, "val_loss": 1, "Perplexity": 1, "bleu": 2}.items():
        best = ssp.Best(name)
        train(evaluate=scripted([1.5, 1.0, 2.0, 1.5], name), observers=[best])
        assert best.version == better


# The early end.


@pytest.mark.parametrize(
    ("values", "given", "version"),
    [
        ([5, 4, 3, 3, 3, 3], {"patience": 2}, 4),
        ([5, 4, 4.5, 3, 3, 3], {"patience": 1}, 2),
        ([5, 4, 3.95, 3.9, 3], {"patience": 2, "min_delta": 0.1}, 3),
        ([5, 6, 6, 6], {"patience": 2, "mode": "max"}, 3),
        ([math.nan, math.nan, 3, 3], {"patience": 2}, 1),
        ([3, math.nan, 2, math.nan, math.nan], {"patience": 2}, 4),
    ],
)
def test_patience_is_of_evaluations_in_a_row(values, given, version):
    result = train(evaluate=scripted(values), observers=[ssp.EarlyStop("loss", **given)])
    assert (result.status, result.version) == ("early", version + 1)
    assert result.reason in result.summary()


def test_an_early_end_says_why():
    result = train(evaluate=scripted([5, 4, 4, 4]), observers=[ssp.EarlyStop("loss", 2)])
    assert result.reason == "loss has been no better than 4 for 2 evaluations"
    result = train(evaluate=scripted([math.nan]), observers=[ssp.EarlyStop("loss", 3)])
    assert result.reason == "loss has been no number for 3 evaluations"


def test_a_run_that_goes_on_getting_better_is_done():
    values = [-clock for clock in range(9)]
    result = train(evaluate=scripted(values), observers=[ssp.EarlyStop("loss", 1)])
    assert (result.status, result.reason, result.version) == ("done", "", 8)


# What is wrong is said.

GIVEN = {
    "decay": (
        lambda: ssp.Ema(1.0),
        r"`Ema\(decay=...\)` must be less than 1 to move at all, got 1",
    ),
    "negative": (lambda: ssp.Ema(-0.1), r"`Ema\(decay=...\)` must be non-negative"),
    "large": (lambda: ssp.Ema(2), r"`Ema\(decay=...\)` must be at most 1, got 2"),
    "mode": (lambda: ssp.Best("loss", "least"), r'`Best\(mode=...\)` must be "max" or "min"'),
    "metric": (lambda: ssp.Best(""), r"`Best\(metric=...\)`"),
    "patience": (lambda: ssp.EarlyStop("loss", 0), r"`EarlyStop\(patience=...\)` must be at least"),
    "min_delta": (lambda: ssp.EarlyStop("a", 1, min_delta=-1), r"`EarlyStop\(min_delta=...\)`"),
}


@pytest.mark.parametrize(("make", "message"), GIVEN.values(), ids=GIVEN)
def test_what_a_hook_cannot_be_is_said_by_its_field(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def never(worker):
    yield next(batches(worker))  # to look at
    raise AssertionError("a clock has run")


@pytest.mark.parametrize("hook", [ssp.Best("accuracy"), ssp.EarlyStop("accuracy", 3)])
def test_a_metric_that_is_missing_is_named_with_those_there_are(hook):
    name = type(hook).__name__
    for runtime in (VIRTUAL, DEVICES):
        message = rf"`{name}\(metric=...\)` asks for 'accuracy', .*: \['loss', 'other'\]"
        with pytest.raises(ValueError, match=message) as caught:
            train(runtime, evaluate=scripted([1.0]), data=never, observers=[hook])
        assert not hasattr(caught.value, "result")  # nothing has begun
        with pytest.raises(ValueError, match=f"`{name}` needs `evaluate`, a function"):
            train(runtime, observers=[hook])


def test_a_run_that_cannot_be_is_said_first():
    with pytest.raises(TypeError, match="`runtime` must be a Runtime"):
        train(3, observers=[ssp.Best("loss")])


# What is left of them.


def test_the_folder_of_a_run_has_what_they_keep(tmp_path):
    ema, best, stop = hooks()
    with RunFolder(tmp_path / "run", {}) as folder:
        result = train(evaluate=turning, num_clocks=60, observers=[ema, best, stop, folder])
    run = ssp.read_run(tmp_path / "run")
    assert run.status == result.status == "early"
    assert run.summary["reason"] == result.reason
    assert run.summary["kept"] == {
        "ema": {"decay": 0.9, "round": result.version},
        "best": {"metric": "distance", "value": best.value, "version": best.version},
    }
    assert sorted(run.kept) == ["best", "ema"]
    assert bits(run.kept["ema"]) == bits(ema.params)
    assert bits(run.kept["best"]) == bits(best.params)
    assert bits(ssp.load_params(run.path / "best", like=PARAMS)) == bits(best.params)


def test_a_run_that_fails_keeps_what_there_was():
    def data(worker):
        source = batches(worker)
        yield from (next(source) for _ in range(5))
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone") as caught:
        train(data=data, evaluate=turning, observers=hooks())
    assert sorted(caught.value.result.kept) == ["best", "ema"]


# In a config.


def test_an_experiment_has_hooks(tmp_path):
    experiment = ssp.Experiment(
        workload=None,
        runtime=ssp.Virtual(num_workers=2, compute=False),
        num_clocks=3,
        hooks=(ssp.Ema(0.5), ssp.EarlyStop("loss", 2)),
    )
    facts = [
        {"type": "Ema", "decay": 0.5},
        {"type": "EarlyStop", "metric": "loss", "patience": 2, "mode": None, "min_delta": 0.0},
    ]
    assert experiment.describe()["hooks"] == facts
    assert json.dumps(facts)
    assert "hooks" not in experiment.identity()
    result = experiment.run()  # where nothing is computed there is nothing to watch
    assert (result.status, result.kept) == ("done", {})
    with pytest.raises(
        TypeError, match=r"`Experiment\(hooks=...\)\[0\]` must be an `ssp.Observer`"
    ):
        ssp.Experiment(hooks=(3,), num_clocks=1).check()
