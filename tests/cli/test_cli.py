"""The command line as a person uses it: what it writes, what it says, and its exit codes.

Most tests call `main` in this process. Signals, and what a fresh process decides, take a real one.
"""

import gzip
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest

import jax_ssp as ssp
from jax_ssp.checkpoint.params import save_params
from jax_ssp.checkpoint.steps import Steps
from jax_ssp.cli import main
from jax_ssp.cli.config_file import parsed
from jax_ssp.cli.exits import BUG, DIVERGED, DONE, INTERRUPTED, UNREAD, USAGE
from jax_ssp.runtimes.runtime import Runtime
from jax_ssp.training.alternatives import alternatives
from tests.helpers.command_line import as_it_was, jax_ssp

__all__ = ["as_it_was"]  # a fixture, for every test here

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
COMMAND = "from jax_ssp.cli import main; main()"
CACHE = {"XDG_CACHE_HOME": str(Path(tempfile.gettempdir(), "jax_ssp_tests"))}
MINDS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
IGNORES = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "  # as what `script &` starts
)
FLUSHING = "import jax_ssp.checkpoint.run_folder as folder; folder.FLUSH_SECONDS = 0.0; "

# A least-squares problem with a mistake on demand.
CONFIG = '''"""Small least squares.

What comes after the first paragraph is not shown."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import optax

import jax_ssp as ssp


@dataclass(frozen=True)
class Line(ssp.Workload):
    """A line through points."""

    num_examples: int = 64
    """Points."""
    batch_size: int = 4
    """Points a step."""
    scale: float = 1.0
    mistake: str = ""

    def build(self, num_workers: int, seed: int) -> ssp.Task:
        x = np.random.default_rng(seed).normal(size=(self.num_examples, 3)).astype(np.float32)
        y = x @ np.arange(3, dtype=np.float32)

        def loss_fn(params, batch, key):
            if self.mistake == "bug":
                undefined_name  # noqa: B018
            x, y = batch
            errors = self.scale * (x @ params["w"] - y) ** 2
            if self.mistake == "nan":
                return jnp.nan * jnp.mean(errors), {}
            return errors if self.mistake == "vector" else jnp.mean(errors), {}

        def evaluate(params):
            if self.mistake == "first evaluation":
                raise RuntimeError("no evaluation at all")
            if self.mistake == "evaluation" and params["w"].any():
                raise RuntimeError("no evaluation today")
            return {"distance": jnp.linalg.norm(params["w"] - jnp.arange(3.0))}

        data = ssp.data.Shards((x, y), self.batch_size, num_workers, seed)
        step = ssp.make_step(loss_fn, optax.sgd(0.1))
        return ssp.Task(step, {"w": jnp.zeros(3)}, data, evaluate)


def get_config() -> ssp.Experiment:
    return ssp.Experiment(
        name="line",
        workload=Line(),
        policy=ssp.SSP(bound=3),
        server_tx=ssp.configured(ssp.mitigations.scale_by_staleness, exponent=0.5),
        runtime=ssp.Virtual(num_workers=4, delay=ssp.delays.Exponential(mean=1.0)),
        num_clocks=20,
        eval_every=5,
    )
'''

# Appended to CONFIG; the later definition counts.
ON_DEVICES = """

def get_config() -> ssp.Experiment:
    return ssp.Experiment(
        name="line",
        workload=Line(),
        runtime=ssp.Devices(num_workers=2, cpu_devices=2, delay=DELAY),
        num_clocks=1_000_000,
        eval_every=1,
    )
"""
SWEEP = """

def get_sweep() -> list[ssp.Experiment]:
    return [
        ssp.Experiment(
            name=name,
            workload=Line(),
            policy=policy,
            runtime=ssp.Virtual(num_workers=4),
            num_clocks=5,
            seed=seed,
        )
        for name, policy in {"BSP": ssp.BSP(), "SSP(1)": ssp.SSP(bound=1)}.items()
        for seed in (0, 1)
    ]
"""


@pytest.fixture
def config(tmp_path) -> Path:
    return written(tmp_path / "line.py", CONFIG)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a run that is done; not to be written into."""
    folder = tmp_path_factory.mktemp("finished")
    file = written(folder / "line.py", CONFIG)
    with pytest.raises(SystemExit) as ended:
        main(["run", str(file), "--workdir", str(folder / "run")])
    assert ended.value.code == DONE
    return folder / "run"


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of such a folder, to be tampered with."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def fresh_process(*arguments: object, command: str = COMMAND) -> subprocess.Popen:
    words = [sys.executable, "-c", command, *map(str, arguments)]
    environment = {**os.environ, **CACHE, "PYTHONFAULTHANDLER": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, env=environment)


def experiment_of(run: Path) -> dict:
    return ssp.read_run(run).config["experiment"]


def rows_of(tape: Path) -> list:
    with gzip.open(tape, "rt") as file:
        return [json.loads(line) for line in file]


def write_rows(tape: Path, rows: list) -> None:
    with gzip.open(tape, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


# --- run ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True])
def test_what_is_compiled_is_kept_where_the_user_says_or_in_the_cache(own, config, tmp_path):
    settings = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "XDG_CACHE_HOME": str(tmp_path)}
    settings |= {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "own")} if own else {}
    inherited = {n: v for n, v in os.environ.items() if n != "JAX_COMPILATION_CACHE_DIR"}
    found = []
    for number in range(2):
        words = [sys.executable, "-c", COMMAND, "run", str(config)]
        words += ["--workdir", str(tmp_path / f"run{number}")]
        done = subprocess.run(words, env={**inherited, **settings}, capture_output=True, text=True)
        assert done.returncode == DONE, done.stderr
        assert "cache" not in done.stderr
        kept = tmp_path / ("own" if own else "jax_ssp/compiled")
        found.append({path.name for path in kept.iterdir() if path.name.endswith("-cache")})
    assert found[0]
    assert found[0] == found[1]


def test_a_run_writes_its_folder(finished):
    run = ssp.read_run(finished)
    assert Path(run.config["file"]).name == "line.py"
    assert run.config["overrides"] == ["--workdir", str(finished)]
    assert run.config["experiment"]["policy"] == {"type": "SSP", "bound": 3, "adopt": "eager"}
    assert run.tape.complete
    assert ssp.check_contract(run.tape).merged == 80
    assert run.status == "done"
    assert run.summary["updates"] == 80
    assert run.summary["contract"] == "kept"
    assert (run.summary["not_finite"], run.summary["passed_over"]) == (0, 0)
    assert len(run.history) == 80
    assert [row["updates"] for row in run.evaluations] == [0, 20, 40, 60, 80]
    assert run.summary["metrics"] == run.evaluations[-1]["metrics"]

    (events,) = finished.glob("events.out.tfevents.*")
    assert b"eval/distance" in events.read_bytes()
    assert (finished / "summary.png").read_bytes().startswith(b"\x89PNG")


def test_the_saved_parameters_are_the_results_to_the_last_bit(finished, config):
    assert jax_ssp("run", config, "--dry-run") == DONE  # loads the config file
    result = sys.modules["config_line"].get_config().run()
    saved = ssp.load_params(finished)
    assert jax.tree.structure(saved) == jax.tree.structure(result.params)
    assert np.asarray(saved["w"]).tobytes() == np.asarray(result.params["w"]).tobytes()


def test_it_says_what_came_of_the_run(config, tmp_path, capsys):
    assert jax_ssp("run", config, "--workdir", tmp_path / "run") == DONE
    shown = capsys.readouterr()
    assert "SSP(bound=3, adopt='eager') on 4 workers: done" in shown.out
    assert "80 updates" in shown.out
    assert "last evaluation: distance" in shown.out
    assert f"run folder: {tmp_path / 'run'}" in shown.out
    assert re.search(
        r"eval at update 20, \d+ samples: distance", shown.err
    )  # progress is not what a pipe should get


def test_the_folder_is_named_after_run_and_time_by_default(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert jax_ssp("run", config, "--name", "mine") == DONE
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("mine-20")


def test_typed_overrides(config, tmp_path):
    overrides = {
        "--policy.bound": "5",
        "--policy.adopt": "lazy",
        "--runtime.num-workers": "16",
        "--runtime.delay.mean": "0.5",
        "--server-tx.exponent": "2",
        "--workload.batch-size": "2",
        "--weight": "0.25",
        "--max-updates": "40",
        "--eval-every": "None",
        "--seed": "7",
    }
    words = [word for item in overrides.items() for word in item]
    assert jax_ssp("run", config, *words, "--workdir", tmp_path / "run") == DONE
    experiment = experiment_of(tmp_path / "run")
    assert experiment["policy"] == {"type": "SSP", "bound": 5, "adopt": "lazy"}
    assert experiment["runtime"]["num_workers"] == 16
    assert experiment["runtime"]["delay"] == {"type": "Exponential", "mean": 0.5}
    assert experiment["server_tx"]["type"] == "scale_by_staleness"
    assert experiment["server_tx"]["exponent"] == 2.0
    assert experiment["workload"]["batch_size"] == 2
    assert (experiment["weight"], experiment["max_updates"]) == (0.25, 40)
    assert (experiment["eval_every"], experiment["seed"]) == (None, 7)
    assert ssp.read_run(tmp_path / "run").summary["updates"] == 40


@pytest.mark.parametrize(("name", "most"), [("steps", 21), ("samples", 50)])
@pytest.mark.every(2)
def test_a_run_ends_by_steps_or_samples(name, most, config, tmp_path):
    words = ["--num-clocks", "None", f"--max-{name}", most, "--local-steps", "2"]
    assert jax_ssp("run", config, *words, "--workdir", tmp_path / "run") == DONE
    run = ssp.read_run(tmp_path / "run")
    last = int(run.schedule[run.schedule["merge_version"] >= 0][-1][name])
    assert run.summary[name] - last < most <= run.summary[name]
    assert run.history[-1]["samples_seen"] == run.summary["samples"]
    assert run.evaluations[-1][name] == run.summary[name]
    assert run.summary["samples_per_second"] == run.summary["samples"] / run.summary["seconds"]
    assert jax_ssp("replay", tmp_path / "run") == DONE


def test_a_run_ends_by_epochs_of_data_that_knows_them(tmp_path):
    config = EXPERIMENTS / "linear_ssp.py"
    words = ["run", config, "--num-clocks", "None", "--num-epochs", "1", "--workdir"]
    assert jax_ssp(*words, tmp_path / "run") == DONE
    run = ssp.read_run(tmp_path / "run")
    size = run.tape.header["experiment"]["max_samples"]
    assert size <= run.summary["samples"] < 2 * size
    assert jax_ssp("replay", tmp_path / "run") == DONE


@pytest.mark.slow
def test_a_part_is_replaced_by_another_kind(config, tmp_path):
    words = ["--policy", "KSync", "--policy.k=2", "--delta-tx=clip_outliers", "--delta-wire"]
    words += ["topk", "--local-steps", "dylu", "--local-steps.h", "2", "--server-tx", "outer"]
    words += ["--server-tx.optimizer.learning-rate", "0.5"]
    assert jax_ssp("run", config, *words, "--workdir", tmp_path / "run") == DONE
    experiment = experiment_of(tmp_path / "run")
    assert experiment["policy"] == {"type": "KSync", "k": 2}
    assert experiment["delta_tx"]["type"] == "clip_outliers"
    assert experiment["delta_wire"]["type"] == "TopK"
    assert experiment["local_steps"] == {"type": "DyLU", "h": 2, "memory": 32}
    optimizer = experiment["server_tx"]["optimizer"]
    assert (optimizer["learning_rate"], optimizer["momentum"]) == (0.5, 0.9)
    assert jax_ssp("replay", tmp_path / "run") == DONE


def runtime_of(file: Path, *words: str) -> Runtime:
    (experiment,), _ = parsed(file, list(words))
    return experiment.runtime


def test_from_rehearsal_to_devices(config, tmp_path):
    words = ["--runtime", "Devices", "--runtime.num-workers", "2"]
    assert jax_ssp("run", config, *words, "--workdir", tmp_path / "run") == DONE
    runtime = experiment_of(tmp_path / "run")["runtime"]
    assert (runtime["type"], runtime["num_workers"], runtime["delay"]) == ("Devices", 2, None)
    assert jax_ssp("replay", tmp_path / "run") == DONE
    delayed = runtime_of(config, "--runtime.delay", "straggler", "--runtime=devices")
    assert delayed == ssp.Devices(delay=ssp.delays.Straggler())  # in whatever order


def test_from_devices_to_a_rehearsal(tmp_path):
    """What the file says of its workers and delays stays."""
    delay = "ssp.delays.Pareto(1.0, 2.0), seed=7"
    file = written(tmp_path / "line.py", CONFIG + ON_DEVICES.replace("DELAY", delay))
    pareto = ssp.delays.Pareto(1.0, 2.0)
    assert runtime_of(file, "--runtime", "Virtual") == ssp.Virtual(2, pareto, seed=7)
    words = ["--runtime", "Virtual", "--runtime.num-workers", "16", "--runtime.delay.shape", "3"]
    assert runtime_of(file, *words) == ssp.Virtual(16, ssp.delays.Pareto(1.0, 3.0), seed=7)
    without = written(tmp_path / "none.py", CONFIG + ON_DEVICES.replace("DELAY", "None"))
    assert runtime_of(without, "--runtime", "Virtual") == ssp.Virtual(2, ssp.delays.Exponential())


def test_a_delay_is_replaced_by_another_kind(config, tmp_path):
    words = ["--runtime.delay", "Straggler", "--runtime.delay.base.seconds", "0.5"]
    straggler = ssp.delays.Straggler(ssp.delays.Constant(0.5))
    assert runtime_of(config, *words) == ssp.Virtual(4, straggler)
    rng = np.random.default_rng(0)
    for name, make in alternatives()["runtime.delay"].items():
        if name != "None":
            delay = runtime_of(config, "--runtime.delay", name).delay
            assert delay == make()
            mean = delay(worker=1, clock=0, steps=4000, rng=rng) / 4000
            assert mean == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("named", [["--runtime.recovery", "Recovery"], []])
def test_a_recovery_is_there_as_soon_as_a_field_of_it_is_given(named, config):
    words = ["--runtime", "Devices", *named, "--runtime.recovery.restarts", "5"]
    assert runtime_of(config, *words) == ssp.Devices(recovery=ssp.Recovery(restarts=5))


@pytest.mark.parametrize("kind", [ssp.Virtual, ssp.Devices])
def test_a_network_is_there_as_soon_as_a_field_of_it_is_given(kind, config):
    words = ["--runtime", kind.__name__, "--runtime.network.latency", "0.05"]
    found = runtime_of(config, *words, "--runtime.network.bandwidth", "1e6", "2e6")
    assert found.network == ssp.Network(latency=0.05, bandwidth=(1e6, 2e6))
    alone = runtime_of(config, *words, "--runtime.network.server-bandwidth", "1.25e8")
    assert alone.network == ssp.Network(latency=0.05, server_bandwidth=1.25e8)


def test_a_part_is_taken_away_by_its_name(tmp_path):
    full = """

def get_config() -> ssp.Experiment:
    return ssp.Experiment(
        runtime=ssp.Devices(delay=ssp.delays.Constant()),
        local_steps=ssp.DyLU(h=8),
        adopt=ssp.Mix(0.5),
        delta_wire=ssp.compression.Int8(),
    )
"""
    words = ["--runtime.delay", "None", "--local-steps", "2", "--adopt", "rebase"]
    words += ["--delta-wire", "None"]
    (experiment,), _ = parsed(written(tmp_path / "full.py", CONFIG + full), words)
    assert experiment == ssp.Experiment(runtime=ssp.Devices(), local_steps=2)


@pytest.mark.parametrize(
    ("part", "typo", "meant"),
    [
        ("policy", "KSynk", "KSync"),
        ("server-tx", "clip_outlier", "clip_outliers"),
        ("delta-wire", "int9", "Int8"),
        ("local-steps", "diloo", "DyLU"),
        ("adopt", "mixed", "Mix"),
        ("runtime", "Device", "Devices"),
        ("runtime.delay", "exponentail", "Exponential"),
    ],
)
def test_a_kind_that_is_none_is_a_usage_error_with_the_nearest_name(
    config, part, typo, meant, capsys
):
    assert jax_ssp("run", config, f"--{part}", typo) == USAGE
    assert f"got '{typo}'; did you mean {meant}?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "got"),
    [
        (["--policy", "--workdir", "q5"], "'--workdir'"),
        (["--policy"], "nothing"),
        (["--policy="], "nothing"),
    ],
)
def test_a_kind_that_is_missing_is_a_usage_error(config, words, got, capsys):
    assert jax_ssp("run", config, *words) == USAGE
    shown = capsys.readouterr().err
    assert "--policy needs a name after it, one of ASP, BackupWorkers, BSP" in shown
    assert f"; got {got}\n" in shown


def flags(experiment: dict, prefix: str = "--") -> list[str]:
    """The options that a description of an experiment should have."""
    found = []
    for name, value in experiment.items():
        flag = prefix + name.replace("_", "-")
        if isinstance(value, dict):
            found += flags(value, f"{flag}.")
        elif name not in ("type", "devices", "faults", "shardings", "batch_spec"):
            found.append(flag)
    return found


@pytest.mark.parametrize("file", sorted(EXPERIMENTS.glob("[a-z]*.py")), ids=lambda file: file.stem)
@pytest.mark.every(4)
def test_help_shows_every_field(file, capsys):
    assert jax_ssp("run", file, "--help") == DONE
    shown = capsys.readouterr().out
    module = sys.modules[f"config_{file.stem}"]
    first = module.get_sweep()[0] if hasattr(module, "get_sweep") else module.get_config()
    expected = [*flags(first.describe()), "--workdir", "--dry-run"]
    assert len(expected) > 15
    assert [flag for flag in expected if not re.search(f"{re.escape(flag)}[ ,]", shown)] == []
    assert module.__doc__.split("\n")[0] in shown


def test_help_of_the_commands(capsys):
    assert jax_ssp("--help") == DONE
    shown = capsys.readouterr().out
    assert all(command in shown for command in ("run", "replay", "verify", "devices"))
    assert jax_ssp("run", "--help") == DONE
    assert "run FILE --help" in capsys.readouterr().out


def test_the_version_is_told(capsys):
    assert jax_ssp("--version") == DONE
    shown = capsys.readouterr().out
    assert shown.startswith(f"jax-ssp {ssp.__version__} (jax {jax.__version__}, Python 3.")


def test_dry_run_shows_memory_and_time_and_trains_nothing(config, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jax_ssp.training.run.run", lambda *_, **__: pytest.fail("it trained"))
    assert jax_ssp("run", config, "--dry-run") == DONE
    shown = capsys.readouterr().out
    for column in ("device", "workers", "compile s", "clock ms", "params MB", "scratch MB"):
        assert column in shown
    assert os.listdir(tmp_path) == ["line.py"]


def test_the_clockwork_alone_leaves_a_folder_without_parameters(config, tmp_path):
    run = tmp_path / "run"
    assert jax_ssp("run", config, "--runtime.no-compute", "--workdir", run) == DONE
    assert not (run / "params").exists()
    assert jax_ssp("verify", run) == DONE
    assert jax_ssp("replay", run) == DONE


def test_a_loss_that_is_not_finite_ends_with_3(config, tmp_path, capsys):
    run = tmp_path / "run"
    assert jax_ssp("run", config, "--workload.mistake", "nan", "--workdir", run) == DIVERGED
    assert ": diverged" in capsys.readouterr().out
    assert ssp.read_run(run).status == "diverged"
    assert ssp.read_tape(run / "tape.jsonl.gz").complete
    assert jax_ssp("verify", run) == DONE


# --- what the user gets wrong -------------------------------------------------------------------

MISTAKES = {
    "a negative bound": (["--policy.bound", "-1"], "must be non-negative, got -1"),
    "no local steps": (["--local-steps", "0"], "local_steps=...)` must be at least 1, got 0"),
    "no workers": (["--runtime.num-workers", "0"], "must be at least 1, got 0"),
    "no clocks": (["--num-clocks", "0"], "num_clocks=...)` must be at least 1, got 0"),
    "no end": (["--num-clocks", "None"], "give `num_clocks`, `max_updates`, "),
    "no such field": (["--policy.bond", "5"], "--policy.bound"),
    "no number": (["--policy.bound", "many"], "invalid"),
    "not a weight": (["--weight", "nan"], '"samples", "tokens" or a finite number, got nan'),
    "not a target": (["--target", "distance"], "`target` must read like"),
    "no evaluation": (["--eval-every", "0"], "eval_every=...)` must be at least 1, got 0"),
    "an empty shard": (["--runtime.num-workers", "65"], "leaves worker 64 with 0 of the 64"),
    "a small shard": (["--workload.batch-size", "99"], "lower `batch_size` to at most 16"),
    "no delay": (["--runtime.delay", "None"], "`Virtual(delay=...)` must be a function"),
    "a vector for a loss": (["--workload.mistake", "vector"], "must return a scalar loss"),
}


@pytest.mark.parametrize(("words", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_ends_with_2_and_the_remedy(words, message, config, tmp_path, capsys):
    assert jax_ssp("run", config, *words, "--workdir", tmp_path / "run") == USAGE
    shown = capsys.readouterr().err
    unwrapped = " ".join(shown.replace("│", " ").split())  # tyro draws a box around its messages
    assert message in unwrapped
    assert "Traceback" not in shown
    assert not (tmp_path / "run").exists()  # so the same command can be tried again


FILES = {
    "no get_config": ("x = 3\n", "has no `get_config()`"),
    "a syntax error": ("def get_config(:\n", "SyntaxError"),
    "a missing module": ("import no_such_module\n", "No module named 'no_such_module'"),
    "not an Experiment": ("def get_config():\n    return 3\n", "must give a jax_ssp.Experiment"),
    "an empty sweep": ("def get_sweep():\n    return []\n", "gives no experiments"),
    "no workload": (
        "import jax_ssp\ndef get_config():\n    return jax_ssp.Experiment(num_clocks=1)\n",
        "`Experiment(workload=...)` is missing",
    ),
    "a bad value": (
        "import jax_ssp\ndef get_config():\n"
        "    return jax_ssp.Experiment(policy=jax_ssp.SSP(-2), num_clocks=1)\n",
        "must be non-negative, got -2",
    ),
}


@pytest.mark.parametrize(("text", "message"), FILES.values(), ids=FILES)
def test_a_file_that_is_no_config_ends_with_2(text, message, tmp_path, capsys):
    assert jax_ssp("run", written(tmp_path / "wrong.py", text)) == USAGE
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


def test_a_missing_file_ends_with_2(tmp_path, capsys):
    assert jax_ssp("run", tmp_path / "missing.py") == USAGE
    assert f"there is no config file {tmp_path / 'missing.py'}" in capsys.readouterr().err


def test_more_devices_than_there_are_ends_with_2(tmp_path, capsys):
    file = written(tmp_path / "line.py", CONFIG + ON_DEVICES.replace("DELAY", "None"))
    assert len(jax.devices()) == 4  # and JAX having started, it cannot be split anew
    nine = ("--runtime.num-workers", "9", "--runtime.cpu-devices", "9", "--num-clocks", "1")
    assert jax_ssp("run", file, *nine) == USAGE
    assert (
        "`Devices(cpu_devices=9)` comes too late: JAX has started with 4" in capsys.readouterr().err
    )


def test_a_folder_with_a_run_in_it_is_not_written_to(config, run, capsys):
    before = (run / "summary.json").read_bytes()
    assert jax_ssp("run", config, "--workdir", run) == USAGE
    assert f"{run} holds a run already" in capsys.readouterr().err
    assert (run / "summary.json").read_bytes() == before


def test_without_scikit_learn_the_digits_say_how_to_get_it(monkeypatch, capsys):
    assert jax_ssp("run", EXPERIMENTS / "digits_ssp.py", "--help") == DONE  # loads the workload
    digits = sys.modules["experiments.workloads.digits"]
    digits.load_digits.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn", None)
    # A width that no other test uses: tasks are kept.
    arguments = ("run", EXPERIMENTS / "digits_ssp.py", "--dry-run", "--workload.width", "3")
    capsys.readouterr()
    assert jax_ssp(*arguments) == USAGE
    shown = capsys.readouterr().err
    assert "pip install 'jax_ssp[experiments]'" in shown
    assert "Traceback" not in shown


def test_a_bug_of_the_users_keeps_its_traceback(config, tmp_path):
    with pytest.raises(NameError, match="undefined_name"):
        main(["run", str(config), "--workload.mistake", "bug", "--workdir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_a_bug_in_the_evaluation_is_found_before_the_run(config, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(RuntimeError, match="no evaluation at all"):
        main(["run", str(config), "--workload.mistake", "first evaluation", "--workdir", str(run)])
    assert not run.exists()
    assert jax_ssp("run", config, "--target", "nothing <= 1", "--workdir", run) == USAGE
    assert not run.exists()


def test_a_bug_in_the_evaluation_leaves_what_there_is(config, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(RuntimeError, match="no evaluation today"):
        main(["run", str(config), "--workload.mistake", "evaluation", "--workdir", str(run)])
    tape = ssp.read_tape(run / "tape.jsonl.gz")
    assert not tape.complete
    assert ssp.check_contract(tape).merged == 20


@pytest.mark.slow
def test_a_bug_ends_a_process_with_1_and_says_where_it_is_and_where_its_traceback(config, tmp_path):
    words = ("run", config, "--workload.mistake", "bug", "--workdir", tmp_path / "run")
    process = fresh_process(*words)
    _, shown = process.communicate(timeout=300)
    assert process.returncode == BUG
    assert "Traceback" not in shown
    assert "error: NameError: name 'undefined_name' is not defined\n" in shown
    line = CONFIG.splitlines().index("                undefined_name  # noqa: B018") + 1
    assert f"  at {config}:{line} in loss_fn\n" in shown
    (file,) = re.findall("the whole traceback is in (.*)", shown)
    assert "in loss_fn\n" in Path(file).read_text()
    Path(file).unlink()
    assert not (tmp_path / "run").exists()


def test_a_config_file_whose_name_cannot_be_ends_a_replay_with_2(config, tmp_path, capsys):
    run = tmp_path / "run"
    assert jax_ssp("run", config, "--num-clocks", "2", "--workdir", run) == DONE
    about = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**about, "file": "a" * 5000}))
    assert jax_ssp("replay", run) == USAGE
    assert "File name too long" in capsys.readouterr().err


def test_a_mistake_ends_a_process_with_2_and_no_traceback(tmp_path):
    process = fresh_process("run", tmp_path / "missing.py")
    _, shown = process.communicate(timeout=300)
    assert process.returncode == USAGE
    assert shown.startswith("error: there is no config file")
    assert "Traceback" not in shown


def test_the_command_is_installed():
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="jax-ssp")
    assert entry.load() is main


def test_devices(capsys):
    assert jax_ssp("devices") == DONE
    shown = capsys.readouterr().out
    assert f"jax {jax.__version__}: 4 devices" in shown
    assert shown.count("cpu") >= 4


# --- verify -------------------------------------------------------------------------------------


def test_verify_prints_the_report(finished, capsys):
    for path in (finished, finished / "tape.jsonl.gz"):
        assert jax_ssp("verify", path) == DONE
        shown = capsys.readouterr().out
        assert "contract kept: 80 reads checked, bound 3 clocks" in shown
        assert "complete" in shown


def test_an_output_that_nobody_reads_any_more_is_no_bug(finished):
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-c", COMMAND, "verify", str(finished)]
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (UNREAD, "")


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


# --- replay -------------------------------------------------------------------------------------


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


# --- sweeps -------------------------------------------------------------------------------------


def test_a_sweep_is_run_compared_and_each_member_can_be_replayed(tmp_path, capsys, comparisons):
    file = written(tmp_path / "sweep.py", CONFIG + SWEEP)
    folder = tmp_path / "sweep"
    assert jax_ssp("run", file, "--workdir", folder, "--num-clocks", "4", "--jobs", "1") == DONE
    shown = capsys.readouterr().out
    assert "[4/4] SSP(1), seed 1" in shown

    members = sorted(path.name for path in folder.iterdir() if path.is_dir())
    assert members == ["00-BSP-seed0", "01-BSP-seed1", "02-SSP(1)-seed0", "03-SSP(1)-seed1"]
    comparison = json.loads((folder / "comparison.json").read_text())
    assert [row["name"] for row in comparison["rows"]] == ["SSP(1)", "BSP"]  # the best first
    assert [row["runs"] for row in comparison["rows"]] == [2, 2]
    assert [run["summary"]["updates"] for run in comparison["runs"]] == [16] * 4
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert "| SSP(1) |" in (folder / "comparison.md").read_text()

    for member in ("01-BSP-seed1", "02-SSP(1)-seed0"):
        assert jax_ssp("verify", folder / member) == DONE
        assert jax_ssp("replay", folder / member) == DONE
        assert "the same to the last bit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        (["--seed", "5"], "0 ('BSP', seed 5) and 1 ('BSP', seed 5)"),
        (["--policy", "BSP"], "0 ('BSP', seed 0) and 2 ('SSP(1)', seed 0)"),
    ],
)
def test_overrides_that_make_runs_of_a_sweep_the_same_end_with_2(words, runs, tmp_path, capsys):
    file = written(tmp_path / "sweep.py", CONFIG + SWEEP)
    assert jax_ssp("run", file, "--workdir", tmp_path / "sweep", *words) == USAGE
    shown = capsys.readouterr().err
    assert f"with these overrides runs {runs} are the same experiment" in shown
    assert "edit the file" in shown
    assert not (tmp_path / "sweep").exists()


def test_overrides_leave_runs_be_that_the_file_has_twice(tmp_path):
    twice = """

def get_sweep() -> list[ssp.Experiment]:
    return [ssp.Experiment(name=name, num_clocks=5) for name in ("one", "other")]
"""
    experiments, _ = parsed(written(tmp_path / "sweep.py", CONFIG + twice), ["--seed", "5"])
    assert [(each.name, each.seed) for each in experiments] == [("one", 5), ("other", 5)]


def test_a_name_with_a_slash_still_names_one_folder(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--num-clocks", "2", "--runtime.no-compute"]
    assert jax_ssp("run", config, *words, "--name", "line, 1/tau") == DONE
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("line, 1_tau-20")
    assert jax_ssp("replay", folder) == DONE

    file = written(tmp_path / "sweep.py", CONFIG + SWEEP.replace("name=name", "name='1/' + name"))
    assert jax_ssp("run", file, *words, "--workdir", "sweep", "--jobs", "1") == DONE
    members = sorted(path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir())
    assert members == ["00-1_BSP-seed0", "01-1_BSP-seed1", "02-1_SSP(1)-seed0", "03-1_SSP(1)-seed1"]


def test_a_run_that_diverges_does_not_spoil_the_comparison(tmp_path, capsys, comparisons):
    """Its evaluations are not finite, of which neither JSON nor a figure can show anything."""
    two = """

def get_sweep() -> list[ssp.Experiment]:
    runtime = ssp.Virtual(num_workers=2)
    return [
        ssp.Experiment(
            name=name, workload=Line(scale=scale), runtime=runtime, num_clocks=5, eval_every=1
        )
        for name, scale in {"good": 1.0, "wild": 1e30}.items()
    ]
"""
    folder = tmp_path / "sweep"
    file = written(tmp_path / "sweep.py", CONFIG + two)
    assert jax_ssp("run", file, "--workdir", folder, "--jobs", "1") == DONE
    assert "diverged" in capsys.readouterr().out
    text = (folder / "comparison.json").read_text()
    comparison = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    good, wild = comparison["rows"]
    assert good["distance"] < 3
    assert wild["distance"] is None
    assert (folder / "comparison.png").exists()


def test_of_a_sweep_one_run_is_verified_or_replayed(tmp_path, run, capsys):
    for command in ("verify", "replay"):
        assert jax_ssp(command, tmp_path) == USAGE
        assert f"it holds a sweep, give one, such as {run}" in capsys.readouterr().err
        assert jax_ssp(command, tmp_path / "nothing") == USAGE
        assert "is not a run's folder" in capsys.readouterr().err


# --- signals ------------------------------------------------------------------------------------


def wait_for(process: subprocess.Popen, beginning: str) -> None:
    """Wait until a process says this."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith(beginning):
            return
    pytest.fail("".join(lines))


@pytest.fixture
def endless(tmp_path):
    """Starts the process of a run on devices that does not end by itself."""
    processes: list[subprocess.Popen] = []

    def start(delay: str = "None", first: str = MINDS) -> subprocess.Popen:
        file = written(tmp_path / "line.py", CONFIG + ON_DEVICES.replace("DELAY", delay))
        arguments = ("run", file, "--workdir", tmp_path / "run")
        processes.append(fresh_process(*arguments, command=first + FLUSHING + COMMAND))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_an_interrupted_run_ends_whole_with_130(number, endless, tmp_path, capsys):
    process = endless()
    for _ in range(5):
        wait_for(process, "eval at update")
    process.send_signal(number)
    shown, _ = process.communicate(timeout=300)
    assert process.returncode == INTERRUPTED
    assert ": interrupted" in shown
    run = tmp_path / "run"
    assert ssp.read_run(run).status == "interrupted"
    assert ssp.read_tape(run / "tape.jsonl.gz").complete

    assert jax_ssp("verify", run) == DONE
    proof = capsys.readouterr().out
    assert ", 0 dropped\n" in proof
    assert "tape:      complete" in proof
    assert jax_ssp("replay", run) == DONE
    assert "the same to the last bit" in capsys.readouterr().out


@pytest.mark.slow
def test_the_tape_of_a_killed_run_can_be_read_up_to_there(endless, tmp_path, capsys):
    process = endless()
    for _ in range(5):
        wait_for(process, "eval at update")
    process.kill()  # which leaves no time for anything
    process.wait(timeout=300)
    run = tmp_path / "run"
    tape = ssp.read_tape(run / "tape.jsonl.gz")
    assert not tape.complete
    assert len(tape) >= 4
    assert jax_ssp("verify", run) == DONE
    assert "breaks off" in capsys.readouterr().out
    assert jax_ssp("replay", run) == DONE


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("first", [MINDS, IGNORES], ids=["minds", "ignores"])
def test_a_second_interrupt_ends_at_once(number, first, endless, tmp_path):
    """From the second on, clocks hang for ten minutes: nobody waits for them twice."""
    hang = "__import__('time').sleep(600 * (clock > 0)) or 0.0"  # no interrupt cuts that short
    process = endless(delay=f"lambda worker, clock, steps, rng: {hang}", first=first)
    wait_for(process, "eval at update 2")
    process.send_signal(number)
    wait_for(process, "interrupted: finishing the clocks under way")
    process.send_signal(number)
    process.wait(timeout=300)
    assert process.returncode == INTERRUPTED
    assert not ssp.read_tape(tmp_path / "run" / "tape.jsonl.gz").complete
