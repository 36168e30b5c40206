"""`jax-ssp replay` says whether a run repeats to the last bit, and what keeps it from it."""

import json

import numpy as np
import pytest

import jax_ssp as ssp
from jax_ssp.checkpoint.params import save_params
from jax_ssp.cli.exits import BUG, DONE, USAGE
from tests.helpers.command_line import as_it_was, jax_ssp
from tests.helpers.line_config import CONFIG, ON_DEVICES, written
from tests.helpers.tapes import rows_of, write_rows

__all__ = ["as_it_was"]  # a fixture, for every test here


def test_replay_says_that_the_parameters_are_the_same(finished, capsys):
    assert jax_ssp("replay", finished) == DONE
    shown = capsys.readouterr().out
    assert "84 events repeated" in shown
    assert "the same to the last bit" in shown


def test_replay_of_a_run_on_devices(tmp_path, capsys):
    run = tmp_path / "run"
    file = written(tmp_path / "line.py", CONFIG + ON_DEVICES.replace("DELAY", "None"))
    assert jax_ssp("run", file, "--num-clocks", "10", "--workdir", run) == DONE
    assert jax_ssp("replay", run) == DONE
    assert "the same to the last bit" in capsys.readouterr().out


def test_replay_says_that_other_parameters_differ(run, capsys):
    saved = np.array(ssp.load_params(run)["w"])
    saved[1] = np.nextafter(saved[1], np.float32(9))
    save_params(run, {"w": saved})
    assert jax_ssp("replay", run) == BUG
    assert "parameters DIFFER in 1 of 1 leaves" in capsys.readouterr().out


def test_replay_of_damaged_parameters_ends_with_2(run, capsys):
    file = max((run / "params").rglob("0"), key=lambda path: path.is_file())
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert jax_ssp("replay", run) == USAGE
    assert "is damaged" in capsys.readouterr().err


def without_one_row(header, rows):
    del rows[30]
    rows[-1]["end"] -= 1


def with_two_rows_exchanged(header, rows):
    rows[40], rows[41] = rows[41], rows[40]


def with_an_answer_changed(header, rows):
    now, event, commands = rows[30]
    assert commands[-1][0] == "StartClock"
    commands[-1][3] += 1  # local steps
    rows[30] = [now, event, commands]


@pytest.mark.parametrize(
    "tamper", [without_one_row, with_two_rows_exchanged, with_an_answer_changed]
)
def test_replay_says_that_a_tampered_tape_does_not_repeat(tamper, run, capsys):
    header, *rows = rows_of(run / "tape.jsonl.gz")
    tamper(header, rows)
    write_rows(run / "tape.jsonl.gz", [header, *rows])
    assert jax_ssp("replay", run) == BUG
    shown = capsys.readouterr()
    assert "does NOT repeat" in shown.out
    assert "Traceback" not in shown.err


def test_replay_of_another_experiments_tape_ends_with_2(run, capsys):
    header, *rows = rows_of(run / "tape.jsonl.gz")
    header["experiment"]["seed"] = 5
    write_rows(run / "tape.jsonl.gz", [header, *rows])
    assert jax_ssp("replay", run) == USAGE
    assert "seed: recorded 5, here 0" in capsys.readouterr().err


def test_replay_with_another_config_file_ends_with_2_and_names_the_field(run, config, capsys):
    config.write_text(CONFIG.replace("ssp.SSP(bound=3)", "ssp.SSP(bound=4)"))
    assert jax_ssp("replay", run, "--file", config) == USAGE
    shown = capsys.readouterr().err
    assert "config file has changed since the run, in policy" in shown
    assert "'bound': 3" in shown
    assert "'bound': 4" in shown


def test_replay_with_another_problem_ends_with_2(run, config, capsys):
    """What the config's fields do not show, the tape's fingerprints do."""
    config.write_text(CONFIG.replace("optax.sgd(0.1)", "optax.sgd(0.2)"))
    assert jax_ssp("replay", run, "--file", config) == USAGE
    assert "step: recorded" in capsys.readouterr().err


def test_replay_needs_the_config_file_and_finds_it_elsewhere(run, config, capsys):
    about = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**about, "file": str(run / "gone.py")}))
    assert jax_ssp("replay", run) == USAGE
    assert "gone.py" in capsys.readouterr().err
    assert jax_ssp("replay", run, "--file", config) == DONE


def test_replay_of_a_folder_without_its_config_says_what_the_tape_is_good_for(run, capsys):
    (run / "config.json").unlink()
    assert jax_ssp("replay", run) == USAGE
    shown = capsys.readouterr().err
    assert f"{run} holds no config.json, which says what was run" in shown
    assert f"`jax-ssp verify {run}` needs only the tape" in shown
    assert jax_ssp("verify", run) == DONE


def killed(run):
    """Take away what only a run that came to its end leaves."""
    (run / "summary.json").unlink()
    (run / "params_manifest.json").unlink()


def test_a_tape_that_breaks_off_is_verified_and_replayed_up_to_there(run, capsys):
    content = (run / "tape.jsonl.gz").read_bytes()
    (run / "tape.jsonl.gz").write_bytes(content[: len(content) // 2])
    killed(run)
    assert jax_ssp("verify", run) == DONE
    assert "breaks off" in capsys.readouterr().out
    assert jax_ssp("replay", run) == DONE
    assert "nothing to compare" in capsys.readouterr().out


def test_a_config_file_whose_name_cannot_be_ends_a_replay_with_2(config, tmp_path, capsys):
    run = tmp_path / "run"
    assert jax_ssp("run", config, "--num-clocks", "2", "--workdir", run) == DONE
    about = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**about, "file": "a" * 5000}))
    assert jax_ssp("replay", run) == USAGE
    assert "File name too long" in capsys.readouterr().err
