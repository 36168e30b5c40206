"""Figures: what is drawn, and that a policy looks the same everywhere."""

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.image import imread

from jax_ssp.policies import ALL_POLICIES
from jax_ssp.report.plots import Curve, comparison
from jax_ssp.report.styles import STYLES, style
from jax_ssp.report.timeline import MAX_WORKERS, run_summary
from jax_ssp.runtimes.schedule import SCHEDULE_DTYPE

CORE = ["BSP", "SSP(1)", "SSP(3)", "SSP(7)", "ASP"]


def lightness(colour: str) -> float:
    """CIE L*, 0 (black) to 100 (white): what is left of a colour in grey."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    luminance = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
    return 116 * luminance ** (1 / 3) - 16 if luminance > 0.008856 else 903.3 * luminance


def curve(label: str, seed: int = 0, low: float = 0.01, points: int = 20) -> Curve:
    updates = np.linspace(0, 1000, points)
    return Curve(label, seed, updates, updates / (10 + seed), np.geomspace(2 + seed, low, points))


def schedule(workers: int, clocks: int, travels: float = 0.0) -> np.ndarray:
    rows = np.zeros(workers * clocks, SCHEDULE_DTYPE)
    rows["clock"], rows["worker"] = np.divmod(np.arange(len(rows)), workers)
    rows["start"] = rows["clock"] + 0.01 * rows["worker"]
    rows["finish"] = rows["start"] + 0.9
    rows["computed"] = rows["finish"] - travels
    rows["computing"] = 0.9 - 2 * travels
    rows["merge_version"] = 1 + np.arange(len(rows))
    rows["staleness"] = np.arange(len(rows)) % 4
    return rows


def evaluations(*metrics: str) -> list[dict[str, Any]]:
    return [
        {
            "version": i,
            "updates": i,
            "time": float(i),
            "metrics": dict.fromkeys(metrics, 1 / (i + 1)),
        }
        for i in range(10)
    ]


def test_the_core_policies_get_lighter_as_they_get_staler() -> None:
    grey = [lightness(style(label).color) for label in CORE]
    assert np.diff(grey).min() > 12
    assert grey[-1] < 80  # still dark enough on white
    assert len({style(label).linestyle for label in CORE}) == len(CORE)


def test_every_policy_has_a_look() -> None:
    named = {name.split("(")[0] for name in STYLES}
    assert named <= {kind.__name__ for kind in ALL_POLICIES}
    grey = {kind.__name__ for kind in ALL_POLICIES} - named  # new ones, until they have a colour
    assert all(style(f"{name}()").marker for name in grey)


def test_every_two_policies_differ_in_grey() -> None:
    assert len({look.marker for look in STYLES.values()}) == len(STYLES)
    for (one, a), (other, b) in combinations(STYLES.items(), 2):
        darker = abs(lightness(a.color) - lightness(b.color))
        assert a.linestyle != b.linestyle or darker > 15, (one, other)


@pytest.mark.parametrize(
    ("label", "like"),
    [
        ("SSP(bound=3)", "SSP(3)"),
        ("SSP(bound=3, adopt='eager') + momentum", "SSP(3)"),
        ("BSP()", "BSP"),
        ("DSSP(lower=1, upper=4)", "DSSP"),
        ("KAsync(k=4), H=8", "KAsync"),
    ],
)
def test_a_policy_is_known_by_the_beginning_of_its_label(label: str, like: str) -> None:
    assert style(label) == STYLES[like]


def test_other_bounds_lie_between_their_neighbours() -> None:
    bounds = [0, 1, 2, 3, 5, 7, 15, 63, 10_000]
    grey = [lightness(style(f"SSP({bound})").color) for bound in bounds]
    assert grey == sorted(grey)
    assert grey[-1] <= lightness(style("ASP").color)
    assert len({style(f"SSP({bound})")[:3:2] for bound in bounds}) == len(bounds)


def test_unknown_policies_have_a_look_that_stays() -> None:
    assert style("Mine(k=1)") == style("Mine(k=2)")
    assert style("Mine") != style("Yours")
    assert style("")


def test_comparison_draws_both_axes(tmp_path: Path) -> None:
    curves = [curve(label, seed) for label in CORE for seed in range(3)]
    path = tmp_path / "comparison.png"
    figure = comparison(curves, path, metric="test_loss", unit="virtual seconds", title="Digits")
    left, right = figure.axes
    assert left.get_xlabel() == "updates (merged deltas)"
    assert right.get_xlabel() == "time (virtual seconds)"
    assert left.get_ylabel() == "test loss"
    assert left.get_yscale() == "log"
    assert left.get_ylim() == right.get_ylim()
    for axis in (left, right):
        assert [line.get_label() for line in axis.lines] == CORE
        assert len(axis.collections) == len(CORE)  # the bands
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == CORE
    assert "3 seeds" in legend.get_title().get_text()
    assert figure.get_suptitle() == "Digits"
    assert imread(path).shape[1] > 1000


def test_the_line_is_the_median_on_a_common_grid(tmp_path: Path) -> None:
    first = Curve("ASP", 0, np.array([0, 10, 20]), np.array([0.0, 1, 2]), np.array([3.0, 2, 1]))
    second = Curve("ASP", 1, np.array([0, 20]), np.array([0.0, 4]), np.array([5.0, 3]))
    figure = comparison([first, second], tmp_path / "a.png")
    left, right = (axis.lines[0].get_xydata() for axis in figure.axes)
    np.testing.assert_allclose(left, [[0, 4], [10, 3], [20, 2]])
    np.testing.assert_allclose(right, [[0, 4], [1, 3.25], [2, 2.5], [4, 2]])  # first keeps its 1
    assert figure.axes[0].get_yscale() == "linear"


@pytest.mark.slow
def test_the_same_label_looks_the_same_in_every_figure(tmp_path: Path) -> None:
    one = comparison([curve(label) for label in ("ASP", "SSP(3)")], tmp_path / "one.png")
    other = comparison([curve(label) for label in ("SSP(3)", "BSP")], tmp_path / "other.pdf")
    a, b = one.axes[0].lines[1], other.axes[1].lines[0]
    assert to_hex(a.get_color()) == to_hex(b.get_color()) == STYLES["SSP(3)"].color
    assert a.get_linestyle() == b.get_linestyle()
    assert a.get_marker() == b.get_marker()
    assert not one.axes[0].collections  # a single seed has no band
    assert (tmp_path / "other.pdf").read_bytes().startswith(b"%PDF")


def test_variants_of_one_policy_differ_in_marker(tmp_path: Path) -> None:
    labels = ["SSP(3)", "SSP(3) + compensation", "SSP(3) + 1/τ"]
    lines = comparison([curve(label) for label in labels], tmp_path / "a.png").axes[0].lines
    assert len({line.get_color() for line in lines}) == 1
    assert len({line.get_marker() for line in lines}) == 3


def test_a_diverged_run_ends_its_line(tmp_path: Path) -> None:
    bad = curve("ASP", 1)
    bad.values[10:] = [np.inf, *[np.nan] * 9]
    figure = comparison([curve("ASP", 0), bad, curve("BSP")], tmp_path / "a.png")
    assert np.isnan(figure.axes[0].lines[0].get_ydata()[-1])
    assert np.isfinite(figure.axes[0].lines[1].get_ydata()).all()


def test_a_comparison_of_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one run with an evaluation"):
        comparison([curve("ASP", points=0)], tmp_path / "a.png")


def test_run_summary_has_its_panels(tmp_path: Path) -> None:
    rows = schedule(workers=4, clocks=10)
    rows["merge_version"][5] = -1
    path = tmp_path / "summary.png"
    metrics = evaluations("test_loss", "test_accuracy", "third")
    figure = run_summary(rows, metrics, path, title="digits: SSP(bound=3) on 4 workers")
    assert figure.get_suptitle() == "digits: SSP(bound=3) on 4 workers"
    workers, staleness, loss, accuracy = figure.axes
    bars = [len(collection.get_paths()) for collection in workers.collections]
    assert bars == [10, 10, 10, 10]
    legend = workers.get_legend()
    assert legend is not None
    assert "computing, in vain" in [text.get_text() for text in legend.get_texts()]
    assert staleness.get_xlabel() == "staleness (versions)"
    heights = [bar.get_height() for bar in staleness.patches]
    np.testing.assert_allclose(heights, np.array([10, 9, 10, 10]) / 39)  # the dropped one is out
    assert staleness.get_title(loc="right") == "mean 1.5"
    assert [loss.get_ylabel(), accuracy.get_ylabel()] == ["test loss", "test accuracy"]
    np.testing.assert_allclose(loss.lines[0].get_xdata(), np.arange(10))
    assert imread(path).shape[1] > 1000


@pytest.mark.slow
def test_a_long_run_of_many_workers_is_cut_to_what_is_readable(tmp_path: Path) -> None:
    figure = run_summary(schedule(100, 60), evaluations("loss"), tmp_path / "a.png")
    workers = figure.axes[0]
    assert len(workers.collections) == MAX_WORKERS
    assert f"first {MAX_WORKERS} of 100" in workers.get_ylabel()
    assert workers.get_xlim() == pytest.approx((0, 39.9))
    assert "the first 39.9 of 60.9" in workers.get_xlabel()


def test_what_travels_is_drawn_apart_from_what_is_computed(tmp_path: Path) -> None:
    figure = run_summary(schedule(2, 10, travels=0.2), evaluations("loss"), tmp_path / "a.png")
    workers = figure.axes[0]
    widths = [
        np.ptp(bars.get_paths()[0].vertices[:, 0]).round(6)
        for bars in workers.collections  # of each worker: from start to finish, then computing
    ]
    assert widths == pytest.approx([0.9, 0.5, 0.9, 0.5])
    said = [text.get_text() for text in workers.get_legend().get_texts()]
    assert said == ["computing", "exchange", "waiting"]


def test_run_summary_of_little(tmp_path: Path) -> None:
    assert len(run_summary(schedule(1, 1), [], tmp_path / "a.png").axes) == 2
    dropped = schedule(2, 2)
    dropped["merge_version"] = -1
    assert len(run_summary(dropped, evaluations("loss"), tmp_path / "b.png").axes) == 3
    in_no_time = schedule(1, 60)
    for name in ("start", "finish", "computed", "computing"):
        in_no_time[name] = 0.0
    assert len(run_summary(in_no_time, [], tmp_path / "d.png").axes) == 2
    with pytest.raises(ValueError, match="no clock of this run"):
        run_summary(schedule(0, 0), [], tmp_path / "c.png")


def test_no_metric_is_a_formula(tmp_path: Path) -> None:
    odd = r"$\foo$ ${$"
    figure = run_summary(schedule(2, 3), evaluations(odd), tmp_path / "a.png", title=odd)
    assert figure.get_suptitle() == odd.replace("$", r"\$")
    assert odd.replace("$", r"\$") in [axis.get_ylabel() for axis in figure.axes]
