"""A folder that holds a run: who may go on with it, and what becomes of its files."""

import dataclasses
import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import jax_ssp as ssp
from jax_ssp.checkpoint.agreement import raised, settings_of
from jax_ssp.checkpoint.leavings import Leavings, Written
from jax_ssp.checkpoint.metrics import MetricsWriter, read_metrics
from jax_ssp.checkpoint.position import START, cut_back, rows_up_to
from jax_ssp.controller.tape_file import TapeWriter, read_tape
from jax_ssp.files import FolderLock, write_json
from jax_ssp.runtimes.plan import Plan
from tests.checkpoint.test_metrics import clock_row, eval_row, scalars
from tests.helpers.problems import bits, linear

SPEC = {"runtime": ssp.Virtual(2, ssp.delays.Exponential(1.0)), "num_clocks": 4}
PLAN = Plan(policy=ssp.SSP(bound=1), **SPEC)


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """What a run leaves that is killed just before its end: no summary, and a torn tape."""
    folder = tmp_path_factory.mktemp("left") / "run"
    with ssp.RunFolder(folder) as run:
        ssp.train(**linear(policy=PLAN.policy, **SPEC), observers=[run])
    for each in ("summary.json", "summary.png", "params_manifest.json"):
        (folder / each).unlink(missing_ok=True)
    tape = folder / "tape.jsonl.gz"
    tape.write_bytes(tape.read_bytes()[:-40])
    return folder


@pytest.fixture
def folder(left, tmp_path):
    return shutil.copytree(left, tmp_path / "run")


def asked(folder, plan=PLAN, resume="auto"):
    with ssp.RunFolder(folder) as run:
        return run.prepare(settings_of(plan.checked()), resume)


# --- who may go on ------------------------------------------------------------------------------


def test_a_run_that_was_killed_is_found_up_to_where_its_tape_breaks_off(folder):
    past = asked(folder)
    assert (past.status, past.resumes, past.path) == ("unfinished", 0, folder)
    assert 0 < len(past.tape) == len(read_tape(folder / "tape.jsonl.gz"))
    assert asked(folder, resume="must") is not None
    with pytest.raises(ValueError, match=r"holds a run already; give another `RunFolder"):
        asked(folder, resume="never")


def test_there_must_be_a_run_where_one_must_be_gone_on_with(tmp_path):
    assert asked(tmp_path / "none") is None
    assert asked(tmp_path / "none", resume="never") is None
    with pytest.raises(ValueError, match='holds no run to go on with, and `resume` is "must"'):
        asked(tmp_path / "none", resume="must")
    with pytest.raises(ValueError, match=r"`resume=\"must\"` needs the folder of a run"):
        ssp.train(**linear(**SPEC), resume="must")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"policy": ssp.SSP(bound=2)}, "`policy.bound` is 1 there, and 2 here"),
        ({"policy": ssp.BSP()}, "`policy.type` is 'SSP' there, and 'BSP' here"),
        ({"seed": 5}, "`seed` is 0 there, and 5 here"),
        ({"weight": "sum"}, "`weight` is 'mean' there, and 'sum' here"),
        ({"runtime": ssp.Devices(num_workers=2)}, "`time` is 'virtual' there, and 'wall' here"),
        ({"runtime": ssp.Virtual(2, seed=3)}, "`runtime.delay.type` is"),
    ],
)
def test_another_experiment_is_refused_by_the_difference(folder, changed, named):
    with pytest.raises(ValueError, match="holds a run of another experiment: ") as caught:
        asked(folder, dataclasses.replace(PLAN, **changed))
    assert named in str(caught.value)


def test_a_refusal_names_what_the_user_has_given(folder):
    with pytest.raises(ValueError, match=r"or give another `RunFolder\(path\)`\.$"):
        asked(folder, dataclasses.replace(PLAN, seed=5))
    spec = linear(policy=PLAN.policy, **SPEC)
    for refused in ({"resume": "never"}, {"seed": 5}, {"num_clocks": 3}):
        with pytest.raises(ValueError, match=r"give another `Checkpoints\(folder=") as said:
            ssp.train(**{**spec, **refused}, checkpoint=ssp.Checkpoints(folder))
        assert "--workdir" not in str(said.value)
        assert "RunFolder" not in str(said.value)
    held = FolderLock(folder)
    with pytest.raises(ValueError, match=r"in use by .* or give another `Checkpoints\("):
        ssp.train(**spec, checkpoint=ssp.Checkpoints(folder))
    held.release()


def test_what_is_computed_is_compared_too(folder, capsys):
    header = read_tape(folder / "tape.jsonl.gz").header
    past = asked(folder)
    past.check_header(header)

    def changed(**facts):
        return {**header, "experiment": {**header["experiment"], **facts}}

    with pytest.raises(ValueError, match=r"`step` \(the step, as it is compiled\) is another one"):
        past.check_header(changed(step="other"))
    with pytest.raises(ValueError, match="`num_workers` is 2 there, and 3 here"):
        past.check_header(changed(num_workers=3))
    past.check_header(changed(num_workers=3, batches=["a", "b", "c"]), elastic=True)
    assert capsys.readouterr().err == ""
    # Another JAX compiles another text: that the bits may differ is all that can be said.
    past.check_header(changed(jax="0.99", step="other"))
    assert "`jax` is" in (said := capsys.readouterr().err)
    assert "its bits may differ" in said


def test_ends_are_only_raised(folder):
    assert asked(folder, dataclasses.replace(PLAN, num_clocks=9)) is not None
    for lower in ({"num_clocks": 3}, {"max_updates": 9}):
        with pytest.raises(ValueError, match="what ends a run can only be raised"):
            asked(folder, dataclasses.replace(PLAN, **lower))
    targets = [("loss <= 0.2", "loss <= 0.1"), ("a >= 0.5", "a >= 0.6"), ("a >= 0.5", None)]
    for was, now in targets:
        assert raised({"target": was}, {"target": now}) == ["target"]
    for now in ("loss <= 0.3", "loss >= 0.3", "other <= 0.1"):
        with pytest.raises(ValueError, match=r"`target` is 'loss <= 0\.2' there"):
            raised({"target": "loss <= 0.2"}, {"target": now})


@pytest.mark.parametrize(
    ("status", "changed", "goes_on"),
    [
        ("done", {}, False),
        ("done", {"num_clocks": 5}, True),
        ("interrupted", {}, True),
        ("failed", {}, True),
        ("target", {"num_clocks": 5}, False),
        ("early", {"num_clocks": 5}, True),
        ("diverged", {"num_clocks": 5}, False),
    ],
)
def test_a_run_that_is_over_goes_on_if_its_ends_are_raised(folder, status, changed, goes_on):
    tape = {"rows": len(read_tape(folder / "tape.jsonl.gz")), "complete": False}
    facts = {"status": status, "metrics": {}, "tape": tape}
    write_json(folder / "summary.json", facts)
    plan = dataclasses.replace(PLAN, **changed)
    if goes_on:
        assert asked(folder, plan).status == status
    else:
        with pytest.raises(ValueError, match=rf"holds a run already, which is over \({status}\)"):
            asked(folder, plan)


def finished(folder, rows):
    """What a summary says that is of a run which came to its end after so many rows."""
    tape = {"rows": rows, "complete": True}
    write_json(folder / "summary.json", {"status": "done", "metrics": {}, "tape": tape})


def test_a_run_that_is_over_and_whose_tape_was_cut_says_so(folder, capsys):
    rows = len(read_tape(folder / "tape.jsonl.gz"))
    finished(folder, rows + 3)
    found = f"its tape.jsonl.gz breaks off after {rows} rows, but summary.json says that {rows + 3}"
    with pytest.raises(ValueError, match=f"is over .done., and is damaged: {found} lead to the en"):
        asked(folder)
    past = asked(folder, dataclasses.replace(PLAN, num_clocks=5))
    past.check_header(past.tape.header)
    assert f"{folder} is damaged: {found}" in capsys.readouterr().err
    # It goes on, is killed, and then its tape is cut.
    (folder / "summary.json").rename(folder / "summary-before.json")
    past = asked(folder)
    past.check_header(past.tape.header)
    assert f"{folder} is damaged: {found} are what" in capsys.readouterr().err


def test_a_run_whose_tape_is_whole_says_nothing(folder, capsys):
    rows = len(read_tape(folder / "tape.jsonl.gz"))
    tape = {"rows": rows, "complete": False}
    write_json(folder / "summary.json", {"status": "failed", "metrics": {}, "tape": tape})
    past = asked(folder)
    past.check_header(past.tape.header)
    assert capsys.readouterr().err == ""


def test_a_folder_of_which_only_the_tape_is_left_is_compared_by_that(folder):
    (folder / "config.json").unlink()
    assert asked(folder).config == {}
    with pytest.raises(ValueError, match=r"`policy\.bound` is 1 there, and 2 here"):
        asked(folder, dataclasses.replace(PLAN, policy=ssp.SSP(2)))


@pytest.mark.parametrize(("policy", "same"), [(ssp.BSP(), True), (ssp.SSP(1), False)])
@pytest.mark.every(2)
def test_an_end_is_a_barrier_so_ends_that_are_raised_give_another_run_unless_all_are(
    tmp_path, policy, same
):
    def ended(folder, *counts):
        checkpoint = ssp.Checkpoints(folder, every=99)
        for count in counts:
            spec = linear(policy=policy, **SPEC | {"num_clocks": count})
            result = ssp.train(**spec, checkpoint=checkpoint)
        return bits(result.params)

    raised_once, at_once = ended(tmp_path / "twice", 4, 8), ended(tmp_path / "once", 8)
    assert (raised_once == at_once) == same


# --- its files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [0, 61, 130])
@pytest.mark.every(3)
def test_a_tape_goes_on_in_its_file(folder, monkeypatch, more):
    path = folder / "tape.jsonl.gz"
    past = asked(folder).tape
    last = list(past)[-1]
    for number in range(more):
        past.append(last.now + number, last.event, [])
    tape = ssp.Tape(past.header)
    writer = TapeWriter.going_on(path, past, tape)
    for entry in past:  # they happen again, one by one
        assert list(read_tape(path)) == list(past)  # all is there at any moment
        tape.append(*entry)
        writer.flush()
    assert not writer.gone
    tape.append(99.0, entry.event, [])
    writer.close()
    assert list(read_tape(path)) == list(tape)
    content = path.read_bytes()

    def full(*_):
        raise OSError("no space")

    monkeypatch.setattr("jax_ssp.files._write_all", full)
    with pytest.raises(OSError, match="no space"):
        TapeWriter.going_on(path, past, tape)
    assert path.read_bytes() == content
    assert [each.name for each in folder.glob(".tape*")] == []


def measured(writer, rows):
    for row in rows:
        (writer.on_clock if "worker" in row else writer.on_eval)(row)


def test_metrics_are_cut_back_to_a_position_and_go_on_without_a_doubled_step(tmp_path):
    cancelled = clock_row(1, steps=0, metrics={})  # none of `Result.history`
    rows = [
        clock_row(1),
        cancelled,
        eval_row(1, loss=math.nan),
        clock_row(2, metrics={"loss": 0.1 + 0.2}),
    ]
    later = [clock_row(3), eval_row(3, loss=0.5), clock_row(4)]
    writer = MetricsWriter(tmp_path)
    measured(writer, rows)
    position = writer.position
    measured(writer, later)
    writer.close()
    whole, curves = read_metrics(tmp_path), scalars(tmp_path)
    clocks, evaluations = rows_up_to(tmp_path, position)
    assert [row["metrics"] for row in clocks] == [{"loss": 1.0}, {"loss": 0.1 + 0.2}]
    assert math.isnan(evaluations[0]["metrics"]["loss"])
    for _ in range(2):  # killed again after it went on
        cut_back(tmp_path, position)
        again = MetricsWriter(tmp_path)
        again.go_on(position["updates"])
        assert {name: again.position[name] for name in ("bytes", "sha256", "updates")} == {
            name: position[name] for name in ("bytes", "sha256", "updates")
        }
        measured(again, later)
        again.close()
        np.testing.assert_equal(read_metrics(tmp_path), whole)
        steps = {tag: [step for step, _ in points] for tag, points in scalars(tmp_path).items()}
        assert all(len(each) == len({*each}) for each in steps.values())
        assert {*steps} == {*curves}
    cut_back(tmp_path, START)
    assert rows_up_to(tmp_path, START) == ([], [])
    assert read_metrics(tmp_path) == []
    assert list(tmp_path.glob("events*")) == []


def test_metrics_that_are_not_what_they_were_are_of_no_use(tmp_path):
    writer = MetricsWriter(tmp_path)
    measured(writer, [clock_row(1)])
    position = writer.position
    writer.close()
    path = tmp_path / "metrics.jsonl"
    content = path.read_bytes()
    for damaged in (content[:-1], content.replace(b"1", b"2", 1), b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"metrics\.jsonl is not what it was"):
            rows_up_to(tmp_path, position)


def test_a_run_that_cannot_go_on_after_all_leaves_what_was_there(folder, monkeypatch):
    tape = {"rows": len(read_tape(folder / "tape.jsonl.gz")), "complete": False}
    write_json(folder / "summary.json", {"status": "failed", "metrics": {}, "tape": tape})

    def full(*_):
        raise OSError("no space")

    monkeypatch.setattr(TapeWriter, "going_on", full)
    before = {each.name: each.read_bytes() for each in folder.iterdir() if each.is_file()}
    with ssp.RunFolder(folder) as run:
        past = run.prepare(settings_of(PLAN.checked()), "auto")
        with pytest.raises(OSError, match="no space"):
            run.on_start({**past.tape.header, "tape": past.tape})
    after = {each.name: each.read_bytes() for each in folder.iterdir() if each.is_file()}
    assert {name: after.get(name) for name in before if name != "config.json"} == {
        name: content for name, content in before.items() if name != "config.json"
    }
    assert after.keys() == before.keys()


def test_a_tape_that_is_longer_than_what_came_again_is_not_replaced(folder):
    result = ssp.train(runtime=ssp.Virtual(2, compute=False), num_clocks=1)
    there = (folder / "tape.jsonl.gz").read_bytes()
    rows = len(result.tape) + 1
    writer = SimpleNamespace(whole=False, rows=rows)  # a disk that is full when it is closed
    Leavings(result, None).save(folder, Written(lambda _: None, writer, metrics=True))
    assert (folder / "tape.jsonl.gz").read_bytes() == there
    said = json.loads((folder / "summary.json").read_text())["tape"]
    assert said == {"rows": rows, "complete": False}
