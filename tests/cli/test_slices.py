"""Workers on slices, asked for in words."""

from pathlib import Path

import jax
import pytest

import jax_ssp as ssp
from jax_ssp.cli.config_file import parsed
from jax_ssp.cli.exits import DONE, USAGE
from tests.helpers.command_line import as_it_was, jax_ssp

__all__ = ["as_it_was"]  # a fixture, for every test here

FILE = Path(__file__).parents[2] / "experiments" / "lm_diloco.py"
DEVICES = ["--size", "smoke", "--runtime", "Devices"]


@pytest.mark.parametrize(
    ("words", "runtime"),
    [
        (["devices-per-worker", "2"], ssp.Devices(devices_per_worker=2)),
        (["axes", "fsdp", "2"], ssp.Devices(axes={"fsdp": 2})),
        (["axes", "fsdp", "2", "model", "4"], ssp.Devices(axes={"fsdp": 2, "model": 4})),
    ],
    ids=["a number", "an axis", "two axes"],
)
def test_slices_are_a_field_of_devices(words, runtime):
    (experiment,), _ = parsed(FILE, [*DEVICES, f"--runtime.{words[0]}", *words[1:]])
    assert experiment.runtime == runtime


NO_SLICES = {
    "none": (["devices-per-worker", "0"], "(devices_per_worker=...)` must be at least 1, got 0"),
    "no number": (["devices-per-worker", "two"], "--runtime.devices-per-worker: invalid"),
    "an axis of none": (["axes", "fsdp", "0"], "`Devices(axes=...)['fsdp']` must be at least 1"),
    "an axis of words": (["axes", "fsdp", "two"], "--runtime.axes"),
    "no size": (["axes", "fsdp"], "--runtime.axes"),
    "not so many": (
        ["axes", "fsdp", "2", "--runtime.devices-per-worker", "4"],
        "axes={'fsdp': 2})` does not fit: a slice with the axes {'fsdp': 2} has 2 devices",
    ),
    "no such field": (["axis", "fsdp", "2"], "--runtime.axes"),
}


@pytest.mark.parametrize(("words", "message"), NO_SLICES.values(), ids=NO_SLICES)
def test_what_is_no_slice_is_named_before_a_device_is_touched(
    words, message, tmp_path, capsys, monkeypatch
):
    def touched(*given, **named):
        raise AssertionError("a device is touched")

    for name in ("devices", "local_devices", "device_put"):
        monkeypatch.setattr(jax, name, touched)
    words = [*DEVICES, f"--runtime.{words[0]}", *words[1:]]
    assert jax_ssp("run", FILE, *words, "--workdir", tmp_path / "run") == USAGE
    shown = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert message in shown
    assert "Traceback" not in shown
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_language_model_trains_on_slices_as_its_workload_shards_it(tmp_path, standard_promotion):
    (tmp_path / "text").write_bytes(b"To be, or not to be, that is the question. " * 200)
    words = ["--runtime.axes", "fsdp", "2", "--workload.text", tmp_path / "text"]
    assert jax_ssp("run", FILE, *DEVICES, *words, "--workdir", tmp_path / "run") == DONE
    run = ssp.read_run(tmp_path / "run")
    told = run.tape.header["slices"]
    assert (told["axes"], len(told["devices"])) == ({"fsdp": 2}, 2)
    assert [None, "fsdp"] in told["params"]
    assert told["batch"] == ["fsdp"]
    ssp.check_contract(run.tape)
