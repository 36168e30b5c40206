"""Runs that end by steps, samples or epochs end at the same place in every world."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp.controller import Cancel, Controller, StartClock, TapeMismatch
from tests.helpers.problems import merges

WORKERS = 3
SIZES = (2, 3, 4)  # examples in each batch of a worker
ROUND = sum(SIZES)


def loss_fn(params, batch, key):
    return jnp.mean((params["w"] - batch) ** 2), {}


STEP = ssp.make_step(loss_fn, optax.sgd(0.1))


def data(worker):
    for number in itertools.count():
        yield np.full(SIZES[worker], number % 5, np.float32)


def slow_first(worker, clock, steps, rng):
    """Worker 0 takes three times as long as the others."""
    return steps * (3.0 if worker == 0 else 1.0) * rng.uniform(0.9, 1.1)


WORLDS = {
    "virtual": lambda: ssp.Virtual(WORKERS, slow_first),
    "batch": lambda: ssp.Virtual(WORKERS, slow_first, batch=2),
    "devices": lambda: ssp.Devices(num_workers=WORKERS, workers_per_device=WORKERS),
}


def train(runtime, **changes):
    spec = {"params": {"w": jnp.float32(0)}, "data": data, "policy": ssp.SSP(2)}
    return ssp.train(STEP, runtime=runtime, **{**spec, **changes})


def proven(result, **changes):
    """Check the contract, repeat the run bit for bit and the controller alone, and give it."""
    report = ssp.check_contract(result.tape)
    assert result.tape.complete
    assert report.recomputed
    assert (report.merged, report.steps, report.samples) == totals(result)
    again = train(ssp.Replay(result.tape), **changes)
    assert np.array_equal(again.params["w"], result.params["w"])
    assert totals(again) == totals(result)
    controller = Controller.replayed(result.tape)
    assert (controller.updates, controller.total_steps, controller.samples) == totals(result)
    return result


def totals(result):
    return result.updates, result.steps, result.samples


def of_merges(result, column):
    """What each merge of a run merges, of a column of its schedule."""
    rows = result.schedule
    versions = [merge.version for merge in merges(result.tape)]
    return [int(rows[column][rows["merge_version"] == version].sum()) for version in versions]


POLICIES = {
    "SSP": {"policy": ssp.SSP(2)},
    "SSP lazy": {"policy": ssp.SSP(2, adopt="lazy")},
    "BSP": {"policy": ssp.BSP()},
    "KAsync": {"policy": ssp.KAsync(2)},
    "cancels": {"policy": ssp.Ringmaster(2, stops=True)},
    "overlap": {"policy": ssp.SSP(1), "overlap": 1},
    "steps": {"policy": ssp.SSP(2), "local_steps": ssp.PostLocal(h=3, switch=2)},
    "server": {"policy": ssp.SSP(2), "optimizer_on": "server", "local_steps": 2},
    "overlap, steps": {"policy": ssp.BSP(), "overlap": 2, "local_steps": 3},
}
QUICK = [("virtual", how) for how in POLICIES]
QUICK += [("batch", "cancels"), ("batch", "overlap"), ("devices", "SSP"), ("devices", "overlap")]
REST = [pair for pair in itertools.product(WORLDS, POLICIES) if pair not in QUICK]


@pytest.mark.parametrize(
    ("world", "how"), [*QUICK, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in REST)]
)
@pytest.mark.parametrize("name", ["max_steps", "max_samples"])
@pytest.mark.every(13)
def test_the_run_ends_with_the_merge_that_reaches_the_total(name, world, how):
    most = {"max_steps": 25, "max_samples": 70}[name]
    changes = {**POLICIES[how], name: most}
    result = proven(train(WORLDS[world](), **changes), **changes)
    *before, last = of_merges(result, name.removeprefix("max_"))
    assert sum(before) < most <= sum(before) + last
    assert result.status == "done"
    assert {"max_steps": result.steps, "max_samples": result.samples}[name] == sum(before) + last
    lost = result.schedule[result.schedule["merge_version"] < 0]
    assert result.samples + int(lost["samples"].sum()) == int(result.schedule["samples"].sum())
    cancelled = [c for _, _, commands in result.tape for c in commands if type(c) is Cancel]
    assert bool(cancelled) == (how == "cancels")


@pytest.mark.parametrize("world", WORLDS)
def test_rounds_count_samples_of_unequal_workers(world):
    result = proven(train(WORLDS[world](), num_clocks=8), num_clocks=8)
    assert result.tape.header["round_samples"] == ROUND
    samples, at, rounds = 0, [0], []
    for merge in merges(result.tape):
        assert merge.round == samples // ROUND
        samples += sum(SIZES[delta.worker] for delta in merge.deltas)
        at.append(samples // ROUND)
    for _, _, commands in result.tape:
        rounds += [(c.round, at[c.version]) for c in commands if type(c) is StartClock]
    assert all(told == found for told, found in rounds)
    assert (samples, at[-1]) == (8 * ROUND, 8)


def test_under_bsp_a_clock_is_a_round_and_with_h_steps_h_rounds():
    for steps in (1, 3):
        tape = train(ssp.Virtual(WORKERS), policy=ssp.BSP(), num_clocks=4, local_steps=steps).tape
        starts = [c for _, _, commands in tape for c in commands if type(c) is StartClock]
        assert all(start.round == start.clock * steps for start in starts)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.slow
def test_with_the_optimizer_on_the_server_a_round_is_all_batches_of_a_clock(steps):
    changes = {"num_clocks": 4, "local_steps": steps, "optimizer_on": "server"}
    result = proven(
        train(ssp.Virtual(WORKERS), policy=ssp.BSP(), **changes), policy=ssp.BSP(), **changes
    )
    assert result.tape.header["round_samples"] == steps * ROUND
    assert [merge.round for merge in merges(result.tape)] == [0, 1, 2, 3]


def test_the_fast_go_on_where_a_run_ends_by_samples():
    """By clocks the fast workers stop, and the run takes as long as the slow one does."""
    by_clocks = train(WORLDS["virtual"](), policy=ssp.ASP(), num_clocks=20)
    by_samples = train(WORLDS["virtual"](), policy=ssp.ASP(), max_samples=20 * ROUND)
    assert by_samples.samples >= by_clocks.samples == 20 * ROUND
    assert by_samples.seconds < 0.6 * by_clocks.seconds
    clocks = [int((by_samples.schedule["worker"] == worker).sum()) for worker in range(WORKERS)]
    assert clocks[0] < min(clocks[1:]) / 2


def test_rows_say_how_many_steps_and_samples():
    result = train(
        WORLDS["virtual"](), max_samples=60, local_steps=2, evaluate=lambda p: p, eval_every=2
    )
    for row in result.history:
        assert (row["steps"], row["samples"]) == (2, 2 * SIZES[row["worker"]])
    merged = [row for row in result.history if row["merge_version"] >= 0]
    assert [row["samples_seen"] for row in merged] == list(
        itertools.accumulate(row["samples"] for row in merged)
    )
    seen = {row["merge_version"]: row["samples_seen"] for row in merged} | {0: 0}
    for row in result.evaluations:
        assert row["samples"] == seen[row["version"]]
        assert row["steps"] == 2 * row["updates"]
    assert result.evaluations[-1]["samples"] == result.samples
    assert result.samples_per_second == result.samples / result.seconds
    assert f"{result.steps} local steps on {result.samples} samples" in result.summary()


def test_clockwork_counts_steps_and_has_no_samples():
    runtime = ssp.Virtual(WORKERS, slow_first, compute=False)
    result = ssp.train(runtime=runtime, max_steps=40, local_steps=3)
    assert totals(result) == (14, 42, 0)
    assert result.samples_per_second == 0
    assert result.tape.header["round_samples"] == 0
    assert "42 local steps\n" in result.summary()
    assert ssp.check_contract(result.tape).steps == 42
    again = ssp.train(runtime=ssp.Replay(result.tape), max_steps=40, local_steps=3)
    assert totals(again) == totals(result)


@pytest.mark.parametrize("name", ["max_samples", "num_epochs"])
def test_where_nothing_is_computed_there_are_no_samples_to_end_by(name):
    words = rf"`{name}=7` counts the examples in batches, .*; give `max_steps` or `max_updates`"
    with pytest.raises(ValueError, match=words):
        ssp.train(runtime=ssp.Virtual(2, compute=False), **{name: 7})


# Epochs.


def shards(examples=23, size=3):
    return ssp.data.Shards(np.arange(examples, dtype=np.float32), size, WORKERS)


@pytest.mark.parametrize("world", WORLDS)
def test_an_epoch_is_what_the_shards_give_in_one_pass(world):
    # Of 8, 8 and 7 examples each worker takes whole batches of 3: 6, 6 and 6.
    changes = {"data": shards(), "num_epochs": 2}
    result = proven(train(WORLDS[world](), **changes), **changes)
    assert result.samples == 2 * 18
    experiment = result.tape.header["experiment"]
    assert (experiment["num_epochs"], experiment["max_samples"]) == (2, 36)


def test_under_bsp_every_worker_goes_through_its_own_once_an_epoch():
    result = train(ssp.Virtual(WORKERS), policy=ssp.BSP(), data=shards(), num_epochs=3)
    assert (result.version, result.updates) == (3 * 2, 3 * 2 * WORKERS)
    assert not (result.schedule["merge_version"] < 0).any()


def test_the_first_end_counts_whichever_it_is():
    for ends, samples in (({"max_samples": 20}, 21), ({"max_samples": 90}, 36)):
        changes = {"data": shards(), "num_epochs": 2, **ends}
        result = train(ssp.Virtual(WORKERS), **changes)
        assert (result.samples, result.status) == (samples, "done")
    result = train(ssp.Virtual(WORKERS), data=shards(), num_epochs=2, num_clocks=1)
    assert result.updates == WORKERS


class Known:
    """Data of one's own that knows its length."""

    def __init__(self, samples_per_epoch):
        self.samples_per_epoch = samples_per_epoch

    def __call__(self, worker):
        return data(worker)


def test_a_source_of_ones_own_may_know_its_length():
    assert train(ssp.Virtual(WORKERS), data=Known(10), num_epochs=4, policy=ssp.ASP()).samples >= 40


@pytest.mark.parametrize(
    ("source", "kind", "words"),
    [
        (data, ValueError, r"`num_epochs=2` needs to know .* `data=.*` does not say: use `ssp.dat"),
        (Known(0), ValueError, r"`data.samples_per_epoch` must be at least 1, got 0"),
        (Known("many"), TypeError, r"`data.samples_per_epoch` must be an integer, got 'many'"),
    ],
    ids=["unknown", "none", "text"],
)
def test_data_that_does_not_know_its_length_is_refused(source, kind, words):
    with pytest.raises(kind, match=words):
        train(ssp.Virtual(WORKERS), data=source, num_epochs=2)


def test_where_the_data_end_before_that_the_run_does():
    ends = {"data": lambda worker: itertools.islice(data(worker), 4), "max_samples": 1000}
    result = proven(train(WORLDS["virtual"](), **ends), **ends)
    assert result.samples == 4 * ROUND
    assert len(result.ended_by_data) == WORKERS


def test_a_replay_with_batches_of_another_size_is_told():
    changes = {"data": lambda worker: itertools.repeat(np.zeros(4, np.float32)), "num_clocks": 3}
    tape = train(ssp.Virtual(WORKERS), **changes).tape

    def other(worker):
        first = [np.zeros(4, np.float32)] * 2
        return itertools.chain(first, itertools.repeat(np.zeros(2, np.float32)))

    with pytest.raises(TapeMismatch, match=r"in clock 2 the batches of worker . hold 2 samples, a"):
        train(ssp.Replay(tape), **{**changes, "data": other})


def test_ends_that_fall_on_the_same_merge_give_the_same_run():
    by_updates = train(WORLDS["virtual"](), policy=ssp.BSP(), max_updates=5 * WORKERS)
    by_samples = train(WORLDS["virtual"](), policy=ssp.BSP(), max_samples=5 * ROUND)
    by_steps = train(WORLDS["virtual"](), policy=ssp.BSP(), max_steps=5 * WORKERS)
    for result in (by_samples, by_steps):
        assert jax.tree.all(jax.tree.map(np.array_equal, result.params, by_updates.params))
        assert result.schedule.tolist() == by_updates.schedule.tolist()
