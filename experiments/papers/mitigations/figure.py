"""Table and figure of `mitigations`: those of its three papers."""

from __future__ import annotations

from matplotlib.figure import Figure

from experiments.papers.mitigations.backup import figure as backup
from experiments.papers.mitigations.elastic import figure as elastic
from experiments.papers.mitigations.gap import figure as gap
from jax_ssp.report.papers import Row, Rows


def table(rows: Rows) -> list[Row]:
    return [row for each in (gap, elastic, backup) for row in each.table(rows)]


def draw(figure: Figure, rows: Rows) -> None:
    axes = figure.subplots(2, 2).flatten()
    gap.draw(axes[0], rows)
    elastic.draw(axes[1], rows)
    backup.draw(axes[2], axes[3], rows)
    titles = ("Gap-Aware", "EASGD", "backup workers: iterations", "backup workers: time")
    for letter, title, axis in zip("abcd", titles, axes, strict=True):
        axis.set_title(f"({letter}) {title}", loc="left")
    figure.supxlabel("lines: median over the seeds; bands: their range", fontsize=8.5)
