"""Links share as they should: closed forms, and an oracle that is written plainly."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jax_ssp as ssp
from jax_ssp.delays.links import Links
from tests.helpers.fluid import arrivals, shares

QUICK = settings(deadline=None, max_examples=150)


def travelled(network, flows):
    """When each of (begins, worker, size, ends) arrives; None if it is broken off."""
    links, found = Links(network), [None] * len(flows)
    begins = sorted((flow[0], 0, number) for number, flow in enumerate(flows))
    ends = sorted((flow[3], 1, number) for number, flow in enumerate(flows) if flow[3] < math.inf)
    for at, kind, number in sorted(begins + ends):
        happen(links, at, found)
        if kind == 0:
            links.begin(at, flows[number][1], number, flows[number][2])
        else:
            links.end(at, number)
    happen(links, math.inf, found)
    assert not links.under_way
    return found


def happen(links, until, found):
    order = []
    while links.next() <= until and links.next() < math.inf:
        arrival = links.step()
        if arrival is not None:
            order.append(arrival)
            found[arrival.grant] = arrival.time
    assert order == sorted(order, key=lambda each: each.time)


FLOW = st.tuples(
    st.integers(0, 12).map(lambda n: n / 4),  # begins: often at one time
    st.integers(0, 5),  # worker
    st.sampled_from([0.0, 1.0, 3.0, 10.0, 0.37]),  # bytes
    st.sampled_from([math.inf, math.inf, math.inf, 1.1, 2.3, 4.7]),  # is broken off
)
RATES = st.sampled_from([0.5, 1.0, 2.0, 3.3])


@QUICK
@given(
    flows=st.lists(FLOW, min_size=1, max_size=9),
    latency=st.sampled_from([0.0, 0.3, (0.0, 0.2, 0.2, 0.4, 0.9, 0.0)]),
    bandwidth=RATES | st.none() | st.lists(RATES, min_size=6, max_size=6).map(tuple),
    shared=st.none() | st.sampled_from([0.25, 1.0, 2.5, 100.0]),
)
def test_links_carry_what_an_oracle_of_plain_shares_carries(flows, latency, bandwidth, shared):
    flows = [(at, worker, size, end) for at, worker, size, end in flows if end > at]
    network = ssp.Network(latency, bandwidth, shared)
    plain = [
        (at, network.latency_of(worker), network.bandwidth_of(worker), size, end)
        for at, worker, size, end in flows
    ]
    expected = arrivals(plain, network.shared)
    found = travelled(network, flows)
    for each, other, flow in zip(found, expected, flows, strict=True):
        near = other is not None and abs(other - flow[3]) < 1e-6  # which comes first, is chance
        if not (near or (each is not None and abs(each - flow[3]) < 1e-6)):
            assert each == (None if other is None else pytest.approx(other, rel=1e-7, abs=1e-7))


@pytest.mark.parametrize(
    ("bandwidths", "shared", "expected"),
    [
        ([1, 1, 1], 6, [1, 1, 1]),
        ([4, 4, 4], 6, [2, 2, 2]),
        ([1, 10, 10], 7, [1, 3, 3]),  # what the slow link leaves goes to the others
        ([math.inf, 2], 3, [1.5, 1.5]),
        ([math.inf, 1], math.inf, [math.inf, 1]),
    ],
)
def test_the_oracle_itself_fills_up_fairly(bandwidths, shared, expected):
    assert shares(bandwidths, shared) == pytest.approx(expected)


def test_what_a_slow_link_leaves_goes_to_the_others():
    network = ssp.Network(bandwidth=(1.0, 10.0, 10.0), server_bandwidth=7.0)
    found = travelled(network, [(0.0, worker, 6.0, math.inf) for worker in range(3)])
    assert found == [6.0, 2.0, 2.0]


def test_who_is_lost_leaves_its_share_at_once():
    network = ssp.Network(server_bandwidth=2.0)
    assert travelled(network, [(0.0, 0, 4.0, 1.0), (0.0, 1, 4.0, math.inf)]) == [None, 2.5]
    assert travelled(network, [(0.0, 0, 4.0, math.inf), (0.0, 1, 4.0, math.inf)]) == [4.0, 4.0]


@pytest.mark.parametrize("size", [1.3, 0.1, 1 / 3, 0.7, 2e9 / 7])
def test_what_is_alike_arrives_at_one_time_in_the_order_of_workers(size):
    links, order = Links(ssp.Network(0.1, 3.0, 7.0)), []
    links.begin(0.0, 5, 15, 3 * size)  # so that the others begin in the midst of something
    for worker in (4, 2, 0, 3, 1):
        links.begin(0.7 * size, worker, 10 + worker, size)
    while links.next() < math.inf:
        arrival = links.step()
        order += [] if arrival is None or arrival.worker == 5 else [arrival]
    assert [each.worker for each in order] == [0, 1, 2, 3, 4]
    assert len({each.time for each in order}) == 1


# What a network may be.


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"latency": -1.0}, r"`Network\(latency=...\)` must be non-negative, got -1.0"),
        ({"latency": (0.1, "x")}, r"`Network\(latency=...\)\[1\]` must be a number, got 'x'"),
        ({"latency": ()}, r"`Network\(latency=...\)` must be a number, or one for each worker"),
        ({"latency": math.inf}, r"`Network\(latency=...\)` must be finite"),
        ({"bandwidth": 0.0}, r"`Network\(bandwidth=...\)` must be positive, got 0.0"),
        ({"bandwidth": (1.0, 0.0)}, r"`Network\(bandwidth=...\)\[1\]` must be positive"),
        ({"server_bandwidth": "1G"}, r"`Network\(server_bandwidth=...\)` must be a number"),
        ({"merge_rate": -2}, r"`Network\(merge_rate=...\)` must be positive, got -2"),
        ({"params_bytes": True}, r"`Network\(params_bytes=...\)` must be a number, got True"),
    ],
)
def test_what_cannot_be_is_named(wrong, message):
    with pytest.raises((TypeError, ValueError), match=message):
        ssp.Network(**wrong)


def test_an_array_of_one_for_each_worker_will_do():
    network = ssp.Network(latency=np.array([0.1, 0.2]), bandwidth=[1, 2])
    assert network == ssp.Network(latency=(0.1, 0.2), bandwidth=(1, 2))
    assert (network.latency_of(1), network.bandwidth_of(0), network.shared) == (0.2, 1, math.inf)


def test_only_what_costs_nothing_is_free():
    assert ssp.Network().is_free
    assert ssp.Network(latency=(0.0, 0.0), params_bytes=5.0).is_free
    for costly in ({"latency": 1}, {"bandwidth": 1}, {"server_bandwidth": 1}, {"merge_rate": 1}):
        assert not ssp.Network(**costly).is_free


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (ssp.Network(latency=(0.1,)), r"`Network\(latency=...\)` must have an entry for each of 2"),
        (
            ssp.Network(bandwidth=1.0),
            r"there are no parameters .*give `Network\(params_bytes=...\)",
        ),
    ],
)
def test_what_does_not_fit_a_run_is_refused_with_the_remedy(network, message):
    with pytest.raises(ValueError, match=message):
        ssp.train(runtime=ssp.Virtual(2, compute=False, network=network), num_clocks=1)


def test_a_runtime_takes_nothing_else_for_one():
    with pytest.raises(TypeError, match=r"`Virtual\(network=...\)` must be None or `ssp.Network"):
        ssp.Virtual(2, network=5)
