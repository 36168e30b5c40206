"""A run in its folder is saved while it goes, ended by signals, and gone on with."""

import errno
import os
import shutil
import signal
import threading
import time

import numpy as np
import pytest

import jax_ssp as ssp
from jax_ssp.checkpoint.claim import STEPS
from jax_ssp.checkpoint.steps import Steps
from jax_ssp.controller import Resumed, StopRequested
from jax_ssp.failures import AGAIN, INTERRUPTED
from tests.helpers.problems import linear


@pytest.fixture(autouse=True, scope="module")
def undrawn():
    """Pictures would take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jax_ssp.report.timeline.run_summary", lambda *_: None)
        yield


def measured(params):
    return {"norm": params["w"].sum()}


def trained(folder, *observers, every=3, **changes):
    """Train in a folder; without checkpoints if there is no `every`."""
    spec = {
        "policy": ssp.SSP(1),
        "runtime": ssp.Virtual(2, ssp.delays.Exponential(1.0)),
        "num_clocks": 12,
        "evaluate": measured,
        "eval_every": 1,
        "checkpoint": None if every is None else ssp.Checkpoints(folder, every=every),
        **changes,
    }
    mine = [ssp.RunFolder(folder)] if every is None and folder is not None else []
    return ssp.train(**linear(**spec), observers=[*mine, *observers])


class At(ssp.Observer):
    """Does something once so many rows are on the tape."""

    def __init__(self, rows, do):
        self.rows, self.do = rows, do

    def on_entry(self, now, event, commands):
        self.rows -= 1
        if self.rows == 0:
            self.do()


def sends(*numbers):
    return lambda: [signal.raise_signal(number) for number in numbers]


def breaks():
    raise KeyError("the machine is gone")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, undrawn):
    """A run that nobody ends, and its folder."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return trained(folder), folder


def is_the_same(result, folder, whole):
    """Whether a run that has gone on, and its folder, are as if nothing had broken it off."""
    there, run = whole[0], ssp.read_run(folder)
    np.testing.assert_array_equal(result.params["w"], there.params["w"])
    assert result.history == run.history == there.history
    assert result.evaluations == run.evaluations == there.evaluations
    assert (run.status, result.status) == ("done", "done")
    assert (run.resumes, result.resumes) == (1, 1)
    assert run.summary["resumes"] == 1
    ssp.check_contract(run.tape)
    rows = [entry.event for entry in run.tape if type(entry.event) is not Resumed]
    assert len(rows) == len(there.tape)


def saved(folder):
    return sorted(int(each.name) for each in (folder / STEPS).glob("*") if each.name.isdecimal())


@pytest.mark.parametrize("every", [3, None])
def test_a_run_that_failed_goes_on_to_the_same_bits(tmp_path, whole, every):
    with pytest.raises(KeyError, match="the machine is gone"):
        trained(tmp_path / "run", At(20, breaks), every=every)
    run = ssp.read_run(tmp_path / "run")
    assert (run.status, len(run.tape)) == ("failed", 20)
    assert (tmp_path / "run" / STEPS).exists() == (every is not None)
    is_the_same(trained(tmp_path / "run", every=every), tmp_path / "run", whole)


def test_sigterm_saves_and_ends_the_process_with_75(tmp_path, whole):
    with pytest.raises(SystemExit) as ended:
        trained(tmp_path / "run", At(13, sends(signal.SIGTERM)), every="1h")
    assert ended.value.code == AGAIN
    assert ended.value.result.status == "interrupted"
    assert "run again, it goes on" in "".join(ended.value.__notes__)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    run = ssp.read_run(tmp_path / "run")
    assert run.status == "interrupted"
    assert not run.tape.complete
    assert saved(tmp_path / "run") == [len(run.tape)]
    is_the_same(trained(tmp_path / "run"), tmp_path / "run", whole)


def test_an_interrupt_suspends_a_run_with_checkpoints(tmp_path, whole):
    result = trained(tmp_path / "run", At(13, sends(signal.SIGINT)), every="1h")
    assert result.status == "interrupted"
    assert not any(isinstance(event, StopRequested) for _, event, _ in result.tape)
    assert saved(tmp_path / "run") == [len(result.tape)]
    is_the_same(trained(tmp_path / "run"), tmp_path / "run", whole)


def test_an_interrupt_ends_a_run_without_checkpoints_and_that_goes_on_too(tmp_path):
    first = trained(tmp_path / "run", At(13, sends(signal.SIGINT)), every=None)
    assert first.status == "interrupted"
    assert first.tape.complete
    result = trained(tmp_path / "run", every=None)
    assert (result.status, result.resumes, result.updates) == ("done", 1, 24)
    run = ssp.read_run(tmp_path / "run")
    assert run.history == result.history
    ssp.check_contract(run.tape)
    again = trained(None, every=None, runtime=ssp.Replay(run.tape))
    np.testing.assert_array_equal(again.params["w"], run.params["w"])


def test_a_second_signal_gives_the_wait_up(tmp_path, whole):
    # It is checked when the event is over: by then the first one has armed, and saved nothing.
    with pytest.raises(KeyboardInterrupt) as caught:
        trained(tmp_path / "run", At(13, sends(signal.SIGINT, signal.SIGINT)))
    assert caught.value.result.status == "interrupted"
    is_the_same(trained(tmp_path / "run"), tmp_path / "run", whole)


def test_a_handler_of_the_users_own_hears_sigterm(tmp_path):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("it"))
    try:
        assert trained(tmp_path / "run", At(5, sends(signal.SIGTERM))).status == "done"
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == ["it"]


def test_a_cut_whose_numbers_are_lost_is_not_used(tmp_path, whole, capsys):
    with pytest.raises(KeyError):
        trained(tmp_path / "run", At(20, breaks))
    folder = tmp_path / "run"
    (folder / "metrics.jsonl").write_bytes(b"")
    newest = saved(folder)[-1]
    is_the_same(trained(folder), folder, whole)
    assert f"{newest} is not used" in capsys.readouterr().err
    assert (folder / STEPS / f"{newest}.damaged").exists()


def test_a_finished_run_goes_on_if_its_ends_are_raised(tmp_path, whole):
    folder = shutil.copytree(whole[1], tmp_path / "run")
    with pytest.raises(ValueError, match=r"over \(done\); to go on with it raise what ends it"):
        trained(folder)
    assert ssp.read_run(folder).status == "done"
    result = trained(folder, num_clocks=15)
    assert (result.status, result.updates, result.resumes) == ("done", 30, 1)
    run = ssp.read_run(folder)
    assert run.config["settings"]["ends"]["num_clocks"] == 15
    assert run.tape.header["experiment"]["num_clocks"] == 12
    assert not (folder / "summary-before.json").exists()
    again = trained(None, every=None, runtime=ssp.Replay(run.tape), num_clocks=15)
    np.testing.assert_array_equal(again.params["w"], run.params["w"])
    with pytest.raises(ssp.TapeMismatch, match="num_clocks: recorded 15, here 12"):
        trained(None, every=None, runtime=ssp.Replay(run.tape))
    with pytest.raises(ValueError, match=r"`num_clocks` is 15 there, and 14 here: what ends"):
        trained(folder, num_clocks=14)


def test_a_run_that_ended_and_goes_on_is_unfinished_until_it_ends_again(tmp_path, whole):
    folder = shutil.copytree(whole[1], tmp_path / "run")
    seen = []

    def look():
        run = ssp.read_run(folder)
        seen.extend([run.status, run.params["w"].shape, (folder / "summary-before.json").exists()])

    trained(folder, At(1, look), num_clocks=15)
    assert seen == ["unfinished", (6,), True]


def test_what_goes_on_may_fail_before_it_has_come_as_far_as_the_tape(tmp_path, whole):
    with pytest.raises(KeyError):
        trained(tmp_path / "run", At(20, breaks), every=None)
    with pytest.raises(KeyError):
        trained(tmp_path / "run", At(5, breaks), every=None)  # of what happens again
    run = ssp.read_run(tmp_path / "run")
    assert (run.status, len(run.tape)) == ("failed", 20)
    is_the_same(trained(tmp_path / "run", every=None), tmp_path / "run", whole)


def test_checkpoints_need_a_folder_that_is_the_runs(tmp_path):
    spec = linear(runtime=ssp.Virtual(2), num_clocks=2)
    with pytest.raises(ValueError, match=r"`checkpoint=Checkpoints\(\.\.\.\)` needs the folder"):
        ssp.train(**spec, checkpoint=ssp.Checkpoints())
    with (
        ssp.RunFolder(tmp_path / "one") as folder,
        pytest.raises(ValueError, match=r"`Checkpoints\(folder=\.\.\.\)` is .*other, and the run"),
    ):
        ssp.train(**spec, checkpoint=ssp.Checkpoints(tmp_path / "other"), observers=[folder])
    with pytest.raises(ValueError, match="needs `evaluate`"):
        ssp.train(**spec, checkpoint=ssp.Checkpoints(tmp_path / "best", best="norm"))
    assert os.listdir(tmp_path) == []  # they are taken away again


def test_observers_go_on_with_their_states_whoever_else_watches(tmp_path, capsys):
    hooks = [ssp.Ema(0.9), ssp.EarlyStop("norm", 100), ssp.Ema(0.5)]
    there = trained(tmp_path / "whole", *hooks).kept
    with pytest.raises(KeyError):
        trained(tmp_path / "run", At(20, breaks), ssp.Ema(0.9), ssp.Ema(0.5))
    more = [ssp.Observer(), ssp.Best("norm"), ssp.Ema(0.9), ssp.EarlyStop("norm", 100)]
    result = trained(tmp_path / "run", *more, ssp.Ema(0.5))
    for name in ("ema", "ema-2"):
        np.testing.assert_array_equal(result.kept[name].params["w"], there[name].params["w"])
    assert "EarlyStop begins anew: it is not in the run's checkpoint" in capsys.readouterr().err


def test_sigterm_while_a_run_is_built_ends_with_what_its_folder_holds(tmp_path, whole):
    def terminated(folder):
        sent = []

        def data(worker):
            if not sent:
                sent.append(signal.raise_signal(signal.SIGTERM))
            return linear()["data"](worker)

        with pytest.raises(SystemExit) as ended:
            trained(folder, data=data)
        return ended.value.code

    with pytest.raises(KeyError):
        trained(tmp_path / "run", At(20, breaks))
    before = len(ssp.read_tape(tmp_path / "run" / "tape.jsonl.gz"))
    assert terminated(tmp_path / "run") == AGAIN
    run = ssp.read_run(tmp_path / "run")
    assert (run.status, len(run.tape)) == ("interrupted", before)
    is_the_same(trained(tmp_path / "run"), tmp_path / "run", whole)
    assert terminated(tmp_path / "new") == AGAIN  # what it is before its first row is saved too
    assert saved(tmp_path / "new") == [0]
    np.testing.assert_array_equal(trained(tmp_path / "new").params["w"], whole[0].params["w"])


def test_checkpoints_of_a_run_whose_tape_is_gone_are_not_taken_for_those_of_another(tmp_path):
    trained(tmp_path / "run")
    for each in (tmp_path / "run").iterdir():
        if each.name != STEPS:
            shutil.rmtree(each) if each.is_dir() else each.unlink()
    with pytest.raises(ValueError, match=r"holds a run \(checkpoints\), but nothing of its tape"):
        trained(tmp_path / "run")


def test_a_save_that_hangs_holds_nobody_for_longer_than_the_grace(tmp_path, monkeypatch, capsys):
    free = threading.Event()
    monkeypatch.setattr(Steps, "save", lambda *_: free.wait())
    checkpoint = ssp.Checkpoints(tmp_path / "run", every="1h", grace="0.1s")
    began = time.monotonic()
    with pytest.raises(SystemExit) as ended:
        trained(tmp_path / "run", At(13, sends(signal.SIGTERM)), checkpoint=checkpoint)
    assert time.monotonic() - began < 25.0  # 30 would be the grace that nobody has changed
    free.set()
    assert ended.value.code == INTERRUPTED  # there is no checkpoint to go on from
    assert "was not saved in time" in capsys.readouterr().err
    assert ssp.read_run(tmp_path / "run").status == "interrupted"


def test_no_checkpoint_is_made_without_the_numbers_before_it(tmp_path, monkeypatch, capsys):
    def gone():
        (tmp_path / "run" / "metrics.jsonl").unlink()

    result = trained(tmp_path / "run", At(5, gone), every=1)
    assert result.status == "done"
    assert "cannot be saved: OSError" in capsys.readouterr().err
    run = ssp.read_run(tmp_path / "run")
    assert run.summary["checkpoints"]["failed"] > 0
    assert run.history == result.history  # written once more, at the end
    assert not any(row > 5 for row in saved(tmp_path / "run"))


def test_a_checkpoint_is_made_once_all_that_is_before_it_is_on_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("jax_ssp.checkpoint.run_folder.FLUSH_SECONDS", 3600.0)
    fsync, save, synced, looked = os.fsync, Steps.save, {}, []

    def syncing(fd):
        fsync(fd)
        synced[os.fstat(fd).st_ino] = os.fstat(fd).st_size

    def saving(self, rows, facts, *more):
        tape, metrics = (tmp_path / "run" / name for name in ("tape.jsonl.gz", "metrics.jsonl"))
        durable = tape.read_bytes()[: synced.get(tape.stat().st_ino, 0)]
        (tmp_path / "durable").write_bytes(durable)
        whole = len(ssp.read_tape(tmp_path / "durable")) >= rows
        looked.append(whole and synced[metrics.stat().st_ino] >= facts["folder"]["bytes"] > 0)
        save(self, rows, facts, *more)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(Steps, "save", saving)
    trained(tmp_path / "run", every=3)
    assert looked
    assert all(looked)


def test_a_tape_that_was_moved_is_not_taken_for_synced(tmp_path):
    said = []

    def moves():
        os.rename(tmp_path / "run" / "tape.jsonl.gz", tmp_path / "moved")
        try:
            folder.sync()
        except OSError as error:
            said.append(str(error))

    runtime = ssp.Virtual(2, compute=False)
    with ssp.RunFolder(tmp_path / "run") as folder:
        ssp.train(runtime=runtime, num_clocks=6, observers=[folder, At(5, moves)])
    assert len(said) == 1
    assert "was moved or deleted" in said[0]


def test_a_checkpoint_of_another_experiment_is_not_used(tmp_path, whole, capsys):
    for name, policy in (("run", ssp.SSP(1)), ("other", ssp.SSP(2))):
        with pytest.raises(KeyError):
            trained(tmp_path / name, At(20, breaks), policy=policy)
    shutil.rmtree(tmp_path / "run" / STEPS)
    shutil.copytree(tmp_path / "other" / STEPS, tmp_path / "run" / STEPS)
    capsys.readouterr()
    result = trained(tmp_path / "run")
    assert "is not used: it is of another experiment" in capsys.readouterr().err
    assert result.tape.params == whole[0].tape.params


def test_where_nothing_is_computed_the_numbers_are_those_of_the_tape(tmp_path):
    def clockwork(folder, *observers):
        runtime = ssp.Virtual(2, ssp.delays.Exponential(1.0), compute=False)
        with ssp.RunFolder(folder) as mine:
            ssp.train(runtime=runtime, num_clocks=12, observers=[mine, *observers])

    clockwork(tmp_path / "whole")
    with pytest.raises(KeyError):
        clockwork(tmp_path / "run", At(20, breaks))
    clockwork(tmp_path / "run")
    run, there = ssp.read_run(tmp_path / "run"), ssp.read_run(tmp_path / "whole")
    assert (run.resumes, len(run.history)) == (1, 24)
    assert run.history == there.history


def test_a_term_is_on_the_disk_before_anything_is_granted_in_it(tmp_path, monkeypatch):
    """Two processes would else share a term, if the first of them is killed at once."""
    monkeypatch.setattr("jax_ssp.checkpoint.run_folder.FLUSH_SECONDS", 3600.0)
    fsync, synced = os.fsync, {}

    def syncing(fd):
        fsync(fd)
        synced[os.fstat(fd).st_ino] = os.fstat(fd).st_size

    monkeypatch.setattr(os, "fsync", syncing)
    found = linear(policy=ssp.SSP(1), num_clocks=6, runtime=ssp.Virtual(2))

    class Stop(ssp.Observer):
        def __init__(self, after):
            self.after = after

        def on_clock(self, row):
            if row["updates"] == self.after:
                raise OSError("broken off")

    def killed(after):
        saved = ssp.Checkpoints(tmp_path / "run", every=1)
        with pytest.raises(OSError, match="broken off"):
            ssp.train(**found, checkpoint=saved, observers=[Stop(after)])

    killed(5)

    class Look(ssp.Observer):
        terms = synced = None

        def on_entry(self, now, event, commands):
            if Look.terms == 0:
                path = tmp_path / "run" / "tape.jsonl.gz"
                tape, there = ssp.read_tape(path), path.stat()
                Look.terms = sum(isinstance(each.event, Resumed) for each in tape)
                Look.synced = synced.get(there.st_ino) == there.st_size
            elif isinstance(event, Resumed):
                Look.terms = 0

    seldom = ssp.Checkpoints(tmp_path / "run", every="1h")  # else a save would write it too
    ssp.train(**found, checkpoint=seldom, observers=[Look()])
    assert (Look.terms, Look.synced) == (1, True)


def test_a_checkpoint_whose_place_in_the_files_is_not_known_counts_as_failed(
    tmp_path, monkeypatch, capsys
):
    def full(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ssp.RunFolder, "position", full)
    result = trained(tmp_path / "run", every=4)
    assert result.status == "done"
    assert capsys.readouterr().err.count("cannot be saved: OSError: [Errno 28]") == 1
    counts = ssp.read_run(tmp_path / "run").summary["checkpoints"]
    assert (counts["saved"], counts["failed"] > 1) == (0, True)
