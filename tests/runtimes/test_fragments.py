"""Parameters in fragments, with real arrays: NumPy follows Streaming DiLoCo from every tape."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp import delays
from jax_ssp.controller import DeltaReady, Merge, StartClock
from tests.helpers.problems import bits

RATE, OUTER, MOMENTUM = 0.1, 0.7, 0.9
STEPS, WORKERS = 2, 3
RNG = np.random.default_rng(3)
TARGETS = RNG.normal(size=(WORKERS, 64, 5))
FIRST = {"a": np.zeros((2,)), "b": np.ones((3,))}
PATHS = ssp.Fragments(paths=(("a",), ("b",)))


def loss_fn(params, batch, key):
    """A quadratic whose minimum differs from batch to batch; its gradient is theta - target."""
    theta = jnp.concatenate([params["a"], params["b"]])
    return 0.5 * jnp.sum((theta - batch) ** 2), {}


STEP = ssp.make_step(loss_fn, optax.sgd(RATE))


def run(fragments, runtime=None, **changes):
    spec = {
        "params": {name: jnp.asarray(each, jnp.float32) for name, each in FIRST.items()},
        "data": lambda worker: iter(TARGETS[worker].astype(np.float32)),
        "policy": ssp.SSP(2),
        "num_clocks": 8,
        "local_steps": STEPS,
        "server_tx": ssp.outer(optax.sgd(OUTER, momentum=MOMENTUM, nesterov=True)),
        "fragments": fragments,
        "progress": False,
    }
    runtime = ssp.Virtual(WORKERS, delays.Exponential(), seed=1) if runtime is None else runtime
    step = changes.pop("step", STEP)
    return ssp.train(step, runtime=runtime, **{**spec, **changes})


def flat(params):
    return np.concatenate([np.asarray(params["a"]), np.asarray(params["b"])]).astype(float)


class Streaming:
    """Streaming DiLoCo in NumPy, told by a tape who does what in which order.

    Each worker has parameters of its own. With each push of a fragment it sends how far that is
    from where it adopted it; when its next clock has run `delay` steps, it adopts the fragment:
    own = alpha * own + (1 - alpha) * global, or global plus the steps made since it was sent.
    """

    def __init__(self, shares, delay=0, alpha=None):
        self.shares, self.delay, self.alpha = shares, delay, alpha
        self.theta, self.versions = flat(FIRST), [flat(FIRST)]
        self.velocity = np.zeros(5)
        self.own, self.base, self.taken, self.ran = {}, {}, dict.fromkeys(range(WORKERS), 0), {}
        self.deltas = {}

    def share(self, clock):
        mask = np.zeros(5, bool)
        mask[self.shares[clock % len(self.shares)]] = True
        return mask

    def local(self, worker, steps):
        for _ in range(steps):
            target = TARGETS[worker][self.taken[worker]]
            self.own[worker] = self.own[worker] - RATE * (self.own[worker] - target)
            self.taken[worker] += 1

    def start(self, start):
        worker, version = start.worker, self.versions[start.version].copy()
        for stamp in start.pending:  # what it has sent, and the version lacks
            version = version + start.weight * self.deltas[worker, stamp]
        assert start.whole == (worker not in self.own or len(self.shares) == 1)
        if worker not in self.own:
            self.own[worker], self.base[worker] = version.copy(), version.copy()
        else:
            mask, sent = self.share(start.clock - 1), self.own[worker].copy()
            self.local(worker, self.delay)
            moved = self.own[worker] - sent
            if self.alpha is None:
                adopted = version + moved
            else:
                adopted = self.alpha * self.own[worker] + (1 - self.alpha) * version
            self.own[worker] = np.where(mask, adopted, self.own[worker])
            self.base[worker] = np.where(mask, version, self.base[worker])
            self.ran[worker] = self.delay

    def push(self, event):
        worker = event.worker
        self.local(worker, STEPS - self.ran.pop(worker, 0))
        delta = (self.own[worker] - self.base[worker]) * self.share(event.clock)
        self.deltas[worker, event.clock] = delta

    def merge(self, merge):
        mask = np.zeros(5, bool)
        total = np.zeros(5)
        for each in merge.deltas:
            mask |= self.share(each.clock)
            total += each.weight * self.deltas[each.worker, each.clock]
        velocity = -total + MOMENTUM * self.velocity
        self.velocity = np.where(mask, velocity, self.velocity)
        step = OUTER * (-total + MOMENTUM * velocity)
        self.theta = np.where(mask, self.theta - step, self.theta)
        self.versions.append(self.theta.copy())

    def follow(self, tape):
        for _, event, commands in tape:
            if isinstance(event, DeltaReady):
                self.push(event)
            for command in commands:
                if isinstance(command, Merge):
                    self.merge(command)
                elif isinstance(command, StartClock):
                    self.start(command)
        return self.theta


A, B = slice(0, 2), slice(2, 5)


QUICK = [(ssp.BSP(), 0.5, 1), (ssp.SSP(2), None, 2), (ssp.SSP(2, "lazy"), 0.0, 0)]
CASES = [
    pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
    for case in itertools.product(
        [ssp.BSP(), ssp.SSP(2), ssp.SSP(2, "lazy")], [None, 0.0, 0.5, 1.0], [0, 1, 2]
    )
]


@pytest.mark.parametrize(("policy", "alpha", "delay"), CASES)
@pytest.mark.every(3)
def test_numpy_follows_streaming_diloco_from_the_tape(policy, alpha, delay):
    adopt = "rebase" if alpha is None else ssp.Mix(alpha)
    for fragments, shares in ((None, [slice(0, 5)]), (PATHS, [A, B])):
        result = run(fragments, policy=policy, overlap=delay, adopt=adopt)
        found = Streaming(shares, delay, alpha).follow(result.tape)
        np.testing.assert_allclose(flat(result.params), found, rtol=2e-5, atol=2e-5)
        ssp.check_contract(result.tape)


ROWS = 2, 5, 3  # of the batches of each worker


def of_shares(worker):
    """The same targets, in batches of other sizes."""
    return (np.tile(each.astype(np.float32), (ROWS[worker], 1)) for each in TARGETS[worker])


def loss_of_rows(params, batch, key):
    return loss_fn(params, batch[0], key)


COUNTING = ssp.make_step(loss_of_rows, optax.sgd(RATE), tokens=lambda batch: batch.shape[0] ** 2)


@pytest.mark.parametrize("policy", [ssp.KAsync(2), ssp.BSP()], ids=repr)
@pytest.mark.parametrize("weight", ["tokens", "samples", "merged"])
@pytest.mark.every(3)
def test_shares_are_of_what_is_merged_into_the_same_fragment(weight, policy):
    """By hand from what the pushes report; and NumPy follows what is merged so."""
    result = run(PATHS, step=COUNTING, data=of_shares, weight=weight, policy=policy, overlap=1)
    pushes, mixed = {}, 0
    for _, event, commands in result.tape:
        if isinstance(event, DeltaReady):
            rows = ROWS[event.worker]
            assert (event.samples, event.tokens) == (STEPS * rows, STEPS * rows**2)
            pushes[event.worker, event.clock] = event
        for merge in (each for each in commands if isinstance(each, Merge)):
            mixed += len({each.clock % 2 for each in merge.deltas}) > 1
            for each in merge.deltas:
                alike = [other for other in merge.deltas if (other.clock - each.clock) % 2 == 0]
                counts = {"tokens": [], "samples": [], "merged": [1] * len(alike)}
                for name in ("tokens", "samples"):
                    counts[name] = [getattr(pushes[x[:2]], name) for x in alike]
                own = counts[weight][alike.index(each)]
                assert each.weight == own / sum(counts[weight])
    assert (mixed > 0) == (policy != ssp.BSP())  # merges of both fragments at once
    found = Streaming([A, B], delay=1).follow(result.tape)
    np.testing.assert_allclose(flat(result.params), found, rtol=2e-5, atol=2e-5)
    ssp.check_contract(result.tape)
    again = run(PATHS, ssp.Replay(result.tape), step=COUNTING, data=of_shares, weight=weight,
                policy=policy, overlap=1)  # fmt: skip
    assert bits(again.params) == bits(result.params)


@pytest.mark.parametrize(
    "changes",
    [
        {"overlap": 2, "adopt": ssp.Mix(0.5)},
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in (
                {},
                {"overlap": 1},
                {"policy": ssp.BSP()},
                {"policy": ssp.KAsync(2), "weight": "merged"},
                {"delta_wire": ssp.compression.Int8(), "snapshot_wire": ssp.compression.Int8()},
                {"delta_tx": ssp.mitigations.delay_compensation()},
            )
        ),
    ],
    ids=lambda changes: "-".join(changes) or "plain",
)
@pytest.mark.slow
def test_one_fragment_is_none_and_several_replay_to_the_last_bit(changes):
    assert bits(run(1, **changes).params) == bits(run(None, **changes).params)
    result = run(2, **changes)
    assert bits(run(2, ssp.Replay(result.tape), **changes).params) == bits(result.params)
    devices = run(2, ssp.Devices(workers_per_device=WORKERS, num_workers=WORKERS), **changes)
    assert bits(run(2, ssp.Replay(devices.tape), **changes).params) == bits(devices.params)
    ssp.check_contract(devices.tape)
    with pytest.raises(ssp.TapeMismatch, match="fragments"):
        run(3, ssp.Replay(result.tape), **changes)


@pytest.mark.slow
def test_the_server_has_a_state_for_each_fragment():
    with jax.numpy_dtype_promotion("standard"):  # within optax
        result = run(2, num_clocks=3, policy=ssp.BSP(), server_tx=ssp.outer(optax.adam(0.1)))
    counts = [jax.tree.leaves(state)[0] for state in result.states.server]
    assert [int(count) for count in counts] == [2, 1]


def test_gradients_go_to_the_server_whole():
    with pytest.raises(ValueError, match=r"`fragments=Fragments\(number=2.*keeps what a worker"):
        run(2, optimizer_on="server", server_tx=None)


def test_who_cancels_is_refused_before_the_run():
    with pytest.raises(ValueError, match=r"`fragments=2`: KSync\(k=2\) cancels clocks"):
        run(2, policy=ssp.KSync(2))
