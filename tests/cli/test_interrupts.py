"""Signals that this process raises at certain moments of a run of the command line."""

import signal

import pytest

import jax_ssp as ssp
import jax_ssp.checkpoint.params as saving
import jax_ssp.checkpoint.run_folder as run_folder
from jax_ssp.cli.exits import INTERRUPTED
from tests.helpers.command_line import as_it_was, jax_ssp
from tests.helpers.eventful import is_whole

__all__ = ["as_it_was"]  # a fixture, for every test here


def test_an_interrupt_while_the_folder_is_begun_leaves_none(eventful, tmp_path, monkeypatch):
    def interrupted(self, info):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_folder.MetricsWriter, "on_start", interrupted)
    assert jax_ssp(*eventful("pass")) == INTERRUPTED
    assert not (tmp_path / "run").exists()


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
