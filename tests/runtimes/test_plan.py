"""A plan says what a run is: its fields are checked, described, on the tape, and compared."""

import inspect
import json
from dataclasses import dataclass, fields, replace

import jax
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp.cli.exits import DONE, USAGE
from jax_ssp.runtimes.plan import Plan, plan_field
from jax_ssp.training.run import run
from tests.helpers.command_line import jax_ssp

CLOCKWORK = ssp.Virtual(num_workers=2, compute=False)
PLAN = Plan(runtime=CLOCKWORK, num_clocks=3)


@dataclass(frozen=True)
class Dated(Plan):
    """A plan with one more field."""

    day: int = 0
    """Of the month."""


# What a replay compares is what decides the numbers, and only that.
NOT_COMPARED = {
    *("name", "runtime", "placement", "server_tx", "delta_tx", "target", "workload"),
    *("eval_every", "eval_waits", "evaluate_on", "hooks", "checkpoint", "max_nonfinite"),
}


@pytest.mark.parametrize("plan", [PLAN, ssp.Experiment(runtime=CLOCKWORK, num_clocks=3)])
def test_the_tape_has_the_fields_that_decide_the_numbers(plan):
    header = run(plan, ssp.Task()).tape.header
    names = {each.name for each in fields(plan)}
    assert set(plan.describe()) == names
    assert set(plan.identity()) == names - NOT_COMPARED
    assert header["experiment"] == {**plan.identity(), "num_workers": 2}


def test_a_field_of_a_subclass_is_described_written_down_and_compared():
    plan = Dated(runtime=CLOCKWORK, num_clocks=3, day=4)
    assert plan.describe()["day"] == 4
    recorded = run(plan, ssp.Task()).tape
    assert recorded.header["experiment"]["day"] == 4
    replayed = replace(plan, runtime=ssp.Replay(recorded))
    assert list(run(replayed, ssp.Task()).tape) == list(recorded)
    with pytest.raises(ssp.TapeMismatch, match=r"differ in day: recorded 4, here 5"):
        run(replace(replayed, day=5), ssp.Task())


CONFIG = '''"""A study by days."""

from dataclasses import dataclass

import jax_ssp as ssp


@dataclass(frozen=True)
class Dated(ssp.Experiment):
    """An experiment with one more field."""

    day: int = 4
    """Of the month."""


def get_config():
    return Dated(runtime=ssp.Virtual(num_workers=2, compute=False), num_clocks=3)
'''


def test_a_field_of_an_experiment_in_a_config_file_is_on_the_command_line_too(tmp_path, capsys):
    config, folder = tmp_path / "dated.py", tmp_path / "run"
    config.write_text(CONFIG)
    assert jax_ssp("run", config, "--help") == DONE
    shown = capsys.readouterr().out
    assert "--day INT" in shown
    assert "Of the month." in shown
    assert "H, optimizer steps a clock" in shown  # those of the classes it comes from, as ever
    assert jax_ssp("run", config, "--day", "7", "--workdir", folder) == DONE
    assert json.loads((folder / "config.json").read_text())["experiment"]["day"] == 7
    assert ssp.read_tape(folder / "tape.jsonl.gz").header["experiment"]["day"] == 7
    assert jax_ssp("replay", folder) == DONE
    config.write_text(CONFIG.replace("4", "5"))
    capsys.readouterr()
    assert jax_ssp("run", config, "--day", "x", "--workdir", folder) == USAGE


def test_a_field_keeps_its_rule_where_a_subclass_gives_it_another_default():
    @dataclass(frozen=True)
    class Long(ssp.Experiment):
        num_clocks: int = 1000
        name: str = "long"

    with pytest.raises(ValueError, match=r"`Long\(num_clocks=...\)` must be at least 1, got 0"):
        Long(num_clocks=0).check()
    assert "name" not in Long().identity()
    assert Long().identity()["num_clocks"] == 1000


def test_a_field_may_bring_a_rule():
    @dataclass(frozen=True)
    class Ruled(Plan):
        day: int = plan_field(1, ssp_day, identity=False)

    assert "day" not in Ruled().identity()
    with pytest.raises(ValueError, match="`day` must be a day, got 40"):
        Ruled(day=40, num_clocks=1).check()


def ssp_day(field, value):
    if not 1 <= value <= 31:
        raise ValueError(f"`{field}` must be a day, got {value}")
    return value


def test_a_field_cannot_have_the_name_of_what_is_computed():
    @dataclass(frozen=True)
    class Stepped(Plan):
        step: int = 0

    with pytest.raises(ValueError, match="`step` cannot be the name of a field: on the tape"):
        run(Stepped(runtime=CLOCKWORK, num_clocks=1), ssp.Task())


def test_train_takes_every_field_with_the_same_default():
    arguments = inspect.signature(ssp.train).parameters
    parts = {"step", "params", "data", "evaluate", "observers", "resume", "progress"}
    assert arguments.keys() == parts | {each.name for each in fields(Plan)}
    for each in fields(Plan):
        default = arguments[each.name].default
        assert default == each.default or (default is None and each.name in ("policy", "runtime"))


def test_values_are_as_python_has_them_and_one_number_of_steps_is_written_as_it_is():
    plan = Plan(num_clocks=np.int64(3), weight=np.float32(0.5), local_steps=ssp.Fixed(4)).checked()
    facts = json.loads(json.dumps(plan.identity()))
    assert (facts["num_clocks"], facts["weight"], facts["local_steps"]) == (3, 0.5, 4)
    assert facts["policy"] == {"type": "SSP", "bound": 3, "adopt": "eager"}
    assert facts["snapshot_wire"] is None


MISTAKES = {
    "seed": ({"seed": -1}, ValueError, r"`{seed}` must be non-negative, got -1"),
    "policy": ({"policy": 3}, TypeError, r"`{policy}` must be a Policy such as .*, got 3"),
    "runtime": ({"runtime": None}, TypeError, r"`{runtime}` must be a Runtime"),
    "overlap": ({"overlap": 2}, ValueError, r"`overlap` must be between 0 and `local_steps`"),
    "ends": ({"num_clocks": None}, ValueError, r"give `num_clocks`, `max_updates`, "),
    "wire": (
        {"snapshot_wire": ssp.compression.RandK(0.5)},
        ValueError,
        r"`snapshot_wire=RandK.*` is right in the mean over many messages only",
    ),
}


@pytest.mark.parametrize(("given", "kind", "message"), MISTAKES.values(), ids=MISTAKES)
@pytest.mark.parametrize("made", [Plan, ssp.Experiment])
def test_what_is_wrong_is_said_by_its_field(made, given, kind, message):
    (name,) = given
    called = name if made is Plan else rf"Experiment\({name}=...\)"
    with pytest.raises(kind, match=message.replace("{" + name + "}", called)):
        made(**{"num_clocks": 3, **given}).check()


def test_a_task_says_what_is_wrong_with_its_parts():
    with pytest.raises(TypeError, match="`step` must be callable and have an `init"):
        ssp.Task(step=len).check()
    with pytest.raises(TypeError, match="`data`"):
        ssp.Task(data=3).check()
    step = ssp.make_step(lambda params, batch, key: (params * batch, {}), optax.sgd(0.1))
    plan = Plan(runtime=ssp.Virtual(num_workers=1), num_clocks=1)
    with pytest.raises(ValueError, match=r"`train\(data=...\)` is missing"):
        run(plan, ssp.Task(step, params=jax.numpy.ones(())))
    with pytest.raises(ValueError, match="`eval_every` and `target` need `evaluate`"):
        run(replace(plan, eval_every=1), ssp.Task())
