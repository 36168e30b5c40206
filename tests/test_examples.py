"""What the documentation shows works: examples in docstrings, and all of README and docs."""

import ast
import doctest
import importlib
import importlib.util
import pkgutil
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import jax_ssp
import jax_ssp as ssp
from jax_ssp.cli.config_file import parsed
from tests.helpers.command_line import as_it_was
from tests.helpers.command_line import jax_ssp as jax_ssp_command

__all__ = ["as_it_was"]  # a fixture, for every test here

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    module.name for module in pkgutil.walk_packages(jax_ssp.__path__, prefix="jax_ssp.")
)


def examples_in(name):
    """The docstrings of a module that hold examples."""
    found = doctest.DocTestFinder().find(importlib.import_module(name))
    return [test for test in found if test.examples]


CHECKS = ("jax_ssp.testing.compressors", "jax_ssp.testing.mitigations")  # of many programs each


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in CHECKS else ()) for name in MODULES],
)
def test_examples_in_docstrings_work(name):
    for test in examples_in(name):
        said = []
        outcome = doctest.DocTestRunner().run(test, out=said.append)
        assert outcome.failed == 0, "".join(said)


@pytest.mark.parametrize(
    "name",
    [
        "Controller",
        "SSP",
        "Server",
        "Tape",
        "check_contract",
        "make_nnx_step",
        "make_step",
        "train",
    ],
)
def test_the_main_names_show_an_example(name):
    thing = getattr(ssp, name)
    tests = examples_in(thing.__module__)
    assert f"{thing.__module__}.{name}" in {test.name for test in tests}


PAGES = {
    page.name: page.read_text() for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
}
# What this page shows are files; `test_drills.py` makes them, and does with them what it says.
del PAGES["extending.md"]


def blocks(page, language):
    """What a page shows in a language, from the top; each behind as many lines as on its page."""
    found = re.finditer(rf"```{language}\n(.*?)```", PAGES[page], flags=re.DOTALL)
    return ["\n" * PAGES[page][: each.start(1)].count("\n") + each[1] for each in found]


def not_here(program):
    """The packages that a program imports, and that are not installed."""
    imported = {
        alias.name if isinstance(node, ast.Import) else node.module or ""
        for node in ast.walk(ast.parse(program))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    packages = {name.split(".")[0] for name in imported} - {"experiments"}
    return {name for name in packages if importlib.util.find_spec(name) is None}


@pytest.fixture
def run_page(tmp_path, monkeypatch, standard_promotion):
    """Runs all that a page shows of Python, from the top, as one program; gives its names.

    A block that needs what is not installed is left out.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT)

    def run(page):
        names = {"__name__": "__main__"}
        for program in blocks(page, "python"):
            if not not_here(program):
                exec(compile(program, page, "exec"), names)
        return names

    return run


def test_what_the_readme_shows_runs_as_it_is(run_page, capsys):
    names = run_page("README.md")
    said = capsys.readouterr().out
    assert re.search(r"contract kept: 4\d\d reads checked, bound 3 clocks", said)
    assert "SSP(bound=3, adopt='eager') on 4 workers: done" in said
    # It learns what it is about: the answer is 0, 1, .., 7.
    for name in ("result", "rehearsal"):
        np.testing.assert_allclose(names[name].params["w"], np.arange(8), atol=0.05)
        assert names[name].history[-1]["metrics"].keys() == {"loss", "mse"}
    # The loop that was moved comes to the same, and SSP is sooner there.
    assert names["same"].version == 96
    assert names["faster"].seconds < names["same"].seconds
    assert names["faster"].metrics["error"] < 0.1


MANY_PROGRAMS = ("checkpoints.md", "exchange.md", "observing.md", "recipes.md")
SLOW = {**dict.fromkeys(MANY_PROGRAMS, pytest.mark.slow), "cluster.md": pytest.mark.ray}


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=SLOW.get(page, ())) for page in sorted(PAGES.keys() - {"README.md"})],
)
def test_what_a_page_shows_runs_as_it_is(page, run_page, capsys):
    assert blocks(page, "python")
    run_page(page)


def test_packages_that_are_not_there_are_seen():
    assert not_here("import jax, os.path\nfrom flax import nnx") == set()
    assert not_here("import no_such_thing.at_all as x\nfrom neither import y") == {
        "no_such_thing",
        "neither",
    }


@pytest.fixture(scope="module")
def a_run(tmp_path_factory):
    """The folder of a small run."""
    folder = tmp_path_factory.mktemp("run") / "run"
    file = folder.with_name("small.py")
    file.write_text(
        "import jax_ssp as ssp\n"
        "from experiments.workloads.linear import LeastSquares\n"
        "def get_config():\n"
        "    return ssp.Experiment(\n"
        "        workload=LeastSquares(), runtime=ssp.Virtual(num_workers=2), num_clocks=2\n"
        "    )\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        assert jax_ssp_command("run", file, "--workdir", folder) == 0
    return folder


def test_commands_that_are_shown_work(a_run, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    lines = [line for page in PAGES for block in blocks(page, "sh") for line in block.splitlines()]
    commands = {line.split("#")[0].strip(" &") for line in lines if line.startswith("jax-ssp ")}
    assert len(commands) >= 7
    for command in commands:
        _, verb, *words = shlex.split(command)
        if verb == "run":
            file, *overrides = words
            assert parsed(Path(file), overrides, Path(file).read_bytes())[0], command
        elif verb == "reproduce":
            assert set(words) <= listed(capsys), command
        else:
            words = [a_run if word == "RUN" else word for word in words]
            assert jax_ssp_command(verb, *words) == 0, command


def listed(capsys):
    """What there is to reproduce."""
    capsys.readouterr()
    assert jax_ssp_command("reproduce", "--list") == 0
    return {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()}


def test_links_of_the_pages_lead_somewhere():
    for page, text in PAGES.items():
        folder = ROOT if page == "README.md" else ROOT / "docs"
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (folder / link).exists(), f"{page}: {link}"


def test_the_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) < 250
