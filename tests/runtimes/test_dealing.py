"""Runs on data that all workers share: who comes and goes, what is seen, in every world."""

import itertools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_ssp as ssp
from jax_ssp.controller import (
    DeltaReady,
    Drop,
    Merge,
    StartAhead,
    StartClock,
    WorkerDone,
    WorkerJoined,
    WorkerLost,
)
from jax_ssp.controller.commands import Cancel, Fence
from jax_ssp.data.ledger import Ledger
from jax_ssp.runtimes.dealing import dealing, left_out, tell
from jax_ssp.runtimes.members import ever, members
from jax_ssp.testing.driving import random_run
from jax_ssp.training.run import run
from tests.helpers.broken_off import Memory, broken_off, gone_on, parts, whole

EXAMPLES = 46
WORLDS = {
    "virtual": lambda **more: ssp.Virtual(4, ssp.delays.Exponential(1.0), **more),
    "batch": lambda **more: ssp.Virtual(4, ssp.delays.Exponential(1.0), batch=4, **more),
    "devices": lambda **more: ssp.Devices(num_workers=4, workers_per_device=4, **more),
}
POLICIES = [
    ssp.BSP(),
    ssp.SSP(2),
    ssp.ASP(),
    ssp.BackupWorkers(1),
    ssp.Ringmaster(2, stops=True),
    ssp.KSync(3),
]


class Counts:
    """A step that counts the examples it is given; merged as a sum, they are what was seen."""

    def init(self, params):
        return ()

    def __call__(self, params, state, batch, key):
        return {"seen": jnp.zeros(EXAMPLES).at[batch].add(1.0)}, state, {}


def train(runtime, data=None, **changes):
    spec = {
        "params": {"seen": jnp.zeros(EXAMPLES)},
        "data": ssp.data.Epochs(np.arange(EXAMPLES), batch_size=2) if data is None else data,
        "policy": ssp.SSP(2),
        "num_epochs": 3,
        "weight": "sum",
    }
    return ssp.train(Counts(), runtime=runtime, **{**spec, **changes})


def check(result):
    """What was merged is what the report says: of whole epochs each example once."""
    seen, report = np.asarray(result.params["seen"]), result.data
    assert report.merged == result.samples == seen.sum()
    assert (report.twice, report.seen) == (0, report.merged)
    assert seen.min() >= report.whole
    assert seen.max() <= report.whole + len(report.epochs)
    for each in report.epochs:
        assert each.seen + each.dropped + each.never == EXAMPLES
    return report


@pytest.mark.parametrize(
    ("policy", "world"),
    [
        pytest.param(
            *(policy, world),
            id=f"{policy}-{world}",
            marks=[] if i % len(WORLDS) == j else [pytest.mark.slow],
        )
        for i, policy in enumerate(POLICIES)
        for j, world in enumerate(WORLDS)
    ],
)
@pytest.mark.every(11)
def test_each_sample_of_an_epoch_is_merged_once_or_dropped(policy, world):
    result = train(WORLDS[world](), policy=policy)
    report = check(result)
    again = train(ssp.Replay(result.tape), policy=policy)
    assert again.data == report
    np.testing.assert_array_equal(again.params["seen"], result.params["seen"])
    assert "samples seen, 0 twice" in result.summary()


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    "changes",
    [
        {"overlap": 1, "local_steps": 2},
        {"overlap": 3, "local_steps": 3},
        {"local_steps": ssp.DyLU(h=4)},
    ],
    ids=["overlap", "whole", "DyLU"],
)
@pytest.mark.every(9)
def test_clocks_of_several_steps_and_those_begun_ahead(world, changes):
    result = train(WORLDS[world](), **changes)
    check(result)
    again = train(ssp.Replay(result.tape), **changes)
    np.testing.assert_array_equal(again.params["seen"], result.params["seen"])


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("overlap", [0, 2])
@pytest.mark.every(11)
def test_what_a_lost_worker_ran_is_given_to_the_others(world, overlap):
    faults = [ssp.faults.Crash(2, 3), ssp.faults.Crash(0, 5)]
    changes = {"num_epochs": None, "num_clocks": 12, "local_steps": 2, "overlap": overlap}
    result = train(WORLDS[world](faults=faults), **changes)
    report = check(result)
    assert report.whole >= 2  # in which the workers were lost
    assert report.dropped == 0
    again = train(ssp.Replay(result.tape), **changes)
    assert again.data == report
    np.testing.assert_array_equal(again.params["seen"], result.params["seen"])


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.every(3)
def test_a_worker_that_comes_again_takes_turns_again(world):
    faults = [ssp.faults.Crash(2, 3, back_after=0.01), ssp.faults.Crash(0, 5, back_after=0.01)]
    changes = {"num_epochs": None, "num_clocks": 14, "local_steps": 2, "policy": ssp.BSP()}
    result = train(WORLDS[world](faults=faults), **changes)
    report = check(result)
    joined = sum(isinstance(event, WorkerJoined) for _, event, _ in result.tape)
    assert joined == 6 or world == "devices"  # where the run may be over before they are back
    assert report.whole >= 3
    assert report.dropped == 0
    again = train(ssp.Replay(result.tape), **changes)
    assert again.data == report
    np.testing.assert_array_equal(again.params["seen"], result.params["seen"])


def test_nobody_idles_where_there_are_more_workers_than_batches():
    data = ssp.data.Epochs(np.arange(6), batch_size=2)
    result = train(ssp.Virtual(5), data, policy=ssp.BSP(), num_epochs=None, num_clocks=6)
    assert (result.data.whole, result.data.epochs) == (10, ())
    assert np.asarray(result.params["seen"])[:6].tolist() == [10.0] * 6


def test_of_data_of_each_workers_own_what_is_known_is_said():
    shards = ssp.data.Shards(np.arange(EXAMPLES), batch_size=2, num_workers=4)
    plain = train(ssp.Virtual(4, ssp.delays.Exponential(1.0)), shards)
    assert (plain.data.merged, plain.data.seen) == (plain.samples, None)
    assert plain.data.facts() == {"merged": plain.samples, "dropped": plain.data.dropped}
    late = train(ssp.Virtual(4, ssp.delays.Exponential(1.0)), shards, policy=ssp.Ringmaster(2))
    dropped = sum(row["samples"] for row in late.history if row["merge_version"] < 0)
    assert late.data.dropped == dropped > 0
    assert f"data: {late.data.merged} samples merged, {dropped} dropped" in late.summary()


def test_the_ledger_of_the_run_and_of_its_tape_agree():
    result = train(ssp.Virtual(4, ssp.delays.Exponential(1.0), faults=[ssp.faults.Crash(1, 4)]))
    ledger = Ledger(EXAMPLES // 2, num_workers=9)
    told = dealing(ledger, result.tape.header)
    for _, event, commands in result.tape:
        told(event, commands)
    assert tuple(ledger.settled.rows(2)) == result.data.epochs
    assert dealing(None, result.tape.header) is None


def test_what_a_run_that_was_told_to_end_still_had_to_do_is_not_left_out(monkeypatch):
    class Stops(ssp.Observer):
        def on_clock(self, row):
            if row["updates"] == 150:
                self.stop("enough")

    slow = ssp.delays.PerWorker([1.0, 1.1, 1.2, 40.0])
    runtime = ssp.Virtual(4, slow, faults=[ssp.faults.Crash(1, 4)])
    result = train(runtime, num_epochs=99, policy=ssp.ASP(), observers=[Stops()])
    assert result.status == "early"
    assert result.data.epochs[0].never  # of an epoch that is not the last one
    assert left_out(result.tape) == []
    deals = Ledger._deal_anew

    def loses(self, workers):
        deals(self, workers)
        self._deal = self._deal._replace(left=self._deal.left[1:])

    monkeypatch.setattr(Ledger, "_deal_anew", loses)
    assert sum(each.never for each in left_out(result.tape)) == 2  # a batch
    own = train(ssp.Virtual(4, compute=False), num_epochs=None, num_clocks=2)
    with pytest.raises(ValueError, match="Epochs"):
        left_out(own.tape)


class Stands(ssp.data.ShardIterator):
    """Says how far it was ever drawn."""

    drawn = 0

    def __next__(self):
        Stands.drawn += 1
        return super().__next__()


SOURCES = {
    "dealt": lambda: ssp.data.Epochs(np.arange(EXAMPLES), batch_size=2),
    "with a state": lambda: ssp.data.Shards(np.arange(EXAMPLES), 2, num_workers=4),
    "made anew": lambda: (
        lambda worker: (np.array([number % EXAMPLES, worker]) for number in range(1000))
    ),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("more", [{}, {"overlap": 1}, {"policy": ssp.BackupWorkers(1)}], ids=str)
@pytest.mark.every(13)
def test_a_run_that_was_broken_off_goes_on_with_the_same_batches(source, more):
    spec = {
        "step": Counts(),
        "params": {"seen": jnp.zeros(EXAMPLES)},
        "data": SOURCES[source](),
        "policy": ssp.SSP(2),
        "runtime": ssp.Virtual(4, ssp.delays.Exponential(1.0)),
        "num_clocks": 12,
        "local_steps": 2,
        "weight": "sum",
        **more,
    }
    result, cuts = whole(spec, clocks=3)
    for cut in [None, *cuts[:2]]:
        rows = (0 if cut is None else cut.rows) + 5
        again = gone_on({**spec, "data": SOURCES[source]()}, result, rows, cut)
        np.testing.assert_array_equal(again.params["seen"], result.params["seen"])
        assert again.data == result.data


def test_samples_of_cancelled_clocks_are_dropped_whether_the_data_is_dealt_or_not():
    spec = {
        "step": Counts(),
        "params": {"seen": jnp.zeros(EXAMPLES)},
        "policy": ssp.KSync(2),
        "runtime": ssp.Virtual(4, ssp.delays.Exponential(1.0)),
        "num_clocks": 6,
        "local_steps": 2,
    }
    dealt = ssp.train(**spec, data=ssp.data.Epochs(np.arange(EXAMPLES), 2))
    plain = ssp.train(**spec, data=lambda worker: itertools.repeat(np.arange(2)))
    cancelled = sum(type(c) is Cancel for _, _, commands in plain.tape for c in commands)
    assert cancelled > 0
    drops = [row for row in plain.schedule if row["merge_version"] < 0]
    assert plain.data.dropped == 4 * cancelled + sum(row["samples"] for row in drops)
    assert (plain.data.merged, plain.data.dropped) == (dealt.data.merged, dealt.data.dropped)
    assert f"{plain.data.dropped} dropped" in plain.summary()
    without = ssp.train(runtime=ssp.Virtual(4, compute=False), policy=ssp.BSP(), num_clocks=2)
    assert without.data.dropped == 0


def test_an_iterator_with_a_state_is_not_made_to_pass_over_what_was_taken():
    shards = ssp.data.Shards(np.arange(EXAMPLES), 2, num_workers=2)
    spec = {
        "step": Counts(),
        "params": {"seen": jnp.zeros(EXAMPLES)},
        "data": lambda worker: Stands(shards, worker),
        "policy": ssp.BSP(),
        "runtime": ssp.Virtual(2),
        "num_clocks": 200,
    }
    result, cuts = whole(spec, clocks=190)
    Stands.drawn = 0
    again = gone_on(spec, result, cuts[-1].rows, cuts[-1])
    np.testing.assert_array_equal(again.params["seen"], result.params["seen"])
    taken = cuts[-1].facts["workers"][0]["data"]["cursor"]
    assert 50 < taken < 200
    assert Stands.drawn == 2 * (1 + 200 - taken)  # the very first of each worker is looked at


def left_of(workers, result, cuts, clocks=8, **changes):
    """The run goes on with so many workers, from its second cut; gives result and cuts."""
    plan, task, _ = parts(dealt(workers, **changes))
    cut = cuts[1]
    keeper = Memory(clocks, broken_off(result, cut.rows + 7, cut, plan))
    return run(plan, task, keeper=keeper), keeper.cuts


def dealt(workers, **changes):
    return {
        "step": Counts(),
        "params": {"seen": jnp.zeros(EXAMPLES)},
        "data": ssp.data.Epochs(np.arange(EXAMPLES), batch_size=2),
        "policy": ssp.SSP(2),
        "runtime": ssp.Virtual(workers, ssp.delays.Exponential(1.0)),
        "max_updates": 240,
        "weight": "sum",
        **changes,
    }


@pytest.mark.parametrize(
    "changes", [{}, {"overlap": 1, "local_steps": 2}, {"policy": ssp.BSP()}], ids=str
)
@pytest.mark.parametrize("numbers", [(3, 6), (6, 2)], ids=str)
@pytest.mark.every(6)
def test_a_run_of_four_goes_on_with_others(changes, numbers):
    result, cuts = whole(dealt(4, **changes), clocks=8)
    for workers in numbers:
        result, cuts = left_of(workers, result, cuts, **changes)
        assert members(result.tape) == set(range(workers))
        proven = ssp.check_contract(result.tape)
        policy = changes.get("policy", ssp.SSP(2))
        assert proven.staleness_bound == policy.guaranteed_staleness(ever(result.tape))
        report = check(result)
        assert report.whole >= 240 // 23 - 2  # all before the last ones
        again = train(ssp.Replay(result.tape), num_epochs=None, max_updates=240, **changes)
        np.testing.assert_array_equal(again.params["seen"], result.params["seen"])
        assert again.data == report
    assert ever(result.tape) == max(4, *numbers)


def recovering(workers, *wrong, **rules):
    recovery = ssp.Recovery(**{"restarts": 0, "backoff": 0.01, **rules})
    spread = {"num_workers": workers, "workers_per_device": 4, "recovery": recovery}
    return ssp.Devices(**spread, faults=wrong, delay=ssp.delays.Constant(0.003))


@pytest.mark.parametrize("workers", [3, 4])
@pytest.mark.slow
def test_who_was_left_out_is_no_failure_that_a_recovery_mends(workers):
    result, cuts = whole(dealt(4, runtime=recovering(4)), clocks=4)
    for number in (3, workers):
        result, cuts = left_of(number, result, cuts, 4, runtime=recovering(number))
        assert members(result.tape) == set(range(number))
        check(result)


@pytest.mark.slow
def test_who_was_left_out_does_not_count_where_too_few_are_left():
    result, cuts = whole(dealt(4, runtime=recovering(4)), clocks=8)
    wrong = recovering(3, ssp.faults.Raise(0, 40), min_workers=3)
    again, _ = left_of(3, result, cuts, runtime=wrong)
    assert again.status == "too few workers"


def test_data_that_could_not_be_gone_on_with_is_named_before_a_run_that_is_saved(tmp_path):
    rng, saved = np.random.default_rng(0), ssp.Checkpoints(tmp_path / "run")
    once = [iter([np.array([0])] * 9) for _ in range(4)]

    def differs(worker):
        return (rng.integers(0, EXAMPLES, size=2) for _ in range(99))

    with pytest.raises(
        ValueError, match=r"`data\(worker=0\)` gives other batches when it is called"
    ):
        train(ssp.Virtual(4), differs, num_epochs=None, num_clocks=3, checkpoint=saved)
    with pytest.raises(ValueError, match=r"`data\(worker=0\)` gives the same iterator each time"):
        train(ssp.Virtual(4), once.__getitem__, num_epochs=None, num_clocks=3, checkpoint=saved)
    assert train(ssp.Virtual(4), differs, num_epochs=None, num_clocks=3).updates == 12


def test_shards_do_not_go_on_with_others():
    shards = ssp.data.Shards(np.arange(EXAMPLES), batch_size=2, num_workers=4)
    result, cuts = whole(dealt(4, data=shards), clocks=8)
    fewer = ssp.data.Shards(np.arange(EXAMPLES), batch_size=2, num_workers=3)
    with pytest.raises(ValueError, match=r"by 4 workers.* a Shards.* so 3 cannot go on .*Epochs"):
        left_of(3, result, cuts, data=fewer)


def test_data_that_cannot_be_is_refused_by_name():
    class Wrong:
        batches_per_epoch, samples_per_epoch = 3, 7

        def batch(self, epoch, index):
            return np.zeros(2)

    with pytest.raises(ValueError, match="`data` says 7 `samples_per_epoch` in 3 `batches_per"):
        train(ssp.Virtual(2), Wrong())
    with pytest.raises(ValueError, match=r"`train\(data=...\)` is split over 3 workers, but the"):
        train(ssp.Virtual(2), ssp.data.Shards(np.arange(9), 1, num_workers=3))


# Any schedule, with losses, joins, late pushes, drops and cancelled clocks.


class Reader:
    """A worker that reads the numbers of its batches where the ledger writes them."""

    def __init__(self, ledger, worker, cursor=0):
        self.stream, self.cursor, self.at = ledger.open(worker, cursor), cursor, 0
        self.ahead = []

    def take(self, steps):
        assert self.at + steps <= len(self.stream)
        self.at, self.cursor = self.at + steps, self.cursor + steps
        return self.stream[self.at - steps : self.at]


class Account:
    """What workers really compute on, and what becomes of it, by the rows of a tape."""

    def __init__(self, size, workers, rng):
        self.ledger, self.rng, self.size = Ledger(size, workers), rng, size
        self.readers, self.clocks, self.running = {}, {}, {}
        self.merged, self.dropped = [], []

    def reader(self, worker):
        if worker not in self.readers:
            self.readers[worker] = Reader(self.ledger, worker)
        return self.readers[worker]

    def row(self, event, commands):
        tell(self.ledger, event, commands)
        late = len(commands) == 1 and isinstance(commands[0], Fence)
        gone = isinstance(event, WorkerLost | WorkerDone) and not late
        if gone:
            self.gone(event.worker)
        elif isinstance(event, DeltaReady) and not late:
            assert self.running.pop(event.worker) == event.token
        for command in commands:
            self.carry_out(command)

    def gone(self, worker):
        """It is made again where it stood before the clock that it ran."""
        reader, token = self.reader(worker), self.running.pop(worker, None)
        back = len(reader.ahead) + len(self.clocks.pop(token, ()))
        self.readers[worker] = Reader(self.ledger, worker, reader.cursor - back)

    def carry_out(self, command):
        match command:
            case StartAhead(worker, _, steps):
                reader = self.reader(worker)
                if self.rng.random() < 0.7:  # else it has not come to that yet
                    reader.ahead = reader.take(self.rng.randint(1, steps))
            case StartClock(worker):
                reader = self.reader(worker)
                numbers, reader.ahead = reader.ahead, []
                numbers = numbers + reader.take(command.local_steps - len(numbers))
                self.clocks[command.token], self.running[worker] = numbers, command.token
            case Cancel(worker):
                del self.running[worker]
                self.dropped += self.clocks.pop(command.token)
            case Merge():
                for delta in command.deltas:
                    self.merged += self.clocks.pop(delta.token)
            case Drop():
                self.dropped += self.clocks.pop(command.token)

    def check(self):
        """All is given out once, and the ledger knows what became of it."""
        held = [number for numbers in self.clocks.values() for number in numbers]
        all_of_them = self.merged + self.dropped + held
        assert len(all_of_them) == len(set(all_of_them))
        rows, whole = self.ledger.settled.rows(1), self.ledger.settled.whole
        assert whole * self.size + sum(row.seen for row in rows) == len(self.merged)
        assert sum(row.dropped for row in rows) == len(self.dropped)
        assert sum(row.twice for row in rows) == 0

    def gone_on(self, tape, rows):
        """All is as it was to be where another process goes on from these rows of the tape."""
        other = Account(self.size, 0, self.rng)
        other.ledger = self.ledger
        ledger = Ledger(self.size, self.workers)
        for number, (_, event, commands) in enumerate(tape):
            if number < rows:
                tell(ledger, event, commands)
        for worker, reader in self.readers.items():
            token = self.running.get(worker)
            again = [] if token is None else self.clocks[token]
            cursor = reader.cursor - len(again) - len(reader.ahead)
            found = Reader(ledger, worker, cursor)
            assert found.take(len(again)) == again
            assert found.take(len(reader.ahead)) == reader.ahead
        ledger.run_out()
        assert not any(row.never or row.twice for row in ledger.settled.rows(1))

    workers = 4


@pytest.mark.parametrize("policy", [*POLICIES, ssp.DSSP(1, 3), ssp.Quorum(2), ssp.PSP(2)], ids=str)
@pytest.mark.parametrize("grant_ahead", [False, True])
@pytest.mark.every(13)
def test_each_batch_is_computed_on_once_whatever_happens(policy, grant_ahead):
    for seed in range(25):
        rng = random.Random(seed)
        run = random_run(
            policy,
            seed,
            events=rng.randint(5, 90),
            losses=True,
            grant_ahead=grant_ahead,
            local_steps=rng.randint(1, 4),
        )
        tape = run.drain()
        account, stop = Account(rng.choice([1, 3, 7, 40]), 4, rng), rng.randrange(len(tape))
        for number, (_, event, commands) in enumerate(tape):
            account.row(event, commands)
            account.check()
            if number == stop:
                account.gone_on(tape, number + 1)


def test_four_workers_then_three_then_six_see_each_sample_once():
    """The members change as where a run is resumed by others; each epoch is whole."""
    controller = ssp.Controller(ssp.SSP(2), ends=ssp.Ends(max_updates=300))
    rng, account, now = random.Random(0), Account(23, 4, random.Random(1)), 0.0
    joins = [ssp.controller.WorkerJoined(worker) for worker in range(4)]
    changes = {
        70: [WorkerLost(2, "not resumed")],
        150: [ssp.controller.WorkerJoined(worker) for worker in (2, 4, 5)],
    }
    starts, updates = {}, 0
    while joins or not controller.done:
        events = joins or changes.pop(updates, None)
        joins = None
        if events is None:
            start = starts.pop(rng.choice(sorted(starts)))
            events = [start.finished(samples=2)]
        for event in events:
            now += 1.0
            commands = controller.handle(event, now)
            if isinstance(event, WorkerLost):
                starts.pop(event.worker, None)
            account.row(event, commands)
            account.check()
            starts |= {each.worker: each for each in commands if isinstance(each, StartClock)}
            updates += sum(len(each.deltas) for each in commands if isinstance(each, Merge))
    assert not changes
    assert min(account.dropped) > 12 * 23  # those that ran when all was over
    assert account.ledger.settled.whole == 12
    assert jax.tree.leaves(account.clocks) == []
