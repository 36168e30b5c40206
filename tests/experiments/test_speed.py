"""Tokens a second and model FLOP utilisation, from a run's folder."""

import dataclasses

import pytest

import jax_ssp as ssp
from experiments.workloads import speed
from experiments.workloads.transformer import Shape

SHAPE = Shape(layers=2, width=32, heads=4, groups=2, hidden=48)
CONFIG = {
    "file": "lm.py",
    "environment": {"devices": ["NVIDIA H100 80GB HBM3"]},
    "experiment": {
        "workload": {"type": "LM", "context": 64, "shape": {"type": "Shape", **vars(SHAPE)}},
        "runtime": {"type": "Devices", "workers_per_device": 2},
    },
}
SUMMARY = {"num_workers": 4, "tokens_per_second": 1e6, "time": "wall"}


def test_utilization_is_the_flops_of_the_tokens_over_those_of_the_devices():
    found = speed.speed_of(CONFIG, SUMMARY)
    assert found.chips == 2
    assert found.tokens_per_second == 1e6
    assert found.utilization == pytest.approx(1e6 * SHAPE.flops_per_token(64) / (2 * 989e12))
    own = speed.speed_of(CONFIG, SUMMARY, peak=1e12)
    assert own.utilization == pytest.approx(1e6 * SHAPE.flops_per_token(64) / 2e12)
    runtime = {"type": "Devices", "workers_per_device": 1, "devices_per_worker": 4}
    sliced = {**CONFIG, "experiment": {**CONFIG["experiment"], "runtime": runtime}}
    assert speed.speed_of(sliced, SUMMARY).chips == 16


def test_where_the_peak_is_not_known_there_is_no_share():
    cpu = {**CONFIG, "environment": {"devices": ["cpu"]}}
    assert speed.speed_of(cpu, SUMMARY).utilization is None
    assert speed.speed_of(CONFIG, {**SUMMARY, "time": "virtual"}).utilization is None
    both = {**CONFIG, "environment": {"devices": ["TPU v4", "NVIDIA L4"]}}
    assert speed.speed_of(both, SUMMARY).utilization is None


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("TPU v5", 459e12),
        ("TPU v5 lite", 197e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA L40S", 362e12),
        ("cpu", None),
    ],
)
def test_the_longest_name_that_fits_says_the_peak(kind, peak):
    assert speed.peak_of(kind) == peak


def test_another_model_is_named():
    workload = {"type": "Digits"}
    other = {**CONFIG, "experiment": {**CONFIG["experiment"], "workload": workload}}
    with pytest.raises(ValueError, match=r"lm\.py did not train `LM`"):
        speed.speed_of(other, SUMMARY)


def test_a_run_s_folder_is_read(tmp_path, monkeypatch, capsys):
    run = dataclasses.make_dataclass("Run", ["config", "summary"])(CONFIG, SUMMARY)
    monkeypatch.setattr(ssp, "read_run", {tmp_path: run}.__getitem__, raising=False)
    speed.main([str(tmp_path), "--peak", "1e12"])
    said = capsys.readouterr().out
    assert "1,000,000 tokens a wall second" in said
    assert "% of 2 devices" in said
