"""Every paper's folder makes a paper, runs, and its stored result says what its figure shows."""

import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from jax_ssp.report.papers import Paper, checked, gallery, held, redraw

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "results" / "papers"
PAPERS = ROOT / "experiments" / "papers"
NAMES = sorted(file.parent.name for file in PAPERS.glob("[a-z]*/__init__.py"))
everyone = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)


def paper_of(name: str) -> Paper:
    return importlib.import_module(f"experiments.papers.{name}").PAPER


@everyone
def test_it_says_what_the_paper_claims(name):
    paper = paper_of(name)
    texts = [paper.title, paper.reference, paper.shows, paper.ran]
    texts += [claim.text for claim in paper.claims]
    assert all(texts)
    assert len({claim.text for claim in paper.claims}) == len(paper.claims) >= 2


def test_each_has_a_place_of_its_own():
    numbers = [paper_of(name).number for name in NAMES]
    assert len(set(numbers)) == len(numbers)


@everyone
def test_figure_and_text_come_from_the_stored_json(name, tmp_path):
    """At size laptop, three seeds or more, and the verdicts are what the checks say today."""
    stored = RESULTS / f"{name}.json"
    content = json.loads(stored.read_text())
    assert content["size"] in ("laptop", "paper")
    assert content["seeds"] >= 3
    (tmp_path / stored.name).write_text(stored.read_text())
    paper = dataclasses.replace(paper_of(name), measure=None)
    redraw(name, paper, tmp_path)
    assert (tmp_path / f"{name}.md").read_text() == stored.with_suffix(".md").read_text()
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    assert stored.with_suffix(".png").is_file()


def test_the_gallery_is_up_to_date(tmp_path):
    papers = {name: paper_of(name) for name in NAMES}
    papers = dict(sorted(papers.items(), key=lambda item: item[1].number))
    for name in NAMES:
        (tmp_path / f"{name}.json").write_text((RESULTS / f"{name}.json").read_text())
    gallery(papers, tmp_path)
    assert (tmp_path / "README.md").read_text() == (RESULTS / "README.md").read_text()


@everyone
def test_the_readme_says_how_many_of_the_papers_claims_hold(name):
    paper = paper_of(name)
    claims = checked(paper, json.loads((RESULTS / f"{name}.json").read_text())["rows"])
    (row,) = [
        line
        for line in (ROOT / "README.md").read_text().splitlines()
        if line.startswith(f"| `{name}` |")
    ]
    assert f"[{paper.title}](experiments/results/papers/README.md#" in row
    assert row.endswith(f"| {held(claims)} |")
    assert any(not claim["ours"] for claim in claims)


@pytest.mark.slow
@everyone
def test_it_runs_at_size_smoke(name, tmp_path):
    """As a user would, in a process without the strict promotion of the tests."""
    command = "from jax_ssp.cli import main; main()"
    words = ["reproduce", name, "--size", "smoke", "--seeds", "2", "--folder", tmp_path]
    subprocess.run([sys.executable, "-c", command, *words], cwd=ROOT, check=True, timeout=300)
    content = json.loads((tmp_path / f"{name}.json").read_text())
    assert checked(paper_of(name), content["rows"])
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    assert (tmp_path / "README.md").is_file()
