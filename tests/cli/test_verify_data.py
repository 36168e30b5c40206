"""`jax-ssp verify` accounts for the samples of a run whose data was dealt."""

import json

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from tests.helpers.command_line import as_it_was as as_it_was
from tests.helpers.command_line import jax_ssp


def train(folder, data):
    step = ssp.make_step(lambda params, batch, key: (jnp.mean(params * batch), {}), optax.sgd(0.1))
    runtime = ssp.Virtual(3, faults=[ssp.faults.Crash(1, 2)])
    spec = {"params": jnp.float32(1), "runtime": runtime, "num_clocks": 8}
    return ssp.train(step, data=data, observers=[ssp.RunFolder(folder)], **spec)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def test_what_became_of_the_samples_is_found_from_the_tape_alone(folder, capsys):
    result = train(folder, ssp.data.Epochs(np.arange(10, dtype=np.float32), batch_size=2))
    assert jax_ssp("verify", folder) == 0
    assert f"data: {result.data}" in capsys.readouterr().out
    file = folder / "summary.json"
    summary = json.loads(file.read_text())
    assert summary["data"] == result.data.facts()
    summary["data"]["twice"] = 1
    file.write_text(json.dumps(summary))
    assert jax_ssp("verify", folder) == 1
    assert "says otherwise of the data" in capsys.readouterr().out


def test_nothing_is_said_of_data_of_each_workers_own(folder, capsys):
    result = train(folder, lambda worker: iter([np.ones(2, np.float32)] * 9))
    assert jax_ssp("verify", folder) == 0
    assert "data:" not in capsys.readouterr().out
    told = json.loads((folder / "summary.json").read_text())["data"]
    assert told == {"merged": result.samples, "dropped": 0}
