"""A method that diverges makes no claim hold but those that say that it is worse, and none raise.

For each paper every label in turn is made to diverge, then all at once, in rows of size smoke.
"""

import copy

import matplotlib as mpl
import pytest

from jax_ssp.report.papers import checked
from jax_ssp.report.styles import PAPER as LOOK
from jax_ssp.report.styles import new_figure

NAMES = ("depth", "dc_asgd", "dssp", "essp", "ssp", "staleness_aware")
papers = pytest.mark.parametrize("measured", NAMES, indirect=True, scope="module")
pytestmark = [pytest.mark.slow, pytest.mark.rare]  # papers change seldom

# Of each paper, by label: how the claims begin that say that something is better than it.
WORSE: dict[str, dict[str, tuple[str, ...]]] = {
    "dc_asgd": {
        "BSP (SSGD)": ("at equal updates SSGD is behind",),
        "ASP (ASGD)": ("at equal rates DC-ASGD", "each at its best rate DC-ASGD"),
        "constant 0.04": ("adaptive is at least as good",),
        "constant 1": ("adaptive is at least as good",),
    },
    "dssp": dict.fromkeys(
        ("BSP", "SSP(3)"),
        (
            "2 mixed devices: Algorithm 1 converges faster",
            "2 mixed devices: our DSSP converges faster",
        ),
    ),
    "essp": {"SSP(15)": ("from the smallest to the largest bound", "at one rate for all")},
    "ssp": {
        "ASP": tuple(
            f"SSP(3) comes to the level of {share}% sooner, in seconds, than asynchronous"
            for share in (90, 99)
        ),
        "1 worker": ("many workers under SSP(3)",),
        "SSP(3)": ("update for update BSP",),
        "SSP(31)": ("update for update BSP", "a larger bound gives"),
    },
}


def trained(rows):
    """The labels of what was trained; of others only the clockwork was run."""
    kinds = ("run", None)  # rows of `depth` have no kind
    return list(dict.fromkeys(row["label"] for row in rows if row.get("kind") in kinds))


def diverged(rows, labels, after):
    """A copy of the rows in which such labels diverged after so many evaluations."""
    rows = copy.deepcopy(rows)
    for row in rows:
        if row.get("label") in labels and row.get("kind") in ("run", "swept", None):
            diverge(row, after)
    return rows


def diverge(row, after):
    if "values" in row:
        seen = min(after, len(row["values"]) - 1)
        row |= {name: row[name][: seen + 1] for name in ("updates", "seconds")}
        row |= {"values": [*row["values"][:seen], None], "status": "diverged"}
        row |= {"total_updates": row["updates"][-1], "total_seconds": row["seconds"][-1]}
        row["metrics"] = dict.fromkeys(row["metrics"])
    if "last" in row:
        row["last"] = None
    if row.get("kind") is None:  # a cell of `depth`
        row["updates"] = [None for _ in row["updates"]]
        row["swept"] = [{**tried, "updates": None} for tried in row["swept"]]


@papers
@pytest.mark.parametrize("after", [1, 6])
def test_no_claim_holds_for_want_of_a_number(measured, after):
    name, paper, rows = measured
    before = {claim["claim"]: claim["holds"] for claim in checked(paper, rows)}
    for labels in [*([label] for label in trained(rows)), trained(rows)]:
        found = checked(paper, diverged(rows, labels, after))
        turned = [each["claim"] for each in found if each["holds"] and not before[each["claim"]]]
        said = WORSE.get(name, {}).get(labels[0], ()) if len(labels) == 1 else ()
        assert [claim for claim in turned if not claim.startswith(said)] == [], labels


@papers
def test_table_and_figure_show_what_diverged(measured):
    _, paper, rows = measured
    for labels in (trained(rows)[:1], trained(rows)[-1:], trained(rows)):
        changed = diverged(rows, labels, after=1)
        assert paper.table(changed)
        with mpl.rc_context(LOOK):
            paper.draw(new_figure(paper.height), changed)
