"""What a policy does to the parameters: a NumPy server gives the same, and no delta is lost."""

import jax
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp.policies import ALL_POLICIES
from tests.helpers.papers import (
    DIMENSION,
    ORACLES,
    PARAMS,
    RATE,
    TABLES,
    WORKERS,
    batches,
    exponential,
    loss_fn,
    sgd,
    simulated,
    virtual,
)
from tests.helpers.stores import pushes_of

# One of each policy that is simulated, with arguments that make it do what is its own.
TRAINED = {type(policy): (policy, *rest) for policy, *rest in ORACLES}
TRAINED |= {
    repr(policy): (policy, *rest)
    for policy, *rest in ORACLES
    if policy in (ssp.Ringmaster(2), ssp.KSync(3), ssp.BackupWorkers(1), ssp.KAsync(3))
}
TRAINED = {repr(policy): (policy, *rest) for policy, *rest in TRAINED.values()}


def train(policy, log, momentum=0.0, table=TABLES["heavy"], **others):
    updates = sum(len(row[2]) for row in log if row[1] == "merge")
    return ssp.train(
        ssp.make_step(loss_fn, optax.sgd(RATE, momentum=momentum or None)),
        params=PARAMS,
        data=batches,
        policy=policy,
        runtime=virtual(table),
        max_updates=updates,
        **{"weight": "merged", **others},
    )


def assert_same(params, expected):
    np.testing.assert_allclose(params["w"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("policy", "oracle", "arguments"), TRAINED.values(), ids=TRAINED)
@pytest.mark.every(23)
def test_training_gives_what_a_server_of_numpy_gives(policy, oracle, arguments):
    """With momentum on the workers: a cancelled clock leaves no trace in it, a dropped one does."""
    log = simulated(oracle, arguments, TABLES["heavy"], versions=15)
    points = sgd(log, weight=lambda merged: 1 / merged, momentum=0.9)
    assert_same(train(policy, log, momentum=0.9).params, points[-1])


def test_k_sync_of_all_workers_is_bsp_to_the_last_bit():
    ends = {"runtime": virtual(exponential(4)), "num_clocks": 12, "params": PARAMS, "data": batches}
    step = ssp.make_step(loss_fn, optax.sgd(RATE, momentum=0.9))
    one, other = (ssp.train(step, policy=policy, **ends) for policy in (ssp.KSync(4), ssp.BSP()))
    assert np.asarray(one.params["w"]).tobytes() == np.asarray(other.params["w"]).tobytes()


def test_rennala_is_minibatch_sgd():
    """x' = x - rate / B times the sum of B gradients at x, of whoever gave them."""
    batch = 4
    oracle, arguments = next(rest for policy, *rest in ORACLES if policy == ssp.Rennala(batch))
    log = simulated(oracle, arguments, TABLES["unequal"], versions=25)
    point = np.zeros(DIMENSION)
    feeds = {worker: batches(worker) for worker in range(WORKERS)}
    rows = {}
    for row in log:
        if row[1] == "finish":
            rows[row[2:4]] = next(feeds[row[2]])
        if row[1] == "merge":
            x, y = map(np.array, zip(*(rows[delta[:2]] for delta in row[2]), strict=True))
            assert len(x) == batch
            point = point - RATE * 2 * x.T @ (x @ point - y) / batch
    assert any(row[1] == "drop" for row in log)
    assert_same(train(ssp.Rennala(batch), log, table=TABLES["unequal"]).params, point)


def test_fedbuff_averages_its_buffer_with_each_delta_weighed_by_its_staleness():
    """Nguyen et al. 2022: s(tau) = 1 / sqrt(1 + tau) for each, then the mean over the buffer."""
    oracle, arguments = next(rest for policy, *rest in ORACLES if policy == ssp.FedBuff(4))
    log = simulated(oracle, arguments, TABLES["unequal"], versions=20)
    points = sgd(log, lambda merged: 1 / merged, factor=lambda tau: 1 / np.sqrt(1 + tau))
    scaled = ssp.mitigations.scale_by_staleness(exponent=0.5, shape="polynomial")
    result = train(ssp.FedBuff(4), log, table=TABLES["unequal"], delta_tx=scaled)
    assert_same(result.params, points[-1])
    plain = sgd(log, lambda merged: 1 / merged)[-1]
    assert np.abs(plain - points[-1]).max() > 0.01


# Nothing lost, nothing twice.

EVERY = list(
    dict.fromkeys(
        [
            *(kind() for kind in ALL_POLICIES),
            *(ssp.SSP(2, "lazy"), ssp.KSync(2), ssp.KBatchSync(3), ssp.KBatchAsync(3)),
            *(ssp.BackupWorkers(2), ssp.Ringmaster(1), ssp.Ringmaster(2, stops=True)),
            *(ssp.Rennala(2), ssp.Quorum(3, 0.0), ssp.FedBuff(3), ssp.VAP(3000.0)),
        ]
    )
)
CLOCKS = 6


class Bits:
    """A step whose delta is the batch, and whose metric is the parameter that it was given."""

    def init(self, params):
        return ()

    def __call__(self, params, worker_state, batch, key):
        return {"w": batch}, worker_state, {"read": params["w"]}


def bit(worker, clock):
    return float(1 << (CLOCKS * worker + clock))


@pytest.mark.parametrize("policy", [p for p in EVERY if not p.gives_weights], ids=repr)
@pytest.mark.every(13)
def test_of_deltas_that_are_powers_of_two_each_read_tells_what_is_in_it(policy):
    """24 bits, so that float32 holds every sum of them exactly."""
    result = ssp.train(
        Bits(),
        params={"w": np.float32(0)},
        data=lambda worker: iter([np.float32(bit(worker, clock)) for clock in range(CLOCKS)]),
        policy=policy,
        runtime=virtual(TABLES["heavy"][:4]),
        num_clocks=CLOCKS,
        weight="sum",
    )
    pushed = {(row["worker"], row["clock"]): row for row in result.history}
    merged = {at for at, row in pushed.items() if row["merge_version"] >= 0}
    assert float(result.params["w"]) == sum(bit(*at) for at in merged)
    report = ssp.check_contract(result.tape)
    counts = len(merged), len(pushed) - len(merged), 4 * CLOCKS - len(pushed)
    assert (report.merged, report.dropped, report.cancelled) == counts
    for worker, clock in merged:
        base = pushed[worker, clock]["base_version"]
        expected = sum(bit(*at) for at in merged if pushed[at]["merge_version"] <= base)
        if policy.reads_own:
            own = [(worker, before) for before in range(clock) if (worker, before) in merged]
            expected += sum(bit(*at) for at in own if pushed[at]["merge_version"] > base)
        assert pushed[worker, clock]["metrics"]["read"] == expected, (worker, clock)


@pytest.mark.parametrize(
    "policy",
    [
        *(ssp.SSP(2, "lazy"), ssp.KSync(2), ssp.KAsync(2), ssp.BackupWorkers(1)),
        *(ssp.Ringmaster(2, stops=True), ssp.Rennala(2)),
    ],
    ids=repr,
)
@pytest.mark.every(7)
def test_what_a_wire_does_not_deliver_is_in_the_residuals(policy):
    """pushed = merged + dropped + residuals; of a cancelled clock there is nothing anywhere."""
    wire, arrived = ssp.compression.Int8(block=4), {}
    runtime, pushes = pushes_of(virtual(TABLES["heavy"][:4]))
    rng = np.random.default_rng(0)
    deltas = (rng.normal(size=(4, CLOCKS, 8)) * 10 ** rng.uniform(-3, 1, 8)).astype(np.float32)
    result = ssp.train(
        Bits8(),
        params={"w": np.zeros(8, np.float32)},
        data=lambda worker: iter(deltas[worker]),
        policy=policy,
        runtime=runtime,
        num_clocks=CLOCKS,
        weight="sum",
        delta_wire=wire,
    )
    for event, payload in pushes:
        message = wire.decode(payload[0], like={"w": np.zeros(8, np.float32)})
        arrived.setdefault(event.worker, []).append(message["w"])
    pushed, decoded, merged = np.zeros((4, 8)), np.zeros((4, 8)), np.zeros(8)
    rows = sorted(result.history, key=lambda row: (row["worker"], row["clock"]))
    for row in rows:
        worker = row["worker"]
        came = np.asarray(arrived[worker].pop(0), np.float64)
        pushed[worker] += deltas[worker, row["clock"]]
        decoded[worker] += came
        merged += came * (row["merge_version"] >= 0)
    assert not any(arrived.values())
    residuals = [np.asarray(jax.tree.leaves(each)[0], np.float64) for each in result.residuals]
    np.testing.assert_allclose(pushed, decoded + residuals, atol=1e-4)
    np.testing.assert_allclose(result.params["w"], merged, rtol=1e-5, atol=1e-4)
    # Much is missing on the way, so that this is not true of itself.
    assert np.abs(residuals).max() > 1e-3


class Bits8(Bits):
    def __call__(self, params, worker_state, batch, key):
        return {"w": batch}, worker_state, {}
