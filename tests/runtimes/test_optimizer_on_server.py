"""One optimizer on the server: under BSP the synchronous loop, whatever the optimizer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jax_ssp as ssp

WORKERS, CLOCKS, BATCH = 4, 8, 6
SCHEDULE = optax.warmup_cosine_decay_schedule(0.0, 0.05, 3, CLOCKS)


@pytest.fixture(autouse=True)
def as_optax_needs():
    """Its schedules and adafactor do not keep to strict promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def no_vectors(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


OPTIMIZERS = {
    "sgd": lambda: optax.sgd(0.05),
    "momentum": lambda: optax.sgd(0.02, momentum=0.9, nesterov=True),
    "clipping": lambda: optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.05)),
    "masked decay": lambda: optax.chain(
        optax.add_decayed_weights(0.1, mask=no_vectors), optax.sgd(0.05)
    ),
    "adamw": lambda: optax.adamw(0.02, mask=no_vectors),
    "lion": lambda: optax.lion(0.01),
    "adafactor": lambda: optax.adafactor(0.02),
    "sgd, warm-up": lambda: optax.sgd(SCHEDULE),
    "adamw, warm-up": lambda: optax.adamw(SCHEDULE),
    "injected": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=SCHEDULE),
}
ADAM_KIND = {"adamw", "lion", "adafactor", "adamw, warm-up", "injected"}


def loss_fn(params, batch, key):
    inputs, outputs = batch
    hidden = jnp.tanh(inputs @ params["first"] + params["bias"][None])
    return jnp.mean((hidden @ params["second"] - outputs) ** 2), {}


def problem(dtype=np.float32, clocks=CLOCKS, steps=1):
    """First parameters; and batches of each worker, clock and step."""
    rng = np.random.default_rng(0)
    shape = WORKERS, clocks, steps, BATCH
    inputs = rng.normal(size=(*shape, 5)).astype(dtype)
    outputs = (np.sin(inputs.sum(-1)) + 0.1 * rng.normal(size=shape)).astype(dtype)
    params = {
        "first": rng.normal(size=(5, 4)).astype(dtype),
        "bias": np.zeros(4, dtype),
        "second": rng.normal(size=4).astype(dtype),
    }
    return params, (inputs, outputs)


def plain_loop(optimizer, params, batches):
    """The synchronous loop: a step on the batches of all workers, clock by clock."""
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, batch):
        gradient = jax.grad(lambda params: loss_fn(params, batch, None)[0])(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    for clock in range(batches[0].shape[1]):
        batch = [part[:, clock].reshape(-1, *part.shape[4:]) for part in batches]
        params, state = step(params, state, batch)
    return params


def data_of(batches):
    inputs, outputs = (part.reshape(WORKERS, -1, *part.shape[3:]) for part in batches)
    return lambda worker: iter(zip(inputs[worker], outputs[worker], strict=True))


def run(optimizer, params, batches, **given):
    clocks, steps = batches[0].shape[1:3]
    plan = {
        "policy": ssp.BSP(),
        "runtime": ssp.Virtual(num_workers=WORKERS),
        "optimizer_on": "server",
        "num_clocks": clocks,
        "local_steps": steps,
        **given,
    }
    step = ssp.make_step(loss_fn, optimizer)
    return ssp.train(step, params=params, data=data_of(batches), **plan)


def furthest(one, other):
    return max(
        float(np.abs(np.asarray(a) - np.asarray(b)).max())
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


QUICK = ("clipping", "adamw, warm-up")


def one_each(names):
    """All of them in CI, two in the quick loop."""
    return [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow, id=name)
        for name in names
    ]


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", one_each(OPTIMIZERS))
@pytest.mark.every(4)
def test_bsp_is_the_large_batch_loop(name, steps):
    params, batches = problem(steps=steps)
    expected = plain_loop(OPTIMIZERS[name](), params, batches)
    result = run(OPTIMIZERS[name](), params, batches)
    assert furthest(result.params, expected) <= (1e-3 if name in ADAM_KIND else 1e-5)
    assert furthest(params, expected) > 1e-2, "nothing was trained"


@pytest.mark.parametrize("name", one_each(OPTIMIZERS))
@pytest.mark.slow
def test_bsp_is_the_large_batch_loop_in_float64(name):
    with jax.enable_x64(True):
        params, batches = problem(np.float64)
        expected = plain_loop(OPTIMIZERS[name](), params, batches)
        result = run(OPTIMIZERS[name](), params, batches)
        for one, other in zip(*map(jax.tree.leaves, (result.params, expected)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-10)


def rounds_told():
    """An optimizer that counts nothing, and moves by what its schedule says."""
    return optax.inject_hyperparams(optax.sgd)(learning_rate=SCHEDULE)


@pytest.mark.parametrize("bound", [0, 1, 3])
@pytest.mark.every(3)
def test_under_ssp_a_schedule_goes_by_rounds(bound):
    """Each merge is at the learning rate that the loop has after as many samples."""
    params, batches = problem()
    delay = ssp.delays.Exponential(mean=1.0)
    runtime = ssp.Virtual(num_workers=WORKERS, delay=delay)
    result = run(rounds_told(), params, batches, policy=ssp.SSP(bound), runtime=runtime)
    assert result.version == (WORKERS * CLOCKS if bound else CLOCKS)
    size = WORKERS if bound == 0 else 1  # of a merge
    for row in result.history:
        expected = float(SCHEDULE((row["updates"] - size) // WORKERS))
        assert row["metrics"]["hyperparams/learning_rate"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("bound", [0, 1, 3])
@pytest.mark.parametrize("name", one_each(["sgd", "clipping", "masked decay", "sgd, warm-up"]))
@pytest.mark.every(3)
def test_ssp_comes_near_the_loop(name, bound):
    """For what is not divided by gradients: as far down as the loop comes, within a tenth."""
    params, batches = problem(clocks=40)
    delay = ssp.delays.Exponential(mean=1.0)
    runtime = ssp.Virtual(num_workers=WORKERS, delay=delay)
    whole = [part.reshape(-1, *part.shape[4:]) for part in batches]

    def loss(params):
        return float(loss_fn(params, whole, None)[0])

    expected = loss(plain_loop(OPTIMIZERS[name](), params, batches))
    result = run(OPTIMIZERS[name](), params, batches, policy=ssp.SSP(bound), runtime=runtime)
    first = loss(params)
    assert loss(result.params) - expected < 0.1 * (first - expected)


def test_workers_schedules_count_rounds_too():
    """A slow worker is at the rate of the run, not at that of its own few steps."""
    params, batches = problem(clocks=12)
    delay = ssp.delays.PerWorker((1.0, 1.0, 1.0, 4.0))
    result = run(
        rounds_told(), params, batches, optimizer_on="workers", policy=ssp.ASP(),
        runtime=ssp.Virtual(num_workers=WORKERS, delay=delay),
    )  # fmt: skip
    slow = [row for row in result.history if row["worker"] == 3]
    samples = {row["merge_version"]: row["samples_seen"] for row in result.history}
    for row in slow:
        seen = samples.get(row["base_version"], 0)
        expected = float(SCHEDULE(seen // (WORKERS * BATCH)))
        assert row["metrics"]["hyperparams/learning_rate"] == pytest.approx(expected, rel=1e-6)
    assert float(SCHEDULE(slow[2]["clock"])) != slow[2]["metrics"]["hyperparams/learning_rate"]


@pytest.mark.parametrize(
    "given",
    [
        {"policy": ssp.SSP(bound=2)},
        {"policy": ssp.SSP(bound=2, adopt="lazy"), "delta_wire": ssp.compression.TopK(0.5)},
        {"policy": ssp.KAsync(2), "snapshot_wire": ssp.compression.BFloat16()},
        {"policy": ssp.FedBuff(3), "delta_tx": ssp.mitigations.delay_compensation(0.1)},
        {"policy": ssp.Ringmaster(2), "local_steps": ssp.DyLU(h=2)},
    ],
    ids=["ssp", "lazy", "k-async", "fedbuff", "ringmaster"],
)
@pytest.mark.every(5)
def test_it_replays_to_the_last_bit(given):
    params, batches = problem(clocks=6, steps=2)
    runtime = ssp.Virtual(num_workers=WORKERS, delay=ssp.delays.Exponential(mean=1.0), batch=2)
    one = run(OPTIMIZERS["adamw, warm-up"](), params, batches, runtime=runtime, **given)
    replay = ssp.Replay(one.tape)
    two = run(OPTIMIZERS["adamw, warm-up"](), params, batches, runtime=replay, **given)
    jax.tree.map(np.testing.assert_array_equal, one.params, two.params)
    assert one.tape.header["reads_own"] is False
    assert ssp.check_contract(one.tape).merged == one.updates > 0


@pytest.mark.slow
def test_on_devices_and_split_over_them():
    params, batches = problem()
    runtime = ssp.Devices(num_workers=WORKERS, workers_per_device=WORKERS)
    expected = run(OPTIMIZERS["adamw"](), params, batches)
    for placement in ("host", "devices"):
        result = run(OPTIMIZERS["adamw"](), params, batches, runtime=runtime, placement=placement)
        jax.tree.map(np.testing.assert_array_equal, result.params, expected.params)


@pytest.mark.slow
def test_what_has_init_and_update_will_do_as_it_does_on_workers():
    """`optax.MultiSteps` is no transform of optax."""
    many = optax.MultiSteps(optax.sgd(0.05, momentum=0.9), every_k_schedule=2)
    params, batches = problem(clocks=4)
    expected = plain_loop(many, params, batches)
    assert furthest(run(many, params, batches).params, expected) <= 1e-5
    assert furthest(params, expected) > 1e-2, "nothing was trained"


def test_its_state_is_the_servers():
    params, batches = problem()
    result = run(optax.adam(0.01), params, batches)
    assert int(optax.tree.get(result.states.server, "count")) == CLOCKS
    assert not any(map(jax.tree.leaves, result.states.workers))


@pytest.mark.slow
def test_half_precision_has_masters():
    params, batches = problem(jnp.bfloat16)
    result = run(optax.adam(1e-3), params, batches)
    assert result.params["first"].dtype == jnp.bfloat16
    assert result.masters["first"].dtype == jnp.float32
    assert optax.tree.get(result.states.server, "mu")["first"].dtype == jnp.float32


class Normed(nnx.Module):
    def __init__(self, rngs):
        # A bias before the norm would have a gradient of rounding errors, which Adam makes large.
        self.first = nnx.Linear(5, 4, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.second = nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, inputs):
        return self.second(nnx.relu(self.norm(self.first(inputs))))[..., 0]


def nnx_loss(model, batch):
    inputs, outputs = batch
    return jnp.mean((model(inputs) - outputs) ** 2), {}


@pytest.mark.slow
def test_one_worker_of_an_nnx_model_is_the_loop_with_its_statistics():
    """At a learning rate of 0 too, which is where warm-up begins."""
    _, batches = problem()
    inputs, outputs = (part[0, :, 0] for part in batches)

    def kernels(params):
        return jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", params)

    model = Normed(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adamw(SCHEDULE), wrt=nnx.Param)
    for batch in zip(inputs, outputs, strict=True):
        gradient = nnx.grad(lambda model: nnx_loss(model, batch)[0])(model)  # noqa: B023
        optimizer.update(model, gradient)
    step = ssp.make_nnx_step(Normed(nnx.Rngs(0)), nnx_loss, optax.adamw(SCHEDULE))
    result = ssp.train(
        step,
        data=lambda worker: iter(zip(inputs, outputs, strict=True)),
        policy=ssp.BSP(),
        runtime=ssp.Virtual(num_workers=1),
        optimizer_on="server",
        num_clocks=CLOCKS,
    )
    model.eval()
    probe = inputs[0]
    np.testing.assert_allclose(step.model(result.params)(probe), model(probe), atol=1e-4)
    masked = ssp.make_nnx_step(Normed(nnx.Rngs(0)), nnx_loss, optax.adamw(SCHEDULE, mask=kernels))
    assert ssp.train(
        masked,
        data=lambda worker: iter(zip(inputs, outputs, strict=True)),
        policy=ssp.SSP(),
        runtime=ssp.Virtual(num_workers=2),
        optimizer_on="server",
        num_clocks=2,
    ).updates == 4  # fmt: skip


# What is refused.


class Own:
    def init(self, params):
        return ()

    def __call__(self, params, state, batch, key):
        return jax.tree.map(jnp.zeros_like, params), state, {}


STEP = ssp.make_step(loss_fn, optax.sgd(0.1))
REFUSED = {
    "server_tx": ({"server_tx": optax.identity()}, ValueError, "optax.chain"),
    "overlap": ({"overlap": 1}, ValueError, "overlap=1"),
    "mix": ({"adopt": ssp.Mix(0.5)}, ValueError, "Mix"),
    "custom": ({"step": Own()}, TypeError, "a Own"),
    "value": (
        {"step": ssp.make_step(loss_fn, optax.polyak_sgd())},
        TypeError,
        "leave it with the workers",
    ),
    "value_fn": (
        {"step": ssp.make_step(loss_fn, optax.lbfgs())},
        TypeError,
        "leave it with the workers",
    ),
    "scaled": (
        {"step": ssp.make_step(loss_fn, ssp.mitigations.dynamic_loss_scale(optax.sgd(0.1)))},
        ValueError,
        "bfloat16",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_goes_with_workers_only_is_refused(name):
    given, kind, says = REFUSED[name]
    params, batches = problem()
    plan = {"step": STEP, "policy": ssp.BSP(), "num_clocks": 2, "local_steps": 2, **given}
    with pytest.raises(kind, match=says) as error:
        ssp.train(
            plan.pop("step"), params=params, data=data_of(batches), optimizer_on="server",
            runtime=ssp.Virtual(num_workers=WORKERS), **plan,
        )  # fmt: skip
    assert 'optimizer_on="workers"' in str(error.value)


@pytest.mark.parametrize(
    "given", [{"overlap": 1}, {"adopt": ssp.Mix(0.5)}, {"server_tx": optax.identity()}]
)
def test_a_rehearsal_without_computing_refuses_the_same(given):
    runtime = ssp.Virtual(num_workers=WORKERS, compute=False)
    with pytest.raises(ValueError, match='optimizer_on="workers"'):
        ssp.train(runtime=runtime, optimizer_on="server", num_clocks=2, local_steps=2, **given)


def test_what_goes_uphill_is_refused_as_the_optimizer_unless_it_is_meant_so():
    """`optax.masked` hands on what its mask leaves out: a gradient, as an update."""
    params, batches = problem(clocks=2)
    optimizer = optax.masked(optax.sgd(0.05), no_vectors)
    with pytest.raises(ValueError, match=r"^`step\.optimizer` goes uphill.*`ssp\.as_given"):
        run(optimizer, params, batches)
    result = run(ssp.as_given(optimizer), params, batches)
    assert furthest(result.params, plain_loop(optimizer, params, batches)) <= 1e-5


def test_a_transform_that_cannot_be_called_is_named_as_the_optimizer():
    told = optax.GradientTransformationExtraArgs(
        optax.identity().init, lambda updates, state, params, *, lag: (updates, state)
    )
    params, batches = problem(clocks=1)
    with pytest.raises(TypeError, match=r"`step\.optimizer` cannot be called"):
        run(told, params, batches)


# What is said.


def remarks(optimizer, **given):
    params, batches = problem(clocks=2, steps=given.get("local_steps", 1))
    return " / ".join(run(optimizer, params, batches, **given).remarks)


@pytest.mark.slow
def test_where_the_optimizer_lives_is_said():
    here = remarks(optax.sgd(0.1))
    there = remarks(optax.sgd(SCHEDULE), optimizer_on="workers")
    assert "on the server" in here
    assert "rounds" not in here
    assert "on the workers" in there
    assert f"rounds of {WORKERS * BATCH} samples" in there
    assert f"rounds of {2 * WORKERS * BATCH} samples" in remarks(optax.sgd(SCHEDULE), local_steps=2)


@pytest.mark.slow
def test_a_weight_that_cancels_is_said():
    for optimizer in (optax.adam(0.1), optax.lion(0.1)):
        assert "counts in full" in remarks(optimizer, policy=ssp.SSP(bound=1))
    assert "counts in full" not in remarks(optax.sgd(0.1, momentum=0.9), policy=ssp.SSP(bound=1))
    assert "counts in full" not in remarks(optax.adam(0.1), policy=ssp.BSP())
    assert "counts in full" not in remarks(optax.adam(0.1), policy=ssp.SSP(), weight="sum")


@pytest.mark.slow
def test_that_it_cancels_is_seen_at_any_learning_rate():
    """In the first round of a long warm-up too, and where the first call makes nothing."""
    warmup = optax.linear_schedule(0.0, 1e-3, 5000)
    assert "counts in full" not in remarks(optax.sgd(warmup), policy=ssp.ASP())
    assert "counts in full" in remarks(optax.adam(1e-9), policy=ssp.ASP())
    assert "counts in full" in remarks(optax.contrib.adopt(1e-3), policy=ssp.ASP())


@pytest.mark.slow
def test_steps_that_would_send_zeros_are_said():
    many = optax.MultiSteps(optax.sgd(SCHEDULE), every_k_schedule=2)
    optimizer = optax.GradientTransformation(many.init, many.update)
    assert "local_steps=k" in remarks(optimizer, optimizer_on="workers")
    assert "local_steps=k" not in remarks(optimizer, optimizer_on="workers", local_steps=2)
    assert "counts the updates of that" in remarks(optimizer, optimizer_on="workers")


@pytest.mark.slow
def test_schedules_that_are_not_set_are_said():
    free = optax.contrib.schedule_free_sgd(0.1)
    assert "ScheduleFreeState" in remarks(free, optimizer_on="workers")
    late = optax.conditionally_mask(optax.sgd(0.1), lambda step: step > 1)
    assert "ConditionallyMaskState" in remarks(late)
    outer = ssp.outer(optax.sgd(SCHEDULE))
    said = remarks(optax.sgd(0.1), optimizer_on="workers", server_tx=outer)
    assert "`server_tx` count versions" in said


@dataclasses.dataclass
class Told(ssp.Observer):
    remarks: tuple = ()

    def on_start(self, info):
        self.remarks = tuple(info["remarks"])


def test_observers_are_told_too():
    told = Told()
    params, batches = problem(clocks=2)
    result = run(optax.sgd(0.1), params, batches, observers=[told])
    assert list(told.remarks) == result.remarks != []


def test_a_parameter_may_be_a_number():
    step = ssp.make_step(
        lambda params, batch, key: ((params["w"] - batch) ** 2, {}), optax.sgd(0.1)
    )
    about = {"policy": ssp.SSP(1), "runtime": ssp.Virtual(2), "num_clocks": 1}
    data = lambda worker: iter([np.float32(1)])  # noqa: E731
    result = ssp.train(step, params={"w": 0.5}, data=data, optimizer_on="server", **about)
    np.testing.assert_allclose(result.params["w"], 0.6, rtol=1e-6)
