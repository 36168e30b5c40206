"""`Run.read` gives what a run had, and names what is missing, damaged or of another version."""

import io
import json
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

import jax_ssp as ssp
from jax_ssp.checkpoint import Run, runs_in
from jax_ssp.checkpoint.run_folder import RunFolder


def loss_fn(params, batch, key):
    return (params["w"] - batch) ** 2, {"read": params["w"], "kind": jnp.inf, "worker": 7}


def train(folder, **changes):
    """A run in a folder of its own; gives its result."""
    spec = {
        "params": {"w": jnp.float32(0)},
        "data": lambda worker: iter([np.float32(1)] * 10),
        "policy": ssp.SSP(1),
        "runtime": ssp.Virtual(2, ssp.delays.PerWorker((1.0, 2.5))),
        "num_clocks": 4,
        "evaluate": lambda params: {"w": params["w"], "time": 3.0},
        "eval_every": 1,
        "name": "w",
    }
    with RunFolder(folder, {"experiment": {"name": "w", "seed": 3}}) as writer:
        step = ssp.make_step(loss_fn, optax.sgd(0.25))
        return ssp.train(step, observers=[writer], **{**spec, **changes})


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("done") / "run"
    return folder, train(folder)


@pytest.fixture
def folder(done, tmp_path):
    """A copy of the folder, to be damaged."""
    return shutil.copytree(done[0], tmp_path / "run")


def test_it_shows_what_came_of_a_run(folder):
    run = ssp.read_run(folder)
    assert repr(run) == f"Run.read({str(folder)!r})"
    shown = run._repr_html_()
    assert "<b>w: SSP(bound=1, adopt=&#x27;eager&#x27;) on 2 workers</b>" in shown
    assert str(folder) in shown
    assert "8 in 8 versions" in shown
    assert "<img" in shown
    (folder / "summary.png").unlink()
    assert "<img" not in run._repr_html_()
    (folder / "summary.png").write_bytes(b"drawn")
    assert "base64,ZHJhd24=" in run._repr_html_()


def test_a_run_that_is_damaged_or_goes_on_is_shown_too(folder):
    (folder / "summary.json").write_text("{}")
    shown = ssp.read_run(folder)._repr_html_()
    assert "cannot be shown" in shown
    assert "summary.json" in shown
    (folder / "summary.json").unlink()
    assert "unfinished" in ssp.read_run(folder)._repr_html_()
    console = Console(file=io.StringIO(), width=300)
    console.print(ssp.read_run(folder))
    assert "unfinished" in console.file.getvalue()


def test_it_reads_all_that_a_run_had(done):
    folder, result = done
    run = ssp.read_run(folder)
    assert isinstance(run, ssp.Run)
    assert run.path == folder
    assert run.status == run.summary["status"] == "done"
    more = {"jax_ssp": ssp.__version__, "name": "w"}
    assert run.config.pop("settings")["ends"]["num_clocks"] == 4
    assert [start["rows"] for start in run.config.pop("starts")] == [0]
    assert run.config == {"format": 2, **more, "experiment": {"name": "w", "seed": 3}}
    assert run.summary["metrics"] == result.metrics
    assert list(run.tape) == list(result.tape)
    assert run.tape.header == result.tape.header
    assert (run.tape.complete, run.tape.params) == (True, result.tape.params)
    assert run.schedule.tolist() == result.schedule.tolist()
    assert run.history == result.history
    assert run.evaluations == result.evaluations
    assert run.params["w"] == result.params["w"]
    ssp.check_contract(run.tape)


def test_a_part_is_read_when_it_is_asked_for_and_once(folder):
    run = Run.read(folder)
    tape = run.tape
    for name in ("tape.jsonl.gz", "metrics.jsonl", "summary.json"):
        (folder / name).write_bytes(b"damaged")
    assert run.tape is tape
    (folder / "metrics.jsonl").write_text("damaged\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 1 is not"):
        run.history  # noqa: B018


def test_of_a_run_that_was_killed_there_is_what_it_had_written(done, folder):
    _, result = done
    (folder / "summary.json").unlink()
    (folder / "params_manifest.json").unlink()
    rows = (folder / "metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").write_bytes(rows[: len(rows) * 2 // 3])
    packed = (folder / "tape.jsonl.gz").read_bytes()
    (folder / "tape.jsonl.gz").write_bytes(packed[:-20])
    run = Run.read(folder)
    assert (run.status, run.summary) == ("unfinished", None)
    assert not run.tape.complete
    assert run.history == result.history[: len(run.history)]
    with pytest.raises(FileNotFoundError, match="No parameters are saved in"):
        run.params  # noqa: B018


@pytest.mark.parametrize(
    ("name", "part", "message"),
    [
        ("config.json", "config", "holds no config.json, which says what was run; `jax-ssp verify"),
        ("metrics.jsonl", "history", "holds no metrics.jsonl, which says what was measured"),
        ("metrics.jsonl", "evaluations", "holds no metrics.jsonl, which says what was measured"),
        ("params_manifest.json", "params", "No parameters are saved in"),
    ],
)
def test_what_is_missing_is_named_and_the_rest_is_read(name, part, message, folder):
    (folder / name).unlink()
    run = Run.read(folder)
    assert run.tape.complete
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        getattr(run, part)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 10**5, b'{"status": 3}'])
@pytest.mark.parametrize("name", ["config.json", "summary.json"])
def test_what_is_damaged_is_named(name, content, folder):
    (folder / name).write_bytes(content)
    part = name.partition(".")[0]
    with pytest.raises(ValueError, match=name):
        getattr(Run.read(folder), part)


@pytest.mark.parametrize(
    "row", ["3", "null", "{}", '{"kind": "clock"}', '{"kind": "other", "metrics": {}}']
)
def test_a_row_that_is_none_is_named(row, folder):
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(row + "\n")
    lines = len((folder / "metrics.jsonl").read_text().splitlines())
    with pytest.raises(ValueError, match=rf"metrics\.jsonl, line {lines} "):
        Run.read(folder).history  # noqa: B018


def test_a_folder_of_another_format_is_refused_by_name_with_the_remedy(folder):
    config = {"file": "config.py", "environment": {"jax_ssp": "0.0.9", "commit": "abc123"}}
    wrote = "with the version that wrote it"
    for changes, words in (
        ({}, rf"of format 1, .* 2 alone; run it again, or read it {wrote} \(jax_ssp '0\.0\.9'"),
        ({"format": 3}, f"of format 3, .* format 2 alone; read it {wrote}"),
        ({"format": "x"}, f"of format 'x', .* format 2 alone; read it {wrote}"),
    ):
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(ValueError, match=words) as caught:
            Run.read(folder)
        assert str(folder) in str(caught.value)


def test_a_sweeps_folder_names_its_runs(done, tmp_path):
    for name in ("01-b", "00-a"):
        shutil.copytree(done[0], tmp_path / "sweep" / name)
    with pytest.raises(ValueError, match=r"holds a sweep, give one, such as .*00-a\."):
        Run.read(tmp_path / "sweep")
    assert [run.path.name for run in runs_in(tmp_path / "sweep")] == ["00-a", "01-b"]
    assert [run.path for run in runs_in(done[0])] == [done[0]]
    for nothing in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match="is not a run's folder, there is no tape"):
            runs_in(nothing)


def test_reading_a_tape_needs_neither_jax_nor_orbax(done):
    program = (
        "import sys, jax_ssp; run = jax_ssp.read_run(sys.argv[1]);"
        "jax_ssp.check_contract(run.tape); run.history, run.summary, run.config;"
        "assert not {'jax', 'orbax', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(done[0])], check=True)
