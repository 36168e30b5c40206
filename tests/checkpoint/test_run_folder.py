"""A run folder from Python: what `jax-ssp run` leaves, in a few lines of one's own."""

import json

import numpy as np
import pytest

import jax_ssp as ssp
from jax_ssp.checkpoint.lent import Lent, lend
from jax_ssp.cli.exits import DONE, USAGE
from tests.helpers.command_line import as_it_was, jax_ssp
from tests.helpers.problems import linear

__all__ = ["as_it_was"]  # a fixture, for every test here


def trained(folder, **others):
    spec = linear(runtime=ssp.Virtual(2), num_clocks=3, evaluate=lambda p: {"a": p["w"].sum()})
    return ssp.train(**{**spec, **others}, observers=[folder], name="mine")


def test_a_run_of_ones_own_leaves_what_a_run_leaves(tmp_path, capsys):
    folder = ssp.RunFolder(tmp_path / "mine", {"why": "to see"})
    result = trained(folder, delta_wire=ssp.compression.Int8())
    run = ssp.read_run(tmp_path / "mine")
    assert (run.status, run.config["why"], run.config["name"]) == ("done", "to see", "mine")
    assert run.config["experiment"]["policy"]["type"] == "SSP"
    np.testing.assert_array_equal(run.params["w"], result.params["w"])
    assert list(run.tape) == list(result.tape)
    assert run.history == result.history
    assert run.evaluations == result.evaluations
    assert {each.name for each in folder.saved_in.iterdir()} >= {"residuals", "summary.png"}
    assert folder.problems == {}
    assert jax_ssp("verify", tmp_path / "mine") == DONE
    assert jax_ssp("replay", tmp_path / "mine") == USAGE
    assert "was written by a program of its own" in capsys.readouterr().err
    again = ssp.train(
        **linear(runtime=ssp.Replay(run.tape), num_clocks=3, delta_wire=ssp.compression.Int8())
    )
    np.testing.assert_array_equal(again.params["w"], run.params["w"])
    ssp.RunFolder(tmp_path / "other").close()  # not locked any more, and taken away
    assert [each.name for each in tmp_path.iterdir()] == ["mine"]


def test_what_ended_a_run_is_in_its_folder(tmp_path):
    def batches(worker):
        yield from [(np.ones((4, 6), np.float32), np.ones(4, np.float32))] * 2
        raise OSError("the disk is gone")

    with ssp.RunFolder(tmp_path / "mine") as folder, pytest.raises(OSError, match="the disk"):
        trained(folder, data=batches)
    run = ssp.read_run(tmp_path / "mine")
    assert run.status == "failed"
    assert "the disk is gone" in run.summary["error"]
    assert np.isfinite(run.params["w"]).all()


def test_a_folder_that_is_lent_is_written_by_another_process_alone(tmp_path):
    """Which is this one, here."""
    folder = ssp.RunFolder(tmp_path / "mine", {"why": "to see"})
    lent = Lent.of(folder)
    with pytest.raises(ValueError, match="in use"):
        lent.borrowed()
    lend(folder)
    with lent.borrowed() as borrowed:
        result = trained(borrowed)
        folder.on_start({"name": "mine"})
        for told in ("summary", "saved_in", "problems", "facts"):
            setattr(folder, told, borrowed.said()[told])
    assert folder.began
    written = (tmp_path / "mine" / "summary.json").read_text()
    assert folder.finish(result)["status"] == "done"
    assert (tmp_path / "mine" / "summary.json").read_text() == written
    assert ssp.read_run(tmp_path / "mine").config["why"] == "to see"
    with pytest.raises(ValueError, match="holds a run already"):
        Lent.of(folder)


def test_a_run_that_never_began_leaves_nothing(tmp_path):
    with ssp.RunFolder(tmp_path / "mine") as folder, pytest.raises(ValueError, match="num_clocks"):
        trained(folder, num_clocks=-1)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_of_one_run(tmp_path):
    folder = ssp.RunFolder(tmp_path / "mine")
    trained(folder)
    before = json.loads((tmp_path / "mine" / "summary.json").read_text())
    with pytest.raises(ValueError, match="holds a run already; make another `RunFolder`"):
        trained(folder, num_clocks=1)
    assert json.loads((tmp_path / "mine" / "summary.json").read_text()) == before
    with (
        ssp.RunFolder(tmp_path / "mine") as again,
        pytest.raises(
            ValueError, match=r"holds a run already, which is over \(done\); to go on with it raise"
        ),
    ):
        trained(again)
    assert ssp.RunFolder(tmp_path / "mine", unique=True).path.name == "mine-2"


def test_an_observer_hears_of_the_result_and_of_what_ended_the_run():
    heard = []

    class Listens(ssp.Observer):
        def on_result(self, result, error):
            heard.append((result.status, result.updates, type(error)))

    class Fails(Listens):
        def on_result(self, result, error):
            super().on_result(result, error)
            raise OSError("not here")

    spec = linear(runtime=ssp.Virtual(2), num_clocks=2)
    assert ssp.train(**spec, observers=[Listens()]).updates == 4
    with pytest.raises(OSError, match="not here") as caught:
        ssp.train(**spec, observers=[Fails(), Listens()])
    assert caught.value.result.updates == 4
    assert heard == [("done", 4, type(None))] * 3

    class Ends(ssp.Observer):
        def on_clock(self, row):
            raise KeyError("enough")

    with pytest.raises(BaseException, match=r"(?s)enough|not here") as caught:
        ssp.train(**spec, observers=[Fails(), Ends()])
    assert heard[-1][0] == "failed"
    assert heard[-1][2] is KeyError
    assert caught.value.result.status == "failed"
