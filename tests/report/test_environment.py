"""A result says what it was measured with."""

import subprocess

from jax_ssp.report.environment import _commit, environment


def git(folder, *words):
    who = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "-C", folder, *who, *words], check=True, capture_output=True)


def test_a_commit_is_dirty_by_its_code_and_not_by_the_results_of_before(tmp_path):
    for name in ("code.py", "experiments/results/papers/one.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "all")
    package = tmp_path / "experiments"
    commit = _commit(package)
    assert len(commit) == 12
    (tmp_path / "experiments/results/papers/one.json").write_text("2")
    (tmp_path / "new.txt").write_text("untracked")
    assert _commit(package) == commit
    (tmp_path / "code.py").write_text("2")
    assert _commit(package) == f"{commit}-dirty"


def test_without_a_checkout_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert _commit(tmp_path) is None
    assert environment()["cores"] >= 1
