"""A method that diverged makes no claim hold but those that say that it is worse, and none raise.

In rows of size smoke one method after the other diverges, then all. A paper joins by its name in
`METHODS`: what may diverge there, each as the fields that its rows have.
"""

import copy
import json

import matplotlib as mpl
import pytest

from jax_ssp.report.papers import checked
from jax_ssp.report.styles import PAPER as LOOK
from jax_ssp.report.styles import new_figure

pytestmark = [pytest.mark.slow, pytest.mark.rare]  # papers change seldom


def labelled(rows):
    """What was trained, by its label."""
    return [{"label": label} for label in dict.fromkeys(row.get("label") for row in rows) if label]


def mitigated(rows):
    """And every cell: a number of workers, a period, a number of backups."""
    names = ("study", "label", "workers", "period", "setting", "b")
    every = [{name: row[name] for name in names if name in row} for row in rows]
    cells = [json.loads(each) for each in dict.fromkeys(map(json.dumps, every))]
    return [*labelled(rows), *cells]


METHODS = {"ringmaster": labelled, "null_case": labelled, "mitigations": mitigated}
# Of each paper: how the claims begin that something is better than what has this label or setting.
WORSE = {
    "mitigations": {
        "ASGD": ("Gap-Aware: with the most", "with the most workers, "),
        "staleness-aware": ("with the most workers, ",),
        "DOWNPOUR": ("EASGD: DOWNPOUR", "EASGD's grows", "at the longest period EASGD"),
        "DOWNPOUR, mean": ("and at least",),
        "12 workers in all": ("12 in all",),
    },
}
papers = pytest.mark.parametrize("measured", METHODS, indirect=True, scope="module")
# How the claims begin that are of the clockwork alone.
CLOCKWORK = {
    "ringmaster": ("R updates in a row",),
    "null_case": (
        "equal devices: being stale",
        "one device slow for good, or now and then",
        "there, a step under ASP",
        "bursts of each",
        "exponential slowdowns",
    ),
    "mitigations": ("Backup workers: the more",),
}


def diverged(rows, methods, after):
    """A copy of the rows in which these diverged after so many evaluations."""
    rows = copy.deepcopy(rows)
    for row in rows:
        if any(method.items() <= row.items() for method in methods):
            diverge(row, after)
    return rows


def diverge(row, after):
    if "values" in row:
        kept = row["values"][:after]
        row["values"] = kept + [None] * (len(row["values"]) - len(kept))
        row["status"] = "diverged"
    row |= {name: None for name in ("last", "loss", "error") if name in row}
    if "iterations" in row:
        row["iterations"] = [None for _ in row["iterations"]]
        row["swept"] = [{**tried, "iterations": None} for tried in row["swept"]]


@papers
@pytest.mark.parametrize("after", [0, 1, 6])
def test_no_claim_holds_for_want_of_a_number(measured, after):
    name, paper, rows = measured
    methods = METHODS[name](rows)
    before = {claim["claim"]: claim["holds"] for claim in checked(paper, rows)}
    for several in [*([method] for method in methods), methods]:
        found = checked(paper, diverged(rows, several, after))
        turned = [each["claim"] for each in found if each["holds"] and not before[each["claim"]]]
        what = several[0].get("label", several[0].get("setting")) if len(several) == 1 else None
        worse = WORSE.get(name, {}).get(what, ())
        assert [claim for claim in turned if not claim.startswith(worse)] == [], several


@papers
def test_where_all_diverged_only_the_clockwork_is_left(measured):
    name, paper, rows = measured
    found = checked(paper, diverged(rows, METHODS[name](rows), after=1))
    held = [each["claim"] for each in found if each["holds"]]
    assert [claim for claim in held if not claim.startswith(CLOCKWORK[name])] == []


@papers
@pytest.mark.parametrize(
    ("name", "label", "claim"),
    [
        ("ringmaster", "Ringmaster, stops", "nor, on seed 0"),
        ("null_case", "BSP", "equal devices: no stale method"),
        ("null_case", "ASP", "equal devices: no stale method"),
    ],
)
def test_what_diverged_counts_against(measured, name, label, claim):
    if measured[0] != name:
        pytest.skip("of another paper")
    _, paper, rows = measured
    found = checked(paper, diverged(rows, [{"label": label}], after=6))
    assert [each["holds"] for each in found if each["claim"].startswith(claim)] == [False]


@papers
def test_table_and_figure_show_what_diverged(measured):
    name, paper, rows = measured
    methods = METHODS[name](rows)
    for several in (methods[:1], methods[-1:], methods):
        changed = diverged(rows, several, after=1)
        assert paper.table(changed)
        with mpl.rc_context(LOOK):
            figure = new_figure(paper.height)
            paper.draw(figure, changed)
            figure.canvas.draw()
