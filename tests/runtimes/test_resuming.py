"""A run that was broken off anywhere goes on, to the same bits as one that never was."""

import random
import zlib

import jax
import numpy as np
import pytest

import jax_ssp as ssp
from jax_ssp import delays
from jax_ssp.controller.errors import TapeMismatch
from jax_ssp.controller.events import Resumed, StopRequested
from jax_ssp.runtimes.cut import Cut
from jax_ssp.training.run import run
from tests.helpers.broken_off import Memory, broken_off, gone_on, parts, whole
from tests.helpers.problems import bits, linear
from tests.helpers.terms import without_terms
from tests.runtimes.test_modes import MODES, fits

POLICIES = {
    "ssp": ssp.SSP(2),
    "lazy": ssp.SSP(2, "lazy"),
    "bsp": ssp.BSP(),
    "asp": ssp.ASP(),
    "dssp": ssp.DSSP(1, 3),
    "psp": ssp.PSP(2),
    "ksync": ssp.KSync(2),
    "kasync": ssp.KAsync(2),
    "kbatchsync": ssp.KBatchSync(2),
    "kbatchasync": ssp.KBatchAsync(2),
    "softsync": ssp.Softsync(2),
    "backup": ssp.BackupWorkers(1),
    "ringmaster": ssp.Ringmaster(2),
    "rennala": ssp.Rennala(2),
    "quorum": ssp.Quorum(2, grace=0.3),
    "decoupled": ssp.Decoupled(2, gamma=1.0),
    "fedbuff": ssp.FedBuff(3),
    "vap": ssp.VAP(2.0),
}
QUICK = {("plain", name) for name in POLICIES} | {(mode, "ssp") for mode in MODES}
TABLE = [
    pytest.param(mode, name, marks=[] if (mode, name) in QUICK else [pytest.mark.slow])
    for mode in MODES
    for name in POLICIES
    if fits(MODES[mode], POLICIES[name])
]
EVALUATED = {"evaluate": lambda p: {"norm": float(np.linalg.norm(p["w"]))}, "eval_every": 2}


def assert_same(result, other):
    assert list(without_terms(other.tape)) == list(without_terms(result.tape))
    assert bits(other.params) == bits(result.params)
    assert bits(other.masters) == bits(result.masters)
    assert bits(other.states) == bits(result.states)
    assert bits(other.residuals) == bits(result.residuals)
    assert other.history == result.history
    assert other.evaluations == result.evaluations
    assert other.tape.params == result.tape.params
    assert (other.status, other.updates) == (result.status, result.updates)


def places(result, cuts, count, seed):
    """Where to break a run off, and from which cut to go on: any, or none."""
    rng = random.Random(zlib.crc32(seed.encode()))
    for _ in range(count):
        rows = rng.randrange(1, len(result.tape) + 1)
        yield rows, rng.choice([None, *[cut for cut in cuts if cut.rows <= rows][-3:]])


@pytest.mark.parametrize(("mode", "policy"), TABLE)
@pytest.mark.every(13)
def test_in_virtual_time_it_comes_to_the_same_bits(mode, policy):
    batch = 4 if policy == "ssp" else 1
    runtime = ssp.Virtual(4, delays.Exponential(), batch=batch)
    spec = linear(
        policy=POLICIES[policy], num_clocks=6, runtime=runtime, **MODES[mode], **EVALUATED
    )
    result, cuts = whole(spec)
    assert len(cuts) > 1  # of a policy that cancels clocks less is merged
    for rows, cut in places(result, cuts, 2, mode + policy):
        assert_same(result, gone_on(spec, result, rows, cut))


def test_after_each_row_and_from_each_cut():
    runtime = ssp.Virtual(2, delays.Exponential())
    spec = linear(policy=ssp.SSP(1), num_clocks=3, runtime=runtime, **EVALUATED)
    result, cuts = whole(spec)
    for rows in range(len(result.tape) + 1):
        for cut in [None, *[cut for cut in cuts if cut.rows <= rows]]:
            assert_same(result, gone_on(spec, result, rows, cut))


def test_it_may_be_broken_off_again_and_again():
    runtime = ssp.Virtual(3, delays.Exponential())
    spec = linear(policy=ssp.SSP(2), num_clocks=8, runtime=runtime, **EVALUATED)
    result, _ = whole(spec)
    plan, task, observers = parts(spec)
    cut, before = None, result
    for rows in range(4, len(result.tape), 5):
        memory = Memory(1, broken_off(before, rows, cut, plan))
        before = run(plan, task, observers, keeper=memory)
        cut = memory.cuts[0] if memory.cuts else cut
        assert_same(result, before)
    assert sum(isinstance(event, Resumed) for _, event, _ in before.tape) > 3


def state_of(observer):
    return {name: np.asarray(value).tolist() for name, value in observer.get_state().items()}


@pytest.mark.parametrize("kind", ["ema", "best", "early"])
@pytest.mark.every(3)
def test_observers_go_on_with_what_they_had_come_to(kind):
    made = {
        "ema": lambda: ssp.Ema(0.9),
        "best": lambda: ssp.Best("norm", mode="max"),
        "early": lambda: ssp.EarlyStop("norm", patience=3, mode="min"),
    }[kind]
    runtime = ssp.Virtual(3, delays.Exponential())
    spec = linear(policy=ssp.SSP(2), num_clocks=8, runtime=runtime, **EVALUATED)
    spec["observers"] = [was := made()]
    result, cuts = whole(spec)
    since = result.status
    for rows, cut in places(result, cuts, 4, kind):
        if cut is not None:
            spec["observers"] = [here := made()]
            other = gone_on(spec, result, rows, cut)
            assert_same(result, other)
            assert state_of(here) == state_of(was)
            assert other.status == since
    assert kind != "early" or since == "early"


@pytest.mark.parametrize(
    ("mode", "policy"),
    [
        (mode, policy)
        for mode in MODES
        for policy in ("bsp", "ssp", "lazy", "ksync")
        if fits(MODES[mode], POLICIES[policy])
    ],
)
@pytest.mark.slow
def test_on_devices_barriers_come_to_the_same_bits_and_all_tapes_replay(mode, policy):
    runtime = ssp.Devices(jax.devices()[:3], delay=delays.Exponential(mean=0.001))
    spec = linear(
        policy=POLICIES[policy], num_clocks=8, runtime=runtime, **MODES[mode], **EVALUATED
    )
    result, cuts = whole(spec)
    for rows, cut in places(result, cuts, 2, mode + policy):
        other = gone_on(spec, result, rows, cut)
        before = [entry for entry in other.tape if not isinstance(entry.event, Resumed)][:rows]
        assert before == list(result.tape)[:rows]
        if policy == "bsp":
            assert bits(other.params) == bits(result.params)
        assert ssp.check_contract(other.tape)
        again = ssp.train(**{**spec, "runtime": ssp.Replay(other.tape)})
        assert bits(again.params) == bits(other.params)


def test_a_cut_of_another_run_is_refused():
    spec = linear(policy=ssp.SSP(2), num_clocks=4, runtime=ssp.Virtual(2))
    result, cuts = whole(spec)
    cut = cuts[0]
    fewer = dict(cut.arrays)
    fewer.pop("store/pieces[0]['w']")
    with pytest.raises(ValueError, match=r"pieces\[0\]\['w'\] is missing"):
        gone_on(spec, result, cut.rows, Cut(cut.rows, cut.facts, fewer))
    wide = {name: array.astype(np.float64) for name, array in cut.arrays.items()}
    with pytest.raises(ValueError, match="was saved as float64"):
        gone_on(spec, result, cut.rows, Cut(cut.rows, cut.facts, wide))
    more = {**cut.facts, "workers": 2 * cut.facts["workers"]}
    with pytest.raises(ValueError, match="it is of 4 workers, and here are 2"):
        gone_on(spec, result, cut.rows, Cut(cut.rows, more, cut.arrays))
    with pytest.raises(ValueError, match=f"{cut.rows - 1} rows, and the cut is at row {cut.rows}"):
        gone_on(spec, result, cut.rows - 1, cut)


def test_the_rows_of_a_tape_must_be_answered_as_they_were_from_a_cut_or_without_one():
    spec = linear(policy=ssp.ASP(), num_clocks=4, runtime=ssp.Virtual(2))
    result, cuts = whole(spec)
    for cut in (None, cuts[-1]):
        with pytest.raises(TapeMismatch):
            gone_on({**spec, "policy": ssp.BSP()}, result, cuts[-1].rows, cut)


def test_saves_by_clocks_count_merged_deltas_for_each_worker():
    spec = linear(policy=ssp.BSP(), num_clocks=12, runtime=ssp.Virtual(3))
    result, cuts = whole(spec, clocks=4)
    merged = [
        sum(row["updates"] <= 36 for row in result.history[: cut.facts["told"][1]]) for cut in cuts
    ]
    assert merged == [12, 24]


def test_what_evaluates_and_averages_may_come_only_once_a_run_goes_on():
    spec = linear(policy=ssp.SSP(1), num_clocks=6, runtime=ssp.Virtual(2))
    result, cuts = whole(spec)
    ema, seen = ssp.Ema(0.5), []
    watch = ssp.Observer()
    watch.on_version = lambda version: seen.append((version.round, np.array(version.params["w"])))
    spec |= {"evaluate": EVALUATED["evaluate"], "observers": [ema, watch]}
    other = gone_on(spec, result, cuts[2].rows, cuts[2])
    assert bits(other.params) == bits(result.params)
    assert [row["version"] for row in other.evaluations] == [other.version]
    (at, average), *others = seen
    assert at > 0
    for now, params in others:
        average += (1 - 0.5 ** (now - at)) * (params - average)
        at = now
    np.testing.assert_allclose(ema.params["w"], average, rtol=1e-5)


def test_an_interrupt_before_a_run_goes_on_hurries_nobody_after():
    """Without a checkpoint its end is on the tape, and happens again; delays are as given after."""
    runtime = ssp.Devices(num_workers=2, delay=delays.Constant(0.02))
    spec = linear(policy=ssp.BSP(), num_clocks=4, runtime=runtime)
    result, _ = whole(spec)
    plan, _, _ = parts(spec)
    rows = len(result.tape) // 2
    past = broken_off(result, rows, None, plan)
    controller = ssp.Controller(plan.policy, ends=plan.ends)
    for now, event, _ in past.tape:
        controller.handle(event, now)
    stop = StopRequested("interrupted")
    past.tape.append(now, stop, controller.handle(stop, now))
    plan, task, observers = parts(spec)
    other = run(plan, task, observers, keeper=Memory(10**9, past))
    (began,) = [now for now, event, _ in other.tape if isinstance(event, Resumed)]
    took = [row["finish"] - row["start"] for row in other.history if row["start"] > began]
    assert (other.status, len(took) >= 2) == ("done", True)
    assert min(took) > 0.019


@pytest.mark.parametrize(
    "end", [{"observers": None}, {"target": "norm >= 3"}], ids=["early", "target"]
)
def test_an_end_that_was_asked_for_in_the_last_row_comes_once_it_goes_on(end):
    """The tape may break off before that end, or just behind it."""

    def spec():
        runtime = ssp.Virtual(2, delays.Exponential())
        found = linear(policy=ssp.BSP(), num_clocks=9, runtime=runtime, **EVALUATED, **end)
        stop = ssp.EarlyStop("norm", patience=2, mode="min")
        return {**found, "observers": [stop] if "observers" in end else []}

    result, cuts = whole(spec())
    events = [event for _, event, _ in result.tape]
    (at,) = [row for row, event in enumerate(events) if isinstance(event, StopRequested)]
    for cut in (None, cuts[0]):
        other = gone_on(spec(), result, at, cut)
        assert (other.status, other.updates) == (result.status, result.updates)
        assert bits(other.params) == bits(result.params)
        assert other.evaluations == result.evaluations
        behind = gone_on(spec(), result, at + 1, cut)
        assert behind.status == result.status
        ssp.check_contract(behind.tape)
