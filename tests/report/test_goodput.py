"""Where the time of a run went: shares that add up, and runs whose answer is known."""

import itertools
import json
import time

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jax_ssp as ssp
from jax_ssp.checkpoint.terms import read_terms
from jax_ssp.controller import (
    DeltaReady,
    Fence,
    Resumed,
    StartClock,
    Token,
    WorkerJoined,
    WorkerLost,
)
from jax_ssp.controller.tape import Tape
from jax_ssp.policies import ALL_POLICIES
from jax_ssp.report.goodput import FAILED, Goodput, goodput
from jax_ssp.report.spending import KINDS
from jax_ssp.runtimes.members import NOT_RESUMED
from jax_ssp.testing.driving import random_run


def shown(spent):
    return {kind: round(share, 6) for kind, share in spent.shares.items() if share}


def run_of(seconds, policy, clocks, **more):
    runtime = ssp.Virtual(len(seconds), compute=False, delay=ssp.delays.PerWorker(seconds), **more)
    return ssp.train(runtime=runtime, policy=policy, num_clocks=clocks)


@pytest.mark.parametrize("kind", ALL_POLICIES, ids=lambda kind: kind.__name__)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), losses=st.booleans(), ahead=st.booleans())
@pytest.mark.every(3)
def test_every_moment_of_every_worker_is_booked_once(kind, seed, losses, ahead):
    run = random_run(
        kind(), seed, workers=4, losses=losses, grant_ahead=ahead and not kind().cancels
    )
    spent = goodput(run.tape)
    joined, last = {}, 0.0
    for now, event, _ in run.tape:
        last = now
        if isinstance(event, WorkerJoined):
            joined.setdefault(event.worker, now)
    assert spent.by_worker.keys() == joined.keys()
    for worker, each in spent.by_worker.items():
        assert min(each.values()) >= 0
        assert sum(each.values()) == pytest.approx(last - joined[worker])
    assert sum(spent.shares.values()) == pytest.approx(1.0 if last else 0.0)
    assert 0 <= spent.useful <= spent.ettr + 1e-12
    assert spent.late == run.model.late
    lost = sum(isinstance(event, WorkerLost) for _, event, _ in run.tape)
    assert spent.failures <= lost
    assert json.loads(json.dumps(spent.facts())) == spent.facts()


def test_a_barrier_waits_for_the_slowest():
    spent = goodput(run_of([1.0, 3.0], ssp.BSP(), 2).tape)
    # Worker 0 waits 2 seconds for the second clock; behind its last one there is none to wait for.
    assert shown(spent) == {
        "useful": round(8 / 12, 6),
        "gate": round(2 / 12, 6),
        "finished": round(2 / 12, 6),
    }
    assert (spent.ettr, spent.failures, spent.mtbf, spent.mttr) == (1.0, 0, None, None)
    assert spent.seconds == 6.0


def test_who_waits_for_a_merge_waits_for_no_gate():
    spent = goodput(run_of([1.0, 3.0], ssp.KSync(2), 2).tape)
    assert spent.waiting > 0
    assert spent.waiting == spent.shares["gate"] + spent.shares["merge"]


def test_a_lost_worker_is_away_until_the_end():
    run = run_of([1.0, 1.0], ssp.ASP(), 10, faults=[ssp.faults.Crash(worker=1, clock=4)])
    spent = goodput(run.tape)
    assert spent.by_worker[1]["useful"] == 4.0
    assert spent.by_worker[1]["lost"] == 1.0
    assert spent.by_worker[1]["away"] == 5.0
    assert spent.ettr == pytest.approx(1 - 6 / 20)
    assert (spent.failures, spent.mtbf, spent.mttr) == (1, 10.0, None)
    assert sum(spent.for_good.values()) == 1
    assert "ETTR 70.0%" in run.summary()


def test_what_a_policy_drops_or_cancels_is_no_failure():
    run = run_of([1.0, 1.0, 1.5], ssp.BackupWorkers(1), 6)
    spent = goodput(run.tape)
    assert spent.shares["dropped"] + spent.shares["cancelled"] > 0.1
    assert spent.ettr == 1.0
    assert spent.useful < 1.0


def test_what_is_not_finite_is_a_failure():
    faults = [ssp.faults.NaN(worker=0, clock=2)]
    spent = goodput(run_of([1.0], ssp.ASP(), 4, faults=faults).tape)
    assert shown(spent) == {"useful": 0.75, "not finite": 0.25}
    assert spent.ettr == 0.75


def start(worker, clock, grant, term=0):
    return StartClock(worker, clock, 1, 0, (), 1, 1.0, Token(term, grant))


def test_a_recovery_lasts_until_the_first_clock_of_who_comes_in_its_place():
    tape = Tape({})
    tape.append(0.0, WorkerJoined(0), [first := start(0, 0, 0)])
    tape.append(2.0, WorkerLost(0, "the device is gone"), [])
    tape.append(5.0, WorkerJoined(0), [])
    tape.append(6.0, WorkerJoined(1), [start(0, 0, 1), start(1, 0, 2)])
    late = first.finished()
    tape.append(8.0, late, [Fence(0, 0, first.token)])
    tape.append(10.0, WorkerLost(1), [])
    spent = goodput(tape)
    assert dict(spent.recoveries) == {"the device is gone": [4.0]}
    assert dict(spent.for_good) == {"lost": 1}
    assert (spent.late, spent.mttr, spent.failures, spent.mtbf) == (1, 4.0, 2, 5.0)
    assert {kind: each for kind, each in spent.by_worker[0].items() if each} == {
        "late": 2.0,
        "away": 4.0,
        "unsettled": 4.0,
    }
    assert spent.by_worker[1]["lost"] == 4.0
    assert "recovered, the device is gone: 1, mean 4 s, at most 4 s" in str(spent)
    assert "not recovered, lost: 1" in str(spent)


def resumed(time):
    """A run of 2 terms: 10 s, then 30 s in which nobody ran, 5 s to restore, and 10 s more."""
    terms = [
        {"row": 0, "num_workers": 1, "devices": [], "began": 1000.0, "rows_replayed": 0},
        {"row": 2, "num_workers": 1, "devices": [], "began": 1040.0, "rows_replayed": 3},
    ]
    terms[0]["restore_seconds"], terms[1]["restore_seconds"] = 0.0, 5.0
    tape = Tape({"time": time, "terms": terms})
    tape.append(0.0, WorkerJoined(0), [first := start(0, 0, 0)])
    tape.append(10.0, first.finished(), [second := start(0, 1, 1)])
    tape.append(10.0, WorkerJoined(1), [])
    tape.append(20.0, DeltaReady(0, 1, 0, second.token), [])
    return goodput(tape)


def test_time_in_which_the_run_was_down_is_counted_right_across_resumes():
    spent = resumed("wall")
    assert spent.seconds == 20.0 + 30.0 + 5.0
    assert dict(spent.recoveries) == {"resumed": [35.0]}
    assert (spent.by_worker[0]["down"], spent.by_worker[0]["restoring"]) == (30.0, 5.0)
    assert spent.recomputed == 3
    assert sum(spent.shares.values()) == pytest.approx(1.0)
    assert spent.ettr < 0.5


def test_virtual_time_does_not_pass_while_a_run_is_down():
    spent = resumed("virtual")
    assert (spent.seconds, spent.failures, spent.ettr) == (20.0, 0, 1.0)


def test_a_run_of_no_time_has_no_shares():
    spent = goodput(Tape({}))
    assert isinstance(spent, Goodput)
    assert set(spent.shares.values()) <= {0.0}
    assert str(spent) == "time: none passed"
    assert set(FAILED) < set(KINDS)


def test_the_summary_of_a_run_has_it(tmp_path):
    run = run_of([1.0, 1.0], ssp.ASP(), 10, faults=[ssp.faults.Crash(worker=1, clock=4)])
    assert run.goodput.failures == 1
    assert "ETTR 70.0%" in run._repr_html_()
    ssp.train(
        runtime=ssp.Virtual(2, compute=False),
        num_clocks=3,
        observers=[ssp.RunFolder(tmp_path / "run")],
    )
    facts = json.loads((tmp_path / "run" / "summary.json").read_text())["goodput"]
    assert (facts["goodput"], facts["ettr"], facts["failures"]) == (1.0, 1.0, 0)
    assert facts["by_worker"] == {"0": {"useful": 3.0}, "1": {"useful": 3.0}}


def test_who_is_left_out_of_a_run_that_goes_on_costs_it_nothing():
    tape = Tape({})
    tape.append(0.0, WorkerJoined(0), [start(0, 0, 0)])
    tape.append(0.0, WorkerJoined(1), [start(1, 0, 1)])
    tape.append(4.0, WorkerLost(1, NOT_RESUMED), [])
    tape.append(10.0, WorkerJoined(2), [])
    spent = goodput(tape)
    assert (spent.failures, dict(spent.for_good)) == (0, {})
    assert sum(spent.by_worker[1].values()) == 4.0
    assert spent.by_worker[0]["unsettled"] == 10.0


def train(folder, clocks):
    def loss_fn(params, batch, key):
        return jnp.mean((params["w"] - batch) ** 2), {}

    return ssp.train(
        step=ssp.make_step(loss_fn, optax.sgd(0.1)),
        params={"w": jnp.zeros(2)},
        data=lambda worker: itertools.repeat(np.ones(2, np.float32)),
        runtime=ssp.Devices(num_workers=1),
        num_clocks=clocks,
        observers=[ssp.RunFolder(folder)],
    )


@pytest.mark.slow
def test_a_run_that_goes_on_in_its_folder_knows_how_long_nobody_ran(tmp_path, monkeypatch):
    first = train(tmp_path / "run", 2)
    assert first.goodput.failures == 0
    (term,) = read_terms(tmp_path / "run")
    assert (term["row"], term["num_workers"], term["rows_replayed"]) == (0, 1, 0)
    began = time.time
    monkeypatch.setattr(time, "time", lambda: began() + 3600.0)
    spent = train(tmp_path / "run", 4).goodput
    _, term = read_terms(tmp_path / "run")
    assert term["rows_replayed"] > 0
    assert term["restore_seconds"] > 0
    assert spent.recomputed == term["rows_replayed"]
    (down,) = spent.recoveries["resumed"]
    assert 3600 <= down < 3700
    assert spent.by_worker[0]["down"] == pytest.approx(3600, abs=60)
    assert spent.ettr < 0.1
    facts = json.loads((tmp_path / "run" / "summary.json").read_text())["goodput"]
    assert facts["recoveries"]["resumed"] == [down]
    with (tmp_path / "run" / "terms.jsonl").open("a") as file:
        file.write('{"row": 9')  # the process was killed in the midst of a line
    spent = train(tmp_path / "run", 6).goodput
    tape = ssp.read_run(tmp_path / "run").tape
    rows = [row for row, entry in enumerate(tape) if isinstance(entry.event, Resumed)]
    assert [term["row"] for term in read_terms(tmp_path / "run")] == [0, *rows]
    assert spent.failures == len(rows) == 2


def test_what_is_not_a_term_ends_them(tmp_path):
    assert read_terms(tmp_path) == []
    good = {"row": 0, "num_workers": 1, "began": 5.0, "rows_replayed": 0, "restore_seconds": 0.0}
    lines = [json.dumps(good), json.dumps({**good, "row": -1}), json.dumps(good)]
    (tmp_path / "terms.jsonl").write_text("\n".join(lines))
    assert read_terms(tmp_path) == [good]


NETWORK = ssp.Network(latency=0.5, bandwidth=6.0, params_bytes=6.0)  # 1.5 s a way


def test_what_travels_is_a_cause_of_its_own():
    spent = goodput(run_of([3.0], ssp.SSP(1), 4, network=NETWORK).tape)
    assert shown(spent) == {"useful": 0.5, "exchange": 0.5}
    assert (spent.exchange, spent.ettr, spent.waiting) == (0.5, 1.0, 0.0)


def test_what_is_computed_while_something_travels_is_useful():
    """One of the two steps of a clock is run while the delta before it and the snapshot travel."""
    runtime = ssp.Virtual(1, compute=False, network=NETWORK)
    run = ssp.train(runtime=runtime, num_clocks=3, overlap=1, local_steps=2)
    spent = goodput(run.tape).by_worker[0]
    assert {kind: seconds for kind, seconds in spent.items() if seconds} == {
        "useful": 6.0,  # three clocks of two steps of a second
        "exchange": 1.5 + 2 * (3.0 - 1.0) + 1.5,
    }
    assert run.schedule["computing"].tolist() == [2.0, 2.0, 2.0]


@settings(max_examples=20, deadline=None)
@given(
    bound=st.integers(0, 2),
    overlap=st.integers(0, 3),
    seed=st.integers(0, 99),
    late=st.sampled_from([0.1, 1.0]),
)
def test_every_moment_is_booked_once_over_a_network_too(bound, overlap, seed, late):
    network = ssp.Network(late, bandwidth=6.0, server_bandwidth=9.0, params_bytes=6.0)
    delay = ssp.delays.Exponential(1.0)
    runtime = ssp.Virtual(3, delay, seed, compute=False, network=network)
    how = {"policy": ssp.SSP(bound), "overlap": overlap, "local_steps": 3, "num_clocks": 6}
    run = ssp.train(runtime=runtime, **how)
    for worker, spent in goodput(run.tape).by_worker.items():
        assert min(spent.values()) >= -1e-9
        assert sum(spent.values()) == pytest.approx(last_of(run.tape))
        mine = run.schedule[run.schedule["worker"] == worker]
        assert spent["useful"] == pytest.approx(mine["computing"].sum())


def last_of(tape):
    return max(now for now, _, _ in tape)
