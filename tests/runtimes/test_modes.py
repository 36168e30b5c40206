"""Every way of exchanging, in one table: it replays to the last bit, keeps the contract, trains."""

import contextlib
import gc
import itertools
import weakref

import jax
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp import delays
from jax_ssp.controller.commands import Merge, StartAhead
from jax_ssp.placement import separate_memory
from jax_ssp.server.memory import Memory
from jax_ssp.server.snapshot import Snapshot
from tests.helpers.problems import (
    DIMENSION,
    PARAMS,
    STEP,
    TOLD,
    batches,
    bits,
    distance,
    linear,
    numbers,
)
from tests.helpers.stores import pushes_of

JITTER = delays.ShiftedExponential(shift=0.0, mean=0.002)
SLOW = optax.sgd(0.01)
INT8, BF16 = ssp.compression.Int8(block=4), ssp.compression.BFloat16()

MODES = {
    "plain": {},
    "overlap 1 of 1": {"overlap": 1},
    "overlap 1 of 3": {"overlap": 1, "local_steps": 3},
    "overlap 3 of 3": {"overlap": 3, "local_steps": 3},
    "mix": {"overlap": 1, "local_steps": 2, "adopt": ssp.Mix(0.5)},
    "mix at the end": {"overlap": 1, "adopt": ssp.Mix(0.25)},
    "devices": {"placement": "devices"},
    "one device": {"placement": "cpu:2"},
    "int8 deltas": {"delta_wire": INT8},
    "bf16 snapshots": {"snapshot_wire": BF16},
    "fragments": {"fragments": 2, "overlap": 1, "local_steps": 2},
    "fragments of devices": {
        "fragments": 3,
        "placement": "devices",
        "adopt": ssp.Mix(0.5),
        "snapshot_wire": INT8,
    },
    "all": {
        "overlap": 1,
        "local_steps": 2,
        "placement": "devices",
        "delta_wire": INT8,
        "snapshot_wire": BF16,
    },
}


def fits(mode, policy):
    """Whether a policy goes with a mode."""
    return policy.takes_fragments or "fragments" not in mode


LAZY = ssp.SSP(2, "lazy")
POLICIES = {
    "ssp": ssp.SSP(2),
    "lazy": LAZY,
    "asp": ssp.ASP(),
    "bsp": ssp.BSP(),
}
RUNTIMES = {
    "devices": ssp.Devices(num_workers=4, delay=JITTER),
    "virtual": ssp.Virtual(4, delays.Exponential()),
    "in batches": ssp.Virtual(4, delays.Exponential(), batch=4),
}


# Every mode, policy and runtime meets every other in the quick loop; all three at once in CI.
TABLE = [
    pytest.param(
        *(MODES[mode], POLICIES[policy], RUNTIMES[runtime]),
        id=f"{mode}-{policy}-{runtime}",
        marks=[] if (i + j + k) % 3 == 0 else [pytest.mark.slow],
    )
    for i, mode in enumerate(MODES)
    for j, policy in enumerate(POLICIES)
    for k, runtime in enumerate(RUNTIMES)
]


@pytest.mark.parametrize(("mode", "policy", "runtime"), TABLE)
@pytest.mark.every(13)
def test_it_trains_keeps_the_contract_and_replays_to_the_last_bit(mode, policy, runtime):
    spec = linear(policy=policy, num_clocks=20, **mode)
    result = ssp.train(runtime=runtime, **spec)
    assert distance(result.params) < 0.8 * distance(PARAMS)
    report = ssp.check_contract(result.tape)
    assert (report.merged, report.complete) == (80, True)
    assert report.ahead == (4 * 19 if mode.get("overlap", 0) > 0 else 0)
    again = ssp.train(runtime=ssp.Replay(result.tape), **spec)
    assert bits(again.params) == bits(result.params)
    assert list(again.tape) == list(result.tape)
    assert again.history == result.history


# The same table where no two devices share memory, as it is with accelerators.
APART = [
    pytest.param(*each.values, id=each.id, marks=[] if number % 8 == 0 else [pytest.mark.slow])
    for number, each in enumerate(TABLE)
    if not each.marks
] + [each for each in TABLE if each.marks]


@pytest.mark.parametrize(("mode", "policy", "runtime"), APART)
@pytest.mark.every(13)
def test_with_memories_of_their_own_it_gives_the_same_bits(mode, policy, runtime):
    spec = linear(policy=policy, num_clocks=20, **{"placement": "host", **mode})
    with separate_memory():
        result = ssp.train(runtime=runtime, **spec)
    if spec["placement"] == "host":  # for which the last device stands
        assert result.tape.header["server"] == [["cpu", 3]]
    shared = ssp.train(runtime=runtime, **spec)
    if runtime.time == "wall":  # the order in which workers finish is another one each time
        header, other = result.tape.header["experiment"], shared.tape.header["experiment"]
        header["step"] = other["step"]  # which says where the batches are
        shared = ssp.train(runtime=ssp.Replay(result.tape), **spec)
    assert bits(shared.params) == bits(result.params)
    assert shared.history == result.history


def virtual(mode=None, num_clocks=12, policy=None, runtime=None, **others):
    runtime = runtime or ssp.Virtual(3, delays.PerWorker((1.0, 1.5, 2.0)))
    spec = linear(policy=policy or ssp.SSP(2), num_clocks=num_clocks, **{**(mode or {}), **others})
    return ssp.train(runtime=runtime, **spec)


# Overlap.


def reference(tape, local_steps, overlap, alpha=None):
    """The same training in NumPy, from the tape and the definitions alone."""
    rate, workers = 0.05, tape.header["num_workers"]
    params = {0: np.zeros(DIMENSION)}
    feeds = [batches(worker) for worker in range(workers)]
    base = [None] * workers
    delta = [None] * workers
    ahead = [None] * workers
    pushed, held = {}, {}

    def steps(worker, local, count):
        total = np.zeros(DIMENSION)
        for _ in range(count):
            x, y = next(feeds[worker])
            error = x @ (local + total) - y
            total += -rate * 2 * x.T @ error / len(y)
        return total

    for _, _, commands in tape:
        for command in commands:
            kind = type(command).__name__
            if kind == "Merge":
                total = sum(pushed[d.worker, d.clock] for d in command.deltas)
                params[command.version] = params[command.version - 1] + total / command.num_workers
            elif kind == "StartAhead":
                ahead[command.worker] = True
            elif kind == "StartClock":
                worker, first = command.worker, 0
                old, progress = base[worker], np.zeros(DIMENSION)
                if ahead[worker]:
                    first = overlap
                    progress = steps(worker, old + delta[worker], overlap)
                held[worker] = params[command.version]
                base[worker] = held[worker] + sum(
                    pushed[worker, stamp] / command.num_workers for stamp in command.pending
                )
                if delta[worker] is not None and alpha is not None:
                    local = old + delta[worker] + progress
                    progress = alpha * (local - base[worker])
                ahead[worker] = None
                rest = steps(worker, base[worker] + progress, local_steps - first)
                delta[worker] = progress + rest
                pushed[worker, command.clock] = delta[worker]
    return params[max(params)]


@pytest.mark.parametrize(
    "policy", [ssp.SSP(2), ssp.SSP(3, "lazy"), ssp.ASP(), ssp.BSP(), ssp.KAsync(2)], ids=repr
)
@pytest.mark.parametrize("alpha", [None, 0.0, 0.5, 1.0])
@pytest.mark.parametrize(("local_steps", "overlap"), [(1, 0), (1, 1), (3, 1), (3, 2), (2, 2)])
@pytest.mark.every(23)
def test_overlap_is_what_its_definition_says(local_steps, overlap, alpha, policy):
    adopt = "rebase" if alpha is None else ssp.Mix(alpha)
    result = virtual(policy=policy, local_steps=local_steps, overlap=overlap, adopt=adopt)
    expected = reference(result.tape, local_steps, overlap, alpha)
    np.testing.assert_allclose(result.params["w"], expected, rtol=2e-4, atol=2e-5)


def test_alone_and_with_everything_merged_rebasing_is_going_on():
    """One worker with the sum weight: its own delta is all that the snapshot has more."""
    alone = ssp.Virtual(1)
    plain = virtual(runtime=alone, policy=ssp.SSP(1), weight="sum", local_steps=2)
    ahead = virtual(runtime=alone, policy=ssp.SSP(1), weight="sum", local_steps=2, overlap=1)
    assert ssp.check_contract(ahead.tape).ahead == 11
    np.testing.assert_allclose(plain.params["w"], ahead.params["w"], rtol=1e-5)


def streaming_diloco(workers, clocks, local_steps, overlap, rate=0.05):
    """All run `overlap` steps of the next clock, then each goes on from the mean plus those."""
    feeds = [batches(worker) for worker in range(workers)]

    def run(worker, local, steps):
        for _ in range(steps):
            x, y = next(feeds[worker])
            local = local - rate * 2 * x.T @ (x @ local - y) / len(y)
        return local

    server, ahead = np.zeros(DIMENSION), np.zeros((workers, DIMENSION))
    for clock in range(clocks):
        first = overlap if clock else 0
        local = [run(each, server + ahead[each], local_steps - first) for each in range(workers)]
        if clock + 1 < clocks:
            ahead = [run(each, local[each], overlap) - local[each] for each in range(workers)]
        server = np.mean(local, axis=0)
    return server


@pytest.mark.parametrize("runtime", ["virtual", "devices"])
@pytest.mark.parametrize(("local_steps", "overlap"), [(1, 1), (3, 1), (3, 2), (3, 3)])
@pytest.mark.every(3)
def test_a_barrier_with_overlap_is_streaming_diloco(local_steps, overlap, runtime):
    steps = {"local_steps": local_steps, "overlap": overlap}
    result = virtual(policy=ssp.BSP(), runtime=RUNTIMES[runtime], num_clocks=9, **steps)
    merges = [c for _, _, commands in result.tape for c in commands if type(c) is Merge]
    assert [len(merge.deltas) for merge in merges] == [4] * 9
    assert ssp.check_contract(result.tape).ahead == 4 * 8
    expected = streaming_diloco(4, 9, **steps)
    np.testing.assert_allclose(result.params["w"], expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(
    "policy",
    [*(policy() for policy in ssp.policies.ALL_POLICIES), ssp.BackupWorkers(0), ssp.SSP(3, "lazy")],
    ids=repr,
)
@pytest.mark.parametrize("delay", [delays.Exponential(), delays.LogNormal(1.0, 0.5)], ids=repr)
@pytest.mark.every(5)
def test_overlap_changes_no_decision_of_a_policy(policy, delay):
    """Where nothing is computed, and so where steps run ahead cost no time."""
    runtime = ssp.Virtual(16, delay, compute=False)
    plain, ahead = (
        ssp.train(policy=policy, runtime=runtime, num_clocks=30, overlap=overlap)
        for overlap in (0, 1)
    )
    np.testing.assert_array_equal(plain.schedule, ahead.schedule)
    report = ssp.check_contract(ahead.tape)
    assert (report.ahead == 0) == policy.cancels
    for row, other in zip(plain.tape, ahead.tape, strict=True):
        commands = [c for c in other.commands if type(c) is not StartAhead]
        assert (row.now, row.event, row.commands) == (other.now, other.event, commands)
    assert ssp.BackupWorkers(0) != policy or report.dropped == 0


def test_what_was_run_ahead_when_the_run_ends_is_nobodys():
    result = virtual(num_clocks=None, max_updates=20, overlap=1)
    report = ssp.check_contract(result.tape)
    assert (report.merged, report.complete) == (20, True)


# The device is never idle: the next clock's steps are dispatched before the last one's delta is
# waited for.


def test_the_next_clock_is_dispatched_before_the_last_is_waited_for(monkeypatch):
    from jax_ssp.worker.worker import Worker

    log = []
    for name in ("begin", "go_ahead", "finish"):
        method = getattr(Worker, name)

        def logged(self, *args, name=name, method=method):
            log.append(name)
            return method(self, *args)

        monkeypatch.setattr(Worker, name, logged)
    devices = ssp.Devices(jax.devices()[:1])
    ssp.train(runtime=devices, **linear(policy=ssp.SSP(1), num_clocks=4, overlap=1))
    assert log == ["begin", *["go_ahead", "finish", "begin"] * 3, "finish"]


# Wires.


@pytest.mark.parametrize("wire", [INT8, BF16], ids=repr)
@pytest.mark.parametrize("which", ["delta_wire", "snapshot_wire"])
@pytest.mark.every(7)
def test_a_wire_costs_little_accuracy(which, wire):
    spec = {"num_clocks": 150, "runtime": ssp.Virtual(4)}
    exact, lossy = virtual(**spec), virtual(**spec, **{which: wire})
    assert bits(exact.params) != bits(lossy.params)
    assert distance(lossy.params) < distance(exact.params) + 0.1


def test_what_travels_is_small():
    runtime, pushes = pushes_of(ssp.Virtual(2))
    ssp.train(
        ssp.make_step(lambda p, b, key: ((p["w"] ** 2).sum(), {}), optax.sgd(0.1)),
        params={"w": np.ones(4096, np.float32)},
        data=lambda worker: iter([np.zeros(())] * 3),
        num_clocks=3,
        runtime=runtime,
        delta_wire=ssp.compression.Int8(),
    )
    sizes = {ssp.compression.nbytes(payload) for _, payload in pushes}
    assert sizes == {4096 + 4 * 4096 // 256}


def test_nothing_is_lost_for_good_on_the_wire():
    """A gradient far below int8's step beside a large one arrives in the sum all the same."""
    slope = np.array([1000.0, 1.0, 1.0, 1.0], np.float32)
    step = ssp.make_step(lambda p, b, key: (-(slope * p["w"]).sum(), {}), optax.sgd(1.0))
    result = ssp.train(
        step,
        params={"w": np.zeros(4, np.float32)},
        data=lambda worker: iter([np.zeros(())] * 100),
        num_clocks=100,
        weight="sum",
        runtime=ssp.Virtual(1),
        delta_wire=ssp.compression.Int8(),
    )
    # What is missing is one residual, at most a step of int8: 1000 / 127 and what adds to it.
    np.testing.assert_allclose(result.params["w"], 100 * slope, atol=1000 / 127)


def test_a_worker_reads_of_its_own_what_the_server_will_read():
    """Not merged yet, a delta counts as it was sent: 1 + 2 ** -9 is 1 in bfloat16."""
    result = ssp.train(
        TOLD,
        params={"w": np.float32(0)},
        data=numbers([[1 + 2**-9, 0], [0, 0]]),
        policy=ssp.SSP(1, "lazy"),
        runtime=ssp.Virtual(2),
        num_clocks=2,
        weight="sum",
        delta_wire=BF16,
    )
    read = {(row["worker"], row["clock"]): row["metrics"]["read"] for row in result.history}
    assert read[0, 1] == 1.0
    assert float(result.params["w"]) == 1 + 2**-9  # the rest went with the second delta


# Placement.


def test_parameters_split_over_the_devices_are_merged_there():
    spec = linear(runtime=ssp.Devices(jax.devices()[:3]), policy=ssp.BSP(), num_clocks=5)
    split, host = (ssp.train(**spec, placement=placement) for placement in ("devices", "host"))
    assert split.tape.header["server"] == [["cpu", 0], ["cpu", 1], ["cpu", 2]]
    np.testing.assert_allclose(split.params["w"], host.params["w"], rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overlap": 2}, r"`overlap` must be between 0 and `local_steps`, which is 1, got 2"),
        ({"overlap": -1}, r"`overlap` must be non-negative, got -1\."),
        ({"adopt": "mix"}, r"`adopt` must be \"rebase\" or `ssp.Mix\(alpha\)`, got 'mix'"),
        ({"delta_wire": "int8"}, r"`delta_wire` must be a compressor such as .*, got 'int8'"),
        ({"snapshot_wire": ssp.compression.Sign()}, r"`snapshot_wire=Sign\(\)` is right in the"),
        ({"snapshot_wire": 8}, r"`snapshot_wire` must be a compressor such as .*, got 8"),
        ({"placement": "gpu"}, r"`placement` must be \"host\", .*, got 'gpu'"),
        ({"placement": 3}, r"`placement` must be \"host\", .*, got 3"),
        ({"placement": "cpu:9"}, r"`placement` names cpu device 9, but there are 4 cpu devices"),
        (
            {"placement": "devices", "server_tx": optax.clip_by_global_norm(1.0)},
            "`server_tx` is not elementwise",
        ),
        *(
            ({"placement": "devices", "delta_tx": tx}, "`delta_tx` is not elementwise")
            for tx in (
                ssp.mitigations.clip_outliers(),
                ssp.mitigations.skip_nonfinite(),
                ssp.mitigations.scale_by_gap(elementwise=False),
            )
        ),
    ],
)
@pytest.mark.every(7)
def test_bad_input_is_refused_with_the_remedy(changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        ssp.train(STEP, params=PARAMS, data=batches, num_clocks=2, **changes)


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan")])
def test_a_mix_is_between_0_and_1(alpha):
    with pytest.raises(ValueError, match=r"`Mix\(alpha=...\)` must be between 0 and 1, got"):
        ssp.Mix(alpha)


@pytest.mark.parametrize(
    "change", [{"overlap": 1}, {"delta_wire": BF16}, {"snapshot_wire": BF16}], ids=repr
)
def test_a_tape_is_not_replayed_with_another_exchange(change):
    tape = virtual().tape
    with pytest.raises(ssp.TapeMismatch, match=next(iter(change))):
        ssp.train(runtime=ssp.Replay(tape), **linear(policy=ssp.SSP(2), num_clocks=12), **change)


# Memory.


@pytest.fixture
def live_versions(monkeypatch):
    """How many snapshots there are; those that were made since the test began."""
    alive, make = weakref.WeakSet(), Snapshot.__init__

    def made(self, *arguments):
        make(self, *arguments)
        alive.add(self)

    monkeypatch.setattr(Snapshot, "__init__", made)
    return lambda: len(alive)


@pytest.mark.parametrize("mode", [{}, {"overlap": 1}], ids=repr)
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.every(8)
def test_no_version_lives_that_nobody_needs(policy, mode, live_versions):
    alive = []

    class Count(ssp.Observer):
        def on_entry(self, now, event, commands):
            alive.append(live_versions())

    virtual(policy=policy, observers=[Count()], num_clocks=8, **mode)
    # The newest, what each of the three workers computes on, and what it is to adopt next.
    assert max(alive) <= 1 + 2 * 3
    gc.collect()
    assert live_versions() == 0


@pytest.mark.parametrize(
    "policy",
    [ssp.SSP(2), *(pytest.param(each, marks=pytest.mark.slow) for each in (LAZY, ssp.BSP()))],
    ids=repr,
)
@pytest.mark.parametrize("mode", ["plain", "overlap 1 of 3", "mix", "mix at the end", "all"])
@pytest.mark.parametrize("apart", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.every(5)
def test_memory_is_not_used_again_too_soon(mode, policy, apart, monkeypatch):
    """Large arrays are put where others were: the same bits as if each had memory of its own."""
    spec = {**large(policy), **MODES[mode]}
    with separate_memory() if apart else contextlib.nullcontext():
        result = ssp.train(runtime=ssp.Devices(num_workers=4, delay=JITTER), **spec)
        monkeypatch.setattr(Memory, "LARGE", 1 << 60)
        again = ssp.train(runtime=ssp.Replay(result.tape), **spec)
    assert bits(again.params) == bits(result.params)


@pytest.mark.parametrize("policy", [ssp.SSP(2), ssp.KAsync(2), ssp.KSync(2)], ids=repr)
@pytest.mark.parametrize("mode", ["plain", "mix", "mix at the end"])
@pytest.mark.parametrize("bases", [False, True])
@pytest.mark.every(19)
def test_nor_is_it_where_clocks_are_computed_long_after_they_were_granted(
    mode, policy, bases, monkeypatch
):
    """Versions come and go between a grant and its clock, and between a push and its merge."""
    spec = {**large(policy), **MODES[mode]}
    if bases:
        spec["delta_tx"] = ssp.mitigations.delay_compensation(learning_rate=0.01)
    runtime = ssp.Virtual(4, delays.Exponential())
    result = ssp.train(runtime=runtime, **spec)
    monkeypatch.setattr(Memory, "LARGE", 1 << 60)
    again = ssp.train(runtime=runtime, **spec)
    assert bits(again.params) == bits(result.params)


def large(policy):
    """What `train` needs for a problem of arrays whose memory is used again."""
    slope = np.linspace(0, 1, 70_000, dtype=np.float32)  # 280 kB
    return {
        "step": ssp.make_step(lambda p, b, key: (((p["w"] - b * slope) ** 2).sum(), {}), SLOW),
        "params": {"w": slope},
        "data": lambda worker: (np.float32(worker + n) for n in itertools.count()),
        "policy": policy,
        "num_clocks": 25,
    }
