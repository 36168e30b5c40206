"""What a run came to, on a card: a table, remarks and a picture, for a notebook or a terminal."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

_WIDTH = 680  # of the picture as it is shown (CSS pixels)


@dataclass(frozen=True)
class Card:
    """What is shown of a run.

    Attributes:
        title: what was run.
        rows: pairs of a label and a value.
        remarks: sentences.
        picture: a PNG; None without one.
    """

    title: str
    rows: Sequence[tuple[str, str]]
    remarks: Sequence[str] = ()
    picture: bytes | None = None

    def html(self) -> str:
        """The card for a notebook; whatever it says is text there, never markup."""
        rows = "".join(
            f'<tr><th style="text-align:left">{escape(label)}</th>'
            f'<td style="text-align:left">{escape(value)}</td></tr>'
            for label, value in self.rows
        )
        remarks = "".join(f"<li>{escape(remark)}</li>" for remark in self.remarks)
        parts = [f"<div><b>{escape(self.title)}</b>", f"<table>{rows}</table>"]
        if remarks:
            parts.append(f"<ul>{remarks}</ul>")
        if self.picture is not None:
            data = base64.b64encode(self.picture).decode()
            parts.append(
                f'<img alt="{escape(self.title)}" style="width:100%;max-width:{_WIDTH}px" '
                f'src="data:image/png;base64,{data}">'
            )
        return "".join((*parts, "</div>"))

    def rich(self) -> RenderableType:
        """The card for a terminal, without the picture."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        for label, value in self.rows:
            table.add_row(Text(label, style="dim"), Text(value))
        remarks = [Text(f"- {remark}") for remark in self.remarks]
        return Group(Text(self.title, style="bold"), table, *remarks)


def heading(name: str | None, policy: str, workers: int) -> str:
    """What was run, in a line.

    Example:
        >>> heading("digits", "SSP(bound=3)", 4)
        'digits: SSP(bound=3) on 4 workers'
    """
    return f"{name}: {policy} on {workers} workers" if name else f"{policy} on {workers} workers"


def rows_of(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The rows of a card, from facts as `summary.json` has them; what is missing is left out."""
    rows = [("status", _status(facts))]
    if "updates" in facts:
        rows.append(("updates", _updates(facts)))
    for each in ("steps", "samples", "tokens"):
        if facts.get(each):
            rows.append((each, str(facts[each])))
    if "seconds" in facts:
        rows.append(("time", f"{facts['seconds']:.4g} {facts['time']} seconds"))
    if "computing" in facts:
        rows.append(("computing", f"{facts['computing']:.0%} of the workers' time"))
    spent = facts.get("goodput")
    if spent and spent["failures"]:
        told = f"failures: {spent['failures']}, ETTR {spent['ettr']:.1%}"
        rows.append(("goodput", f"{spent['goodput']:.1%} of the workers' time, {told}"))
    if "mean_staleness" in facts:
        mean, most = facts["mean_staleness"], facts["max_staleness"]
        rows.append(("staleness", f"mean {mean:.2f}, at most {most} versions"))
    if outer := facts.get("outer"):
        told = f"correlation {outer['correlation']:.2f}"
        rate = outer.get("effective_rate")
        more = "" if rate is None else f", effective rate {rate:.3g}"
        rows.append(("outer optimizer", told + more))
    if facts.get("resumes"):
        rows.append(("resumed", f"{facts['resumes']} times"))
    if facts.get("not_finite"):
        rows.append(("not finite", f"{facts['not_finite']} deltas"))
    rows += [(str(name), _number(value)) for name, value in facts.get("metrics", {}).items()]
    return rows


def safely(card: Callable[[], Card]) -> Card:
    """A card, or one that says why there is none: whoever looks at a thing gets no error for it."""
    try:
        return card()
    except Exception as error:
        return Card("This run cannot be shown", [(type(error).__name__, str(error))])


def _status(facts: Mapping[str, Any]) -> str:
    reason = facts.get("reason")
    return f"{facts['status']} ({reason})" if reason else str(facts["status"])


def _updates(facts: Mapping[str, Any]) -> str:
    others = ("dropped", "cancelled", "dropped or cancelled")
    lost = [f"{facts[each]} {each}" for each in others if facts.get(each)]
    return ", ".join([f"{facts['updates']} in {facts['versions']} versions", *lost])


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)
