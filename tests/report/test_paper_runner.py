"""Papers: measured once; from then on all comes from the JSON, the verdicts too."""

import json
import math

import pytest

from jax_ssp.cli import main
from jax_ssp.cli.exits import DONE, USAGE
from jax_ssp.report.papers import Claim, Paper, agreement, checked, gallery, redraw, reproduce

CONFIG = """
import math
from jax_ssp.report.papers import Claim, Paper

def measure(size, seeds):
    return [{"seed": seed, "value": 1.0 + seed, "far": math.inf} for seed in range(seeds)]

def draw(figure, rows):
    figure.subplots().plot([row["value"] for row in rows])

PAPER = Paper(
    number=3, title="A small paper", reference="Nobody 2020", shows="Something.", ran="Little.",
    measure=measure,
    claims=(Claim("it is small", lambda rows: (rows[0]["value"] < 2, "1"), "abstract"),),
    table=lambda rows: [dict(row) for row in rows], draw=draw,
)
"""


def paper(claims=("holds",), number=1, title="On values") -> Paper:
    checks = {
        "holds": Claim(
            "the sum is 3", lambda rows: (sum(r["value"] for r in rows) == 3, "3"), "paper"
        ),
        "fails": Claim("the first is last", lambda rows: (rows[0] == rows[-1], "1 and 2"), "paper"),
        "own": Claim("there are two", lambda rows: (len(rows) == 2, "2"), "ours, for a test"),
    }
    return Paper(
        number=number,
        title=title,
        reference="Somebody 2001",
        shows="That values add up.",
        ran="Two of them.",
        measure=lambda size, seeds: [{"value": 1 + n, "curve": [0.5, math.nan]} for n in range(2)],
        claims=tuple(checks[name] for name in claims),
        table=lambda rows: [{"value": row["value"]} for row in rows],
        draw=lambda figure, rows: figure.subplots().plot([row["value"] for row in rows]) and None,
        notes="As it must be.",
    )


def test_it_is_measured_once_and_drawn_from_the_json_alone(tmp_path):
    content = reproduce("values", paper(), "smoke", 2, tmp_path)
    assert {"meta", "name", "size", "seeds", "wall_seconds", "rows"} == content.keys()
    assert content["rows"][0] == {"value": 1, "curve": [0.5, None]}  # strict JSON
    written = {name: (tmp_path / name).read_bytes() for name in ("values.md", "values.png")}
    for name in written:
        (tmp_path / name).unlink()
    unmeasured = paper()
    object.__setattr__(unmeasured, "measure", None)
    redraw("values", unmeasured, tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in written} == written


def test_the_text_says_what_was_run_and_names_both_commands(tmp_path):
    reproduce("values", paper(("holds", "fails")), "laptop", 4, tmp_path)
    text = (tmp_path / "values.md").read_text()
    assert "That values add up. (Somebody 2001)" in text
    assert "Size `laptop`, 4 seeds" in text
    assert "`jax-ssp reproduce values --size laptop --seeds 4`" in text
    assert "`jax-ssp reproduce values --redraw`" in text
    assert "*Agreement: of the paper's claims 1 of 2 hold.* As it must be." in text
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines()]
    assert ["", "the sum is 3", "yes", "3", "paper", ""] in rows
    assert ["", "the first is last", "no", "1 and 2", "paper", ""] in rows
    assert "Ours" not in text


def test_what_the_paper_does_not_say_is_shown_apart_and_counts_for_nothing(tmp_path):
    reproduce("values", paper(("own", "fails")), "laptop", 4, tmp_path)
    text = (tmp_path / "values.md").read_text()
    assert "of the paper's claims 0 of 1 hold, of ours 1 of 1" in text
    theirs, ours = text.split("Ours, which the paper does not make:")
    assert "the first is last" in theirs.split("The paper's claims:")[1]
    assert "there are two" in ours
    assert "there are two" not in theirs
    gallery({"values": paper(("own", "fails"))}, tmp_path)
    (row,) = [r for r in (tmp_path / "README.md").read_text().splitlines() if "(#on-values)" in r]
    assert [cell.strip() for cell in row.split("|")][2:4] == ["0 of 1", "1 of 1"]


@pytest.mark.parametrize("source", ["", "somebody", "ours?", "Paper"])
def test_a_claim_says_whose_it_is(source):
    with pytest.raises(
        ValueError, match=r"`Claim\(source=\.\.\.\)` must begin with one of 'paper'"
    ):
        Claim("it is so", lambda rows: (True, ""), source)


@pytest.mark.parametrize(
    ("claims", "verdict"),
    [
        (["holds"], "of the paper's claims 1 of 1 hold"),
        (["fails"], "of the paper's claims 0 of 1 hold"),
        (["fails", "holds", "own"], "of the paper's claims 1 of 2 hold, of ours 1 of 1"),
    ],
)
def test_a_claim_is_decided_by_its_check_on_the_rows(claims, verdict):
    rows = [{"value": 1}, {"value": 2}]
    assert agreement(checked(paper(claims), rows)) == verdict
    assert [each["holds"] for each in checked(paper(claims), rows)] == [
        c != "fails" for c in claims
    ]


def test_the_gallery_has_all_that_are_there_and_no_others(tmp_path):
    papers = {"one": paper(), "two": paper(("fails",), title="On (other) values"), "three": paper()}
    for name in ("one", "two"):
        reproduce(name, papers[name], "smoke", 1, tmp_path)
    gallery(papers, tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert page.index("[On values](#on-values)") < page.index(
        "[On (other) values](#on-other-values)"
    )
    assert page.count("## On ") == 2
    for name in ("one", "two"):
        assert (tmp_path / f"{name}.md").read_text() in page
    assert "three" not in page


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "small.py").write_text(CONFIG)
    (tmp_path / "papers" / "shared.py").write_text("HELPERS = 1\n")
    return tmp_path / "papers"


def cli(*words) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", *map(str, words)])
    return ended.value.code


def test_the_command_measures_and_writes_beside_the_papers(folder, capsys):
    assert cli("all", "--papers", folder, "--seeds", 2) == DONE
    results = folder.parent / "results" / "papers"
    content = json.loads((results / "small.json").read_text())
    assert (content["size"], content["seeds"], len(content["rows"])) == ("laptop", 2, 2)
    assert (results / "README.md").is_file()
    assert "1 of 1 hold" in " ".join(capsys.readouterr().out.split())
    (results / "small.png").unlink()
    assert cli("small", "--papers", folder, "--redraw") == DONE
    assert (results / "small.png").is_file()


def test_a_trial_leaves_what_is_published_alone(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli("small", "--papers", folder, "--size", "smoke") == DONE
    assert (tmp_path / "runs" / "papers" / "small.json").is_file()
    assert not (folder.parent / "results").exists()


@pytest.mark.parametrize("place", ["file/below", "closed"])
def test_a_folder_that_cannot_be_written_is_found_before_anything_is_measured(
    folder, place, monkeypatch, capsys
):
    (folder / "small.py").write_text(CONFIG.replace("return [", "raise AssertionError; ["))
    (folder.parent / "file").write_text("")
    monkeypatch.setattr("os.access", lambda path, mode: path.name != "closed")
    assert cli("small", "--papers", folder, "--folder", folder.parent / place) == USAGE
    assert place.split("/")[0] in capsys.readouterr().err


def test_a_paper_may_be_a_folder_with_its_parts_beside_it(folder, capsys):
    package = folder / "large"
    (package / "inner").mkdir(parents=True)
    for place in (folder, package / "inner"):
        (place / "__init__.py").write_text("")
    (package / "texts.py").write_text('TITLE = "A large paper"\n')
    text = f"from {folder.name}.large.texts import TITLE\n{CONFIG}"
    changed = text.replace('"A small paper"', "TITLE").replace("number=3", "number=2")
    (package / "__init__.py").write_text(changed)
    assert cli("--papers", folder, "--list") == DONE
    shown = capsys.readouterr().out.split()
    assert shown.index("large") < shown.index("small")
    assert "inner" not in shown


def test_the_command_lists_the_papers(folder, capsys):
    assert cli("--papers", folder, "--list") == DONE
    assert "A small paper" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["smal"], "there is no paper 'smal' here; did you mean small?"),
        (["giant"], "there is no paper 'giant' here; there are small"),
        (["small", "--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["small", "--redraw"], "small.json; measure it: jax-ssp reproduce small"),
    ],
)
def test_what_cannot_be_reproduced_is_a_usage_error(folder, words, message, capsys):
    assert cli(*words, "--papers", folder) == USAGE
    assert message in capsys.readouterr().err


def test_without_a_folder_of_papers_it_says_where_one_is_expected(tmp_path, capsys):
    assert cli("--list", "--papers", tmp_path / "nowhere") == USAGE
    assert "there is no folder" in capsys.readouterr().err
