"""Every paper's folder makes a paper, runs, and its stored result says what its figure shows."""

import dataclasses
import functools
import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jax_ssp.report.papers import Paper, checked, gallery, held
from jax_ssp.report.styles import PAPER as LOOK

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "results" / "papers"
PAPERS = ROOT / "experiments" / "papers"
NAMES = sorted(file.parent.name for file in PAPERS.glob("[a-z]*/__init__.py"))
everyone = pytest.mark.parametrize("name", NAMES)


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


@functools.cache
def stored(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


@everyone
@pytest.mark.every(10)
def test_the_figure_comes_from_the_stored_json(name):
    """At size laptop or more, with three seeds or more; without the layout, which takes longest."""
    assert stored(name)["size"] in ("laptop", "paper")
    assert stored(name)["seeds"] >= 3
    assert (RESULTS / f"{name}.png").stat().st_size > 10_000
    with mpl.rc_context(LOOK):
        figure = Figure(figsize=(7, paper_of(name).height))
        paper_of(name).draw(figure, stored(name)["rows"])
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    assert (np.asarray(canvas.buffer_rgba())[..., :3] < 255).mean() > 0.03
    assert len(figure.axes) >= 2
    assert all(axis.has_data() for axis in figure.axes)


def test_texts_and_gallery_come_from_the_stored_json(tmp_path):
    """The verdicts are what the checks say today."""
    papers = {name: dataclasses.replace(paper_of(name), measure=None) for name in NAMES}
    papers = dict(sorted(papers.items(), key=lambda item: item[1].number))
    for name in NAMES:
        shutil.copy(RESULTS / f"{name}.json", tmp_path)
    gallery(papers, tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert page == (RESULTS / "README.md").read_text()
    for name in NAMES:
        assert (RESULTS / f"{name}.md").read_text() in page


@everyone
def test_the_readme_says_how_many_of_the_papers_claims_hold(name):
    paper = paper_of(name)
    claims = checked(paper, stored(name)["rows"])
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
def test_it_runs_at_size_smoke(name, smoke):
    """As a user would, in a process without the strict promotion of the tests."""
    content = json.loads((smoke(name) / f"{name}.json").read_text())
    assert checked(paper_of(name), content["rows"])
    assert (smoke(name) / f"{name}.png").stat().st_size > 10_000
    assert (smoke(name) / "README.md").is_file()
