"""Papers reproduced: what one shows, what was run, and whether each of its claims holds here.

A file of `experiments/papers` makes one `Paper`. `reproduce` measures it and writes, into a folder,
`<name>.json` (all that was measured) and, from that alone, `<name>.png` and `<name>.md`; `gallery`
makes one page of all that are there. Whether a claim holds is decided by its check on the rows of
the JSON, never by hand.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import matplotlib as mpl
from matplotlib.figure import Figure

from jax_ssp.files import write_json
from jax_ssp.report.environment import environment
from jax_ssp.report.styles import PAPER, new_figure
from jax_ssp.report.tables import format_seconds, markdown_table

Size: TypeAlias = Literal["smoke", "laptop", "paper"]
Row: TypeAlias = dict[str, Any]
Rows: TypeAlias = Sequence[Mapping[str, Any]]
GALLERY = "README.md"
TITLE_HEIGHT = 0.25  # inches
SOURCES = ("paper", "abstract", "authors' code", "ours")


@dataclass(frozen=True)
class Claim:
    """A claim, whose it is, and how to see in the rows whether it is so here.

    Attributes:
        text: in our words.
        check: from the rows, as JSON has them, whether it holds, and the figures that say so.
        source: where it is made: "paper" (its text, as read or as summaries and re-implementations
            give it), "abstract" or "authors' code", each perhaps with a place after a comma
            ("paper, section 5"); or "ours", for what the paper does not say. Only what is not ours
            counts for the paper.

    Raises:
        ValueError: if the source is none of these.

    Example:
        >>> Claim("waiting saves nothing", lambda rows: (True, ""), "paper, section 5").is_ours
        False
    """

    text: str
    check: Callable[[Rows], tuple[bool, str]]
    source: str

    def __post_init__(self) -> None:
        if self.source.partition(", ")[0] not in SOURCES:
            raise ValueError(
                f"`Claim(source=...)` must begin with one of {', '.join(map(repr, SOURCES))}, got "
                f"{self.source!r}."
            )

    @property
    def is_ours(self) -> bool:
        """Whether the paper does not say so."""
        return self.source.partition(", ")[0] == "ours"


@dataclass(frozen=True)
class Paper:
    """What a file of `experiments/papers` gives.

    Attributes:
        number: its place in the gallery.
        title: of the item, as the gallery shows it.
        reference: authors, year, title, arXiv id.
        shows: what the paper shows, and at which size.
        ran: what we ran, and where it differs.
        measure: (size, seeds) -> rows of plain numbers, strings, lists and dicts.
        claims: at least one.
        table: the rows as the text shows them, from those of the JSON.
        draw: the figure, onto an empty one, from the rows.
        height: of the figure, without its title (inches).
        notes: why something agrees or does not.
    """

    number: int
    title: str
    reference: str
    shows: str
    ran: str
    measure: Callable[[Size, int], list[Row]]
    claims: tuple[Claim, ...]
    table: Callable[[Rows], list[Row]]
    draw: Callable[[Figure, Rows], None]
    height: float = 2.8
    notes: str = ""


def reproduce(name: str, paper: Paper, size: Size, seeds: int, folder: Path) -> dict[str, Any]:
    """Measure a paper and write what came of it; gives the content of the JSON.

    Args:
        name: of the files.
        paper: what to measure.
        size: "smoke" only shows that it runs; "laptop" is meant to be read; "paper" is full size.
        seeds: of each random run.
        folder: where the files go; it is there.
    """
    began = time.perf_counter()
    rows = paper.measure(size, seeds)
    content = {
        "meta": environment(),
        "name": name,
        "size": size,
        "seeds": seeds,
        "wall_seconds": time.perf_counter() - began,
        "rows": rows,
    }
    write_json(folder / f"{name}.json", content, indent=1)
    return redraw(name, paper, folder)


def redraw(name: str, paper: Paper, folder: Path) -> dict[str, Any]:
    """Make figure and text anew from the JSON in the folder; gives its content.

    Raises:
        ValueError: if there is none.
    """
    file = folder / f"{name}.json"
    if not file.is_file():
        raise ValueError(f"there is no {file}; measure it: jax-ssp reproduce {name}")
    content = json.loads(file.read_text())
    with mpl.rc_context(PAPER):
        figure = new_figure(paper.height + TITLE_HEIGHT)
        figure.suptitle(f"{paper.title} (size {content['size']}, {content['seeds']} seeds)")
        paper.draw(figure, content["rows"])
        figure.savefig(folder / f"{name}.png")
    claims = checked(paper, content["rows"])
    (folder / f"{name}.md").write_text(_text(name, paper, content, claims))
    return content


def checked(paper: Paper, rows: Rows) -> list[Row]:
    """Each claim, whether it holds, the figures that say so, and whose claim it is."""
    found: list[Row] = []
    for claim in paper.claims:
        holds, figures = claim.check(rows)
        about = {"claim": claim.text, "holds": bool(holds), "figures": figures}
        found.append({**about, "source": claim.source, "ours": claim.is_ours})
    return found


def agreement(claims: Sequence[Mapping[str, Any]]) -> str:
    """How many of the paper's claims hold, and how many of ours, in words.

    Example:
        >>> agreement([{"holds": True, "ours": False}, {"holds": False, "ours": True}])
        "of the paper's claims 1 of 1 hold, of ours 0 of 1"
    """
    own = f", of ours {held(claims, ours=True)}" if any(each["ours"] for each in claims) else ""
    return f"of the paper's claims {held(claims)} hold{own}"


def held(claims: Sequence[Mapping[str, Any]], ours: bool = False) -> str:
    """How many of the paper's claims hold, or of ours, such as "8 of 9"."""
    chosen = [each["holds"] for each in claims if each["ours"] == ours]
    return f"{sum(chosen)} of {len(chosen)}"


def gallery(papers: Mapping[str, Paper], folder: Path) -> None:
    """One page of all papers that have results in the folder, in the order given."""
    parts = [_HEAD]
    index: list[Row] = []
    for name, paper in papers.items():
        if not (folder / f"{name}.json").is_file():
            continue
        content = json.loads((folder / f"{name}.json").read_text())
        try:
            claims = checked(paper, content["rows"])
            parts.append(_text(name, paper, content, claims))
        except (LookupError, ValueError, TypeError, ArithmeticError) as error:
            raise ValueError(
                f"{folder / name}.json is of another version of its file ({error!r}); measure it "
                f"again: jax-ssp reproduce {name}"
            ) from error
        index.append(
            {
                "paper": f"[{paper.title}](#{_anchor(paper.title)})",
                "the paper's claims that hold": held(claims),
                "ours that hold": held(claims, ours=True) if any(c["ours"] for c in claims) else "",
                "size": content["size"],
                "seeds": content["seeds"],
                "time": format_seconds(content["wall_seconds"]),
            }
        )
    parts.insert(1, markdown_table(index) + "\n")
    (folder / GALLERY).write_text("\n".join(parts))


_HEAD = """# Papers, reproduced

Made by `jax-ssp reproduce`; every figure and every verdict is computed from the JSON named under
it. A claim that fails is shown as failing. Virtual seconds and wall seconds are never on one axis.
Whose a claim is, the column `source` says: the paper's text (as read, or as summaries and
re-implementations give it), its abstract, or its authors' code. What no paper says, but this
software's users will want to know, is in a table of its own and counts for no paper.
"""


def _anchor(title: str) -> str:
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")


def _text(name: str, paper: Paper, content: Mapping[str, Any], claims: Sequence[Row]) -> str:
    meta, size, seeds = content["meta"], content["size"], content["seeds"]
    hardware = f"{meta['cores']} cores, {', '.join(meta['devices'])}"
    versions = f"Python {meta['python']}, jax {meta['jax']}, commit {meta['commit']}"
    notes = f" {paper.notes}" if paper.notes else ""
    return f"""## {paper.title}

*What the paper shows.* {paper.shows} ({paper.reference})

*What we ran.* {paper.ran} Size `{size}`, {seeds} seeds, {format_seconds(content["wall_seconds"])}.

![{paper.title}]({name}.png)

{markdown_table(paper.table(content["rows"]))}

*Agreement: {agreement(claims)}.*{notes}

{_tables(claims)}

Data: [{name}.json]({name}.json), of `jax-ssp reproduce {name} --size {size} --seeds {seeds}`;
figure and text from it alone: `jax-ssp reproduce {name} --redraw`.
{hardware}; {versions}; {meta["date"]}.
"""


def _tables(claims: Sequence[Row]) -> str:
    """The paper's claims, then ours, if there are any of them."""
    parts: list[str] = []
    for ours, title in (
        (False, "The paper's claims:"),
        (True, "Ours, which the paper does not make:"),
    ):
        hidden = ("ours", "source") if ours else ("ours",)
        rows = [
            {name: value for name, value in each.items() if name not in hidden}
            for each in claims
            if each["ours"] == ours
        ]
        if rows:
            parts.append(f"{title}\n\n{markdown_table(rows)}")
    return "\n\n".join(parts)
