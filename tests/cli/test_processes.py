"""The command line in a process of its own: exit codes, what is said at its end, and signals."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import jax_ssp as ssp
from jax_ssp.cli.exits import BUG, DONE, INTERRUPTED, UNREAD, USAGE
from tests.helpers.command_line import COMMAND, as_it_was, fresh_process, jax_ssp
from tests.helpers.line_config import CONFIG, ON_DEVICES, written

__all__ = ["as_it_was"]  # a fixture, for every test here

MINDS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
IGNORES = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "  # as what `script &` starts
)
FLUSHING = "import jax_ssp.checkpoint.run_folder as folder; folder.FLUSH_SECONDS = 0.0; "


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True])
def test_what_is_compiled_is_kept_where_the_user_says_or_in_the_cache(own, config, tmp_path):
    settings = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "XDG_CACHE_HOME": str(tmp_path)}
    settings |= {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "own")} if own else {}
    inherited = {n: v for n, v in os.environ.items() if n != "JAX_COMPILATION_CACHE_DIR"}
    found = []
    for number in range(2):
        words = [sys.executable, "-c", COMMAND, "run", str(config)]
        words += ["--workdir", str(tmp_path / f"run{number}")]
        done = subprocess.run(words, env={**inherited, **settings}, capture_output=True, text=True)
        assert done.returncode == DONE, done.stderr
        assert "cache" not in done.stderr
        kept = tmp_path / ("own" if own else "jax_ssp/compiled")
        found.append({path.name for path in kept.iterdir() if path.name.endswith("-cache")})
    assert found[0]
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_bug_ends_a_process_with_1_and_says_where_it_is_and_where_its_traceback(config, tmp_path):
    words = ("run", config, "--workload.mistake", "bug", "--workdir", tmp_path / "run")
    process = fresh_process(*words)
    _, shown = process.communicate(timeout=300)
    assert process.returncode == BUG
    assert "Traceback" not in shown
    assert "error: NameError: name 'undefined_name' is not defined\n" in shown
    line = CONFIG.splitlines().index("                undefined_name  # noqa: B018") + 1
    assert f"  at {config}:{line} in loss_fn\n" in shown
    (file,) = re.findall("the whole traceback is in (.*)", shown)
    assert "in loss_fn\n" in Path(file).read_text()
    Path(file).unlink()
    assert not (tmp_path / "run").exists()


def test_a_mistake_ends_a_process_with_2_and_no_traceback(tmp_path):
    process = fresh_process("run", tmp_path / "missing.py")
    _, shown = process.communicate(timeout=300)
    assert process.returncode == USAGE
    assert shown.startswith("error: there is no config file")
    assert "Traceback" not in shown


def test_an_output_that_nobody_reads_any_more_is_no_bug(finished):
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-c", COMMAND, "verify", str(finished)]
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (UNREAD, "")


# Signals


def wait_for(process: subprocess.Popen, beginning: str) -> None:
    """Wait until a process says this."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith(beginning):
            return
    pytest.fail("".join(lines))


@pytest.fixture
def endless(tmp_path):
    """Starts the process of a run on devices that does not end by itself."""
    processes: list[subprocess.Popen] = []

    def start(delay: str = "None", first: str = MINDS) -> subprocess.Popen:
        file = written(tmp_path / "line.py", CONFIG + ON_DEVICES.replace("DELAY", delay))
        arguments = ("run", file, "--workdir", tmp_path / "run")
        processes.append(fresh_process(*arguments, command=first + FLUSHING + COMMAND))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_an_interrupted_run_ends_whole_with_130(number, endless, tmp_path, capsys):
    process = endless()
    for _ in range(5):
        wait_for(process, "eval at update")
    process.send_signal(number)
    shown, _ = process.communicate(timeout=300)
    assert process.returncode == INTERRUPTED
    assert ": interrupted" in shown
    run = tmp_path / "run"
    assert ssp.read_run(run).status == "interrupted"
    assert ssp.read_tape(run / "tape.jsonl.gz").complete

    assert jax_ssp("verify", run) == DONE
    proof = capsys.readouterr().out
    assert ", 0 dropped\n" in proof
    assert "tape:      complete" in proof
    assert jax_ssp("replay", run) == DONE
    assert "the same to the last bit" in capsys.readouterr().out


@pytest.mark.slow
def test_the_tape_of_a_killed_run_can_be_read_up_to_there(endless, tmp_path, capsys):
    process = endless()
    for _ in range(5):
        wait_for(process, "eval at update")
    process.kill()  # which leaves no time for anything
    process.wait(timeout=300)
    run = tmp_path / "run"
    tape = ssp.read_tape(run / "tape.jsonl.gz")
    assert not tape.complete
    assert len(tape) >= 4
    assert jax_ssp("verify", run) == DONE
    assert "breaks off" in capsys.readouterr().out
    assert jax_ssp("replay", run) == DONE


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("first", [MINDS, IGNORES], ids=["minds", "ignores"])
def test_a_second_interrupt_ends_at_once(number, first, endless, tmp_path):
    """From the second on, clocks hang for ten minutes: nobody waits for them twice."""
    hang = "__import__('time').sleep(600 * (clock > 0)) or 0.0"  # no interrupt cuts that short
    process = endless(delay=f"lambda worker, clock, steps, rng: {hang}", first=first)
    wait_for(process, "eval at update 2")
    process.send_signal(number)
    wait_for(process, "interrupted: finishing the clocks under way")
    process.send_signal(number)
    process.wait(timeout=300)
    assert process.returncode == INTERRUPTED
    assert not ssp.read_tape(tmp_path / "run" / "tape.jsonl.gz").complete


# Without what a process usually has


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
