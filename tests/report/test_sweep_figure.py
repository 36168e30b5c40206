"""The figure of a sweep stays readable, however many curves there are."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jax_ssp.report.plots import Curve
from jax_ssp.report.sweep_figure import grid_of, sweep_figure


def curves(*labels: str, seeds: int = 1) -> list[Curve]:
    updates = np.linspace(0, 100, 12)
    return [
        Curve(label, seed, updates, updates / 4, np.geomspace(2, 0.1 + 0.01 * number, 12))
        for number, label in enumerate(labels)
        for seed in range(seeds)
    ]


def crossed(*factors: list[str]) -> list[str]:
    return ["digits, " + ", ".join(each) for each in itertools.product(*factors)]


def drawn(labels: list[str], path: Path, seeds: int = 1) -> Figure:
    made = curves(*labels, seeds=seeds)
    return sweep_figure(made, path, "test_loss", "virtual seconds", "Digits · bound", labels[::-1])


def entries(figure: Figure) -> list[str]:
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts() if text.get_text().strip()]


def dashes(line: Line2D) -> str:
    """What `get_linestyle` calls by one name, whatever the dashes are."""
    return str(line._unscaled_dash_pattern)  # pyright: ignore


POLICIES = ["BSP", "SSP(bound=1)", "SSP(bound=3)", "ASP", "KSync"]
RATES = [f"learning_rate={rate}" for rate in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)]


def test_a_grid_of_30_has_an_entry_for_each_value(tmp_path: Path) -> None:
    figure = drawn(crossed(POLICIES, RATES), tmp_path / "a.png", seeds=2)
    assert entries(figure) == [*RATES, *sorted(POLICIES)]
    assert figure.legends[0].get_title().get_text() == "median and range of 2 seeds"
    assert figure.get_suptitle() == "Digits · bound"
    lines = figure.axes[0].lines
    assert len(lines) == 30
    assert len({line.get_color() for line in lines}) == 6
    assert len({dashes(line) for line in lines}) == 5
    best = [line.get_label() for line in lines if line.get_linewidth() > 2]
    assert best == ["KSync, learning_rate=3.0"]
    assert figure.axes[0].get_title(loc="left") == f"thick, the best: {best[0]}"


def test_one_thing_that_varies_goes_from_dark_to_light_in_its_order(tmp_path: Path) -> None:
    labels = [f"line, k={k}" for k in (10, 2, 30, 1, 9, 8, 7, 6, 5, 4)]
    figure = drawn(labels, tmp_path / "a.png")
    assert entries(figure) == [f"k={k}" for k in (1, 2, 4, 5, 6, 7, 8, 9, 10, 30)]


def test_names_that_make_no_grid_are_listed_the_best_first(tmp_path: Path) -> None:
    labels = [f"method {chr(97 + index)}" for index in range(26)]
    figure = drawn(labels, tmp_path / "a.png")
    assert entries(figure) == labels[::-1]
    looks = {(line.get_color(), dashes(line), line.get_marker()) for line in figure.axes[0].lines}
    assert len(looks) == 26


@pytest.mark.parametrize("letters", [5, 60])
@pytest.mark.every(2)
def test_the_legend_hides_no_curve_and_is_whole(letters: int, tmp_path: Path) -> None:
    labels = [f"{'x' * letters} {chr(97 + index)}" for index in range(26)] + ["another"]
    figure = drawn(labels, tmp_path / "a.png")
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    left, bottom, right, top = legend.extents
    assert left >= 0
    assert bottom >= 0
    assert right <= figure.bbox.width
    assert top <= figure.bbox.height
    for axis in figure.axes:
        assert not axis.get_window_extent().overlaps(legend)
        assert axis.get_window_extent().width > 0.2 * figure.bbox.width


def test_few_curves_look_like_their_policies(tmp_path: Path) -> None:
    figure = drawn(["line, SSP(bound=3)", "line, BSP"], tmp_path / "a.png")
    assert entries(figure) == ["SSP(bound=3)", "BSP"]
    assert [line.get_color() for line in figure.axes[0].lines] == ["#0072b2", "#000000"]


def test_a_curve_that_runs_away_leaves_room_for_the_others(tmp_path: Path) -> None:
    labels = crossed(["k=1", "k=2", "k=3"], ["a", "b", "c"])
    made = [
        Curve(each.label, 0, each.updates, each.seconds, np.linspace(-1.0, 1, 12))
        for each in curves(*labels)
    ]
    made[0].values[-1] = 1e9
    figure = sweep_figure(made, tmp_path / "a.png", "loss", "virtual seconds")
    assert figure.axes[0].get_ylim()[1] < 10


def test_what_makes_a_grid() -> None:
    grid = grid_of(crossed(["a=2", "a=1"], ["x", "y", "z"]))
    assert grid is not None
    assert grid.factors == [["x", "y", "z"], ["a=1", "a=2"]]
    assert grid.cells["digits, a=2, y"] == (1, 1)
    assert grid_of(["SSP(3)", "BSP"]) is None
    assert grid_of(["a=1, b=1", "a=1"]) is None
    one_by_one = [f"a={value}, b={value}, c={value}" for value in range(9)]
    assert grid_of(one_by_one) is None  # no grid, but three columns of the same
