"""Exchange takes virtual time: closed forms, an oracle for whole runs, and all that stays true."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jax_ssp as ssp
from jax_ssp import delays
from jax_ssp.controller import (
    Cancel,
    DeltaReady,
    Merge,
    StartAhead,
    StartClock,
    Token,
    WorkerJoined,
    WorkerLost,
)
from jax_ssp.policies import ALL_POLICIES
from jax_ssp.runtimes.session import make_session
from jax_ssp.runtimes.traffic import Sizes, Traffic
from tests.helpers.broken_off import gone_on, parts, whole
from tests.helpers.fluid import arrivals
from tests.helpers.problems import bits, linear
from tests.helpers.terms import without_terms
from tests.runtimes.test_virtual import jittery

QUICK = settings(deadline=None, max_examples=40)
SIZE = 6.0  # bytes
NETWORKS = {
    "late": ssp.Network(latency=0.25),
    "narrow": ssp.Network(latency=0.1, bandwidth=12.0, params_bytes=SIZE),
    "shared": ssp.Network(bandwidth=12.0, server_bandwidth=20.0, params_bytes=SIZE),
    "merging": ssp.Network(merge_rate=30.0, params_bytes=SIZE),
    "unequal": ssp.Network(
        (0.0, 0.3, 0.1, 0.1), (4.0, 9.0, 30.0, 9.0), 16.0, merge_rate=40.0, params_bytes=SIZE
    ),
}
CANCELLING = {
    "ksync": ssp.KSync(2),
    "kbatchsync": ssp.KBatchSync(2),
    "ringmaster stops": ssp.Ringmaster(2, stops=True),
}
POLICIES = {kind.__name__: kind() for kind in ALL_POLICIES} | CANCELLING
POLICIES |= {"lazy": ssp.SSP(2, "lazy"), "quorum, grace": ssp.Quorum(2, grace=0.3)}


def run(network, policy=None, workers=4, *, delay=None, clocks=5, faults=(), **others):
    delay = delay or delays.Constant(1.0)
    runtime = ssp.Virtual(workers, delay, compute=False, network=network, faults=faults)
    return ssp.train(policy=policy or ssp.SSP(2), runtime=runtime, num_clocks=clocks, **others)


# An oracle for whole runs: when a delta arrives, given when clocks start and versions are merged.


def expected(tape, network, delay, overlap, seed=0):
    """By token, when the delta of each clock arrives, as flows that are written plainly give it."""
    clocks, streams, held, granted, free = {}, {}, {}, {}, 0.0
    running = {}
    for now, event, commands in tape:
        if isinstance(event, DeltaReady):
            running.pop(event.worker, None)
        for command in commands:
            match command:
                case Merge():
                    size = SIZE * len(command.deltas)
                    rate = network.merge_rate
                    free = max(free, now) + (0.0 if rate is None else size / rate)
                case StartAhead(worker, clock, steps):
                    granted[worker] = clock, min(overlap, steps)
                case StartClock(worker, clock, steps, version):
                    rng = streams.setdefault(worker, np.random.default_rng([seed, worker]))
                    known, ahead = granted.get(worker, (-1, 0))
                    clocks[command.token] = running[worker] = {
                        "worker": worker,
                        "start": now,
                        "seconds": delay(worker, clock, steps, rng),
                        "reads": None if held.get(worker) == version else max(now, free),
                        "ahead": ahead / steps if known == clock else 0.0,
                        "ends": math.inf,
                        "held": held.get(worker),
                    }
                    held[worker] = version
                case Cancel(worker):
                    running[worker]["ends"] = now
                    held[worker] = running.pop(worker)["held"]
                case _:
                    pass
    rows = list(clocks.values())
    reading = [row for row in rows if row["reads"] is not None]
    flows = [flow(network, row["worker"], row["reads"], row["ends"]) for row in reading]
    for row, here in zip(reading, arrivals(flows, network.shared), strict=True):
        row["here"] = here
    done = {}
    for row in rows:
        worker, ahead = row["worker"], row["ahead"] * row["seconds"]
        free = done[worker] + ahead if ahead and worker in done else row["start"]
        ahead = ahead if worker in done else 0.0
        there = row.get("here", row["start"])
        there = math.inf if there is None else there
        row["computed"] = max(there, free) + row["seconds"] - ahead
        done[worker] = row["computed"]
    pushing = [row for row in rows if row["computed"] < row["ends"]]
    flows = [flow(network, row["worker"], row["computed"], row["ends"]) for row in pushing]
    for row, here in zip(pushing, arrivals(flows, network.shared), strict=True):
        row["arrived"] = here
    return {token: (row["computed"], row.get("arrived")) for token, row in clocks.items()}


def flow(network, worker, begins, ends):
    return begins, network.latency_of(worker), network.bandwidth_of(worker), SIZE, ends


def assert_as_expected(result, network, delay, overlap=0):
    arrives = expected(result.tape, network, delay, overlap)
    seen = 0
    for now, event, _ in result.tape:
        if isinstance(event, DeltaReady):
            computed, arrived = arrives[event.token]
            assert now == pytest.approx(arrived, rel=1e-6, abs=1e-6), event
            assert now - event.pushing == pytest.approx(computed, rel=1e-6, abs=1e-6), event
            seen += 1
    assert seen > 0


@QUICK
@given(
    policy=st.sampled_from(sorted(POLICIES)),
    network=st.sampled_from(sorted(NETWORKS)),
    delay=st.sampled_from([jittery, delays.Constant(1.0), delays.Exponential(0.5)]),
    mode=st.sampled_from([(0, 1), (0, 3), (1, 1), (1, 3), (3, 3)]),
)
def test_a_delta_arrives_when_plain_flows_say(policy, network, delay, mode):
    overlap, steps = mode
    if policy in CANCELLING and overlap:
        overlap = 0
    result = run(
        NETWORKS[network], POLICIES[policy], delay=delay, overlap=overlap, local_steps=steps
    )
    assert_as_expected(result, NETWORKS[network], delay, overlap)
    assert ssp.check_contract(result.tape)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("network", ["shared", "unequal"])
@pytest.mark.parametrize("mode", [(0, 1), (2, 3)], ids=["plain", "overlap"])
def test_the_contract_holds_under_every_policy(policy, network, mode):
    overlap = 0 if POLICIES[policy].cancels else mode[0]
    result = run(
        NETWORKS[network], POLICIES[policy], delay=jittery, overlap=overlap, local_steps=mode[1]
    )
    assert result.tape.complete
    ssp.check_contract(result.tape)


@QUICK
@given(
    bound=st.integers(0, 3), network=st.sampled_from(sorted(NETWORKS)), overlap=st.integers(0, 1)
)
def test_a_clock_starts_when_the_bound_allows_with_arrival_as_its_finish(bound, network, overlap):
    rows = run(NETWORKS[network], ssp.SSP(bound), delay=jittery, overlap=overlap).schedule
    finish = {(row["worker"], row["clock"]): row["finish"] for row in rows}
    for row in rows:
        worker, clock = row["worker"], row["clock"]
        before = [finish[worker, clock - 1]] if clock else [0.0]
        before += [finish[other, clock - bound - 1] for other in range(4) if clock > bound]
        assert row["start"] == max(before)


# Closed forms.


def test_a_clock_alone_takes_its_steps_and_twice_the_way_and_the_merge():
    network = ssp.Network(0.5, bandwidth=3.0, merge_rate=12.0, params_bytes=SIZE)
    result = run(network, ssp.SSP(1), 1, local_steps=4, clocks=5)
    rows, way = result.schedule, 0.5 + SIZE / 3
    np.testing.assert_allclose(rows["finish"] - rows["computed"], way)
    np.testing.assert_allclose(np.diff(rows["finish"]), 4 + 2 * way + SIZE / 12)
    np.testing.assert_allclose(rows["computing"], 4.0)
    np.testing.assert_allclose(result.computing, 5 * 4 / rows["finish"][-1])
    np.testing.assert_allclose(rows["finish"][0], 4 + 2 * way)  # nothing was merged before


def test_workers_in_lockstep_share_the_server():
    network = ssp.Network(0.5, bandwidth=3.0, server_bandwidth=4.0, params_bytes=SIZE)
    rows = run(network, ssp.BSP(), 4).schedule
    np.testing.assert_allclose(rows["finish"], np.repeat(np.arange(1, 6) * (1 + 2 * (0.5 + 6)), 4))


def test_who_holds_its_version_reads_nothing():
    network = NETWORKS["narrow"]
    rows = run(network, ssp.SSP(3, "lazy"), 1, clocks=8).schedule
    reads = rows["computed"] - rows["start"] - rows["computing"]
    np.testing.assert_allclose(reads, [0.6, 0, 0, 0, 0.6, 0, 0, 0], atol=1e-12)


def test_overlap_hides_what_travels_behind_the_next_clock():
    """A whole clock run ahead takes longer than the way up and down: nobody waits for that."""
    network = ssp.Network(0.2, params_bytes=SIZE)
    plain, hidden = (run(network, ssp.SSP(1), 1, overlap=k, local_steps=4) for k in (0, 4))
    np.testing.assert_allclose(np.diff(plain.schedule["finish"]), 4.4)
    np.testing.assert_allclose(np.diff(hidden.schedule["finish"]), 4.0)
    np.testing.assert_allclose(np.diff(hidden.schedule["computed"]), 4.0)
    assert not any(event.reading for _, event, _ in list(hidden.tape)[3:])
    # And one step of four hides as much as it takes.
    network = ssp.Network(1.0, params_bytes=SIZE)
    partly = run(network, ssp.SSP(1), 1, overlap=1, local_steps=4)
    np.testing.assert_allclose(np.diff(partly.schedule["computed"]), 4 + 2.0 - 1.0)


@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.parametrize("policy", ["SSP", "lazy", "BSP", "ASP", "ksync", "quorum, grace"])
def test_a_network_that_costs_nothing_is_none(policy, overlap):
    if policy == "ksync" and overlap:
        overlap = 0
    free = ssp.Network(latency=0.0, params_bytes=SIZE)
    how = {"delay": jittery, "overlap": overlap, "local_steps": 2}
    one, other = (run(network, POLICIES[policy], **how) for network in (None, free))
    assert list(one.tape) == list(other.tape)
    assert one.tape.header == other.tape.header
    np.testing.assert_array_equal(one.schedule["computed"], one.schedule["finish"])


@pytest.mark.parametrize(
    ("versions", "reads"), [((0, 3, 3), [True, True, True]), ((3, 3, 3), [True, False, False])]
)
def test_a_cancelled_clock_gives_back_the_version_before_it(versions, reads):
    """Worker 0's second clock is cancelled: what it had read for that is to be read once more."""
    traffic, found = Traffic(ssp.Network(1.0), Sizes()), []
    for grant, version in enumerate(versions):
        start = StartClock(0, grant, 1, version, (), 1, 1.0, Token(0, grant))
        commands = [Cancel(0, 1, "enough", Token(0, 1)), start] if grant == 2 else [start]
        traffic.take(float(grant), WorkerJoined(1), commands)
        found.append(traffic.grants[0].ready is not None)
    assert found == reads


def test_two_runs_are_one():
    one, other = (run(NETWORKS["unequal"], delay=jittery) for _ in range(2))
    assert list(one.tape) == list(other.tape)


# What goes wrong.


def lost_at(result):
    return [(now, event.worker) for now, event, _ in result.tape if isinstance(event, WorkerLost)]


def test_who_is_lost_in_its_steps_never_sends():
    network = ssp.Network(server_bandwidth=6.0, params_bytes=SIZE)
    result = run(network, ssp.BSP(), 2, clocks=1, faults=[ssp.faults.Crash(0, 0)])
    assert lost_at(result) == [(3.0, 0)]  # two read at once for 2 s, and its steps take 1 s
    assert result.schedule["finish"].tolist() == [4.0]  # it sends alone
    assert result.tape.complete


def test_who_is_lost_while_it_sends_is_lost_when_that_would_have_arrived():
    network = ssp.Network(server_bandwidth=6.0, params_bytes=SIZE)
    result = run(network, ssp.BSP(), 2, clocks=1, faults=[ssp.faults.Late(0, 0, seconds=1.0)])
    assert lost_at(result) == [(5.0, 0)]
    assert result.schedule["finish"].tolist() == [5.0]


def test_who_hangs_leaves_the_link_to_the_others():
    network = ssp.Network(server_bandwidth=6.0, params_bytes=SIZE)
    faults = [ssp.faults.LostPush(1, 0)]
    result = run(network, ssp.ASP(), 2, clocks=2, faults=faults)
    assert [(row["worker"], row["finish"]) for row in result.schedule] == [(0, 4.0), (0, 7.0)]


def test_a_slow_clock_sends_later():
    network = ssp.Network(latency=0.5)
    result = run(network, ssp.ASP(), 1, clocks=2, faults=[ssp.faults.Slow(0, 0, seconds=2.0)])
    assert result.schedule["computed"].tolist() == [3.5, 5.5]
    assert result.schedule["finish"].tolist() == [4.0, 6.0]


def test_what_strikes_at_a_time_strikes_the_clock_on_its_way():
    network = ssp.Network(latency=0.5)
    faults = [ssp.faults.Slow(0, at=1.7, seconds=2.0)]  # while the delta of clock 0 travels
    rows = run(network, ssp.ASP(), 1, clocks=2, faults=faults).schedule
    assert rows["finish"].tolist() == [4.0, 6.0]


def test_a_cancelled_clock_leaves_its_share_to_the_others():
    """Worker 2 still reads when two have pushed: its flow ends there, with its clock."""
    network = ssp.Network(bandwidth=(6.0, 6.0, 1.0), params_bytes=SIZE)
    result = run(network, ssp.KSync(2), 3, clocks=3)
    cancels = [c for _, _, commands in result.tape for c in commands if isinstance(c, Cancel)]
    assert [cancel.worker for cancel in cancels] == [2, 2, 2][: len(cancels)]
    assert cancels
    assert result.schedule["finish"].max() == pytest.approx(9.0)


FAULTS = {
    "crash": [ssp.faults.Crash(1, 1, back_after=0.4)],
    "late": [ssp.faults.Late(1, 2, seconds=0.7, back_after=0.2)],
    "twice": [ssp.faults.Duplicate(0, 1, after=0.3)],
    "slow": [ssp.faults.Slow(2, 1, seconds=1.5), ssp.faults.Slow(0, at=2.0, seconds=0.7)],
}


@pytest.mark.parametrize("faults", FAULTS)
def test_the_contract_holds_whatever_goes_wrong(faults):
    result = run(NETWORKS["unequal"], ssp.SSP(1), delay=jittery, faults=FAULTS[faults])
    assert result.tape.complete
    ssp.check_contract(result.tape)


# A run that goes on, and one that is repeated.


def real(faults=(), **others):
    runtime = ssp.Virtual(
        3, delays.Exponential(0.5), faults=faults, network=ssp.Network(0.1, 200.0, 300.0, 500.0)
    )
    return linear(**{"policy": ssp.SSP(1), "num_clocks": 4, "runtime": runtime, **others})


KINDS = {
    "plain": {},
    "ksync": {"policy": ssp.KSync(2)},
    "overlap": {"overlap": 1, "local_steps": 2, "delta_wire": ssp.compression.Int8(block=4)},
    "crash": {"faults": FAULTS["crash"]},
    "late": {"faults": FAULTS["late"]},
    "slow": {"faults": FAULTS["slow"]},
    "data ends": {"data": lambda worker: list(numbered(3 + worker))},
}


def numbered(count):
    batches = linear()["data"](0)
    return [next(batches) for _ in range(count)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.every(11)
def test_it_goes_on_to_the_same_bits(kind):
    spec = real(**KINDS[kind])
    result, cuts = whole(spec)
    assert result.tape.complete
    ssp.check_contract(result.tape)
    for rows in range(1, len(result.tape), 3):
        cut = max((each for each in cuts if each.rows <= rows), key=lambda c: c.rows, default=None)
        again = gone_on(spec, result, rows, cut)
        assert list(without_terms(again.tape)) == list(without_terms(result.tape)), rows
        assert bits(again.params) == bits(result.params)


def test_a_replay_says_when_steps_were_done_too():
    spec = real(**KINDS["overlap"])
    result = ssp.train(**spec)
    again = ssp.train(**{**spec, "runtime": ssp.Replay(result.tape)})
    assert list(again.tape) == list(result.tape)
    assert bits(again.params) == bits(result.params)
    np.testing.assert_array_equal(again.schedule, result.schedule)
    assert (result.schedule["computed"] < result.schedule["finish"]).all()


# Bytes.


def sizes(**others):
    network = others.pop("network", ssp.Network(1.0))
    plan, task, _ = parts(linear(num_clocks=1, runtime=ssp.Virtual(2), **others))
    return Sizes.of(network, make_session(plan, task))


def test_bytes_are_those_that_travel():
    assert sizes() == Sizes((24,), (24,), (24,))
    wires = {
        "delta_wire": ssp.compression.Int8(block=4),
        "snapshot_wire": ssp.compression.BFloat16(),
    }
    ints = 6 + 2 * 4  # and the scales of two blocks
    assert sizes(**wires) == Sizes((ints,), (12,), (24,))
    as_if = ssp.Network(1.0, params_bytes=240.0)
    assert sizes(**wires, network=as_if) == Sizes((10 * ints,), (120,), (240,))


def test_a_clock_sends_and_reads_one_fragment():
    fragments = ssp.Fragments(3)
    assert sizes(fragments=fragments) == Sizes((8, 8, 8), (8, 8, 8), (8, 8, 8))
    found = sizes(fragments=fragments, delta_wire=ssp.compression.Int8(block=4))
    assert found.push == (6, 6, 6)
    network = ssp.Network(0.1, bandwidth=24.0)
    how = {"policy": ssp.SSP(1), "num_clocks": 6, "fragments": fragments}
    runtime = ssp.Virtual(1, delays.Constant(1.0), network=network)
    rows = ssp.train(**linear(runtime=runtime, **how)).schedule
    np.testing.assert_allclose(rows["finish"] - rows["computed"], 0.1 + 8 / 24)
    reads = rows["computed"] - rows["start"] - rows["computing"]
    np.testing.assert_allclose(reads, [0.1 + 24 / 24, *[0.1 + 8 / 24] * 5])
    network = ssp.Network(0.1, bandwidth=24.0, params_bytes=24.0)
    runtime = ssp.Virtual(1, delays.Constant(1.0), compute=False, network=network)
    alone = ssp.train(runtime=runtime, **how)
    np.testing.assert_allclose(alone.schedule["finish"], rows["finish"])
    ssp.check_contract(alone.tape)
