"""Ours beside others: all are given the same sleeps, and what is not there is passed over."""

import contextlib
import multiprocessing
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.benchmarks.overhead import Size
from experiments.benchmarks.peers import __main__ as program
from experiments.benchmarks.peers import case as of_case
from experiments.benchmarks.peers import in_jax, in_ray, in_torch, page, torch_worker
from experiments.benchmarks.peers.case import BOUND, Case, cases, rounds_of, rows

PAGE = Path(__file__).parents[2] / "docs" / "peers.md"
STRAGGLING = Case(Size(4, 2), workers=2, local_steps=3, sleep=0.01)


def test_a_round_is_as_late_as_the_slowest_worker():
    sleeps = np.array([[1.0, 0.0, 2.0, 5.0], [0.0, 2.0, 4.0, 0.0]])
    assert rounds_of(sleeps, 1).tolist() == [1.0, 2.0, 4.0, 5.0]
    assert rounds_of(sleeps, 2).tolist() == [2.0, 7.0]


def test_a_seed_gives_the_same_sleeps_and_nobody_straggles_unasked():
    drawn = STRAGGLING.sleeps(300, seed=1)
    assert drawn.shape == (2, 300)
    assert np.array_equal(drawn, STRAGGLING.sleeps(300, seed=1))
    assert not np.array_equal(drawn, STRAGGLING.sleeps(300, seed=2))
    assert drawn.mean() == pytest.approx(0.01, rel=0.2)
    assert not STRAGGLING._replace(sleep=0.0).sleeps(4, seed=1).any()


def test_a_measurement_is_of_whole_clocks():
    for quick in (True, False):
        for rate in (1e-3, 10.0, 1e4):
            steps = STRAGGLING.steps(rate, quick)
            assert steps % 3 == 0
            assert steps >= 6


def test_every_system_of_a_round_has_the_same_sleeps_and_is_compared_with_the_bound(monkeypatch):
    seen = {BOUND: [], "half": []}

    def system(name, rate):
        return lambda sleeps: seen[name].append(sleeps) or rate

    monkeypatch.setattr(of_case, "STRAGGLING_SECONDS", 0.1)
    found = rows(STRAGGLING, {BOUND: system(BOUND, 8.0), "half": system("half", 4.0)}, quick=False)
    assert [row["ratio_to_bound"] for row in found] == [1.0, 0.5]
    assert [row["steps_per_second"] for row in found] == [8.0, 4.0]
    measured = [[each for each in sleeps if each.any()] for sleeps in seen.values()]
    assert len(measured[0]) == of_case.ROUNDS
    for ours, theirs in zip(*measured, strict=True):
        assert np.array_equal(ours, theirs)
    assert not np.array_equal(*measured[0][:2])


def test_our_workers_sleep_on_top_of_their_steps(monkeypatch):
    slept = []
    monkeypatch.setattr(in_jax, "pause", slept.append)
    delay = in_jax.OnTop(np.array([[1.0, 2.0, 4.0, 8.0], [16.0, 32.0, 64.0, 128.0]]))
    assert [delay(0, 1, 2, None), delay(1, 0, 2, None), delay(1, 2, 1, None)] == [0.0] * 3
    assert slept == [12.0, 48.0, 64.0]


def test_a_quick_run_measures_less_and_large_models_have_few_workers():
    assert {case.local_steps for case in cases(2, 2, quick=False)} == {1, 16}
    assert list(cases(2, 4, quick=False)) == []
    assert len(list(cases(1, 2, quick=True))) < len(list(cases(1, 2, quick=False)))


def test_a_peer_that_is_not_known_is_refused_by_name():
    with pytest.raises(SystemExit, match=r"--only takes ours, .*got 'drjaks'"):
        program.asked("ours,drjaks")
    assert program.asked("").keys() - program.asked("", quick=True).keys() == set(program.LONG)


def test_a_peer_that_is_not_installed_is_passed_over_and_named(monkeypatch, capsys):
    ran = []
    monkeypatch.setitem(program.PEERS, "absent", program.Peer("in_jax", "no-such-package"))
    monkeypatch.setattr(program, "measured_apart", lambda words: ran.append(words) or [])
    program.main(["--only", "ours,absent", "--size", "0"])
    assert "absent is not installed: pip install 'jax_ssp[peers]'" in capsys.readouterr().out
    assert [words[words.index("--only") + 1] for words in ran] == ["ours", "ours"]
    assert [words[words.index("--workers") + 1] for words in ran] == ["2", "4"]


def test_a_round_of_drjax_is_the_mean_of_the_local_steps():
    pytest.importorskip("drjax")
    import jax

    problem = in_jax.Problem(Size(4, 2), 1, 3)
    with jax.set_mesh(jax.sharding.Mesh(np.array(problem.devices), ("workers",))):
        trained = jax.jit(in_jax._drjax_round(problem))(problem.params, problem.batch[None])
    expected, state = problem.params, problem.step.init(problem.params)
    for _ in range(3):
        expected, state, _ = problem.applied(expected, state, problem.batch, jax.random.key(0))
    for ours, theirs in zip(jax.tree.leaves(trained), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_the_parameter_server_of_bare_actors_descends_by_the_mean_gradient():
    case = Case(Size(4, 2), workers=2)
    params, batch = in_ray.model_of(case)
    trainer, server = in_ray.Trainer(params, batch), in_ray.Server(params)
    gradient = trainer.gradient(server.params(), 0.0)
    for name, each in server.apply(2, gradient, gradient).items():
        np.testing.assert_allclose(each, params[name] - in_ray.RATE * gradient[name], rtol=1e-6)
    trainer.alone(np.zeros(1))
    for name, each in trainer._mine.items():  # who is alone descends likewise
        np.testing.assert_allclose(each, server.params()[name], rtol=1e-5)


def test_the_step_of_torch_is_one_of_the_same_model():
    torch = pytest.importorskip("torch")
    case = Case(Size(4, 2), workers=2)
    model = torch_worker.model_of(case)
    before = [each.detach().clone() for each in model.parameters()]
    torch_worker.step_of(case, model, torch_worker._sgd(model))()
    assert [tuple(each.shape) for each in before] == [(4, 4)] * 4
    assert not any(map(torch.equal, before, model.parameters()))


def test_a_process_that_hangs_or_has_ended_is_an_error(monkeypatch):
    monkeypatch.setattr(in_torch, "LONGEST", 0.0)
    here, there = multiprocessing.Pipe()
    with pytest.raises(TimeoutError, match="worker 0 has not answered within 0 seconds"):
        in_torch._answers([here])
    there.close()
    with pytest.raises(EOFError):
        in_torch._answers([here])


def test_a_bound_alone_is_not_measured(monkeypatch):
    @contextlib.contextmanager
    def opened(case, peers):
        yield {BOUND: None}

    monkeypatch.setattr(program, "import_module", lambda name: SimpleNamespace(opened=opened))
    args = SimpleNamespace(stack="in_ray", size=0, workers=2, only="ray", quick=True)
    assert program.measured(args) == []


@pytest.mark.parametrize("table", [partial(page.alike, 2), partial(page.alike, 4), page.straggling])
def test_the_page_shows_the_tables_of_the_results(table):
    assert table().count("\n") > 5
    assert table() in PAGE.read_text()
