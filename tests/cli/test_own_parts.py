"""Parts of the user's own by name on the command line, and what repeats a run of them."""

import json
import re
import sys

import pytest

import jax_ssp as ssp
from jax_ssp.cli.exits import DONE, USAGE
from jax_ssp.training.own_parts import own_parts
from tests.helpers.command_line import as_it_was, jax_ssp

__all__ = ["as_it_was"]  # a fixture, for every test here

CONFIG = '''
"""Parts of its own."""

from dataclasses import dataclass

import jax_ssp as ssp
import optax


@dataclass(frozen=True)
class InConfig(ssp.SSP):
    """Of the config file."""


PATIENT = ssp.SSP(9)


def shrink(rate: float = 0.5) -> optax.GradientTransformation:
    """Shrinks."""
    return optax.scale(rate)


def get_config():
    runtime = ssp.Virtual(num_workers=3, compute=False)
    return ssp.Experiment(runtime=runtime, num_clocks=2)
'''
PARTS = '''
from dataclasses import dataclass, field

import jax_ssp as ssp
import optax
from jax_ssp import faults
from jax_ssp.compression import Int8
from jax_ssp.runtimes.runtime import Runtime


@dataclass(frozen=True)
class Needs(ssp.Policy):
    """Its field has no default."""

    size: int
    """How many (deltas)."""
    seen: list = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self):
        assert self.size > 0


@dataclass(frozen=True)
class Every(ssp.LocalSteps):
    h: int = 2

    def at(self, clock):
        return self.h


@dataclass(frozen=True)
class Lag:
    mean: float = 2.0

    def __call__(self, worker, clock, steps, rng):
        return self.mean * steps


def steady(worker, clock, steps, rng):
    return 4.0


class Coarse(Int8):
    pass


class Blend(ssp.Mix):
    pass


@dataclass(frozen=True)
class World(ssp.Virtual):
    num_workers: int = 2
    compute: bool = False


def scaled(rate: float, power: int = 1) -> optax.GradientTransformation:
    """Scales."""
    return optax.scale(rate**power)


def unsaid(rate=1.0):
    raise AssertionError("it was called")


@dataclass(eq=False)
class Enough(ssp.Observer):
    most: int

    def on_clock(self, row):
        if row["updates"] >= self.most:
            self.stop("enough")


class Outer:
    Inner = Every


@dataclass(frozen=True)
class Storm(faults.Schedule):
    """One worker after the other is slow."""

    seconds: float = 5.0

    def drawn(self, num_workers):
        return [faults.Slow(each, 0, seconds=self.seconds) for each in range(num_workers)]


WEAK = Storm(seconds=2.0)
'''


@pytest.fixture
def config(tmp_path, monkeypatch):
    (tmp_path / "conf.py").write_text(CONFIG)
    (tmp_path / "own_parts_here.py").write_text(PARTS)
    (tmp_path / "broken_here.py").write_text("\nimport not_there_at_all\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "conf.py"
    sys.modules.pop("own_parts_here", None)


def ran(config, *words):
    """The `config.json` of a run with these words."""
    folder = config.parent / "run"
    assert jax_ssp("run", config, *words, "--workdir", folder) == DONE
    return json.loads((folder / "config.json").read_text())


NAMED = {
    "policy": (["--policy", "own_parts_here:Needs", "--policy.size", "2"], "Needs", {"size": 2}),
    "policy, of a file": (["--policy=own_parts_here.py:Needs", "--policy.size=3"], "Needs", {}),
    "policy, of the config": (["--policy", "InConfig", "--policy.bound", "1"], "InConfig", {}),
    "local_steps": (["--local-steps", "own_parts_here:Every", "--local-steps.h", "5"], "Every", {}),
    "local_steps, inner": (["--local-steps", "own_parts_here:Outer.Inner"], "Every", {"h": 2}),
    "delta_tx": (["--delta-tx", "own_parts_here:scaled", "--delta-tx.rate", "2"], "scaled", {}),
    "server_tx, of the config": (["--server-tx", "shrink"], "shrink", {"rate": 0.5}),
    "delta_wire": (["--delta-wire", "own_parts_here:Coarse"], "Coarse", {}),
    "snapshot_wire": (["--snapshot-wire", "own_parts_here:Coarse"], "Coarse", {}),
    "adopt": (["--adopt", "own_parts_here:Blend", "--adopt.alpha", "0.25"], "Blend", {}),
    "runtime": (["--runtime", "own_parts_here:World"], "World", {"num_workers": 2}),
}


@pytest.mark.parametrize(("words", "kind", "fields"), NAMED.values(), ids=NAMED)
@pytest.mark.every(3)
def test_a_part_of_ones_own_is_named_and_overridden(config, words, kind, fields, request):
    part = request.node.callspec.id.split(",")[0]
    said = ran(config, *words)
    recorded = said["experiment"][part]
    assert recorded["type"] == kind
    assert fields.items() <= recorded.items()
    about = said["parts"][part]
    assert about["name"].endswith(f":{kind}")
    assert about["file"].endswith(("conf.py", "own_parts_here.py"))
    assert len(about["sha256"]) == 64


@pytest.mark.parametrize(("name", "seconds"), [("Lag", 2.0), ("steady", 4.0)])
def test_a_delay_model_of_ones_own_is_named(config, name, seconds):
    said = ran(config, "--runtime.delay", f"own_parts_here:{name}")
    assert said["parts"]["runtime.delay"]["name"] == f"own_parts_here:{name}"
    summary = json.loads((config.parent / "run" / "summary.json").read_text())
    assert summary["seconds"] == 2 * seconds


def test_a_hook_of_ones_own_is_named(config):
    said = ran(config, "--hooks", "own_parts_here:Enough", "--hooks.0.most", "3")
    assert said["experiment"]["hooks"] == [{"type": "Enough", "most": 3}]
    assert said["parts"].keys() == {"hooks.0"}
    summary = json.loads((config.parent / "run" / "summary.json").read_text())
    assert (summary["status"], summary["reason"]) == ("early", "enough")
    assert jax_ssp("replay", config.parent / "run") == DONE


@pytest.mark.parametrize(
    ("words", "seconds", "told"),
    [
        (["own_parts_here:Storm"], 7.0, ["Storm(seconds=5.0)"]),
        (["own_parts_here:WEAK", "slow:1:1:seconds=1"], 5.0, ["Storm(seconds=2.0)", "slow:1:1"]),
        (["slow:0:1:seconds=4"], 6.0, ["slow:0:1:seconds=4"]),
    ],
)
def test_faults_of_ones_own_are_named_beside_those_in_words(config, words, seconds, told):
    said = ran(config, "--runtime.faults", *words)
    run = ssp.read_run(config.parent / "run")
    assert run.summary["seconds"] == seconds
    assert len(run.tape.header["faults"]) == len(words)
    for found, each in zip(run.tape.header["faults"], told, strict=True):
        assert found.startswith(each)
    own = {"runtime.faults.0"} if words[0].startswith("own") else set()
    assert said["parts"].keys() == own
    sys.modules.pop("own_parts_here", None)
    assert jax_ssp("replay", config.parent / "run") == DONE


def test_what_is_no_fault_of_ones_own_is_said_with_what_is_near(config, capsys):
    for name, words in (
        ("own_parts_here:Strom", "did you mean Storm?"),
        ("own_parts_here:Lag", "must be a class with the base jax_ssp.faults.Fault"),
        ("nowhere:Storm", "there is no module nowhere"),
    ):
        assert jax_ssp("run", config, "--runtime.faults", "slow:0:0", name) == USAGE
        assert words in capsys.readouterr().err


def test_a_value_will_do_and_so_will_what_is_installed(config):
    said = ran(config, "--policy", "PATIENT", "--delta-tx", "optax:scale", "--delta-tx.step-size=2")
    assert said["experiment"]["policy"]["bound"] == 9
    assert said["experiment"]["delta_tx"]["step_size"] == 2
    assert said["parts"] == {}


def test_help_shows_the_fields_of_what_is_named(config, capsys):
    named = ["--policy", "own_parts_here:Needs", "--server-tx", "own_parts_here:scaled"]
    assert jax_ssp("run", config, *named, "--help") == DONE
    shown = capsys.readouterr().out
    for words in ("--policy.size INT", "How many (deltas).", "--server-tx.power INT", "required"):
        assert words in shown
    assert jax_ssp("run", config, "--policy", "own_parts_here:Needs") == USAGE
    assert "--policy.size" in capsys.readouterr().err


WRONG = {
    "own_parts_her:Needs": "there is no module own_parts_her in .*; did you mean own_parts_here",
    "own_parts_here:Neds": r"own_parts_here\.py has no Neds; did you mean Needs\?",
    "own_parts_here:Outer.In": r"Outer'> has no In|has no In",
    "own_parts_here.more:Needs": "there is no module more in own_parts_here",
    "own_parts_hare.py:Needs": "there is no file own_parts_hare.py; did you mean own_parts_here.py",
    "own_parts_here:steady": "must be a class with the base jax_ssp.Policy.* the function steady",
    "own_parts_here:": "is named `module:Name` or `folder/file.py:Name`",
    ":Needs": "is named `module:Name` or `folder/file.py:Name`",
    "a-b:Needs": "a-b is neither a module's name nor a file's",
    "InConfg": r"one of InConfig, PATIENT, ASP.*module:Name.* did you mean InConfig\?",
    "broken_here:Needs": "(?s)broken_here.py cannot be read: ModuleNotFoundError: No module named "
    r"'not_there_at_all'\n  at .*broken_here.py:2",
    "broken_here.py:Needs": r"(?s)No module named 'not_there_at_all'\n  at .*broken_here.py:2",
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_found_is_said_with_what_is_near(config, name, capsys):
    assert jax_ssp("run", config, "--policy", name) == USAGE
    said = capsys.readouterr().err
    assert re.search(WRONG[name], said), said
    assert not (config.parent / "runs").exists()


def test_a_function_that_does_not_say_what_it_returns_is_not_called(config, capsys):
    for name in ("own_parts_here:unsaid", "os:system", "own_parts_here:Needs"):
        assert jax_ssp("run", config, "--server-tx", name) == USAGE
        assert "must be a function that says it returns an optax transform" in (
            capsys.readouterr().err
        )


# --- repeated -----------------------------------------------------------------------------------


def test_a_run_of_named_parts_repeats_from_another_folder(config, tmp_path_factory, monkeypatch):
    ran(config, "--policy", "own_parts_here:Needs", "--policy.size", "2")
    sys.modules.pop("own_parts_here")
    sys.path[:] = [each for each in sys.path if each != str(config.parent)]
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert jax_ssp("replay", config.parent / "run") == DONE


def test_a_part_that_has_changed_since_is_not_executed(config, capsys):
    ran(config, "--policy", "own_parts_here:Needs", "--policy.size", "2")
    with (config.parent / "own_parts_here.py").open("a") as file:
        file.write("\nraise AssertionError('executed')\n")
    sys.modules.pop("own_parts_here")
    assert jax_ssp("replay", config.parent / "run") == USAGE
    assert "of a part that the run names, has changed since the run" in capsys.readouterr().err


def test_a_folder_brings_no_parts_of_its_own(config, capsys, monkeypatch):
    said, folder = ran(config), config.parent / "run"
    (folder / "evil_here.py").write_text("raise AssertionError('executed')\n")
    monkeypatch.chdir(folder)
    for name in ("evil_here:Mine", f"{folder / 'evil_here.py'}:Mine", "os:system"):
        said["overrides"] = ["--server-tx", name]
        (folder / "config.json").write_text(json.dumps(said))
        assert jax_ssp("replay", folder) == USAGE
        shown = capsys.readouterr().err
        assert any(
            words in shown
            for words in ("in the run's own folder", "there is no module", "it must be a function")
        )


@pytest.mark.parametrize(
    "parts", [[], {"policy": 3}, {"policy": {"file": 3, "sha256": "x"}}, {"policy": {"file": "x"}}]
)
def test_a_damaged_record_of_parts_is_a_usage_error(config, parts, capsys):
    said, folder = ran(config), config.parent / "run"
    (folder / "config.json").write_text(json.dumps({**said, "parts": parts}))
    assert jax_ssp("replay", folder) == USAGE
    assert "config.json" in capsys.readouterr().err


def test_parts_of_a_part_are_recorded_too(config):
    ran(config)  # so that the module is there
    sys.path.append(str(config.parent))
    from own_parts_here import Lag

    plan = ssp.Experiment(runtime=ssp.Virtual(delay=ssp.delays.Straggler(base=Lag())))
    assert own_parts(plan).keys() == {"runtime.delay.base"}
