"""Exchange on real devices takes at least as long as over the network that is asked for."""

import numpy as np
import pytest

import jax_ssp as ssp
from jax_ssp import delays
from jax_ssp.controller import Cancel, DeltaReady, WorkerLost
from jax_ssp.delays.links import Links
from tests.helpers.broken_off import gone_on, whole
from tests.helpers.problems import bits, linear

QUICK = ssp.Network(latency=0.004, bandwidth=12e3, server_bandwidth=12e3, merge_rate=24e3)
STEPS = delays.Constant(0.004)


def run(network=QUICK, workers=2, **others):
    runtime = {"workers_per_device": workers, "num_workers": workers, "delay": STEPS}
    runtime |= others.pop("runtime", {})
    spec = {"policy": ssp.SSP(1), "num_clocks": 3, "progress": False, **others}
    return ssp.train(**linear(**spec), runtime=ssp.Devices(network=network, **runtime))


def pushes(result):
    return [(now, event) for now, event, _ in result.tape if isinstance(event, DeltaReady)]


@pytest.mark.parametrize("overlap", [0, 2])
def test_nothing_takes_less_than_over_the_network(overlap):
    result = run(overlap=overlap, local_steps=2)
    assert ssp.check_contract(result.tape).merged == 6
    alone = QUICK.latency + 24 / 12e3
    for _, event in pushes(result):
        assert event.pushing >= alone - 1e-4
    rows = result.schedule
    assert (rows["computed"] < rows["finish"]).all()
    assert (rows["computing"] >= 2 * STEPS.seconds - 1e-4).all()
    first = [event for _, event in pushes(result) if event.clock == 0]
    assert all(event.reading >= alone - 1e-4 for event in first)
    ahead = [event.ahead > 0 for _, event in pushes(result) if event.clock > 0]
    assert all(ahead) if overlap else not any(ahead)


@pytest.mark.parametrize("overlap", [0, 2])
def test_a_run_takes_no_less_than_its_rehearsal(overlap):
    """Of one worker: two that come by turns share the server's link better than two at once."""
    how = {"policy": ssp.SSP(1), "num_clocks": 3, "overlap": overlap, "local_steps": 2}
    result = run(workers=1, **how)
    virtual = ssp.Virtual(1, STEPS, network=QUICK)
    rehearsed = ssp.train(**linear(**how), runtime=virtual, progress=False)
    assert result.seconds >= rehearsed.seconds - 1e-3


def test_what_is_computed_is_what_it_is_without_a_network():
    one, other = (run(network, policy=ssp.BSP()) for network in (QUICK, None))
    assert bits(one.params) == bits(other.params)
    assert "network" in one.tape.header
    assert "network" not in other.tape.header
    again = ssp.train(**linear(policy=ssp.BSP(), num_clocks=3), runtime=ssp.Replay(one.tape))
    assert list(again.tape) == list(one.tape)


def test_a_lazy_read_costs_nothing():
    result = run(ssp.Network(latency=0.003), 1, policy=ssp.SSP(3, "lazy"), num_clocks=8)
    reads = [event.reading > 0.002 for _, event in pushes(result)]
    assert reads == [True, False, False, False] * 2


def test_a_cancelled_clock_travels_no_further(monkeypatch):
    """Worker 2 would read for a minute: others cancel its clocks, and its flows end there."""
    ended, end = [], Links.end
    monkeypatch.setattr(Links, "end", lambda *args: ended.append(args[2]) or end(*args))
    network = ssp.Network(bandwidth=(24e3, 24e3, 0.4))
    result = run(network, 3, policy=ssp.KSync(2), num_clocks=2)
    cancels = [c for _, _, commands in result.tape for c in commands if isinstance(c, Cancel)]
    assert [(each.worker, each.clock) for each in cancels] == [(2, 0), (2, 1)]
    assert {each.token.grant for each in cancels} <= {*ended}
    assert result.seconds < 60  # which worker 2 would read for
    ssp.check_contract(result.tape)


@pytest.mark.parametrize("phase", ["step", "push"])
def test_who_is_lost_comes_again_and_reads_anew(phase):
    fault = ssp.faults.Crash(0, 1, back_after=0.01)
    if phase == "push":
        fault = ssp.faults.Late(0, 1, seconds=0.01, back_after=0.005)
    result = run(runtime={"faults": [fault]})
    assert sum(isinstance(event, WorkerLost) for _, event, _ in result.tape) == 1
    assert result.tape.complete
    ssp.check_contract(result.tape)


def test_a_run_that_goes_on_is_paced_from_there_on():
    runtime = ssp.Devices(num_workers=2, workers_per_device=2, delay=STEPS, network=QUICK)
    spec = linear(policy=ssp.BSP(), num_clocks=4, runtime=runtime)
    result, cuts = whole(spec)
    again = gone_on(spec, result, len(result.tape) // 2, cuts[0])
    ssp.check_contract(again.tape)
    assert bits(again.params) == bits(result.params)
    assert all(event.pushing > QUICK.latency - 1e-4 for _, event in pushes(again)[-2:])


def test_waits_for_a_network_are_no_sign_of_a_hang():
    """Worker 1 reads for far longer than a clock may take, while the other makes progress."""
    result = run(
        ssp.Network(latency=(0.0, 1.2)),
        policy=ssp.ASP(),
        num_clocks=None,
        max_updates=60,
        runtime={"recovery": ssp.Recovery(deadline=0.8)},
    )
    assert not any(isinstance(event, WorkerLost) for _, event, _ in result.tape)
    reads = [event.reading for _, event in pushes(result) if event.worker == 1]
    np.testing.assert_array_less(1.1, reads)
