"""What is only averaged stays among what was seen, and keeps up; see `layout.py` for the rule."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jax_ssp as ssp
from jax_ssp import delays
from jax_ssp.compression import ALL_COMPRESSORS
from jax_ssp.layout import Layout, Statistic
from jax_ssp.policies import ALL_POLICIES
from jax_ssp.server.local_store import LocalStore
from jax_ssp.worker.adopt import entered
from jax_ssp.worker.worker import Worker
from tests.helpers.problems import bits, merges
from tests.helpers.stores import storing

SIZE = 6
WEIGHTS = ["mean", "sum", "merged", 3.0, 0.05]
POLICIES = [*(policy() for policy in ALL_POLICIES), ssp.KSync(2), ssp.Ringmaster(2, stops=True)]
JITTER = delays.Exponential()
WIRES = [None, *(compressor() for compressor in ALL_COMPRESSORS)]
MODES = {
    "plain": {},
    "steps": {"local_steps": 3},
    "overlap": {"local_steps": 2, "overlap": 1},
    "all ahead": {"local_steps": 2, "overlap": 2},
    "mix": {"local_steps": 2, "adopt": ssp.Mix(0.5)},
    "mix ahead": {"local_steps": 3, "overlap": 1, "adopt": ssp.Mix(0.75)},
    "in pieces": {"placement": "devices"},
    "in batches": {"runtime": ssp.Virtual(4, JITTER, batch=4)},
    "devices": {"runtime": ssp.Devices(num_workers=4)},
}


class Tracker:
    """A step that trains `w`, and follows the batches' numbers with a running mean of decay 0.3.

    The first number of what it reads and of what it comes to are metrics.
    """

    init = staticmethod(lambda params: ())
    averaged = staticmethod(lambda params: {"w": False, "mean": True, "z": False})

    def __call__(self, params, worker_state, batch, key):
        move = jnp.float32(0.7) * (batch - params["mean"])
        delta = {
            "w": -0.1 * (params["w"] - batch[0]),
            "mean": move,
            "z": jnp.ones_like(params["z"]),
        }
        return (
            {name: leaf.astype(jnp.float32) for name, leaf in delta.items()},
            worker_state,
            {"read": params["mean"][0], "value": (params["mean"] + move)[0]},
        )


TRACKER = Tracker()
PARAMS = {name: np.zeros(SIZE, np.float32) for name in ("w", "mean", "z")}


def thinned(table, every, slow=1):
    """Each so many-th row of a table, and each so many-th for the slow loop, by default all."""
    return [
        pytest.param(*row, marks=[] if place % every == 0 else [pytest.mark.slow])
        for place, row in enumerate(table)
        if place % every == 0 or place % slow == 0
    ]


def numbers(worker):
    """Every worker with its own range, each of a few outliers among small numbers."""
    rng = np.random.default_rng([5, worker])
    while True:
        yield (worker + rng.normal(size=SIZE) ** 3).astype(np.float32)


def track(**others):
    spec = {
        "params": PARAMS,
        "data": numbers,
        "runtime": ssp.Virtual(4, JITTER),
        "num_clocks": 8,
        **others,
    }
    return ssp.train(spec.pop("step", TRACKER), **spec)


def seeing(runtime):
    """A runtime like this one, and what every merge had: statistics before, values, and after."""
    rows, pushed = [], {}

    class Seeing(LocalStore):
        def push(self, event, payload, metrics):
            pushed[event.token] = payload
            super().push(event, payload, metrics)

        def merge(self, merge):
            before = jax.tree.map(np.asarray, self.params)
            opened = [
                list(map(self.wire.opened, pushed[delta.token], self.wire.shapes))
                for delta in merge.deltas
            ]
            first = self.devices[0]
            joined = [self.wire.parts.join([jax.device_put(p, first) for p in d]) for d in opened]
            seen = map(self.layout.unpacked, joined)
            values = [np.asarray(each["mean"].value) for each in seen]
            super().merge(merge)
            rows.append((before["mean"], values, np.asarray(self.params["mean"])))

    return storing(runtime, Seeing), rows


@pytest.fixture
def bases(monkeypatch):
    """What workers began their clocks with, and the values they had been told of."""
    rows = []
    read = Worker.read

    def spy(self, start, snapshot):
        base = read(self, start, snapshot)
        seen = self.program.layout.unpacked
        own = [np.asarray(seen(sent)["mean"].value) for sent, _ in self.replica.own.values()]
        means = (np.asarray(seen(each)["mean"]) for each in (self.replica.held, base))
        rows.append((next(means), own, next(means)))
        return base

    monkeypatch.setattr(Worker, "read", spy)
    return rows


def in_hull(rows):
    """Does every row's last lie among its first and its values?"""
    for before, values, after in rows:
        there = [before, *(value for value in values if np.isfinite(value).all())]
        if not ((np.min(there, axis=0) <= after) & (after <= np.max(there, axis=0))).all():
            return False
    return bool(rows)


# A policy that gives the weights itself leaves no choice of them.
WEIGHING = [
    (policy, weight, wire)
    for policy, weight, wire in itertools.product(POLICIES, WEIGHTS, WIRES)
    if weight == "mean" or not policy.gives_weights
]
TABLE = thinned(WEIGHING, 37, slow=6)


@pytest.mark.parametrize(("policy", "weight", "wire"), TABLE, ids=repr)
@pytest.mark.every(23)
def test_every_version_lies_among_the_last_and_what_is_merged(policy, weight, wire, bases):
    runtime, seen = seeing(ssp.Virtual(4, JITTER))
    snapshots = wire if wire is not None and wire.for_snapshots else None
    spec = {"policy": policy, "weight": weight, "delta_wire": wire, "snapshot_wire": snapshots}
    track(runtime=runtime, **spec)
    assert in_hull(seen)
    assert in_hull(bases)


EXCHANGING = itertools.product(
    MODES, ["mean", 3.0], [ssp.SSP(2), ssp.SSP(3, "lazy"), ssp.KBatchAsync(3), ssp.BSP()]
)


@pytest.mark.parametrize(("mode", "weight", "policy"), thinned(EXCHANGING, 7), ids=repr)
@pytest.mark.every(13)
def test_in_every_way_of_exchanging(mode, weight, policy, bases):
    spec = {"runtime": ssp.Virtual(4, JITTER), "policy": policy, "weight": weight, **MODES[mode]}
    runtime, seen = seeing(spec["runtime"])
    result = track(**{**spec, "runtime": runtime})
    assert in_hull(seen)
    assert in_hull(bases)
    # What is averaged is among what the data show, whatever the weight.
    shown = np.concatenate([[next(data) for _ in range(30)] for data in map(numbers, range(4))])
    least, greatest = shown.min(0).clip(max=0), shown.max(0).clip(min=0)
    mean = result.params["mean"]
    assert ((least <= mean) & (mean <= greatest)).all()
    if mode != "in batches":
        again = track(**{**spec, "runtime": ssp.Replay(result.tape)})
        assert bits(again.params) == bits(result.params)


def by_the_rule(result, weight):
    """The first number of what is averaged at the last version, in NumPy, from what was pushed."""
    pushed = {
        (row["worker"], row["clock"]): (row["metrics"]["value"], row["metrics"]["read"])
        for row in result.history
    }
    mean = np.float32(0)
    for merge in merges(result.tape):
        rows = [pushed[each.worker, each.clock] for each in merge.deltas]
        each = {"mean": 1 / merge.num_workers, "merged": 1 / len(rows)}.get(weight)
        if each is None:
            share = 1 / max(merge.num_workers, len(rows))
        else:
            share = each / max(1.0, each * len(rows))
        moved = mean + share * sum(value - base for value, base in rows)
        values = [mean, *(value for value, _ in rows)]
        mean = np.clip(moved, min(values), max(values))
    return mean


RULED = itertools.product(
    [ssp.SSP(2), ssp.BSP(), ssp.ASP(), ssp.KBatchAsync(6), ssp.Quorum(2)], WEIGHTS
)


@pytest.mark.parametrize(("policy", "weight"), thinned(RULED, 4), ids=repr)
@pytest.mark.every(11)
def test_a_merge_is_what_the_rule_says(policy, weight):
    result = track(policy=policy, weight=weight, num_clocks=12)
    expected = by_the_rule(result, weight)
    np.testing.assert_allclose(result.params["mean"][0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("count", "devices"), thinned([(33, 1), (33, 2), (70, 1), (70, 2)], 4))
@pytest.mark.slow
def test_many_at_once_are_among_all_that_come(count, devices):
    """Merges are summed in parts: the least and the greatest are those of all parts."""
    averaged = {"w": False, "mean": True}
    params = {"w": np.zeros(4, np.float32), "mean": np.zeros(4, np.float32)}
    rng = np.random.default_rng(0)
    moves = rng.normal(size=(count, 4)).astype(np.float32)
    moves[0], moves[-1] = 5, -5
    deltas = [{"w": params["w"], "mean": move} for move in moves]
    for weight, sums in (("sum", moves.sum(0) / count), ("mean", moves.sum(0) / count)):
        server = ssp.Server(
            params, weight=weight, averaged=averaged, device=jax.devices()[:devices]
        )
        server.merge(deltas, num_workers=4)
        np.testing.assert_allclose(server.params["mean"], sums, rtol=1e-4, atol=1e-6)
    # Their bases are far above: some values, of the first part too, are where moves do not go.
    bases = [{"w": params["w"], "mean": np.full(4, 30, np.float32)} for _ in deltas]
    down = [{**delta, "mean": delta["mean"] - 24} for delta in deltas]  # values from 1 to 11
    server = ssp.Server(params, averaged=averaged, device=jax.devices()[:devices])
    server.merge(down, stale_params=bases)
    assert server.params["mean"].tolist() == [0.0] * 4
    up = [{**delta, "mean": delta["mean"] + 24} for delta in deltas]
    bases = [{"w": params["w"], "mean": np.full(4, -18, np.float32)} for _ in deltas]
    server.merge(up, stale_params=bases)  # values up to 11, by the first one
    assert server.params["mean"].tolist() == [11.0] * 4


# They keep up.


def progress(policy, seed, weight="mean", workers=4, **others):
    """How far the mean has come, in the clocks in which one worker alone comes to 1 - 1 / e."""
    rate = 0.05

    class Slow(Tracker):
        def __call__(self, params, worker_state, batch, key):
            move = jnp.float32(rate) * (batch - params["mean"])
            return {"w": jnp.zeros_like(move), "mean": move, "z": move}, worker_state, {}

    result = track(
        step=Slow(),
        data=lambda worker: itertools.repeat(np.ones(SIZE, np.float32)),
        policy=policy,
        weight=weight,
        runtime=ssp.Virtual(workers, JITTER, seed=seed),
        num_clocks=None,
        max_updates=workers * int(1 / rate),
        **others,
    )
    return float(result.params["mean"][0])


PACED = itertools.product([ssp.SSP(1), ssp.SSP(3), ssp.SSP(3, "lazy"), ssp.ASP()], ["mean", "sum"])


@pytest.mark.parametrize(("policy", "weight"), thinned(PACED, 6), ids=repr)
@pytest.mark.every(2)
def test_they_move_no_slower_than_in_bsp_by_more_than_a_factor_of_2(policy, weight):
    """With the distance 1 - m to go, the rate of a run is -log(1 - m) over its length."""
    rates = {
        each: np.mean([-np.log1p(-progress(each, seed, weight)) for seed in range(3)])
        for each in (ssp.BSP(), policy)
    }
    assert rates[policy] > 0.5 * rates[ssp.BSP()]


# A model.


class Net(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.out = nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(self.norm(x))[:, 0]


X = 0.1 * np.random.default_rng(0).normal(size=(256, 4)).astype(np.float32)
Y = X @ np.array([1.0, -2.0, 0.5, 3.0], np.float32)


def loss_fn(model, batch):
    return jnp.mean((model(batch[0]) - batch[1]) ** 2), {}


def net(optimizer=None):
    return ssp.make_nnx_step(Net(nnx.Rngs(0)), loss_fn, optimizer or optax.sgd(0.01))


def poisoned(worker):
    """One batch of worker 1 is NaN."""
    rng = np.random.default_rng(worker)
    for number in itertools.count():
        rows = rng.integers(len(X), size=16)
        bad = np.float32(np.nan if (worker, number) == (1, 5) else 1)
        yield X[rows] * bad, Y[rows]


FITTED = itertools.product([ssp.SSP(3), ssp.ASP(), ssp.KBatchAsync(3)], ["mean", "merged", 0.3])


@pytest.mark.parametrize(("policy", "weight"), thinned(FITTED, 5), ids=repr)
def test_a_variance_is_never_negative_and_a_model_can_be_evaluated(policy, weight):
    """The variance of the data, 0.01, is far below that of the first version, 1."""
    step = net()
    result = ssp.train(
        step,
        data=ssp.data.Shards((X, Y), batch_size=32, num_workers=3),
        policy=policy,
        weight=weight,
        runtime=ssp.Virtual(3, lambda worker, clock, steps, rng: 12.0 if worker else 1.0),
        local_steps=20,
        evaluate=lambda params: {
            "variance": jnp.min(params["norm.var"]),
            "error": jnp.mean((step.model(params)(X) - Y) ** 2),
        },
        eval_every=1,
        max_updates=40,
    )
    assert all(row["metrics"]["variance"] >= 0 for row in result.evaluations)
    assert all(np.isfinite(row["metrics"]["error"]) for row in result.evaluations)
    assert result.metrics["variance"] < 0.2  # it has moved on


SKIPPING = {
    "skip_nonfinite": {"delta_tx": ssp.mitigations.skip_nonfinite()},
    "skip_nonfinite on the sum": {"server_tx": ssp.mitigations.skip_nonfinite()},
    "reject": {"delta_tx": ssp.mitigations.clip_outliers(action="reject")},
    "shrink": {"delta_tx": ssp.mitigations.clip_outliers(action="shrink")},
    "drop_stale": {
        "delta_tx": ssp.mitigations.drop_stale(20, inner=ssp.mitigations.skip_nonfinite())
    },
    "zero_nans": {"delta_tx": optax.zero_nans()},
    "zero_nans in pieces": {"delta_tx": optax.zero_nans(), "placement": "devices"},
}
OPTIMIZERS = {
    "sgd": lambda: optax.sgd(0.01),
    "apply_if_finite": lambda: optax.apply_if_finite(optax.sgd(0.01), 5),
}
STEPS = {
    "1": {},
    "3": {"local_steps": 3},
    "ahead": {"local_steps": 2, "overlap": 1},
    "mix": {"local_steps": 2, "overlap": 1, "adopt": ssp.Mix(0.5)},
    "int8": {"delta_wire": ssp.compression.Int8()},
}
BAD = thinned(itertools.product(SKIPPING, OPTIMIZERS, STEPS), 11)


@pytest.mark.parametrize(("server", "optimizer", "steps"), BAD)
@pytest.mark.every(11)
def test_a_bad_batch_leaves_no_trace_in_them(server, optimizer, steps):
    result = ssp.train(
        net(OPTIMIZERS[optimizer]()),
        data=poisoned,
        runtime=ssp.Virtual(3),
        num_clocks=8,
        **SKIPPING[server],
        **STEPS[steps],
    )
    assert result.status == "done"
    for name, leaf in result.params.items():
        assert np.isfinite(leaf).all(), name
    assert (np.asarray(result.params["norm.var"]) > 0).all()


def test_without_a_transform_neither_parameters_nor_statistics_are_spoilt():
    result = ssp.train(net(), data=poisoned, runtime=ssp.Virtual(3), num_clocks=8)
    assert (result.status, result.not_finite > 0) == ("done", True)
    for name, leaf in result.params.items():
        assert np.isfinite(leaf).all(), name


@pytest.mark.parametrize("local_steps", [1, 3])
@pytest.mark.every(2)
def test_a_step_that_its_optimizer_skips_moves_no_statistics(local_steps):
    """The targets are NaN, not the data: statistics would be finite, but the step never was."""
    step = net(optax.apply_if_finite(optax.sgd(0.01), 100))
    result = ssp.train(
        step,
        data=lambda worker: itertools.repeat((X[:16], Y[:16] * np.float32(np.nan))),
        runtime=ssp.Virtual(1),
        num_clocks=3,
        local_steps=local_steps,
    )
    assert bits(result.params) == bits(step.params)


class Skipping(Tracker):
    """A step by hand whose optimizer skips what is not finite; its statistics are told of it."""

    optimizer = optax.apply_if_finite(optax.sgd(0.1), 100)

    def init(self, params):
        return self.optimizer.init({"w": params["w"]})

    def __call__(self, params, worker_state, batch, key):
        gradient, numbers = batch
        updates, worker_state = self.optimizer.update({"w": gradient}, worker_state)
        delta = {**updates, "mean": 0.5 * (numbers - params["mean"]), "z": jnp.zeros(SIZE)}
        return delta, worker_state, {}


@pytest.mark.parametrize("local_steps", [1, 4])
@pytest.mark.parametrize("where", ["gradient", "numbers", "both"])
@pytest.mark.every(7)
def test_of_a_step_by_hand_that_is_skipped_statistics_stay_as_they_were(where, local_steps):
    """Of four steps the third is bad: what is averaged halves its way to 1 three times."""

    def data(worker):
        for number in range(4):
            bad = np.full(SIZE, np.nan if number == 2 else 1, np.float32)
            good = np.ones(SIZE, np.float32)
            yield (good, bad) if where == "numbers" else (bad, bad if where == "both" else good)

    result = track(
        step=Skipping(),
        data=data,
        runtime=ssp.Virtual(1),
        num_clocks=4 // local_steps,
        local_steps=local_steps,
    )
    assert result.params["mean"].tolist() == [1 - 0.5**3] * SIZE
    assert np.isfinite(result.params["w"]).all()


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.slow
def test_a_step_that_multi_steps_skips_moves_no_statistics():
    """Its gradients are finite, but too large; those that it only puts off move them."""

    def skipping(norm):
        def too_large(updates, gradient_step, params):
            return optax.skip_large_updates(updates, gradient_step, params, norm)

        many = optax.MultiSteps(optax.sgd(0.1), 2, should_skip_update_fn=too_large)
        return net(many.gradient_transformation())

    for norm, stays in ((0.0, True), (1e9, False)):
        step = skipping(norm)
        result = ssp.train(
            step,
            data=lambda worker: itertools.repeat((X[:16], Y[:16])),
            runtime=ssp.Virtual(1),
            num_clocks=1,
        )
        name = "norm.var"
        assert bits(result.params["out.kernel"]) == bits(step.params["out.kernel"])
        assert (bits(result.params[name]) == bits(step.params[name])) == stays


def test_beside_what_is_not_finite_progress_on_another_base_has_no_value():
    layout = Layout.of(PARAMS, TRACKER.averaged(PARAMS))
    ones = jnp.ones(SIZE)
    for w, there in ((ones, True), (ones.at[3].set(jnp.inf), False)):
        delta = {"w": w, "mean": Statistic(ones, ones), "z": ones}
        assert np.isfinite(entered(layout, PARAMS, delta)["mean"].value).all() == there


# At the server alone.

AVERAGED = {"w": False, "mean": True}


def server_of(size=4, **others):
    params = {"w": np.zeros(size, np.float32), "mean": np.zeros(size, np.float32)}
    return ssp.Server(params, averaged=AVERAGED, **others)


def pushed(move=1.0, w=1.0, size=4):
    return {"w": np.full(size, w, np.float32), "mean": np.full(size, move, np.float32)}


@pytest.mark.parametrize("stage", ["delta_tx", "server_tx"])
@pytest.mark.parametrize("devices", [1, 3])
@pytest.mark.every(4)
def test_what_is_dropped_brings_none(stage, devices):
    """Also where one of the server's devices has nothing but statistics, or zeros in its piece."""
    server = server_of(**{stage: ssp.mitigations.drop_stale(3)}, device=jax.devices()[:devices])
    sparse = {**pushed(), "w": np.array([0, 0, 0, 1], np.float32)}
    server.merge([sparse], staleness=4)
    assert server.params["mean"].tolist() == [0.0] * 4
    server.merge([sparse], staleness=3)
    assert server.params["mean"].tolist() == [1.0] * 4
    server.merge([pushed(w=0.0)], staleness=3)  # not dropped: it trains nothing
    assert server.params["mean"].tolist() == [2.0] * 4


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("every", [optax.apply_every(3), optax.MultiSteps(optax.identity(), 3)])
@pytest.mark.every(2)
def test_what_is_only_put_off_brings_its_own_at_once(every):
    server = server_of(server_tx=getattr(every, "gradient_transformation", lambda: every)())
    for _ in range(2):
        server.merge([pushed()])
    assert server.params["w"].tolist() == [0.0] * 4
    assert server.params["mean"].tolist() == [2.0] * 4


def test_a_delta_that_is_not_finite_brings_none_and_one_number_that_is_not_is_left_out():
    server = server_of(delta_tx=ssp.mitigations.skip_nonfinite())
    server.merge([pushed(w=np.nan), pushed(move=2.0)])
    assert server.params["mean"].tolist() == [1.0] * 4
    half = pushed()
    half["mean"][0] = np.inf
    server.merge([half])
    assert server.params["mean"].tolist() == [1.0, 2.0, 2.0, 2.0]


def test_without_a_base_they_are_measured_from_the_newest_version():
    server = server_of(weight="mean")
    server.merge([pushed(8.0)], num_workers=1)
    server.merge([pushed(-8.0), pushed(4.0)], num_workers=4)  # values 0 and 12
    assert server.params["mean"].tolist() == [7.0] * 4
    stale = [{"w": np.zeros(4, np.float32), "mean": np.full(4, 7.5, np.float32)}]
    server.merge([pushed(1.0)], num_workers=1, stale_params=stale)
    assert server.params["mean"].tolist() == [8.0] * 4
    server.merge([pushed(1.0)], num_workers=1, stale_params=stale)  # the value is 8.5
    assert server.params["mean"].tolist() == [8.5] * 4


@pytest.mark.parametrize(
    ("averaged", "message"),
    [
        ({"w": False}, r"`Server\(averaged=\.\.\.\)` must be a tree of True and False"),
        (
            {"w": False, "mean": 1},
            r"`Server\(averaged=\.\.\.\)\['mean'\]` must be True or False, got 1",
        ),
        ({"w": True, "mean": True}, r"`params\['w'\]` is complex64, but only real numbers"),
    ],
)
def test_what_cannot_be_averaged_is_named(averaged, message):
    params = {"w": np.zeros(2, np.complex64), "mean": np.zeros(2, np.float32)}
    with pytest.raises((ValueError, TypeError), match=message):
        ssp.Server(params, averaged=averaged)


@pytest.mark.slow
def test_they_are_never_compressed():
    """A wire that keeps one number in six, and signs alone, let them through as they are."""
    for wire in (ssp.compression.TopK(1 / 6), ssp.compression.Sign()):
        results = [
            track(
                policy=ssp.BSP(),
                delta_wire=each,
                step=TRACKER,
                snapshot_wire=None if each is None else ssp.compression.BFloat16(),
            )
            for each in (None, wire)
        ]
        one, other = (result.params["mean"] for result in results)
        assert bits(one) == bits(other)


def test_a_statistic_is_two_arrays():
    assert Statistic._fields == ("value", "move")
