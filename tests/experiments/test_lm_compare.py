"""The comparison of language models: equal tokens, bytes that are counted, seconds to a loss."""

import json

import numpy as np
import pytest

import jax_ssp as ssp
from experiments import lm_compare
from jax_ssp.controller import DeltaReady, StartClock
from jax_ssp.controller.facts import facts_of
from jax_ssp.runtimes.traffic import Sizes, Traffic

TINY = 8  # rounds


@pytest.mark.parametrize("rounds", [TINY, lm_compare.ROUNDS])
def test_all_methods_get_the_same_tokens(rounds):
    runs = [lm_compare.made(name, 0, rounds=rounds) for name in lm_compare.METHODS]
    assert len({run.max_samples for run in runs}) == 1
    assert len({run.workload for run in runs}) == 1
    for name, run in zip(lm_compare.METHODS, runs, strict=True):
        steps = sum(lm_compare.clock_of(name, rounds))
        assert rounds % max(run.schedule.usual) == 0  # rounds end with whole clocks
        assert steps <= lm_compare.WORKERS * max(run.schedule.usual)


def clockwork(name, rounds=400):
    """The tape of a method without gradients, in the study's world."""
    fields = dict(lm_compare.METHODS[name](20))
    fields.pop("server_tx", None)
    fields.pop("optimizer_on", None)
    delay = ssp.delays.PerWorker(lm_compare.STEP)
    runtime = ssp.Virtual(lm_compare.WORKERS, delay, compute=False)
    most = rounds * lm_compare.WORKERS
    return ssp.train(runtime=runtime, max_steps=most, progress=False, **fields)


@pytest.mark.parametrize("name", lm_compare.METHODS)
def test_bytes_are_about_what_the_formula_says(name):
    result = clockwork(name)
    workload = lm_compare.workload_of(lm_compare.ROUNDS)
    whole = np.zeros(workload.shape.parameters, np.float32)
    experiment = lm_compare.made(name, 0, rounds=lm_compare.ROUNDS)
    sizes = lm_compare.sizes_of(experiment, {"leaf": whole})
    assert sum(sizes) == whole.nbytes
    # Of all clocks: what decoupled DiLoCo drops was pushed too.
    tokens = result.schedule["steps"].sum() * workload.batch_size * workload.context
    counted = lm_compare.exchanged(result, sizes) / tokens
    assert counted == pytest.approx(lm_compare.formula(name, lm_compare.ROUNDS), rel=0.1)


FRAGMENTS = {"policy": ssp.SSP(2, "lazy"), "fragments": 3, "local_steps": 2}


@pytest.mark.parametrize("name", [*lm_compare.METHODS, "lazy fragments"])
def test_bytes_are_what_a_network_would_have_to_carry(name, monkeypatch):
    """Those that a run over links waits for, which are counted elsewhere, by other code."""
    monkeypatch.setitem(lm_compare.METHODS, "lazy fragments", lambda h: FRAGMENTS)
    result = clockwork(name)
    number = facts_of(result.tape.header).fragments
    sizes = [1000.0 + each for each in range(number)]
    traffic = Traffic(lm_compare.NETWORK, Sizes(*[tuple(sizes)] * 3))
    carried = 0.0
    for now, event, commands in result.tape:
        traffic.take(now, event, commands)
        if isinstance(event, DeltaReady):
            carried += sizes[event.clock % number]
        for command in commands:
            if isinstance(command, StartClock):
                start, ready, _ = traffic.grants[command.worker]
                carried += 0.0 if ready is None else traffic.sizes.down(start)
    assert lm_compare.exchanged(result, sizes) == carried


def test_seconds_to_a_loss_lie_between_evaluations():
    row = {"curve": [[0, 0.0, 8.0], [10, 2.0, 4.0], [20, 6.0, 2.0], [30, 8.0, 3.0]]}
    assert lm_compare.reached(row, 4.0) == 2.0
    assert lm_compare.reached(row, 3.0) == 4.0
    assert lm_compare.reached(row, 2.0) == 6.0
    assert lm_compare.reached(row, 1.0) is None


@pytest.mark.slow
@pytest.mark.rare
def test_it_is_measured_interrupted_and_gone_on_with(standard_promotion, tmp_path, monkeypatch):
    """At a tiny size: table, figure, and a study that is resumed runs nothing twice."""
    monkeypatch.setattr(lm_compare, "SEEDS", (0,))
    monkeypatch.setattr(lm_compare, "RATES", (3e-3,))
    words = ["--folder", str(tmp_path), "--rounds", str(TINY)]
    lm_compare.main([*words, "--only", "DiLoCo", "synchronous"])
    kept = (tmp_path / "runs.jsonl").read_text().splitlines()
    assert len(kept) == 1 + 2 * 2  # two methods on the seed of the rates and on one other
    seen = []
    measured = lm_compare.measured
    monkeypatch.setattr(lm_compare, "measured", lambda *a: seen.append(a[0]) or measured(*a))
    lm_compare.main(words)
    assert set(seen) == {"asynchronous", "streaming", "decoupled"}
    runs = json.loads((tmp_path / "table.json").read_text())["runs"]
    assert {run["status"] for run in runs} == {"done"}
    own = {run["method"]: run for run in runs if run["seed"] == 0}
    assert own["synchronous"]["tokens"] == own["DiLoCo"]["tokens"] == TINY * 2 * 2 * 32
    assert own["synchronous"]["bytes"] == pytest.approx(own["synchronous"]["formula"])
    assert own["DiLoCo"]["bytes"] == pytest.approx(own["synchronous"]["bytes"] / 4)
    assert own["streaming"]["bytes"] == pytest.approx(own["DiLoCo"]["bytes"], rel=0.2)
    assert own["DiLoCo"]["seconds"] < own["synchronous"]["seconds"]
    page = (tmp_path / "README.md").read_text()
    assert "| decoupled" in page
    assert (tmp_path / "figure.png").stat().st_size > 10_000
