"""What `verify` and `replay` make of a folder that is damaged, or that means harm."""

import hashlib
import json
import os
import random
import shutil

import numpy as np
import pytest

from jax_ssp.checkpoint.steps import Steps
from jax_ssp.cli.exits import BUG, DONE, USAGE
from jax_ssp.controller.tape_file import read_tape, write_tape
from tests.helpers.command_line import as_it_was, jax_ssp

__all__ = ["as_it_was"]  # a fixture, for every test here

CLOCKWORK = '''"""The clockwork alone."""
import jax_ssp as ssp

def get_config():
    runtime = ssp.Virtual(num_workers=3, delay=ssp.delays.Exponential(1.0), compute=False)
    return ssp.Experiment(name="clocks", policy=ssp.SSP(2), runtime=runtime, num_clocks=8)
'''
COMPUTED = '''"""A small sum."""
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import optax

import jax_ssp as ssp

def loss_fn(params, batch, key):
    return (params["w"] @ batch - 1.0) ** 2, {}

STEP = ssp.make_step(loss_fn, optax.sgd(0.1))
ROWS = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)

@dataclass(frozen=True)
class Sum(ssp.Workload):
    def build(self, num_workers, seed):
        return ssp.Task(STEP, {"w": jnp.zeros(3)}, lambda worker: iter(ROWS[worker:]))

def get_config():
    runtime = ssp.Virtual(num_workers=2, delay=ssp.delays.Exponential(1.0))
    return ssp.Experiment(
        name="sum", workload=Sum(), policy=ssp.SSP(1), runtime=runtime, num_clocks=4
    )
'''


def a_run(folder, text):
    file = folder / "config.py"
    file.write_text(text)
    assert jax_ssp("run", file, "--workdir", folder / "run") == DONE
    return folder / "run"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return a_run(tmp_path_factory.mktemp("finished"), CLOCKWORK)


@pytest.fixture
def run(finished, tmp_path):
    """The folder of a run that is done, and its config file beside it."""
    shutil.copytree(finished, tmp_path / "run")
    shutil.copy(finished.parent / "config.py", tmp_path)
    edit(tmp_path / "run", file=str(tmp_path / "config.py"))
    return tmp_path / "run"


def edit(run, **changes):
    content = json.loads((run / "config.json").read_text())
    content.update(changes)
    (run / "config.json").write_text(json.dumps(content))


def one_line(capsys):
    """What was said of an error: one line, no traceback."""
    said = capsys.readouterr().err
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, said
    assert "Traceback" not in said
    return errors[0]


# What is executed.


class Marked:
    """Text of a config file that leaves a mark when it is executed."""

    def __init__(self, folder):
        self.mark = folder / "executed"
        self.text = f"open({str(self.mark)!r}, 'w').close()\n{CLOCKWORK}"
        self.digest = hashlib.sha256(self.text.encode()).hexdigest()

    def write(self, file):
        file.write_text(self.text)
        return file


@pytest.fixture
def marked(tmp_path):
    return Marked(tmp_path)


def test_the_digest_of_the_config_file_is_recorded(run):
    recorded = json.loads((run / "config.json").read_text())["sha256"]
    assert recorded == hashlib.sha256(CLOCKWORK.encode()).hexdigest()


def test_replay_executes_the_file_that_was_run_and_says_so(run, capsys):
    assert jax_ssp("replay", run) == DONE
    assert f"executing the config file {run.parent / 'config.py'}" in capsys.readouterr().err


def test_the_help_says_that_the_config_file_is_executed(capsys):
    assert jax_ssp("replay", "--help") == 0
    assert "executes the run's config file" in " ".join(capsys.readouterr().out.split())


def test_a_file_of_the_run_folder_is_never_executed(run, marked, capsys):
    file = marked.write(run / "evil.py")
    for name in (file, f"{run}/../run/evil.py", os.path.relpath(file)):
        edit(run, file=str(name), sha256=marked.digest)
        assert jax_ssp("replay", run) == USAGE
        assert "what a folder brings is not executed" in one_line(capsys)
    assert not marked.mark.exists()
    assert jax_ssp("replay", run, "--file", file) == DONE  # the user names it
    assert marked.mark.exists()


def test_no_link_leads_into_the_run_folder(run, marked, tmp_path, capsys):
    (tmp_path / "link.py").symlink_to(marked.write(run / "evil.py"))
    (tmp_path / "there").symlink_to(run)
    for folder, file in ((run, "link.py"), (tmp_path / "there", "run/evil.py")):
        edit(run, file=str(tmp_path / file), sha256=marked.digest)
        assert jax_ssp("replay", folder) == USAGE
        assert "what a folder brings is not executed" in one_line(capsys)
    assert not marked.mark.exists()


def test_a_file_that_has_changed_is_not_executed_unless_it_is_named(run, marked, tmp_path, capsys):
    file = marked.write(tmp_path / "config.py")
    assert jax_ssp("replay", run) == USAGE
    said = one_line(capsys)
    assert "it has changed since" in said
    assert "--file" in said
    assert not marked.mark.exists()
    assert jax_ssp("replay", run, "--file", file) == DONE
    assert "it is executed since --file names it" in capsys.readouterr().err
    assert marked.mark.exists()


@pytest.mark.parametrize("digest", ["", "0" * 64, None, 5, ["0"]])
def test_without_the_right_digest_nothing_is_executed(digest, run, marked, tmp_path, capsys):
    marked.write(tmp_path / "config.py")
    edit(run, sha256=digest)
    assert jax_ssp("replay", run) == USAGE
    one_line(capsys)
    assert not marked.mark.exists()


def test_a_compiled_copy_beside_the_file_is_not_executed(run, marked, tmp_path):
    import importlib.util
    import py_compile

    evil = marked.write(tmp_path / "evil.py")
    file = tmp_path / "config.py"
    cached = importlib.util.cache_from_source(str(file))
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(evil), cfile=cached, invalidation_mode=mode)
    assert jax_ssp("replay", run) == DONE
    assert not marked.mark.exists()


def test_what_the_run_folder_holds_is_not_imported(run, marked, tmp_path, monkeypatch):
    (run / "helper.py").write_text(marked.text)
    (tmp_path / "config.py").write_text(
        f"try: import helper\nexcept ImportError: pass\n{CLOCKWORK}"
    )
    edit(run, sha256=hashlib.sha256((tmp_path / "config.py").read_bytes()).hexdigest())
    monkeypatch.chdir(run)
    monkeypatch.syspath_prepend("")
    assert jax_ssp("replay", ".") == DONE
    assert not marked.mark.exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["-h"],
        ["--tyro-print-completion", "bash"],
        ["--tyro-write-completion", "bash", "WRITTEN"],
        ["--tyro_write_completion", "bash", "WRITTEN"],
        ["--num-clocks", "-h"],
        ["--num-clock", "8"],
        ["--policy", "os.system"],
        [5],
        [["--help"]],
        "--help",
        None,
    ],
    ids=repr,
)
def test_overrides_only_override(words, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    edit(run, overrides=words)
    assert jax_ssp("replay", run) == USAGE
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "WRITTEN").exists()


@pytest.mark.parametrize("index", [1, -1, True, 0.0, "0", None, [0], 10**30])
def test_only_an_experiment_of_the_file_is_replayed(index, run, capsys):
    edit(run, index=index)
    assert jax_ssp("replay", run) == USAGE
    one_line(capsys)


@pytest.mark.parametrize("file", ["", "\0", ".", "/dev/stdin", "/nowhere.py", 5, None, ["a"]])
def test_a_file_that_is_none_ends_with_2(file, run, capsys):
    edit(run, file=file)
    assert jax_ssp("replay", run) == USAGE
    one_line(capsys)


def test_nothing_is_executed_for_a_tape_that_breaks_the_contract(run, marked, tmp_path, capsys):
    edit(run, file=str(marked.write(tmp_path / "config.py")), sha256=marked.digest)
    tape = read_tape(run / "tape.jsonl.gz")
    tape.append(1e6, next(iter(tape)).event, [])  # a second join
    write_tape(run / "tape.jsonl.gz", tape)
    assert jax_ssp("replay", run) == BUG
    assert "does NOT repeat" in capsys.readouterr().out
    assert not marked.mark.exists()


# What is damaged.


@pytest.mark.parametrize("command", ["verify", "replay"])
def test_a_damaged_tape_of_a_run_that_is_done_does_not_pass_for_one_cut_off(command, run, capsys):
    whole = (run / "tape.jsonl.gz").read_bytes()
    tape = read_tape(run / "tape.jsonl.gz")
    tape.complete = False
    write_tape(run / "tape.jsonl.gz", tape)  # only the last line is missing
    assert jax_ssp(command, run) == USAGE
    assert "summary.json says that" in one_line(capsys)
    (run / "tape.jsonl.gz").write_bytes(whole[: len(whole) * 2 // 3])
    assert jax_ssp(command, run) == USAGE
    one_line(capsys)
    (run / "summary.json").rename(run / "kept")
    (run / "params_manifest.json").write_text("{}")
    assert jax_ssp(command, run) == USAGE
    assert "the run's last parameters are there" in one_line(capsys)
    (run / "params_manifest.json").unlink()
    assert jax_ssp(command, run) == DONE  # what a killed run leaves


@pytest.mark.parametrize("command", ["verify", "replay"])
@pytest.mark.parametrize(
    "key",
    ["policy", "bound", "max_staleness", "reads_own", "num_workers", "time", "devices", "server"],
)
def test_a_header_of_a_run_that_lacks_a_key_ends_with_2(command, key, run, capsys):
    tape = read_tape(run / "tape.jsonl.gz")
    del tape.header[key]
    write_tape(run / "tape.jsonl.gz", tape)
    assert jax_ssp(command, run) == USAGE
    assert f"lacks {key!r}" in one_line(capsys)


@pytest.mark.parametrize("command", ["verify", "replay"])
@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b"[" * 10**5, b'{"tape": 3}'])
def test_a_damaged_summary_ends_with_2(command, content, run, capsys):
    (run / "summary.json").write_bytes(content)
    assert jax_ssp(command, run) == USAGE
    assert "summary.json" in one_line(capsys)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b"[" * 10**5, b'{"file": 3}'])
def test_a_damaged_config_ends_with_2(content, run, capsys):
    (run / "config.json").write_bytes(content)
    assert jax_ssp("replay", run) == USAGE
    assert "config.json" in one_line(capsys)


def damage(content, rng):
    """Flip a bit, cut the end off, or exchange a stretch."""
    at = rng.randrange(len(content))
    match rng.randrange(4):
        case 0:
            return content[:at]
        case 1:
            return content[:at] + rng.randbytes(8) + content[at + 8 :]
        case _:
            return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]


def try_damage(tmp_path, capsys, commands, rounds, seed):
    """Damage files of a folder, one at a time, and see that nothing is worse than one line."""
    run = a_run(tmp_path, COMPUTED)
    Steps(run / "checkpoints", keep=1).save(1, {"a": 1}, {"w": np.zeros(3), "x": np.zeros(10_000)})
    tape = read_tape(run / "tape.jsonl.gz")
    files = sorted(path for path in run.rglob("*") if path.is_file() and path.stat().st_size)
    rng = random.Random(seed)
    codes = []
    for _ in range(rounds):
        damaged = tmp_path / "damaged"
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(run, damaged)
        file = damaged / rng.choice(files).relative_to(run)
        file.write_bytes(damage(file.read_bytes(), rng))
        for command in commands:
            capsys.readouterr()
            code = jax_ssp(command, damaged)
            said = capsys.readouterr()
            assert code in (DONE, BUG, USAGE), (file, said)
            assert "Traceback" not in said.err
            assert code != USAGE or "error: " in said.err or "config.py" in said.err
            if code == DONE:  # it did no harm
                again = read_tape(damaged / "tape.jsonl.gz")
                assert (again.header, list(again)) == (tape.header, list(tape))
            codes.append(code)
    assert {DONE, USAGE} <= set(codes)


def test_any_damage_to_a_folder_is_one_clear_line(tmp_path, capsys):
    try_damage(tmp_path, capsys, ["verify"], rounds=60, seed=0)


@pytest.mark.slow
def test_any_damage_to_a_folder_is_one_clear_line_at_length(tmp_path, capsys):
    try_damage(tmp_path, capsys, ["verify", "replay"], rounds=150, seed=1)


def test_a_pipe_is_no_tape(tmp_path, capsys):
    os.mkfifo(tmp_path / "tape.jsonl.gz")
    for path in (tmp_path, tmp_path / "tape.jsonl.gz"):
        assert jax_ssp("verify", path) == USAGE
        one_line(capsys)
