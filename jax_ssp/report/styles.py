"""How figures for papers look: type, colours, and a look for each policy that it has everywhere.

Colours go from dark to light as the staleness allowed grows, from BSP over SSP's bounds to ASP, so
that figures are readable in grey and by the colourblind; dashes and markers differ too. Nothing
here touches pyplot or its global state.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

WIDTH = 6.8  # inches: the text of a page
DARK, LIGHT, DROPPED = "#1f3b57", "#7ba6cf", "#9e3303"

PAPER: dict[Any, Any] = {
    "font.family": ["STIXGeneral", "DejaVu Sans"],  # the second for what the first lacks
    "mathtext.fontset": "stix",
    "font.size": 9,
    "figure.titlesize": 10,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8.5,
    "legend.title_fontsize": 8.5,
    "legend.frameon": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
    "svg.hashsalt": "jax_ssp",
}


class Style(NamedTuple):
    """How a policy is drawn, in matplotlib's terms."""

    color: str
    linestyle: Any
    marker: str


_SOLID = "-"
DASHED = (0, (5, 1.5))
_DASHDOT = (0, (4, 1.2, 1, 1.2))
_DOTTED = (0, (1.2, 1))
_DASHDOTDOT = (0, (4, 1.2, 1, 1.2, 1, 1.2))
_LONG_SHORT = (0, (5, 1.2, 2, 1.2))

# Of two policies with the same dashes, one is much darker.
STYLES: dict[str, Style] = {
    "BSP": Style("#000000", _SOLID, "o"),
    "SSP(1)": Style("#332288", DASHED, "s"),
    "SSP(3)": Style("#0072b2", _DASHDOT, "^"),
    "SSP(7)": Style("#2f9e8f", _DOTTED, "D"),
    "ASP": Style("#f0a30a", _DASHDOTDOT, "v"),
    "DSSP": Style("#882255", _DOTTED, "P"),
    "PSP": Style("#88ccee", _SOLID, "X"),
    "KSync": Style("#117733", _SOLID, "<"),
    "KAsync": Style("#999933", _SOLID, ">"),
    "KBatchAsync": Style("#c9b458", DASHED, "p"),
    "Softsync": Style("#cc6677", DASHED, "h"),
    "BackupWorkers": Style("#aa4499", _LONG_SHORT, "d"),
    "Ringmaster": Style("#d55e00", _DASHDOTDOT, "*"),
    "Rennala": Style("#661100", _DASHDOT, "8"),
    "Quorum": Style("#6699cc", _LONG_SHORT, "H"),
    "Decoupled": Style("#114477", _DASHDOTDOT, "4"),
    "VAP": Style("#a3d5c8", _DOTTED, "1"),
    "KBatchSync": Style("#54a46d", _DASHDOT, "2"),
    "FedBuff": Style("#d9b8cf", _DASHDOT, "3"),
}
_MARKERS = "os^DvPX<>phd*8H1234"


def style(label: str) -> Style:
    """The look of a policy; it depends on the label's policy alone.

    The bounds of SSP that have no entry of their own lie between their neighbours in colour. A
    policy unknown here gets a grey look that is its own as far as that is possible.

    Args:
        label: begins with the policy, such as `SSP(3)`, `SSP(bound=3) + momentum`, `ASP`.

    Example:
        >>> style("SSP(bound=3), H=8") == style("SSP(3)")
        True
    """
    match = re.match(r"\s*(\w*)(?:\(\D*(\d+))?", label)
    name, number = match.groups() if match else ("", None)
    if name == "SSP":
        bound = int(number or 3)
        return STYLES.get(f"SSP({bound})") or _between_bounds(bound)
    if name in STYLES:
        return STYLES[name]
    code = zlib.crc32(name.encode())
    grey = f"{0.25 + code % 5 / 10:.2f}"
    return Style(grey, (DASHED, _DOTTED, _LONG_SHORT)[code // 5 % 3], _MARKERS[code // 15 % 15])


def _between_bounds(bound: int) -> Style:
    anchors = [to_rgb(STYLES[name].color) for name in ("BSP", "SSP(1)", "SSP(3)", "SSP(7)", "ASP")]
    at = math.log2(1 + bound) if bound <= 7 else 3 + (bound - 7) / (bound + 7)
    red, green, blue = (
        float(np.interp(at, range(5), channel)) for channel in zip(*anchors, strict=True)
    )
    return Style(to_hex((red, green, blue)), _LONG_SHORT, _MARKERS[bound % len(_MARKERS)])


def plain(name: str) -> str:
    r"""A name of the user's for a figure, where what is between two $ would be a formula.

    Example:
        >>> print(plain("US$ in $k"))
        US\$ in \$k
    """
    return name.replace("$", r"\$")


def looks(labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Each label's style as arguments of `plot`; labels of the same policy differ in marker."""
    looks: dict[str, dict[str, Any]] = {}
    policies = [style(label) for label in labels]
    for index, (label, look) in enumerate(zip(labels, policies, strict=True)):
        again = policies[:index].count(look)
        marker = _MARKERS[(_MARKERS.index(look.marker) + again) % len(_MARKERS)]
        looks[label] = {**look._asdict(), "marker": marker}
        looks[label]["markerfacecolor"] = "white" if again else look.color
    return looks


def new_figure(height: float) -> Figure:
    """An empty figure of a page's width and this height (inches)."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
