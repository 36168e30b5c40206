"""What loggers send, in whose time, and what becomes of a run whose tracker is slow or fails."""

import pickle
import re
import sys
import threading
import types

import numpy as np
import pytest

import jax_ssp as ssp
from jax_ssp.report.loggers.sender import Sender
from tests.helpers.problems import linear

VIRTUAL = ssp.Virtual(num_workers=2)


def evaluate(params):
    return {"norm": (params["w"] ** 2).sum()}


def train(*observers, runtime=VIRTUAL, **others):
    spec = {"policy": ssp.BSP(), "num_clocks": 10, "evaluate": evaluate, "eval_every": 5}
    return ssp.train(**linear(runtime=runtime, observers=observers, **{**spec, **others}))


class Keeps(ssp.loggers.Logger):
    """Keeps what it is given."""

    def open(self, about):
        self.told, self.threads = [("open", about)], {threading.current_thread()}

    def log(self, values, updates):
        self.threads.add(threading.current_thread())
        self.told.append(("log", updates, values))

    def shut(self, status):
        self.told.append(("shut", status))

    def points(self, group):
        found = [(row[1], row[2]) for row in self.told if row[0] == "log"]
        return [each for each in found if any(name.startswith(group) for name in each[1])]


@pytest.mark.parametrize("runtime", [VIRTUAL, ssp.Devices(num_workers=2)])
def test_every_clock_and_evaluation_is_sent_in_one_thread_of_its_own(runtime):
    logger = Keeps(interval=0)
    # It waits, for else a version is passed over where evaluating the one before takes long.
    result = train(logger, runtime=runtime, name="mine", eval_waits=True)
    (_, about), *_, last = logger.told
    assert (about["name"], about["num_workers"], about["policy"]) == ("mine", 2, {"type": "BSP"})
    assert last == ("shut", "done")
    assert {thread.name for thread in logger.threads} == {"ssp-Keeps"}
    clocks = logger.points("train/")
    assert [values["train/loss"] for _, values in clocks] == [
        row["metrics"]["loss"] for row in result.history
    ]
    for (updates, values), row in zip(clocks, result.history, strict=True):
        assert (updates, values["samples"]) == (row["updates"], row["samples_seen"])
        assert (values["seconds"], values["ssp/lag"]) == (row["finish"], row["lag"])
        assert values["ssp/staleness"] == 0
    evaluated = logger.points("eval/")
    assert [updates for updates, _ in evaluated] == [0, 10, 20]
    assert [values["eval/norm"] for _, values in evaluated] == [
        row["metrics"]["norm"] for row in result.evaluations
    ]


def test_clocks_of_an_interval_are_one_point_their_mean():
    logger = Keeps(interval=1e6)
    result = train(logger)
    assert [updates for updates, _ in logger.points("train/")] == [10, 20]  # by the evaluations
    first = [row["metrics"]["loss"] for row in result.history[:10]]
    np.testing.assert_allclose(logger.points("train/")[0][1]["train/loss"], np.mean(first))


def test_a_logger_serves_one_run_after_the_other():
    logger = Keeps(interval=1e6)
    for _ in range(2):
        train(logger)
        assert [kind for kind, *_ in logger.told].count("log") == 5


class Blocked(Keeps):
    """A tracker that takes nothing until its gate is open."""

    def __post_init__(self):
        super().__post_init__()
        self.gate = threading.Event()

    def log(self, values, updates):
        assert self.gate.wait(30)
        super().log(values, updates)


def test_a_slow_tracker_holds_nobody_up_and_what_is_dropped_is_counted(capsys):
    logger = Blocked(interval=0, most_waiting=4)

    class Opens(ssp.Observer):
        def on_end(self, status):  # told before the logger is, as it comes after it
            assert not logger.gate.is_set()
            logger.gate.set()

    result = train(logger, Opens(), num_clocks=50)
    assert result.status == "done"
    assert [updates for updates, _ in logger.points("eval/")] == list(range(0, 101, 10))
    sent = len(logger.points("train/"))
    assert sent <= 5 + 1
    said = capsys.readouterr().err
    assert f"jax_ssp: {100 - sent} points of the run did not get to Blocked" in said
    assert logger.told[-1] == ("shut", "done")


def test_the_end_waits_only_so_long(capsys):
    logger = Blocked(interval=0, patience=0.01)
    assert train(logger).status == "done"
    said = capsys.readouterr().err
    assert re.search(r"Blocked has not taken all after 0.01 s: \d\d points wait", said)
    logger.gate.set()


class Fails(Keeps):
    method: str = "log"
    shuts = 0

    def open(self, about):
        super().open(about)
        if self.method == "open":
            raise OSError("no way to the tracker")

    def log(self, values, updates):
        super().log(values, updates)
        if updates >= 4:
            raise OSError("the tracker is gone")

    def shut(self, status):
        type(self).shuts += 1
        if self.method == "shut":
            raise OSError("never heard of it")


@pytest.mark.parametrize(
    ("method", "why"), [("open", "no way to the tracker"), ("log", "the tracker is gone")]
)
def test_a_tracker_that_fails_ends_no_run_and_is_said_once(method, why, capsys):
    logger = Fails(interval=0)
    logger.method, before = method, Fails.shuts
    result = train(logger)
    assert (result.status, Fails.shuts) == ("done", before + 1)
    said = capsys.readouterr().err
    assert said.count("Fails takes nothing more, and the run goes on without it: OSError") == 1
    assert said.count(why) == 1


def test_an_end_that_fails_is_said_too(capsys):
    logger = Fails(interval=0)
    logger.method = "shut"
    assert train(logger, num_clocks=1).status == "done"
    assert "OSError: never heard of it" in capsys.readouterr().err


def test_the_status_of_a_run_that_fails_is_sent():
    def data(worker):
        source = linear()["data"](worker)
        yield from (next(source) for _ in range(3))
        raise OSError("the disk is gone")

    logger = Keeps()
    with pytest.raises(OSError, match="the disk is gone"):
        train(logger, data=data)
    assert logger.told[-1] == ("shut", "failed")


def test_a_queue_never_makes_wait_and_says_how_many_wait():
    gate, done = threading.Event(), []
    sender = Sender("test", 2, pytest.fail)
    sender.put(lambda: gate.wait(30))
    for number in range(10):
        sender.put(lambda number=number: done.append(number))
    sender.put(lambda: done.append("always"), always=True)
    assert sender.close(0) >= 2
    gate.set()
    assert sender.close(30) == 0
    assert done[-1] == "always"
    assert sender.dropped == 10 - (len(done) - 1)
    assert len(done) - 1 in (1, 2)  # whether the first was taken out by then


@pytest.mark.parametrize("kind", [ssp.loggers.WandB, ssp.loggers.MLflow])
def test_a_package_that_is_missing_is_named_with_its_extra(kind, monkeypatch):
    drawn = []
    monkeypatch.setitem(sys.modules, kind.package, None)
    remedy = rf"`{kind.__name__}` needs the package '{kind.package}' .*jax_ssp\[{kind.package}\]"
    with pytest.raises(ImportError, match=remedy):
        train(kind(), data=drawn.append)
    assert not drawn


def test_what_a_logger_cannot_be_is_said():
    with pytest.raises(ValueError, match=r"`WandB\(mode=...\)` must be \"online\", \"offline\""):
        ssp.loggers.WandB(mode="now")
    with pytest.raises(ValueError, match=r"`MLflow\(most_waiting=...\)` must be at least 1"):
        ssp.loggers.MLflow(most_waiting=0)
    with pytest.raises(TypeError, match=r"`WandB\(more=...\)` must be a dict"):
        ssp.loggers.WandB(more=3)


def test_a_config_can_hold_them_and_hand_them_to_another_process():
    logger = ssp.loggers.WandB(project="digits")
    facts = ssp.Experiment(num_clocks=1, hooks=(logger,)).describe()["hooks"]
    assert facts[0]["type"].endswith("WandB")
    assert facts[0]["project"] == "digits"
    assert pickle.loads(pickle.dumps(logger)).project == "digits"


# The trackers: the packages themselves where they are installed, else stand-ins for them.


class FakeRun:
    def __init__(self, **given):
        self.given, self.rows, self.summary, self.ended = given, [], {}, None

    def define_metric(self, name, step_metric):
        self.step_metric = step_metric

    def log(self, row):
        self.rows.append(row)

    def finish(self, exit_code):
        self.ended = exit_code


@pytest.fixture
def wandb_runs(monkeypatch):
    """The runs that wandb was asked for."""
    runs = []
    fake = types.SimpleNamespace(init=lambda **given: runs.append(FakeRun(**given)) or runs[-1])
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return runs


def test_wandb_is_given_all_against_updates(wandb_runs):
    logger = ssp.loggers.WandB(project="p", folder="there", more={"tags": ["t"]}, interval=1e6)
    train(logger, name="mine")
    (run,) = wandb_runs
    config = run.given.pop("config")
    assert config["policy"] == {"type": "BSP"}
    assert run.given == {"project": "p", "name": "mine", "dir": "there", "tags": ["t"]}
    assert run.step_metric == "updates"
    assert [row["updates"] for row in run.rows] == [0, 10, 10, 20, 20]
    assert "eval/norm" in run.rows[-1]
    assert (run.summary, run.ended) == ({"status": "done"}, 0)


class FakeClient:
    """What is used of `mlflow.MlflowClient`."""

    def __init__(self, tracking_uri):
        self.tracking_uri, self.params, self.points, self.tags = tracking_uri, {}, [], {}
        self.experiments = {}

    def get_experiment_by_name(self, name):
        return self.experiments.get(name)

    def create_experiment(self, name):
        self.experiments[name] = types.SimpleNamespace(experiment_id="7")
        return "7"

    def create_run(self, experiment, run_name, tags):
        self.created = experiment, run_name, tags
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id="r"))

    def log_param(self, run, name, value):
        self.params[name] = value

    def log_batch(self, run, metrics):
        self.points += metrics

    def set_tag(self, run, name, value):
        self.tags[name] = value

    def set_terminated(self, run, status):
        self.status = status


def test_mlflow_is_given_all_with_updates_as_steps(monkeypatch):
    clients = []
    fake = types.SimpleNamespace(
        MlflowClient=lambda **given: clients.append(FakeClient(**given)) or clients[-1],
        entities=types.SimpleNamespace(Metric=lambda *values: values),
    )
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    train(ssp.loggers.MLflow(tracking_uri="sqlite:///x.db", tags={"a": 1}, interval=1e6), name="m")
    (client,) = clients
    assert client.tracking_uri == "sqlite:///x.db"
    assert client.created == ("7", "m", {"a": "1"})
    assert client.params["policy"] == '{"type": "BSP"}'
    assert client.params["num_workers"] == "2"
    points = [(name, step) for name, _, _, step in client.points if name == "eval/norm"]
    assert points == [("eval/norm", 0), ("eval/norm", 10), ("eval/norm", 20)]
    assert (client.status, client.tags) == ("FINISHED", {"ssp_status": "done"})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_itself_takes_it(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(ssp.loggers.WandB(project="p", mode="offline", folder=str(tmp_path), interval=0))
    (written,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert written.stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_itself_takes_it(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path}/runs.db"
    result = train(ssp.loggers.MLflow(experiment="e", tracking_uri=uri, interval=0, patience=300))
    client = mlflow.MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    assert (run.info.status, run.data.tags["ssp_status"]) == ("FINISHED", "done")
    losses = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in losses] == [
        (row["updates"], row["metrics"]["loss"]) for row in result.history
    ]
