"""The simulation finds nothing wrong, and finds whatever is made wrong on purpose."""

import itertools
import subprocess
import sys

import pytest

from experiments.benchmarks.reliability.simulate import main
from jax_ssp.controller import Controller
from jax_ssp.controller.buffer import Buffer
from jax_ssp.controller.roster import Roster
from jax_ssp.controller.tape import Tape
from jax_ssp.data.settled import Settled
from jax_ssp.policies import SSP
from jax_ssp.runtimes.carrying import Carrying
from jax_ssp.runtimes.loop import Loop
from jax_ssp.runtimes.resuming import Resuming
from jax_ssp.runtimes.tail import Tail
from jax_ssp.testing.simulation import failure, many, run_many, scenario, simulate
from jax_ssp.testing.simulation.arithmetic import NumberStore
from jax_ssp.testing.simulation.disk import Disk
from jax_ssp.testing.simulation.files import Steps, TapeFile, unpacked
from jax_ssp.testing.simulation.process import Process
from jax_ssp.testing.simulation.workers import Workers

WITHIN = 1000  # seeds in which each mutant must be found


@pytest.mark.parametrize("first", range(0, 300, 50))
@pytest.mark.every(7)
def test_no_seed_goes_wrong(first):
    for seed in range(first, first + 50):
        simulate(scenario(seed))


@pytest.mark.parametrize("seed", [933, 2249, 2831, 3326, 9534, 9719, 15125, 15514, 10189, 12402])
def test_no_seed_goes_wrong_again(seed):
    simulate(scenario(seed))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "number"), [(0, 4_000), pytest.param(4_000, 16_000, marks=pytest.mark.rare)]
)
def test_none_of_20000_seeds_goes_wrong(first, number):
    for done in run_many(first, number, jobs=2):
        assert not done.wrong, done.failures


def test_it_starts_no_jax():
    program = (
        "import sys\n"
        "from jax_ssp.testing.simulation import scenario, simulate\n"
        "simulate(scenario(3))\n"
        "assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_seeds_are_about_all_that_there_is():
    seeds = [scenario(seed) for seed in range(500)]
    assert len({type(each.policy) for each in seeds}) >= 15
    names = ("overlap", "lost", "late", "data_ends", "shared", "stops", "power", "polite")
    for name in (*names, "saves", "by_clocks", "eager", "damage", "resized", "keeps", "donates"):
        some = sum(bool(getattr(each, name)) for each in seeds)
        assert 50 < some < 450, name
    assert 200 < sum(each.same for each in seeds) < 400


def test_a_policy_of_ones_own_is_simulated():
    asked = itertools.count()

    class Forgetful(SSP):  # what it goes by is not in the tape
        def admit(self, view, worker):
            if next(asked) % 7 == 0:
                return view.coverage >= view.clock(worker)
            return super().admit(view, worker)

    assert seeds_until_found(20, SSP(1)) is None
    assert seeds_until_found(100, Forgetful(2)) is not None


def test_the_store_is_one():
    from jax_ssp.server.store import Store

    of_arrays = {"compile", "program", "params", "masters", "states"}
    assert not Store.__abstractmethods__ - of_arrays - set(dir(NumberStore))


# A fault each, and what it does to the code.


def token_ignored(patch):
    before = Controller._delta_ready

    def delta_ready(self, event, now, commands):
        record = self._workers.get(event.worker)
        if record is not None and record.token is not None:
            told = {"token": record.token, "clock": record.clock, "version": record.version}
            event = event._replace(**told)
        return before(self, event, now, commands)

    patch.setattr(Controller, "_delta_ready", delta_ready)


def buffered_for_ever(patch):
    before = Buffer._take_out

    def take_out(self, delta):
        kept = self._buffer.get(delta)
        found = before(self, delta)
        if delta.clock % 5 == 4:
            self._buffer[delta] = kept
        return found

    patch.setattr(Buffer, "_take_out", take_out)


def merged_twice(patch):
    before = NumberStore.merge

    def merge(self, merge):
        if merge.version % 4 == 3:
            merge = merge._replace(deltas=(*merge.deltas, merge.deltas[0]))
            self._pushes = _Sticky(self._pushes)
        before(self, merge)

    class _Sticky(dict):
        def pop(self, key, default=None):
            return self.get(key, default)

    patch.setattr(NumberStore, "merge", merge)


def push_lost(patch):
    before = NumberStore.push

    def push(self, event, payload, metrics):
        if event.token.grant % 16 == 9:
            payload = payload._replace(batches=())
        before(self, event, payload, metrics)

    patch.setattr(NumberStore, "push", push)


def leases_kept_of_who_left(patch):
    patch.setattr(Loop, "_leaves", lambda self, worker: None)


def loading(change):
    """A mutant that changes what is loaded of a checkpoint: its facts and its numbers."""

    def mutant(patch):
        before = Steps.newest

        def newest(self, rows):
            made = before(self, rows)
            if made is not None:
                change(made.facts, made.arrays)
            return made

        patch.setattr(Steps, "newest", newest)

    return mutant


def of_replicas(name, value):
    def change(facts, arrays):
        for index in range(len(facts["workers"])):
            arrays[f"worker/{index}/{name}"] = value

    return loading(change)


def cursors_moved(facts, arrays):
    for each in facts["workers"]:
        each["cursor"] += 1


def own_deltas_forgotten(facts, arrays):
    for each in facts["workers"]:
        each["own"] = []


def counter_reset(facts, arrays):
    facts["store"]["merged"] = 0


def momentum_forgotten(facts, arrays):
    arrays["store/momentum"] = 0


def pushes_forgotten(facts, arrays):
    facts["store"]["pushes"] = []


def leases_forgotten(facts, arrays):
    facts["store"]["leased"] = facts["store"]["leased"][-1:]


def metrics_forgotten(facts, arrays):
    facts["metrics"] = []


def stale_checkpoint_loaded(patch):
    before = Steps.newest

    def newest(self, rows):
        made = before(self, rows)
        names = self.names()
        if made is not None and len(names) > 1:
            made = unpacked(self._disk.read(names[0]))._replace(rows=made.rows)
        return made

    patch.setattr(Steps, "newest", newest)


def damaged_checkpoint_loaded(patch):
    def newest(self, rows):
        for name in reversed(self.names()):
            made = unpacked(self._disk.read(name).decode(errors="replace").encode())
            if made.rows <= rows:
                return made
        return None

    patch.setattr(Steps, "newest", newest)


def torn_line_accepted(patch):
    def read(self):
        content = self._disk.read("tape")
        if not content:
            return None
        first, *lines = content.decode().splitlines()
        from jax_ssp.records import parsed_json

        tape = Tape(parsed_json(first))
        for line in lines:
            try:
                tape.read_line(line)
            except ValueError:
                break
        self.rows = len(tape)
        return tape

    patch.setattr(TapeFile, "read", read)


def tape_not_synced_before_a_save(patch):
    def sync(self):
        self._audit.synced = self.rows

    patch.setattr(TapeFile, "sync", sync)


def checkpoint_not_synced(patch):
    before = Disk.sync

    def sync(self, name):
        if name == "tape":
            before(self, name)

    patch.setattr(Disk, "sync", sync)


def a_row_too_few_flushed(patch):
    before = Tape.lines

    def lines(self, first=0):
        return before(self, first + (first % 8 == 5))

    patch.setattr(Tape, "lines", lines)


def rows_after_the_checkpoint_not_computed(patch):
    before = Steps.newest

    def newest(self, rows):
        made = before(self, rows)
        return None if made is None else made._replace(rows=rows)

    patch.setattr(Steps, "newest", newest)


def the_term_is_not_written_first(patch):
    patch.setattr(Process, "_write_term", lambda self: None)


def terms_ignored(patch):
    before = Controller._delta_ready

    def delta_ready(self, event, now, commands):
        record = self._workers.get(event.worker)
        runs = record is not None and record.token is not None
        if runs and record.token.grant == event.token.grant:
            told = {"token": record.token, "clock": record.clock, "version": record.version}
            event = event._replace(**told)
        return before(self, event, now, commands)

    patch.setattr(Controller, "_delta_ready", delta_ready)


def running_clocks_not_begun_again(patch):
    patch.setattr(Resuming, "_begin_again", lambda self: None)


def grants_forgotten(patch):
    patch.setattr(Resuming, "_note", lambda self, event, commands: None)


def ledger_not_told_what_has_passed(patch):
    before = Carrying.passed

    def passed(self, now, event, commands):
        dealing, self.dealing = self.dealing, None
        before(self, now, event, commands)
        self.dealing = dealing

    patch.setattr(Carrying, "passed", passed)


def lost_clocks_batches_skipped(patch):
    before = Workers.lost

    def lost(self, worker):
        job = self.jobs.get(worker)
        before(self, worker)
        if job is not None:
            seat = self.seats[worker]
            cursor = seat.replica.cursor + job.start.local_steps
            seat.replica = seat.replica._replace(cursor=cursor)

    patch.setattr(Workers, "lost", lost)


def batches_not_given_back(patch):
    patch.setattr(Settled, "give_back", lambda self, numbers: None)


def batches_dealt_twice(patch):
    before = Settled.free

    def free(self, epochs):
        return sorted({*before(self, epochs), *range(max(0, epochs - 1) * self._size, 2)})

    patch.setattr(Settled, "free", free)


def who_joins_again_has_its_old_residual(patch):
    before = Workers.lost

    def lost(self, worker):
        residual = self.seats[worker].replica.residual
        before(self, worker)
        seat = self.seats[worker]
        if self._scenario.writes:  # as if it depended on what a process remembers
            seat.replica = seat.replica._replace(residual=residual)

    patch.setattr(Workers, "lost", lost)


def a_donors_pushes_stay_in_its_state(patch):
    patch.setattr(Buffer, "waiting_of", lambda self, worker: ())


def anybody_gives_a_state(patch):
    patch.setattr(Roster, "donors", lambda self: sorted(self._workers))
    patch.setattr(Roster, "_check_join", lambda self, event, worker, donor: None)


def an_heir_takes_its_donors_place_in_the_data(patch):
    before = Workers.joined

    def joined(self, worker, donor=None):
        before(self, worker, donor)
        if donor is not None:
            seat, giver = self.seats[worker], self.seats[donor.worker]
            seat.replica = seat.replica._replace(cursor=giver.replica.cursor)

    patch.setattr(Workers, "joined", joined)


def donors_are_not_asked_in_rows_that_happen_again(patch):
    before = Carrying.donor

    def donor(self, worker):
        found = before(self, worker)
        return None if isinstance(self.clock, Tail) else found

    patch.setattr(Carrying, "donor", donor)


MUTANTS = {
    "a token is ignored": token_ignored,
    "of a token the term is ignored": terms_ignored,
    "a new term is not written before it begins": the_term_is_not_written_first,
    "a delta stays in the buffer": buffered_for_ever,
    "a delta is merged twice": merged_twice,
    "a push is lost": push_lost,
    "leases of who left are kept": leases_kept_of_who_left,
    "metrics of unsettled pushes are not restored": loading(metrics_forgotten),
    "a cursor is not restored": loading(cursors_moved),
    "unsettled pushes are not restored": loading(pushes_forgotten),
    "leased snapshots are not restored": loading(leases_forgotten),
    "a counter is reset": loading(counter_reset),
    "the outer momentum is not restored": loading(momentum_forgotten),
    "the optimizers' state is not restored": of_replicas("state", None),
    "residuals are not restored": of_replicas("residual", 0),
    "own deltas are not restored": loading(own_deltas_forgotten),
    "the adopted version is not restored": of_replicas("version", -1),
    "clocks that run are not begun again": running_clocks_not_begun_again,
    "grants are forgotten": grants_forgotten,
    "a stale checkpoint is loaded": stale_checkpoint_loaded,
    "a damaged checkpoint is loaded": damaged_checkpoint_loaded,
    "a torn line is accepted": torn_line_accepted,
    "the tape is not synced before a save": tape_not_synced_before_a_save,
    "a checkpoint is not synced before it is named": checkpoint_not_synced,
    "a row is not flushed": a_row_too_few_flushed,
    "rows after the checkpoint are not computed": rows_after_the_checkpoint_not_computed,
    "the ledger is not told what has passed": ledger_not_told_what_has_passed,
    "the batches of a lost clock are skipped": lost_clocks_batches_skipped,
    "the batches of a lost clock are not given back": batches_not_given_back,
    "a batch is dealt twice": batches_dealt_twice,
    "a worker that joins again has an old residual": who_joins_again_has_its_old_residual,
    "what a donor has pushed stays in its heir's state": a_donors_pushes_stay_in_its_state,
    "who has no state gives it": anybody_gives_a_state,
    "an heir takes its donor's place in the data": an_heir_takes_its_donors_place_in_the_data,
    "rows that happen again know no donors": donors_are_not_asked_in_rows_that_happen_again,
}


def seeds_until_found(seeds, policy=None):
    for seed in range(seeds):
        try:
            simulate(scenario(seed, policy))
        except Exception:
            return seed + 1
    return None


RARE = {  # what takes some hundred seeds
    "of a token the term is ignored",
    "a new term is not written before it begins",
    "a damaged checkpoint is loaded",
    "grants are forgotten",
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in RARE else []) for n in MUTANTS]
)
@pytest.mark.every(4)
def test_a_mutant_is_found(monkeypatch, name):
    MUTANTS[name](monkeypatch)
    assert seeds_until_found(WITHIN) is not None


def test_a_seed_that_goes_wrong_is_shrunk(monkeypatch):
    loading(momentum_forgotten)(monkeypatch)
    found = next(found for seed in range(WITHIN) if (found := failure(seed)) is not None)
    whole, small = found.scenario, found.smallest
    assert (small.lost, small.late, small.damage) == (0, 0, 0)
    assert small.rows <= whole.rows
    assert small.saves
    assert len(small.stops) == 1, "one stop after one save is all that it takes"
    assert f"simulate(scenario({whole.seed}))" in str(found)
    with pytest.raises(type(found.error)):
        simulate(small)


def test_many_seeds_go_on_where_they_were_stopped(tmp_path, monkeypatch):
    kept = tmp_path / "state.json"
    monkeypatch.setattr(many, "CHUNK", 10)
    seeds = run_many(0, 24, kept=kept)
    next(seeds), next(seeds)
    seeds.close()
    first, *_, last = run_many(0, 24, kept=kept)
    assert (first.done, last.done, last.wrong) == (10, 24, 0)
    *_, whole = run_many(0, 24)
    assert whole.counts == last.counts
    with pytest.raises(ValueError, match="name another file"):
        next(run_many(7, 24, kept=kept))


def test_the_program_says_which_seeds_are_wrong(monkeypatch, tmp_path, capsys):
    assert main(["--seeds", "30", "--json", str(tmp_path / "out.json")]) == 0
    assert "seeds 0 to 29: 0 go wrong" in capsys.readouterr().out
    merged_twice(monkeypatch)
    assert main(["--seeds", "3", "--first", "1"]) == 1
    assert "seed 2 goes wrong" in capsys.readouterr().out
