"""Workers in which something goes wrong are lost to the run, and come again; nobody else minds."""

import itertools

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp import faults
from jax_ssp.controller import (
    DeltaReady,
    Drop,
    Fence,
    StopRequested,
    Token,
    WorkerJoined,
    WorkerLost,
)
from jax_ssp.policies import Decision
from jax_ssp.runtimes.members import NOT_RESUMED
from jax_ssp.runtimes.recovery import (
    REMEDY,
    Restarts,
    batches_taken,
    bytes_asked,
    is_out_of_memory,
    lost_in,
    reason_of,
    times_lost,
)
from jax_ssp.server.local_store import LocalStore
from tests.helpers.broken_off import gone_on, whole
from tests.helpers.problems import bits, linear, loss_fn
from tests.helpers.stores import storing
from tests.helpers.terms import without_terms

SOON = ssp.Recovery(restarts=5, backoff=0.001)
MOMENTUM = ssp.make_step(loss_fn, optax.sgd(0.02, momentum=0.5))


def events(result, kind):
    return [event for _, event, _ in result.tape if type(event) is kind]


def devices(*wrong, workers=2, recovery=SOON, **others):
    """Workers that share a device, in which these things go wrong."""
    spread = {"num_workers": workers, "workers_per_device": workers}
    return ssp.Devices(**spread, faults=wrong, recovery=recovery, **others)


def trained(runtime, **changes):
    """A run that keeps the contract, and that its tape repeats to the last bit."""
    spec = linear(**{"step": MOMENTUM, "num_clocks": 12, "policy": ssp.BSP(), **changes})
    result = ssp.train(runtime=runtime, **spec)
    ssp.check_contract(result.tape)
    again = ssp.train(runtime=ssp.Replay(result.tape), **spec)
    assert bits(again.params) == bits(result.params)
    assert again.status == result.status
    return result


def clocks(result, worker):
    """The clocks whose deltas of a worker were taken in, in their order."""
    return [row["clock"] for row in result.history if row["worker"] == worker]


class Once:
    """Raises in the first call for each of some (worker, number); any thread may ask."""

    def __init__(self, *where):
        self.left = list(where)

    def __call__(self, worker, number):
        if (worker, number) in self.left:
            self.left.remove((worker, number))
            raise OSError(f"it went wrong at {(worker, number)}")


def in_the_step(*where):
    return {"runtime": devices(*(faults.Raise(*each) for each in where))}


def in_the_data(*where):
    fails = Once(*where)

    def data(worker):
        for number, batch in zip(itertools.count(), linear()["data"](worker), strict=False):
            fails(worker, number)
            yield batch

    return {"runtime": devices(), "data": data}


def in_the_push(*where):
    fails = Once(*where)

    class Fails(LocalStore):
        def push(self, event, payload, metrics):
            fails(event.worker, event.clock)
            super().push(event, payload, metrics)

    return {"runtime": storing(devices(), Fails)}


PHASES = {"step": in_the_step, "data": in_the_data, "push": in_the_push}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.every(3)
def test_a_worker_that_fails_comes_again_with_the_batches_of_its_clock(phase):
    """The others lose no clock; with its own clocks it goes on where the slowest of them is."""
    change = PHASES[phase]((1, 3), (1, 4), (0, 7))
    runtime = change.pop("runtime")
    result = trained(runtime, policy=ssp.SSP(1), **change)
    assert result.status == "done"
    lost = events(result, WorkerLost)
    assert {event.worker for event in lost} == {0, 1}
    assert {event.reason.split(": ")[0] for event in lost} == {phase}
    for worker in range(2):
        assert clocks(result, worker) == sorted(set(clocks(result, worker)))


def test_what_it_computes_again_is_of_the_same_batches():
    """With nobody else, a run in which a worker is lost takes in the batches in their order."""
    seen = []

    class Watched(LocalStore):
        def push(self, event, payload, metrics):
            seen.append(metrics["loss"])
            super().push(event, payload, metrics)

    plain = ssp.make_step(loss_fn, optax.sgd(0.02))  # it has no state that a loss would cost it
    wrong = [faults.Raise(0, 2), faults.Raise(0, 5)]
    spec = {"step": plain, "num_clocks": 8}
    result = trained(storing(devices(*wrong, workers=1), Watched), **spec)
    losses = seen[:8]
    assert clocks(result, 0) == list(range(8))
    seen.clear()
    trained(storing(devices(workers=1), Watched), **spec)
    assert seen[:8] == losses


def test_its_optimizer_begins_anew():
    """The momentum of a worker that was lost is gone with it."""
    result = trained(devices(faults.Raise(0, 3), workers=1), num_clocks=6, policy=ssp.ASP())
    state, params = None, {"w": jnp.zeros(6, jnp.float32)}
    tx = optax.sgd(0.02, momentum=0.5)
    data = linear()["data"](0)
    for clock in range(6):
        state = tx.init(params) if clock in (0, 3) else state
        x, y = next(data)
        grads = {"w": 2 * x.T @ (x @ params["w"] - y) / len(y)}
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(result.params["w"], params["w"], rtol=1e-4)


MODES = {
    "overlap": {"overlap": 1, "local_steps": 3},
    "lossy": {"delta_wire": ssp.compression.Int8(block=4), "policy": ssp.SSP(1)},
    "lossy reads": {"snapshot_wire": ssp.compression.BFloat16(), "policy": ssp.ASP()},
    "bases": {"delta_tx": ssp.mitigations.delay_compensation(0.1), "policy": ssp.SSP(2)},
    "server": {"optimizer_on": "server", "policy": ssp.SSP(1)},
    "cancels": {"policy": ssp.KSync(1)},
    "ringmaster": {"policy": ssp.Ringmaster(1, stops=True)},
    "elastic": {"data": ssp.data.Epochs(np.ones((24, 6), np.float32), batch_size=4)},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.every(8)
def test_it_does_so_in_every_mode(mode):
    changes = dict(MODES[mode])
    if mode == "elastic":
        changes["step"] = ssp.make_step(
            lambda params, batch, key: (jnp.mean((batch @ params["w"] - 1) ** 2), {}),
            optax.sgd(0.02),
        )
    wrong = [faults.Raise(1, 2), faults.Raise(0, 5), faults.Raise(2, 5)]
    result = trained(devices(*wrong, workers=3), **changes)
    assert result.status == "done"
    cancels = changes.get("policy", ssp.BSP()).cancels  # then one may never be begun
    assert cancels or len(events(result, WorkerLost)) >= 1


def test_a_fault_that_says_when_its_worker_is_back_is_not_meddled_with():
    result = trained(devices(faults.Crash(1, 2, back_after=0.01), faults.Crash(0, 4)))
    lost = [event.worker for event in events(result, WorkerLost)]
    joined = [event.worker for event in events(result, WorkerJoined)]
    assert all(joined.count(worker) <= 1 + lost.count(worker) for worker in range(2))


@pytest.mark.parametrize("world", ["virtual", "batch", "overlap", "mix"])
def test_in_virtual_time_one_comes_again_too(world):
    changes = {"overlap": {"overlap": 1, "local_steps": 3}}.get(world, {})
    if world == "mix":
        changes = {"overlap": 1, "local_steps": 3, "adopt": ssp.Mix(0.5)}
    batch = 2 if world == "batch" else 1
    wrong = [faults.Crash(1, 3, back_after=2.5), faults.Crash(0, 5, back_after=0.0)]
    runtime = ssp.Virtual(3, ssp.delays.Exponential(), batch=batch, faults=wrong)
    result = trained(runtime, policy=ssp.SSP(2), **changes)
    assert len(events(result, WorkerLost)) == 2
    assert len(events(result, WorkerJoined)) == 5
    assert result.status == "done"


def test_a_run_waits_for_all_that_are_to_come_again():
    wrong = [faults.Crash(0, 3, back_after=2.0), faults.Crash(1, 3, back_after=5.0)]
    for compute in (True, False):
        runtime = ssp.Virtual(2, faults=wrong, compute=compute)
        spec = {"num_clocks": 8, "policy": ssp.BSP()}
        result = trained(runtime) if compute else ssp.train(runtime=runtime, **spec)
        assert result.status == "done"
        assert max(result.schedule["clock"]) == (11 if compute else 7)


class Threes(ssp.Policy):
    """Merges three deltas at a time, and has nobody wait."""

    def ready(self, view):
        return Decision(merge=list(view.buffered) if len(view.buffered) >= 3 else [])


@pytest.mark.parametrize("pushed", ["merge", "drop"])
@pytest.mark.every(2)
def test_what_it_had_pushed_is_merged_or_goes_with_it(pushed):
    """Worker 1 has pushed two clocks, which wait for a third, when it fails in the next."""
    recovery = ssp.Recovery(restarts=0, pushed=pushed)
    slow = ssp.delays.PerWorker((0.2, 0.0, 0.2))
    runtime = devices(faults.Raise(1, 2), workers=3, recovery=recovery, delay=slow)
    result = trained(runtime, policy=Threes(), num_clocks=3)
    assert [event.drops for event in events(result, WorkerLost)] == [pushed == "drop"]
    drops = [c[:2] for *_, commands in result.tape for c in commands if type(c) is Drop]
    assert drops == ([(1, 0), (1, 1)] if pushed == "drop" else [])
    assert result.updates == 8 - len(drops)


def test_below_the_fewest_workers_the_run_ends_and_keeps_what_it_has():
    wrong = [faults.Raise(0, 2), faults.Raise(0, 2, nth=2)]
    recovery = ssp.Recovery(restarts=1, backoff=0.001, min_workers=2)
    slow = ssp.delays.Constant(0.01)
    result = trained(devices(*wrong, recovery=recovery, delay=slow), num_clocks=50)
    assert result.status == "too few workers"
    _, lost = events(result, WorkerLost)
    why = f"1 left of at least 2; worker 0 was lost ({lost.reason})"
    assert events(result, StopRequested) == [StopRequested(f"too few workers: {why}")]
    assert result.reason == why
    assert 0 < result.updates < 100
    assert np.isfinite(result.params["w"]).all()


def test_when_all_are_lost_for_good_there_are_too_few():
    recovery = ssp.Recovery(restarts=0)
    result = trained(devices(faults.Raise(0, 2), workers=1, recovery=recovery))
    assert (result.status, result.updates) == ("too few workers", 2)


def test_without_restarts_the_others_go_on():
    recovery = ssp.Recovery(restarts=0)
    result = trained(devices(faults.Raise(0, 2), recovery=recovery))
    assert (result.status, result.updates) == ("done", 14)


def test_too_little_memory_is_not_asked_for_twice():
    result = trained(devices(faults.OutOfMemory(1, 3)))
    assert (result.status, result.updates) == ("done", 15)
    (lost,) = events(result, WorkerLost)
    assert lost.reason == f"out of memory: no room for 68,719,476,736 bytes; {REMEDY}"
    assert result.remarks[-1] == (
        f"worker 1 was lost once, in clock 3 ({lost.reason}); it did not come again, and its data "
        "ended with it"
    )
    assert [loss[:3] for loss in result.losses] == [(1, 3, lost.reason)]


def test_what_is_no_fault_of_a_worker_ends_the_run():
    class Fails(ssp.Observer):
        def on_clock(self, row):
            raise LookupError("an observer's")

    for changes, kind in (
        ({"observers": [Fails()]}, LookupError),
        ({"runtime": devices(faults.Raise(1, 3, KeyboardInterrupt("now")))}, KeyboardInterrupt),
        ({"runtime": devices(faults.Raise(1, 3, SystemExit(3)))}, SystemExit),
        ({"runtime": devices(faults.Raise(1, 3), recovery=None)}, RuntimeError),
    ):
        with pytest.raises(kind):
            ssp.train(**linear(**{"runtime": devices(), "num_clocks": 5, **changes}))


def test_data_that_cannot_be_made_anew_is_told_before_anything_starts():
    iterators = [linear()["data"](worker) for worker in range(2)]
    with pytest.raises(ValueError, match=r"`data\(worker=0\)`"):
        ssp.train(**linear(runtime=devices(), num_clocks=5, data=iterators.__getitem__))


# Broken off while somebody is away.


def as_told(result):
    return without_terms(result.tape), bits(result.params), repr(result.history)


@pytest.mark.parametrize("cuts", [True, False])
@pytest.mark.parametrize("mode", [{}, {"overlap": 1, "local_steps": 3}], ids=["plain", "overlap"])
@pytest.mark.every(4)
def test_a_run_goes_on_to_the_same_bits_wherever_workers_were_away(cuts, mode):
    wrong = [faults.Crash(1, 2, back_after=2.5), faults.Crash(0, 4, back_after=0.5)]
    runtime = ssp.Virtual(3, ssp.delays.Exponential(), faults=wrong)
    given = linear(step=MOMENTUM, runtime=runtime, policy=ssp.SSP(1), num_clocks=7, **mode)
    result, made = whole(given)
    assert len(events(result, WorkerJoined)) == 5
    for rows in range(1, len(result.tape), 2):
        cut = max((c for c in made if c.rows <= rows), key=lambda c: c.rows, default=None)
        again = gone_on(given, result, rows, cut if cuts else None)
        assert as_told(again) == as_told(result), rows


@pytest.mark.slow
def test_who_was_lost_when_a_run_was_broken_off_comes_again_when_it_goes_on():
    """On devices; also from cuts in which a worker is away, or here and has begun nothing yet."""
    wrong, slow = [faults.Raise(1, 3)], ssp.delays.Constant(0.002)
    given = linear(
        step=MOMENTUM, policy=ssp.SSP(1), num_clocks=12, runtime=devices(*wrong, delay=slow)
    )
    result, made = whole(given)
    (at,) = [n for n, row in enumerate(result.tape) if type(row.event) is WorkerLost]
    calm = {**given, "runtime": devices(delay=slow)}
    for rows in (at + 1, at + 2, at + 4, len(result.tape) - 1):
        cut = max((c for c in made if c.rows <= rows), key=lambda c: c.rows, default=None)
        again = gone_on(calm, result, rows, cut)
        ssp.check_contract(again.tape)
        assert again.status == "done"
        joined = [event.worker for event in events(again, WorkerJoined)]
        assert joined.count(1) == 2, rows
        replayed = ssp.train(**{**given, "runtime": ssp.Replay(again.tape)})
        assert bits(replayed.params) == bits(again.params)


def test_injected_delays_go_on_where_they_were():
    """On devices the clocks before a cut have had their delays: each later one gets its own."""
    drawn = []

    class Noted(ssp.delays.Constant):
        def __call__(self, worker, clock, steps, rng):
            drawn.append((worker, clock, float(rng.random())))
            return 0.0

    given = linear(policy=ssp.BSP(), num_clocks=6, runtime=devices(delay=Noted(0.0)))
    result, made = whole(given)
    before = {(worker, clock): number for worker, clock, number in drawn}
    cut = made[len(made) // 2]
    drawn.clear()
    gone_on(given, result, cut.rows, cut)
    assert {(worker, clock): number for worker, clock, number in drawn} == before


# The parts.


def test_pauses_grow_up_to_a_minute():
    recovery = ssp.Recovery(backoff=0.5)
    assert [recovery.pause(restart) for restart in (1, 2, 3, 8, 10**6)] == [0.5, 1, 2, 60, 60]
    assert ssp.Recovery(backoff=90.0).pause(3) == 90


def test_restarts_are_counted_over_the_life_of_a_run():
    """Who has used them up comes again when the run goes on, and is lost for good the next time."""
    recovery = ssp.Recovery(restarts=1, backoff=0.001, min_workers=2)
    wrong = [faults.Raise(1, 3), faults.Raise(1, 3, nth=2)]
    slow = ssp.delays.Constant(0.002)
    given = linear(step=MOMENTUM, policy=ssp.SSP(1), num_clocks=12)
    calm = {**given, "runtime": devices(wrong[0], recovery=recovery, delay=slow)}
    result, made = whole(calm)
    assert result.status == "done"
    (at,) = [n for n, row in enumerate(result.tape) if type(row.event) is WorkerJoined][2:]
    for again in (False, True):
        more = [faults.Raise(1, 8)] if again else []
        spec = {**given, "runtime": devices(wrong[0], *more, recovery=recovery, delay=slow)}
        cut = max((c for c in made if c.rows <= at + 1), key=lambda c: c.rows, default=None)
        other = gone_on(spec, result, at + 1, cut)
        assert other.status == ("too few workers" if again else "done")


def test_restarts_are_counted_for_each_worker():
    restarts = Restarts(ssp.Recovery(restarts=2, min_workers=2), 3)
    assert [restarts.of(0), restarts.of(0), restarts.of(1)] == [1.0, 2.0, 1.0]
    assert restarts.of(0) is None
    assert not restarts.too_few
    assert restarts.of(1, ever=False) is None
    assert restarts.too_few
    restarts.go_on([2, 3], {2: 1})  # of whom one had joined late
    assert not restarts.too_few
    assert restarts.of(2) == 2.0


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError("gone"), "step: OSError: gone"),
        (ValueError("`data(worker=0)` ended"), "data: ValueError: `data(worker=0)` ended"),
        (MemoryError("full"), f"out of memory: MemoryError: full; {REMEDY}"),
        (MemoryError("x" * 500), f"out of memory: MemoryError: {'x' * 87}; {REMEDY}"),
        (MemoryError("no 5000 bytes"), f"out of memory: no room for 5,000 bytes; {REMEDY}"),
        (RuntimeError("a\n long  " + "x" * 500), "step: RuntimeError: a long " + "x" * 173),
    ],
)
def test_why_a_worker_is_lost_is_said_in_few_words(error, reason):
    assert reason_of(error) == reason


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ("Out of memory while trying to allocate 1099511627776 bytes.", 1 << 40),
        ("Out of memory allocating 12 bytes", 12),
        ("failed to allocate 3.00GiB (3221225472B) on device", 3 << 30),
        ("failed to allocate 3.5KiB on device", 3584),
        ("nothing is said", None),
    ],
)
def test_how_much_memory_was_asked_for_is_read_from_the_message(words, asked):
    assert bytes_asked(RuntimeError(words)) == asked
    assert not is_out_of_memory(RuntimeError(words))


def test_batches_of_late_pushes_do_not_count():
    result = trained(ssp.Virtual(3, ssp.delays.Exponential()), policy=ssp.KSync(2), num_clocks=6)
    pushed = [event for event in events(result, DeltaReady) if event.worker == 1]
    assert len(pushed) < 6  # the others were cancelled
    assert batches_taken(result.tape, 1) == 6
    assert lost_in(result.tape) == []
    push = DeltaReady(1, 0, 0, Token(0, 0), steps=2)
    late = (1.0, push, (Fence(1, 0, push.token),))
    assert batches_taken([(0.0, push, ()), late], 1) == 2


def test_who_a_run_is_resumed_without_has_not_failed():
    rows = [(0.0, WorkerLost(3, NOT_RESUMED), ()), (0.0, WorkerLost(2, "step: gone"), ())]
    assert times_lost(rows) == {2: 1}
    assert lost_in(rows) == [2]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ssp.Recovery(restarts=-1), ValueError, r"`Recovery\(restarts=...\)`"),
        (lambda: ssp.Recovery(pushed="keep"), ValueError, r"`Recovery\(pushed=...\)`"),
        (lambda: ssp.Recovery(deadline=0), ValueError, r"`Recovery\(deadline=...\)`"),
        (lambda: ssp.Devices(recovery=3), TypeError, r"`Devices\(recovery=...\)` must be None or"),
        (
            lambda: devices(recovery=ssp.Recovery(min_workers=3)).count(),
            ValueError,
            "at least 3 workers, and the run has 2",
        ),
    ],
)
def test_what_is_no_recovery_is_told(make, error, message):
    with pytest.raises(error, match=message):
        make()
