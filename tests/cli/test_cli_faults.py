"""What goes wrong around a run of the command line loses nothing, and ends nothing falsely."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import jax_ssp as ssp
import jax_ssp.checkpoint.params as saving
import jax_ssp.checkpoint.run_folder as run_folder
from jax_ssp import files
from jax_ssp.checkpoint.claim import Claim
from jax_ssp.cli import main
from jax_ssp.cli.exits import BUG, DONE, INTERRUPTED, UNREAD, USAGE
from jax_ssp.files import FolderLock
from tests.helpers.command_line import COMMAND, as_it_was, jax_ssp
from tests.helpers.line_config import CONFIG, SWEEP, written

__all__ = ["as_it_was"]  # a fixture, for every test here too

# What happens at an evaluation after the first, at a batch, or while the experiment is built.
EVENTS = """

from pathlib import Path
import os, shutil, signal, sys

HERE = Path(__file__).parent
RUN = HERE / "run"

def happens():
    if (HERE / "once").exists():  # not in a replay
        return
    (HERE / "once").touch()
    EVENT

class Eventful(Line):
    def build(self, num_workers, seed):
        if WHERE == "build":
            happens()
        task = super().build(num_workers, seed)
        def data(worker):
            for number, batch in enumerate(task.data(worker)):
                if WHERE == "data" and number == 6:
                    happens()
                yield batch
        def evaluate(params):
            if WHERE == "evaluation" and params["w"].any():
                happens()
            return task.evaluate(params)
        return ssp.Task(task.step, task.params, data, evaluate)

def get_config():
    if WHERE == "config":
        happens()
    return ssp.Experiment(
        name="line",
        workload=Eventful(),
        runtime=ssp.Virtual(num_workers=4, delay=ssp.delays.Exponential(mean=1.0)),
        num_clocks=20,
        eval_every=5,
    )
"""


@pytest.fixture
def eventful(tmp_path, monkeypatch):
    """Writes a config in whose run something happens; gives the words of the command."""
    monkeypatch.setattr(run_folder, "FLUSH_SECONDS", 0.0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()

    def words(event: str, where: str = "evaluation") -> list[object]:
        text = CONFIG + EVENTS.replace("EVENT", event).replace("WHERE", repr(where))
        file = written(tmp_path / "line.py", text)
        return ["run", file, "--workdir", tmp_path / "run"]

    return words


def is_whole(run: Path, merges: int = 80) -> None:
    """Whether nothing is missing in a folder."""
    written = ssp.read_run(run)
    assert written.status == "done"
    assert written.summary["updates"] == len(written.history) == merges
    assert written.tape.complete
    assert ssp.check_contract(written.tape).merged == merges
    assert jax_ssp("replay", run, "--file", run.parent / "line.py") == DONE


@pytest.mark.parametrize("where", ["build", "data", "evaluation"])
@pytest.mark.every(3)
def test_a_folder_stays_where_it_is_whatever_directory_is_changed_to(eventful, tmp_path, where):
    words = eventful("os.chdir(HERE / 'tmp')", where)
    assert jax_ssp(*words[:2], "--workdir", "run") == DONE
    assert os.listdir(tmp_path / "tmp") == []
    is_whole(tmp_path / "run")


@pytest.mark.parametrize("where", ["config", "build", "data", "evaluation"])
def test_an_exception_that_is_no_error_is_told_like_one(eventful, capsys, where):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in eventful("raise GeneratorExit", where)])
    assert ended.value.code == BUG
    shown = capsys.readouterr().err
    assert "error: GeneratorExit" in shown
    assert "Traceback" not in shown


def test_an_interrupt_while_the_folder_is_begun_leaves_none(eventful, tmp_path, monkeypatch):
    def interrupted(self, info):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_folder.MetricsWriter, "on_start", interrupted)
    assert jax_ssp(*eventful("pass")) == INTERRUPTED
    assert not (tmp_path / "run").exists()


# --- two runs, one folder -----------------------------------------------------------------------


def test_a_folder_that_another_process_writes_is_refused_by_its_name(eventful, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    lock = FolderLock(tmp_path / "run")
    assert jax_ssp(*eventful("pass")) == USAGE
    shown = capsys.readouterr().err
    assert f"{tmp_path / 'run'} is in use by process {os.getpid()} on " in shown
    assert "give another `--workdir`" in shown
    assert os.listdir(tmp_path / "run") == [".lock"]
    lock.release()
    assert jax_ssp(*eventful("pass")) == DONE
    assert ".lock" not in os.listdir(tmp_path / "run")


def test_a_run_holds_its_folder_from_before_it_is_built_until_all_is_saved(eventful, monkeypatch):
    refused = []
    save = saving.save_params

    def tried(folder, params):
        with pytest.raises(ValueError, match="is in use by process"):
            Claim(folder, unique=False)
        refused.append(folder)
        save(folder, params)

    monkeypatch.setattr(saving, "save_params", tried)
    event = """
    from jax_ssp.checkpoint.claim import Claim
    try:
        Claim(RUN, unique=False)
    except ValueError as error:
        assert "is in use by process" in str(error)
    else:
        raise AssertionError("two have it")"""
    assert jax_ssp(*eventful(event, "build")) == DONE
    assert refused


def test_runs_and_sweeps_of_one_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda *_: "20260101-000000")
    line = written(tmp_path / "line.py", CONFIG)
    sweep = written(tmp_path / "sweep.py", CONFIG + SWEEP)
    for _ in range(2):
        assert jax_ssp("run", line, "--num-clocks", "2", "--runtime.no-compute") == DONE
    for _ in range(2):
        assert (
            jax_ssp("run", sweep, "--num-clocks", "2", "--runtime.no-compute", "--jobs", "1")
            == DONE
        )
    names = [f"line-20260101-000000{end}" for end in ("", "-2")]
    names += [f"sweep-20260101-000000{end}" for end in ("", "-2")]
    assert sorted(os.listdir("runs")) == sorted(names)
    for name in names[:2]:
        assert ssp.read_tape(Path("runs", name, "tape.jsonl.gz")).complete


def test_a_folder_with_a_run_but_no_tape_of_it_is_refused(eventful, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").touch()
    assert jax_ssp(*eventful("pass")) == USAGE
    assert "holds a run (metrics.jsonl), but nothing of its tape" in capsys.readouterr().err
    assert os.listdir(tmp_path / "run") == ["metrics.jsonl"]


@pytest.mark.parametrize("left", ["config.json", "tape.jsonl.gz"])
@pytest.mark.every(2)
def test_a_run_of_which_nothing_was_recorded_begins_anew(left, eventful, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / left).touch()  # killed before anything was in it
    assert jax_ssp(*eventful("pass")) == DONE
    is_whole(tmp_path / "run")


def test_a_folder_with_a_sweep_is_refused_by_a_run(tmp_path, capsys):
    sweep = written(tmp_path / "sweep.py", CONFIG + SWEEP)
    words = ("--num-clocks", "2", "--runtime.no-compute", "--workdir", tmp_path / "run")
    assert jax_ssp("run", sweep, *words, "--jobs", "1") == DONE
    assert jax_ssp("run", written(tmp_path / "line.py", CONFIG), *words) == USAGE
    assert "holds a sweep already" in capsys.readouterr().err


def test_reproduce_has_its_folder_alone(tmp_path, capsys):
    lock = FolderLock(tmp_path)
    papers = Path(__file__).parents[2] / "experiments" / "papers"
    words = ("reproduce", "all", "--size", "smoke", "--papers", papers, "--folder", tmp_path)
    assert jax_ssp(*words) == USAGE
    assert f"{tmp_path} is in use by process" in capsys.readouterr().err
    lock.release()


# --- folders that go away, disks that are full --------------------------------------------------


def test_a_folder_that_is_deleted_meanwhile_is_made_again_whole(eventful, tmp_path, capsys):
    assert jax_ssp(*eventful("shutil.rmtree(RUN)")) == DONE
    assert "was moved or deleted while its run goes on; it is made again" in capsys.readouterr().err
    is_whole(tmp_path / "run")


def test_a_folder_that_is_moved_meanwhile_leaves_both_readable(eventful, tmp_path):
    assert jax_ssp(*eventful('RUN.rename(HERE / "old")')) == DONE
    is_whole(tmp_path / "run")
    assert ssp.read_tape(tmp_path / "old" / "tape.jsonl.gz").header["num_workers"] == 4


def test_what_has_no_folder_any_more_is_saved_elsewhere_and_said(eventful, tmp_path, capsys):
    assert jax_ssp(*eventful("shutil.rmtree(RUN); RUN.write_text('mine')")) == BUG
    shown = capsys.readouterr()
    assert f"All is in {tmp_path / 'run-saved'}" in shown.err
    assert f"run folder: {tmp_path / 'run-saved'}" in shown.out
    assert "Traceback" not in shown.err
    assert (tmp_path / "run").read_text() == "mine"
    is_whole(tmp_path / "run-saved")


@pytest.fixture
def disk(monkeypatch):
    """`disk.full` says whether anything can be written line by line, or in one step."""
    write = files._write_all

    class Disk:
        full = False

        def write(self, fd, content):
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            write(fd, content)

    disk = Disk()
    monkeypatch.setattr("jax_ssp.files._write_all", disk.write)
    return disk


def test_a_disk_that_is_full_for_a_while_costs_nothing(eventful, tmp_path, disk, monkeypatch):
    save = saving.save_params

    def room_again(*arguments):
        disk.full = False
        save(*arguments)

    monkeypatch.setattr(saving, "save_params", room_again)
    monkeypatch.setattr("builtins.the_disk", disk, raising=False)
    assert jax_ssp(*eventful("the_disk.full = True")) == BUG  # the tape could not be finished
    is_whole(tmp_path / "run-saved")


def test_a_disk_that_is_full_ends_no_run_and_what_is_lost_is_said(
    eventful, tmp_path, disk, monkeypatch, capsys
):
    monkeypatch.setattr("builtins.the_disk", disk, raising=False)
    assert jax_ssp(*eventful("the_disk.full = True")) == BUG
    shown = capsys.readouterr()
    assert ": done" in shown.out  # it went on to its end
    assert shown.err.count("tape.jsonl.gz cannot be written: No space left on device") == 1
    assert "LOST, since it could be written nowhere: tape.jsonl.gz (No space left" in shown.err
    assert "Traceback" not in shown.err
    tape = ssp.read_tape(tmp_path / "run" / "tape.jsonl.gz")  # up to there
    assert len(tape) > 4
    assert not tape.complete
    assert jax_ssp("verify", tmp_path / "run") == DONE
    assert not list(tmp_path.glob("*-saved*"))
    assert not list((tmp_path / "run").glob(".*"))  # no half file is left


def test_a_disk_that_is_full_at_the_start_is_said_before_the_run(eventful, tmp_path, disk, capsys):
    disk.full = True
    assert jax_ssp(*eventful("pass")) == USAGE
    assert "No space left on device" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_picture_that_cannot_be_drawn_is_no_failure(eventful, tmp_path, monkeypatch):
    monkeypatch.setattr("jax_ssp.report.timeline.run_summary", lambda *_: 1 / 0)
    assert jax_ssp(*eventful("pass")) == DONE
    is_whole(tmp_path / "run")


# --- errors of the user's -----------------------------------------------------------------------


@pytest.mark.parametrize("where", ["evaluation", "data"])
def test_an_error_in_a_run_leaves_what_it_has_come_to(where, eventful, tmp_path, capsys):
    with pytest.raises(LookupError, match="not today"):
        main([str(word) for word in eventful("raise LookupError('not today')", where)])
    run = tmp_path / "run"
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["error"]) == ("failed", "LookupError: not today")
    assert summary["updates"] > 10
    assert ssp.load_params(run)["w"].any()
    assert ssp.check_contract(ssp.read_tape(run / "tape.jsonl.gz")).merged == summary["updates"]
    assert "in happens" in (run / "error.txt").read_text()
    assert f"updates up to the failed end are in {run}" in capsys.readouterr().err
    assert jax_ssp("verify", run) == DONE


@pytest.mark.parametrize("code", ["", "0", "'bye'"])
@pytest.mark.parametrize("where", ["build", "data"])
@pytest.mark.every(2)
def test_an_exit_in_a_run_is_no_success(where, code, eventful, capsys):
    words = [str(word) for word in eventful(f"sys.exit({code})", where)]
    with pytest.raises((SystemExit, RuntimeError)) as ended:
        main(words)
    if isinstance(ended.value, SystemExit):
        assert ended.value.code == BUG
        assert f"sys.exit({code or None}) was called" in capsys.readouterr().err
    else:  # within `train`, whose error it is then
        assert "`sys.exit` was called in a run" in str(ended.value)


@pytest.mark.parametrize("event", ["sys.exit(0)", "raise KeyError('x')", "1 / 0"])
def test_a_config_file_that_raises_ends_with_2_and_says_where(event, eventful, tmp_path, capsys):
    assert jax_ssp(*eventful(event, "config")) == USAGE
    shown = capsys.readouterr().err
    assert f"error: {tmp_path / 'line.py'} cannot be read: " in shown
    assert f"  at {tmp_path / 'line.py'}:" in shown
    assert "Traceback" not in shown


NONSENSE = {
    "a number": "get_config = 3",
    "arguments": "def get_config(x): return x",
    "nothing": "def get_config(): pass",
    "a class": "import jax_ssp as ssp\ndef get_config(): return ssp.Experiment",
    "no repr": "class R:\n    def __repr__(self): 1 / 0\ndef get_config(): return R()",
    "no sweep": "def get_sweep(): return None",
    "a text": "def get_sweep(): return 'abc'",
    "a generator": "def get_sweep(): yield 1",
    "null bytes": "x = 1\0",
    "no task": "import jax_ssp as ssp\n"
    "class W(ssp.Workload):\n    def build(self, n, s): return 3\n"
    "def get_config(): return ssp.Experiment(workload=W(), num_clocks=1)",
}


@pytest.mark.parametrize("text", NONSENSE.values(), ids=NONSENSE)
def test_a_config_file_that_gives_nonsense_ends_with_2(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert jax_ssp("run", written(tmp_path / "line.py", text)) == USAGE
    shown = capsys.readouterr().err
    assert "line.py" in shown or "W.build(...)" in shown
    assert "Traceback" not in shown
    assert os.listdir(tmp_path) == ["line.py"]


@pytest.mark.parametrize("name", ["a/b", "line\n2", "../up", "\U0001f600", "n" * 500, "\ttab"])
def test_a_name_of_any_letters_names_one_folder_or_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = written(tmp_path / "line.py", CONFIG)
    words = ("run", config, "--num-clocks", "2", "--runtime.no-compute", f"--name={name}")
    if jax_ssp(*words) == DONE:
        (folder,) = (tmp_path / "runs").iterdir()
        assert (folder / "tape.jsonl.gz").exists()
    assert sorted(os.listdir(tmp_path)) in (["line.py"], ["line.py", "runs"])


@pytest.mark.parametrize(
    "workdir", ["a file", "a file/below", "/dev/null", "/proc/none", "w" * 300]
)
@pytest.mark.every(3)
def test_a_folder_that_cannot_be_is_a_usage_error(workdir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "a file", "kept")
    config = written(tmp_path / "line.py", CONFIG)
    assert jax_ssp("run", config, "--workdir", workdir) == USAGE
    assert "Traceback" not in capsys.readouterr().err
    assert (tmp_path / "a file").read_text() == "kept"


# --- signals, in this process -------------------------------------------------------------------


@pytest.mark.parametrize("signals", [1, 2])
@pytest.mark.every(2)
def test_signals_while_a_run_is_saved_wait_for_it(signals, eventful, tmp_path, monkeypatch):
    save = saving.save_params

    def interrupted(*arguments):
        for _ in range(signals):
            signal.raise_signal(signal.SIGINT)
        save(*arguments)

    monkeypatch.setattr(saving, "save_params", interrupted)
    assert jax_ssp(*eventful("pass")) == INTERRUPTED
    is_whole(tmp_path / "run")


def test_the_third_signal_gets_out_of_saving(eventful, tmp_path, monkeypatch):
    def hangs(*_):
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
        pytest.fail("it hangs")

    monkeypatch.setattr(saving, "save_params", hangs)
    assert jax_ssp(*eventful("pass")) == INTERRUPTED
    assert ssp.read_tape(tmp_path / "run" / "tape.jsonl.gz").complete


def test_a_signal_before_the_run_leaves_nothing(eventful, tmp_path, capsys):
    assert jax_ssp(*eventful("os.kill(os.getpid(), signal.SIGTERM)", "build")) == INTERRUPTED
    assert capsys.readouterr().err.endswith("interrupted\n")
    assert not (tmp_path / "run").exists()


def test_the_second_signal_of_a_run_leaves_what_there_is(eventful, tmp_path):
    event = "[signal.raise_signal(signal.SIGINT) for _ in range(2)]"
    assert jax_ssp(*eventful(event)) == INTERRUPTED
    assert ssp.read_run(tmp_path / "run").status == "interrupted"
    assert ssp.load_params(tmp_path / "run")["w"].any()


# --- processes ----------------------------------------------------------------------------------


def process(*words: object, first: str = "", **more) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", first + COMMAND, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **more)


CLOCKWORK = """
import jax_ssp as ssp
TOP
def get_config():
    return ssp.Experiment(runtime=ssp.Virtual(num_workers=2, compute=False), num_clocks=5)
"""


def clockwork(folder: Path, top: str = "") -> list[object]:
    file = written(folder / "clockwork.py", CLOCKWORK.replace("TOP", top))
    return ["run", file, "--workdir", folder / "run"]


GONE = """
import os, signal
class Gone:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
Gone()
"""


@pytest.mark.slow
def test_a_signal_in_a_finalizer_is_heard(tmp_path):
    done = process(*clockwork(tmp_path, GONE))
    assert (done.returncode, done.stderr) == (INTERRUPTED, "interrupted\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_without_a_home_nothing_is_kept_compiled_and_all_else_works(tmp_path):
    first = """
import pwd
def nobody(*_):
    raise KeyError("getpwuid(): uid not found")
pwd.getpwuid = pwd.getpwnam = nobody
"""
    unset = ("HOME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    done = process(*clockwork(tmp_path), first=first, env=environment)
    assert done.returncode == DONE, done.stderr
    environment["HOME"] = "/dev/null/home"
    assert process("verify", tmp_path / "run", env=environment).returncode == DONE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shell", "code"),
    [
        ('exec "$@" >&-', DONE),  # who closes it wants none
        ('exec "$@" >&- 2>&-', DONE),
        ('exec "$@" >/dev/full', UNREAD),
        ('exec "$@" >/dev/full 2>&1', UNREAD),
        ('"$@" 2>&1 | true; exit ${PIPESTATUS[0]}', UNREAD),
    ],
)
def test_an_output_that_takes_nothing_costs_nothing_else(shell, code, tmp_path):
    words = [sys.executable, "-c", COMMAND, *map(str, clockwork(tmp_path))]
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run([bash, "-c", shell, "sh", *words], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "ignored" not in done.stderr
    assert ssp.read_run(tmp_path / "run").status == "done"
    assert ssp.read_tape(tmp_path / "run" / "tape.jsonl.gz").complete


@pytest.mark.slow
def test_an_encoding_without_our_letters_is_no_failure(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LANG": "C", "LC_ALL": "C"}
    done = process(*clockwork(tmp_path), "--name", "\U0001f600 ü", env=environment)
    assert done.returncode == DONE, done.stderr
    assert "Traceback" not in done.stderr
