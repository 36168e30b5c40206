"""`jax-ssp verify` prints the proof of a run's tape and checkpoints, or what is wrong with them."""

import gzip
import shutil

import numpy as np
import pytest

from jax_ssp.checkpoint.steps import Steps
from jax_ssp.cli.exits import BUG, DONE, USAGE
from tests.helpers.command_line import as_it_was, jax_ssp
from tests.helpers.tapes import rows_of, write_rows

__all__ = ["as_it_was"]  # a fixture, for every test here


def test_verify_prints_the_report(finished, capsys):
    for path in (finished, finished / "tape.jsonl.gz"):
        assert jax_ssp("verify", path) == DONE
        shown = capsys.readouterr().out
        assert "contract kept: 80 reads checked, bound 3 clocks" in shown
        assert "complete" in shown


def test_verify_names_the_clause_that_a_tape_breaks(run, capsys):
    tape = run / "tape.jsonl.gz"
    header, *rows = rows_of(tape)
    write_rows(tape, [{**header, "bound": 1}, *rows])  # it ran with 3
    assert jax_ssp("verify", run) == BUG
    assert "says bound 1, but by SSP(bound=3, adopt='eager') it is 3" in capsys.readouterr().out

    now, event, commands = rows[40]
    assert commands[0][0] == "Merge"
    rows[40] = [now, event, commands[1:]]
    write_rows(tape, [header, *rows])  # a delta is lost
    assert jax_ssp("verify", run) == BUG
    assert "clause" in capsys.readouterr().out


def test_verify_checks_each_file_of_each_checkpoint(run, capsys):
    assert jax_ssp("verify", run) == DONE
    assert "checkpoint" not in capsys.readouterr().out
    steps = Steps(run / "checkpoints", keep=5)
    for rows in (10, 20):
        steps.save(rows, {"rows": rows}, {"w": np.zeros(3)})
    assert jax_ssp("verify", run) == DONE
    assert "checkpoints whole: those of rows 10, 20\n" in capsys.readouterr().out

    steps.save(10_000, {}, {})
    assert jax_ssp("verify", run) == BUG
    shown = capsys.readouterr().out
    assert "checkpoints/10000 is damaged: it is of row 10000, and the tape has" in shown
    shutil.rmtree(run / "checkpoints" / "10000")

    for rows in (10, 20):
        file = run / "checkpoints" / str(rows) / "manifest.json"
        file.write_bytes(file.read_bytes().replace(b'"rows"', b'"ROWS"'))
    assert jax_ssp("verify", run) == BUG
    shown = capsys.readouterr().out
    for rows in (10, 20):
        assert f"checkpoints/{rows} is damaged: the file 'manifest.json' is damaged" in shown


@pytest.mark.parametrize("content", [None, b"", b"not a tape", gzip.compress(b"[1, 2]\n", mtime=0)])
def test_verify_of_no_tape_ends_with_2(content, tmp_path, capsys):
    if content is not None:
        (tmp_path / "tape.jsonl.gz").write_bytes(content)
    assert jax_ssp("verify", tmp_path) == USAGE
    shown = capsys.readouterr().err
    assert "tape.jsonl.gz" in shown
    assert "Traceback" not in shown
