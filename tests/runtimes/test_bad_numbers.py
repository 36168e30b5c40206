"""Deltas that are not finite: dropped, never merged, and what their worker does then."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp.controller import DeltaReady, Drop, StartClock, StopRequested
from jax_ssp.controller.commands import NOT_FINITE

WORKERS = 3
BAD = {(1, 2), (0, 4)}  # of worker and clock


def loss_fn(params, batch, key):
    return jnp.sum((params["w"] - batch) ** 2) + jnp.sum(params["b"] ** 2), {}


def data(bad=frozenset(BAD), steps=1):
    """Batches of which those of some clocks are NaN: state, delta and statistics are spoilt."""

    def of(worker):
        for number in range(200):
            is_bad = (worker, number // steps) in bad
            yield np.full(3, np.nan if is_bad else 0.1 * number + worker, np.float32)

    return of


def bad_pushes(result):
    pushes = [event for _, event, _ in result.tape if isinstance(event, DeltaReady)]
    return [push for push in pushes if not push.finite]


def counting():
    """Momentum, behind a count of the steps since its state began."""
    count = optax.GradientTransformation(
        lambda params: jnp.zeros((), jnp.int32),
        lambda updates, count, params=None: (updates, count + 1),
    )
    return optax.chain(count, optax.trace(0.9), optax.scale(-0.1))


def run(policy, *, optimizer=None, bad=frozenset(BAD), runtime=None, **others):
    delay = ssp.delays.Exponential(mean=1.0)
    steps = others.get("local_steps", 1)
    return ssp.train(
        ssp.make_step(loss_fn, optimizer or counting()),
        params={"w": jnp.zeros(3), "b": jnp.ones(2)},
        data=data(bad, steps),
        policy=policy,
        runtime=runtime or ssp.Virtual(WORKERS, delay=delay),
        **{"num_clocks": 8, **others},
    )


POLICIES = [ssp.SSP(2), ssp.SSP(2, "lazy"), ssp.BSP(), ssp.KSync(2), ssp.Rennala(3), ssp.FedBuff(2)]
MODES = {
    "plain": {},
    "mix": {"adopt": ssp.Mix(0.5)},
    "ahead": {"local_steps": 2, "overlap": 1},
    "whole clocks ahead": {"local_steps": 2, "overlap": 2},
    "wire": {"delta_wire": ssp.compression.Int8()},
    "server": {"optimizer_on": "server"},
}


@pytest.mark.parametrize(
    ("policy", "mode"),
    [
        *((policy, "plain") for policy in POLICIES),
        *((ssp.SSP(2), mode) for mode in MODES if mode != "plain"),
        *((ssp.BSP(), mode) for mode in ("ahead", "server")),
        (ssp.Rennala(3), "whole clocks ahead"),
    ],
    ids=repr,
)
@pytest.mark.every(17)
def test_what_is_not_finite_is_dropped_and_leaves_no_trace(policy, mode):
    result = run(policy, **MODES[mode])
    assert result.status == "done"
    for leaf in result.params.values():
        assert np.isfinite(leaf).all()
    bad = bad_pushes(result)
    assert bad
    dropped = [c for row in result.tape for c in row.commands if isinstance(c, Drop)]
    assert [push.token for push in bad] == [c.token for c in dropped if c.reason == NOT_FINITE]
    assert {(row["worker"], row["clock"]) for row in result.history if not row["finite"]} <= BAD
    ssp.check_contract(result.tape)
    again = run(policy, runtime=ssp.Replay(result.tape), **MODES[mode])
    for name, leaf in result.params.items():
        assert np.array_equal(leaf, again.params[name])


def test_a_batch_that_is_bad_once_costs_its_clock_alone():
    """The optimizer's state begins anew from the snapshot; where it is finite, it goes on."""
    states = run(ssp.SSP(2)).states.workers
    assert all(np.isfinite(state[1].trace["w"]).all() for state in states)
    assert [int(state[0]) for state in states] == [3, 5, 8]  # clocks since it began

    spoilt = [ssp.faults.NaN(1, 2)]  # the delta alone
    kept = run(ssp.SSP(2), bad=(), runtime=ssp.Virtual(WORKERS, faults=spoilt)).states.workers
    assert [int(state[0]) for state in kept] == [8, 8, 8]


@pytest.mark.parametrize(
    ("overlap", "adopt"),
    [(1, ssp.Mix(0.5)), (1, "rebase"), (2, "rebase"), (2, ssp.Mix(0.5))],
    ids=repr,
)
@pytest.mark.every(2)
def test_steps_ahead_of_a_bad_clock_are_not_measured_in_the_next_one(overlap, adopt):
    """They ran on what the bad clock had left: nothing of that is the next clock's."""

    def measured(params, batch, key):
        loss, _ = loss_fn(params, batch, key)
        return loss, {"w": jnp.sum(params["w"]), "batch": batch[0]}

    steps = 2
    result = ssp.train(
        ssp.make_step(measured, optax.sgd(0.1)),
        params={"w": jnp.zeros(3), "b": jnp.ones(2)},
        data=data({(0, 2)}, steps),
        policy=ssp.SSP(2),
        runtime=ssp.Virtual(1),
        num_clocks=5,
        local_steps=steps,
        overlap=overlap,
        adopt=adopt,
    )
    rows = {row["clock"]: row for row in result.history}
    assert [clock for clock, row in rows.items() if not row["finite"]] == [2]
    after = rows[3]["metrics"]
    if overlap == steps:  # it has no other steps
        assert np.isnan([after["w"], after["batch"]]).all()
    else:
        assert np.isfinite(after["w"])
        np.testing.assert_allclose(after["batch"], 0.7)  # of its second step, batch 7, alone
    assert np.isfinite([*rows[4]["metrics"].values()]).all()
    again = ssp.train(
        ssp.make_step(measured, optax.sgd(0.1)),
        params={"w": jnp.zeros(3), "b": jnp.ones(2)},
        data=data({(0, 2)}, steps),
        policy=ssp.SSP(2),
        runtime=ssp.Replay(result.tape),
        num_clocks=5,
        local_steps=steps,
        overlap=overlap,
        adopt=adopt,
    )
    np.testing.assert_equal(again.history, result.history)


def test_its_worker_adopts_the_newest_version():
    """Under the lazy read it would have kept the version that it held."""
    result = run(ssp.SSP(4, "lazy"), bad={(1, 2)})
    version, after = 0, {}
    for _, event, commands in result.tape:
        version += sum(hasattr(command, "deltas") for command in commands)
        if isinstance(event, DeltaReady) and not event.finite:
            after = {c.worker: c for c in commands if isinstance(c, StartClock)}
            break
    assert (after[1].version, after[1].pending) == (version, ())


def test_real_threads_do_what_the_tape_repeats():
    about = {"bad": {(1, 2)}, "local_steps": 2, "overlap": 1}
    result = run(ssp.BSP(), runtime=ssp.Devices(jax.devices()[:2]), **about)
    assert (result.status, result.not_finite) == ("done", 1)
    again = run(ssp.BSP(), runtime=ssp.Replay(result.tape), **about)
    for name, leaf in result.params.items():
        assert np.array_equal(leaf, again.params[name])


@pytest.mark.parametrize(("most", "clocks"), [(0, 1), (1, 1), (2, 2), (3, 3)])
def test_after_so_many_in_a_row_it_has_diverged(most, clocks):
    bad = {*((1, clock) for clock in range(3, 8))} | ({(2, 0)} if most > 1 else set())
    result = run(ssp.BSP(), bad=bad, max_nonfinite=most, num_clocks=20)
    assert result.status == "diverged"
    events = [event for _, event, _ in result.tape]
    at = next(n for n, event in enumerate(events) if isinstance(event, StopRequested))
    last = events[at - 1]
    assert (last.worker, last.clock, last.finite) == (1, 2 + clocks, False)
    told = "1 clock of worker 1 is" if clocks == 1 else f"{clocks} clocks in a row of worker 1 are"
    assert result.reason == f"{told} not finite, in ['w']"
    assert f"diverged ({result.reason})" in result.summary()
    assert events[at].reason == f"diverged: {result.reason}"


def test_a_finite_clock_in_between_begins_the_count_anew():
    bad = {(1, clock) for clock in (1, 2, 4, 5, 7)}
    result = run(ssp.BSP(), bad=bad, max_nonfinite=3)
    assert (result.status, result.not_finite) == ("done", 5)


def test_never_is_never():
    bad = {(1, clock) for clock in range(8)}
    result = run(ssp.SSP(2), bad=bad, max_nonfinite=None)
    assert (result.status, result.not_finite) == ("done", 8)
    assert all(np.isfinite(leaf).all() for leaf in result.params.values())


def test_a_server_that_is_not_finite_any_more_ends_the_run_at_once():
    """Nothing that comes after it could be finite; the others finish the clocks that they run."""
    explodes = ssp.outer(optax.sgd(1e38))
    result = run(ssp.BSP(), bad=set(), server_tx=explodes, max_nonfinite=None)
    assert (result.status, result.not_finite) == ("diverged", WORKERS)
    assert not all(np.isfinite(leaf).all() for leaf in result.params.values())


def test_what_an_optimizer_skips_is_no_bad_clock():
    skipping = optax.apply_if_finite(optax.sgd(0.1), 100)
    bad = {(1, clock) for clock in range(8)}
    result = run(ssp.BSP(), optimizer=skipping, bad=bad)
    assert (result.status, result.not_finite) == ("done", 0)


def test_max_nonfinite_is_a_count():
    with pytest.raises(ValueError, match=r"`max_nonfinite` .* got -1"):
        run(ssp.BSP(), max_nonfinite=-1)
