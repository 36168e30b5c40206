"""A disk that is full costs a run of the command line nothing that can be written elsewhere."""

import errno

import pytest

import jax_ssp as ssp
import jax_ssp.checkpoint.params as saving
from jax_ssp import files
from jax_ssp.cli.exits import BUG, DONE, USAGE
from tests.helpers.command_line import as_it_was, jax_ssp
from tests.helpers.eventful import is_whole

__all__ = ["as_it_was"]  # a fixture, for every test here


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
