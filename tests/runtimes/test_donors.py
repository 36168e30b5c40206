"""Who joins a run under way takes over a live worker's state, where workers have one of theirs."""

import dataclasses
import itertools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp import faults
from jax_ssp.controller import Controller, ProtocolError, check_contract
from jax_ssp.controller.commands import StartClock
from jax_ssp.controller.errors import ContractViolation
from jax_ssp.controller.events import WorkerJoined, WorkerLost
from jax_ssp.controller.tape import Tape
from jax_ssp.policies import Decision
from jax_ssp.runtimes.crew import Crew, Stay
from jax_ssp.runtimes.threads import Threads
from jax_ssp.worker.replica import born
from tests.helpers.broken_off import gone_on, whole
from tests.helpers.problems import bits, linear, loss_fn
from tests.helpers.terms import without_terms

MOMENTUM = ssp.make_step(loss_fn, optax.sgd(0.02, momentum=0.5))
CHANGES = (WorkerJoined, WorkerLost)
MIX = {"adopt": ssp.Mix(0.5)}
MODES = {
    "mix": MIX,
    "ahead": {**MIX, "overlap": 1, "local_steps": 3},
    "lossy": {**MIX, "delta_wire": ssp.compression.Int8(block=4)},
    "buffered": {**MIX, "policy": ssp.FedBuff(3)},
    "fragments": {**MIX, "fragments": 2},
    "streaming": {**MIX, "fragments": 3, "overlap": 1, "local_steps": 3, "policy": ssp.FedBuff(3)},
    "dealt": {**MIX, "data": ssp.data.Epochs(next(linear()["data"](0)), batch_size=2)},
}
TABLE = [
    pytest.param(mode, marks=[] if mode in ("mix", "ahead") else [pytest.mark.slow])
    for mode in MODES
]
WRONG = [faults.Crash(1, 2, back_after=2.5), faults.Crash(0, 4, back_after=0.5)]


def spec_of(runtime, **changes):
    return linear(
        **{"step": MOMENTUM, "policy": ssp.SSP(1), "num_clocks": 7, "runtime": runtime, **changes}
    )


def virtual(*wrong, workers=3, network=None):
    return ssp.Virtual(workers, ssp.delays.Exponential(), faults=wrong, network=network)


def devices(*wrong, workers=3, network=None, **rules):
    recovery = ssp.Recovery(**{"restarts": 5, "backoff": 0.001, **rules})
    spread = {"num_workers": workers, "workers_per_device": workers, "recovery": recovery}
    spread["network"] = network
    return ssp.Devices(**spread, faults=wrong, delay=ssp.delays.Constant(0.003))


def joins(result):
    """(worker, donor) of each that joined later."""
    found = [event for _, event, _ in result.tape if isinstance(event, WorkerJoined)]
    return [tuple(event) for event in found[result.tape.header["num_workers"] :]]


def joins_of(result, worker):
    events = [row.event for row in result.tape]
    return [each for each in events if isinstance(each, WorkerJoined) and each.worker == worker]


def row_of(result, join):
    """The number of the row in which somebody joined."""
    (at,) = [number for number, row in enumerate(result.tape) if tuple(row.event) == join]
    return at


def assert_replayed(spec, result):
    ssp.check_contract(result.tape)
    again = ssp.train(**{**spec, "runtime": ssp.Replay(result.tape)})
    assert bits(again.params) == bits(result.params)
    assert bits(again.states) == bits(result.states)
    assert again.status == result.status


@pytest.mark.parametrize("mode", TABLE)
@pytest.mark.every(2)
def test_in_virtual_time_a_run_goes_on_to_the_same_bits_wherever_it_was_broken_off(mode):
    spec = spec_of(virtual(*WRONG), **MODES[mode])
    result, made = whole(spec)
    assert joins(result)
    assert all(donor is not None for _, donor in joins(result))
    assert_replayed(spec, result)
    at = row_of(result, joins(result)[-1])
    for rows, before in ((at, at), (at + 1, at), (at + 1, at + 1), (at + 2, 0)):
        cut = max((c for c in made if c.rows <= before), key=lambda c: c.rows, default=None)
        again = gone_on(spec, result, rows, cut)
        assert list(without_terms(again.tape)) == list(without_terms(result.tape)), rows
        assert bits(again.params) == bits(result.params), rows
        assert bits(again.states) == bits(result.states), rows


class Holds(ssp.ASP):
    """Worker 1 is to wait from the first version on, for a while."""

    def admit(self, view, worker):
        return worker != 1 or not 1 <= view.version < 11


def test_a_state_that_was_taken_over_and_not_used_yet_is_there_after_a_resume():
    spec = spec_of(virtual(faults.Crash(1, 0, back_after=1.0)), **MIX, policy=Holds())
    result, made = whole(spec)
    ((_, donor),) = joins(result)
    at = row_of(result, (1, donor))
    starts = [(n, c) for n, row in enumerate(result.tape) for c in row.commands]
    first = next(n for n, c in starts if isinstance(c, StartClock) and n >= at and c.worker == 1)
    cut = next(each for each in made if at < each.rows <= first)
    again = gone_on(spec, result, cut.rows + 1, cut)
    assert list(without_terms(again.tape)) == list(without_terms(result.tape))
    assert bits(again.params) == bits(result.params)
    assert bits(again.states) == bits(result.states)


@pytest.mark.parametrize("mode", TABLE)
@pytest.mark.every(2)
def test_on_devices_the_tape_repeats_what_was_taken_over(mode):
    wrong = [faults.Raise(1, 2), faults.Crash(0, 12, back_after=0.004), faults.Raise(2, 22)]
    spec = spec_of(devices(*wrong), **{**MODES[mode], "num_clocks": 30})
    result = ssp.train(**spec)
    assert result.status == "done"
    assert len(joins(result)) == 3
    assert all(donor is not None for _, donor in joins(result))
    assert_replayed(spec, result)


@pytest.mark.parametrize("mode", [pytest.param("mix", marks=pytest.mark.slow), "ahead"])
def test_on_devices_a_run_goes_on_from_before_and_behind_a_join(mode):
    spec = spec_of(devices(faults.Raise(1, 2)), **{**MODES[mode], "num_clocks": 12})
    result, made = whole(spec)
    ((_, donor),) = joins(result)
    assert donor is not None
    at = row_of(result, (1, donor))
    calm = {**spec, "runtime": devices()}
    for rows in (at, at + 1, at + 2, len(result.tape) - 1):
        cut = max((c for c in made if c.rows <= min(rows, at)), key=lambda c: c.rows, default=None)
        again = gone_on(calm, result, rows, cut)
        assert again.status == "done"
        assert joins(again)[-1][1] is not None, rows
        assert_replayed(spec, again)


@pytest.mark.parametrize("mode", ["mix", pytest.param("streaming", marks=pytest.mark.slow)])
def test_over_a_network_in_virtual_time_a_state_is_taken_over(mode):
    network = ssp.Network(0.1, 200.0, 300.0, 500.0)
    spec = spec_of(virtual(*WRONG, network=network), **MODES[mode])
    result, made = whole(spec)
    assert joins(result)
    assert all(donor is not None for _, donor in joins(result))
    assert_replayed(spec, result)
    at = row_of(result, joins(result)[-1])
    for rows in (at, at + 1, at + 2):
        cut = max((c for c in made if c.rows <= at), key=lambda c: c.rows, default=None)
        again = gone_on(spec, result, rows, cut)
        assert list(without_terms(again.tape)) == list(without_terms(result.tape)), rows
        assert bits(again.params) == bits(result.params), rows


@pytest.mark.parametrize("mode", ["mix", pytest.param("streaming", marks=pytest.mark.slow)])
def test_over_a_network_on_devices_a_state_is_taken_over(mode):
    """A donor that waits for what travels gives the state in which it has begun to wait."""
    network = ssp.Network(0.003, bandwidth=1e5, merge_rate=1e6)
    runtime = devices(faults.Raise(1, 2), faults.Raise(2, 12), network=network)
    spec = spec_of(runtime, **{**MODES[mode], "num_clocks": 20})
    result = ssp.train(**spec)
    assert result.status == "done"
    assert len(joins(result)) == 2
    assert all(donor is not None for _, donor in joins(result))
    assert_replayed(spec, result)


ON_SLICES = {"devices_per_worker": 2, "shardings": {"w": jax.P("model")}}


SLICED = {
    "fragments": {"fragments": 2, "policy": ssp.FedBuff(2)},
    "ahead": {"overlap": 1, "local_steps": 3, "policy": ssp.FedBuff(2)},
    "lossy": {"delta_wire": ssp.compression.Int8(block=4)},
}


def on_slices(mode):
    rules = {"recovery": ssp.Recovery(restarts=5, backoff=0.001), "faults": [faults.Raise(1, 2)]}
    runtime = ssp.Devices(**ON_SLICES, num_workers=2, **rules)
    return runtime, spec_of(runtime, **{**MIX, "num_clocks": 30, **SLICED[mode]})


def test_a_slice_takes_over_what_lies_on_another():
    _, spec = on_slices("fragments")  # of which a device may have nothing
    result = ssp.train(**spec)
    assert joins(result) == [(1, 0)]
    assert_replayed(spec, result)


@pytest.mark.slow
@pytest.mark.parametrize("mode", SLICED)
def test_on_slices_a_run_goes_on_from_behind_a_join(mode):
    runtime, spec = on_slices(mode)
    result, made = whole(spec)
    assert joins(result) == [(1, 0)]
    assert_replayed(spec, result)
    at = row_of(result, (1, 0))
    calm = {**spec, "runtime": dataclasses.replace(runtime, faults=())}
    for rows in (at + 1, at + 3):
        cut = max((c for c in made if c.rows <= at + 1), key=lambda c: c.rows, default=None)
        again = gone_on(calm, result, rows, cut)
        assert again.status == "done"
        assert_replayed(spec, again)


def test_on_devices_the_delays_of_all_go_on_where_the_run_was_broken_off():
    drawn = {}

    def delay(worker, clock, steps, rng):
        drawn[worker, clock] = rng.random()
        return 0.0

    runtime = dataclasses.replace(devices(faults.Raise(1, 2)), delay=delay)
    spec = spec_of(runtime, **MIX, policy=ssp.BSP(), num_clocks=12)
    result, made = whole(spec)
    at = row_of(result, joins(result)[0])
    before, begun = drawn.copy(), made[-1]
    assert begun.rows > at
    drawn.clear()
    calm = {**spec, "runtime": dataclasses.replace(runtime, faults=())}
    gone_on(calm, result, begun.rows, begun)
    assert {key: before[key] for key in drawn} == drawn
    assert {worker for worker, _ in drawn} == {0, 1, 2}


@pytest.mark.slow
def test_plain_ssp_begins_anew_and_a_recovery_may_say_otherwise():
    for rule, mode, gives in (
        ("progress", {}, False),
        ("always", {}, True),
        ("never", MIX, False),
        ("progress", MIX, True),
    ):
        spec = spec_of(devices(faults.Raise(1, 2), donor=rule), num_clocks=15, **mode)
        result = ssp.train(**spec)
        ((_, donor),) = joins(result)
        assert (donor is not None) == gives, (rule, mode)
        assert_replayed(spec, result)
    spec = spec_of(virtual(*WRONG))
    assert [donor for _, donor in joins(ssp.train(**spec))] == [None, None]


class Looks:
    """A step that moves by its batch, and says with what it began."""

    def init(self, params):
        return {"count": jnp.zeros((), jnp.int32)}

    def __call__(self, params, state, batch, key):
        metrics = {"local": params["w"], "count": state["count"].astype(jnp.float32)}
        return {"w": batch}, {"count": state["count"] + 1}, metrics


class Nines(ssp.ASP):
    """Merges nine deltas at a time."""

    def ready(self, view):
        deltas = tuple(view.buffered)
        return Decision(merge=deltas if len(deltas) >= 9 else ())


@pytest.mark.parametrize("back_after", [0.5, 1.5])
@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.every(3)
def test_what_it_takes_over_is_its_donors_but_for_what_waits_at_the_server(
    back_after, waits, overlap
):
    """By hand: local parameters, half of the donor's and half of the snapshot.

    Worker 0 finishes a clock a second, and moves by 1 a step; worker 1 is lost at 2.25 s. A delta
    that the server has not merged is no progress of worker 1's: it is taken off, at its weight.
    What worker 0 has run ahead of the clock that it runs then is.
    """
    steps = 1 + overlap
    spec = {
        "step": Looks(),
        "params": {"w": np.float32(0)},
        "data": lambda worker: itertools.repeat(np.float32(1.0)),
        "policy": Nines() if waits else ssp.ASP(),
        "num_clocks": 4,
        "weight": 0.25,
        "adopt": ssp.Mix(0.5),
        "overlap": overlap,
        "local_steps": steps,
    }
    wrong = [faults.Crash(1, 0, back_after=back_after)]
    seconds = ssp.delays.PerWorker((1.0 / steps, 2.25 / steps))
    result = ssp.train(runtime=ssp.Virtual(2, seconds, faults=wrong), **spec)
    assert joins(result) == [(1, 0)]
    began = {(row["worker"], row["clock"]): row["metrics"] for row in result.history}
    clock = int(2.25 + back_after)  # of the donor, when its state is taken over
    local, pushed = 0.0, 0.0
    for number in range(clock):  # its base has all it has pushed, merged or not
        base = 0.25 * pushed
        local = 0.5 * (local + base) + (steps - overlap if number else steps)
        pushed += local - base
        local += overlap
    joiner = min(number for worker, number in began if worker == 1)
    mean = (steps - 1) / 2  # over the steps of its first clock, how far it is behind the first
    assert began[1, joiner]["count"] == clock * steps + overlap + mean
    snapshot = 0.0 if waits else 0.25 * pushed
    mine = local - 0.25 * pushed if waits else local
    assert began[1, joiner]["local"] == 0.5 * (mine + snapshot) + mean
    assert_replayed(spec, result)


class Sums:
    """A step that moves by its batch, and sums them up in its state."""

    def init(self, params):
        return jnp.zeros(())

    def __call__(self, params, state, batch, key):
        return {"w": batch}, state + batch, {"local": params["w"], "sum": state}


def test_from_a_donor_whose_last_clock_was_not_finite_nothing_of_that_is_taken_over():
    """Its heir begins as the donor does: with the snapshot alone, and with a new state."""
    given = np.array([1, 1, np.nan, 1, 1], np.float32), np.ones(5, np.float32)
    spec = {
        "step": Sums(),
        "params": {"w": np.float32(0)},
        "data": lambda worker: iter(given[worker]),
        "policy": ssp.ASP(),
        "num_clocks": 5,
        "weight": 0.25,
        "adopt": ssp.Mix(0.5),
    }
    wrong = [faults.Crash(1, 0, back_after=1.5)]  # in the donor's clock 3
    runtime = ssp.Virtual(2, ssp.delays.PerWorker((1.0, 2.25)), faults=wrong)
    result = ssp.train(runtime=runtime, **spec)
    assert joins(result) == [(1, 0)]
    heir = next(row for row in result.history if row["worker"] == 1)["metrics"]
    donors = [row for row in result.history if row["worker"] == 0]
    pushed = 1.0 + (0.5 * (1.0 + 0.25) + 1 - 0.25)  # of clocks 0 and 1; that of clock 2 is dropped
    assert [row["finite"] for row in donors][:4] == [True, True, False, True]
    assert heir["local"] == donors[3]["metrics"]["local"] == 0.25 * pushed
    assert heir["sum"] == donors[3]["metrics"]["sum"] == 0.0
    assert_replayed(spec, result)


def test_who_has_a_state_from_another_and_no_thread_for_it_yet_is_not_cut():
    """It would be cut as one that begins anew."""
    threads, stay = object.__new__(Threads), Stay(0, None, joined=True)
    threads._crew = Crew(lambda stay: None, lambda error: None)
    threads._crew.stays = [stay]
    assert threads.kept({}) == [None]
    stay.inherits = born(None, (), [], jax.random.key(0))
    assert threads.kept({}) is None


class LooksAtTwo(Looks):
    """The same, of two parameters."""

    def __call__(self, params, state, batch, key):
        return {"a": batch, "b": batch}, state, dict(params)


@pytest.mark.parametrize("back_after", [1.5, 2.5])
@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.every(3)
def test_of_fragments_what_waits_at_the_server_is_taken_off_each(back_after, waits):
    """The same by hand: each clock pushes one of two, and the next one adopts that."""
    spec = {
        "step": LooksAtTwo(),
        "params": {"a": np.float32(0), "b": np.float32(0)},
        "data": lambda worker: itertools.repeat(np.float32(1.0)),
        "policy": Nines() if waits else ssp.ASP(),
        "num_clocks": 6,
        "weight": 0.25,
        "adopt": ssp.Mix(0.5),
        "fragments": ssp.Fragments(paths=(("a",), ("b",))),
    }
    wrong = [faults.Crash(1, 0, back_after=back_after)]
    runtime = ssp.Virtual(2, ssp.delays.PerWorker((1.0, 2.25)), faults=wrong)
    result = ssp.train(runtime=runtime, **spec)
    assert joins(result) == [(1, 0)]
    local, base, pushed = np.zeros(2), np.zeros(2), np.zeros(2)
    for clock in range(int(2.25 + back_after)):
        if clock:
            adopted = (clock - 1) % 2
            base[adopted] = 0.25 * pushed[adopted]
            local[adopted] = 0.5 * (local[adopted] + base[adopted])
        local += 1
        pushed[clock % 2] += local[clock % 2] - base[clock % 2]
    mine = local - 0.25 * pushed if waits else local
    expected = 0.5 * (mine + (0.0 if waits else 0.25 * pushed))
    first = next(row for row in result.history if row["worker"] == 1)["metrics"]
    assert [first["a"], first["b"]] == [*expected]
    assert_replayed(spec, result)


def test_a_donor_that_dies_half_way_is_replaced():
    """Worker 2 waits for worker 0, which is in a clock that never ends, and is lost in it."""
    far, back, came = threading.Event(), threading.Event(), itertools.count(1)

    class Sees(ssp.Observer):
        def on_clock(self, row):
            if row["worker"] == 1 and row["clock"] > 8:
                far.set()

        def on_entry(self, now, event, commands):
            if isinstance(event, WorkerJoined) and next(came) == 5:
                back.set()

    def data(worker):
        for number, batch in enumerate(linear()["data"](worker)):
            if worker == 2 and number == 20:  # who is lost when worker 0 is the least far
                far.wait(0.8)
            if worker == 1 and number > 12:  # who is there until the others are back
                back.wait(0.1)
            yield batch

    wrong = [faults.Raise(2, 20), faults.Hang(0, 7)]
    changes = {**MIX, "policy": ssp.ASP(), "num_clocks": 40, "data": data}
    spec = spec_of(devices(*wrong, deadline=1.0), **changes)
    result = ssp.train(**spec, observers=[Sees()])
    events = [tuple(row.event)[:2] for row in result.tape if isinstance(row.event, CHANGES)]
    assert events[3] == (2, "step: RuntimeError: an injected fault")
    assert events[4][0] == 0
    assert {*joins(result)} == {(0, 1), (2, 1)}
    assert_replayed(spec, result)


def test_who_waits_for_a_donor_that_does_not_come_again_takes_another():
    wrong = [faults.Raise(2, 20), faults.Slow(0, 7, seconds=0.3)]
    wrong.append(faults.OutOfMemory(0, 7, phase="push"))  # which is not tried again
    spec = spec_of(devices(*wrong), **{**MIX, "policy": ssp.ASP(), "num_clocks": 150})
    result = ssp.train(**spec)
    lost = [row.event.worker for row in result.tape if isinstance(row.event, WorkerLost)]
    assert (lost, joins(result)) == ([2, 0], [(2, 1)])
    again = ssp.train(**{**spec, "runtime": ssp.Replay(result.tape)})
    assert bits(again.params) == bits(result.params)


def test_without_anybody_who_has_a_state_it_begins_anew():
    spec = spec_of(devices(faults.Raise(0, 3), workers=1), **MIX)
    result = ssp.train(**spec)
    assert joins(result) == [(0, None)]
    assert_replayed(spec, result)


def test_more_workers_take_over_a_state_when_a_run_goes_on_with_them():
    for kind in (ssp.Virtual(2), devices(workers=2)):
        data = {"data": ssp.data.Epochs(next(linear()["data"](0)), batch_size=2)}
        spec = spec_of(kind, **MIX, **data)
        result, made = whole(spec)
        cut = made[len(made) // 2]
        more = ssp.Virtual(3) if isinstance(kind, ssp.Virtual) else devices(workers=3)
        again = gone_on({**spec, "runtime": more}, result, cut.rows + 1, cut)
        found = joins_of(again, 2)
        assert [event.donor is not None for event in found] == [True]
        ssp.check_contract(again.tape)
        replayed = ssp.train(**{**spec, "runtime": ssp.Replay(again.tape)})
        assert bits(replayed.params) == bits(again.params)
        behind = [row.event for row in again.tape].index(found[0]) + 1
        once = gone_on({**spec, "runtime": more}, again, behind, None)
        assert once.status == "done"
        assert [tuple(each) for each in joins_of(once, 2)] == [tuple(found[0])]


@pytest.mark.parametrize("donor", [1, 2, 7])
def test_the_contract_and_the_controller_want_a_donor_that_has_a_state(donor, run_of_three):
    """Worker 1 is not here, worker 2 has finished no clock, and there is no worker 7."""
    controller = Controller(ssp.ASP())
    for worker in (0, 2):
        (start,) = controller.handle(WorkerJoined(worker), 0.0)
        if worker == 0:
            controller.handle(start.finished(), 0.0)
    with pytest.raises(ProtocolError, match="donor"):
        controller.handle(WorkerJoined(1, donor), 0.0)
    assert controller.donors() == [0]
    controller.handle(WorkerJoined(1, 0), 0.0)
    header, rows = run_of_three
    experiment = {**header["experiment"], "policy": {"type": "Mine"}}
    strange = {**header, "policy": "Mine()", "experiment": experiment}
    for told, by_hand in (({**header}, False), (strange, True)):
        spoiled, seen = Tape(told), 0
        for now, event, commands in rows:
            if isinstance(event, WorkerJoined):
                seen += 1
                event = event._replace(donor=donor) if seen == 3 else event
            spoiled.append(now, event, commands)
        # What cannot be answered anew, since nobody here knows its policy, the clauses see alone.
        words = "but the donor has finished no clock, or is gone" if by_hand else "donor"
        with pytest.raises(ContractViolation, match=words):
            check_contract(spoiled)
    assert not check_contract(with_rows(strange, rows)).recomputed


def with_rows(header, rows):
    tape = Tape(header)
    for row in rows:
        tape.append(*row)
    return tape


@pytest.fixture(scope="module")
def run_of_three():
    """The header and the rows of a run in which donors gave their state."""
    tape = ssp.train(**spec_of(virtual(*WRONG), **MIX)).tape
    return tape.header, [*tape]
