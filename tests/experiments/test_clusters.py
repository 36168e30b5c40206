"""Clusters to begin with: their files are what Ray takes, and start what the command line takes."""

import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from jax_ssp.cli.config_file import parsed

CLUSTERS = Path(__file__).parents[2] / "experiments" / "clusters"
COMMAND = re.compile(r"jax-ssp (run [^\"&\n]+)")
SCHEDULED = """#!/bin/sh
if [ "$1" = requeue ]; then echo "scontrol $@" >> asked; else echo first; echo second; fi
"""
DRIVER = """#!/bin/sh
echo "jax-ssp $@" >> asked
trap 'exit 75' TERM
while [ ! -e over ]; do sleep 0.05; done
"""


@pytest.mark.parametrize("name", ["gpu.yaml", "tpu.yaml", "kuberay.yaml", "slurm.sh"])
def test_what_a_cluster_runs_is_what_the_command_line_takes(name, monkeypatch):
    monkeypatch.chdir(CLUSTERS.parents[1])
    (line,) = COMMAND.findall((CLUSTERS / name).read_text())
    file, *words = shlex.split(line)[1:]
    (experiment, *_), _ = parsed(Path(file), words, Path(file).read_bytes())
    runtime = experiment.runtime
    assert runtime.address == "auto"
    assert runtime.num_workers == {"tpu.yaml": 8}.get(name, 16)  # one for each accelerator
    each = (runtime.gpus_per_worker or 0) + (runtime.resources or {}).get("TPU", 0)
    assert each == 1


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind", "each"), [("gpu", "gpus", 0), ("tpu", "tpus", 4)])
def test_ray_takes_a_file_and_all_machines_are_there_before_a_run(name, kind, each):
    yaml, util = (
        pytest.importorskip(module) for module in ("yaml", "ray.autoscaler._private.util")
    )
    config = yaml.safe_load((CLUSTERS / f"{name}.yaml").read_text())
    util.validate_config(util.prepare_config(config))
    machines = config["available_node_types"][kind]
    assert machines["min_workers"] == machines["max_workers"] == config["max_workers"]
    assert machines["resources"].get("TPU", 0) == each


def executable(file, text):
    file.write_text(text)
    file.chmod(0o755)


@pytest.mark.parametrize("warned", [False, True])
def test_slurm_has_ray_on_every_node_and_queues_the_job_again_if_it_is_not_done(tmp_path, warned):
    for tool, text in (("scontrol", SCHEDULED), ("jax-ssp", DRIVER)):
        executable(tmp_path / tool, text)
    executable(tmp_path / "srun", '#!/bin/sh\necho "srun $@" >> asked\n')
    there = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "two", "SLURM_NNODES": "2"}
    path = f"{tmp_path}:{os.environ['PATH']}"
    environment = {**os.environ, **there, "HEAD_SECONDS": "0.2", "PATH": path}
    job = subprocess.Popen(["bash", CLUSTERS / "slurm.sh"], cwd=tmp_path, env=environment)
    asked, until = tmp_path / "asked", time.monotonic() + 60
    while time.monotonic() < until and not (asked.exists() and "jax-ssp" in asked.read_text()):
        time.sleep(0.05)
    if warned:
        job.send_signal(signal.SIGTERM)  # to the shell alone
    else:
        (tmp_path / "over").touch()
    code = job.wait(timeout=60)
    first, others, driver, *rest = asked.read_text().splitlines()
    assert "--nodelist=first ray start --head" in first
    assert "--nodes=1 --ntasks=1 --exclude=first ray start --address=first:6379" in others
    assert driver.startswith("jax-ssp run ")
    assert (code, rest) == ((75, ["scontrol requeue 7"]) if warned else (0, []))
