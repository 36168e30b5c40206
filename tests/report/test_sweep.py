"""What is made of the runs of a sweep."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from jax_ssp.report.sweep import compare

SUMMARY = {"computing": 1.0, "mean_staleness": 0.5, "max_staleness": 1, "max_lag": 2}
SUMMARY |= {"seconds": 4.0, "updates": 8, "time": "virtual"}


def run(seed: int, metrics: dict[str, Any]) -> dict[str, Any]:
    evaluations = [
        {"version": at, "updates": at, "time": float(at), "passed_over": 0, "metrics": metrics}
        for at in (0, 8)
    ]
    summary = {"status": "done", **SUMMARY, "metrics": metrics}
    return {"name": "SSP(3)", "seed": seed, "summary": summary, "evaluations": evaluations}


def test_a_row_a_name_with_the_median_and_range_of_its_metrics(tmp_path: Path) -> None:
    (row,) = compare([run(seed, {"loss": float(seed)}) for seed in (3, 1, 2)], tmp_path)
    assert (row["name"], row["runs"], row["status"]) == ("SSP(3)", 3, "done")
    assert (row["loss"], row["loss range"]) == (2.0, "1 to 3")
    assert json.loads((tmp_path / "comparison.json").read_text())["rows"] == [row]
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_a_metric_that_has_the_name_of_a_column_stands_beside_it(tmp_path: Path) -> None:
    (row,) = compare([run(0, {"seconds": 0.25, "status": 7.0, "updates": 9.0})], tmp_path)
    assert (row["seconds"], row["last seconds"]) == (4.0, 0.25)
    assert (row["status"], row["last status"]) == ("done", 7.0)
    assert (row["updates"], row["last updates"]) == (8, 9.0)


def test_no_name_is_a_formula(tmp_path: Path) -> None:
    odd = run(0, {r"$\foo$": 1.0})
    compare([{**odd, "name": r"$\bar"}, {**odd, "name": r"$_{$"}], tmp_path)
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_a_seed_that_lacks_a_metric_leaves_it_without_a_number(tmp_path: Path) -> None:
    (row,) = compare([run(0, {"loss": 1.0}), run(1, {"loss": 2.0, "top5": 0.5})], tmp_path)
    assert (row["loss"], row["loss range"]) == (1.5, "1 to 2")
    assert math.isnan(row["top5"])


@pytest.mark.parametrize("losses", [(math.nan, 1.0, 2.0), (1.0, math.nan, 2.0)])
def test_a_seed_that_diverged_is_not_passed_over_whichever_it_is(
    losses: tuple[float, ...], tmp_path: Path
) -> None:
    several = [run(seed, {"loss": loss}) for seed, loss in enumerate(losses)]
    first, last = compare([*several, named("steady", {"loss": 1.5})], tmp_path)
    assert (first["name"], last["name"]) == ("steady", "SSP(3)")
    assert math.isnan(last["loss"])
    assert last["loss range"] == "1 to 2 or nan"


def failed(name: str) -> dict[str, Any]:
    return {"name": name, "seed": 0, "status": "failed", "error": "no", "log": f"{name}/output.txt"}


def named(name: str, metrics: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**run(0, metrics), "name": name, **more}


def test_the_best_comes_first_and_those_that_failed_last(tmp_path: Path) -> None:
    losses = {"poor": 2.0, "wild": math.nan, "good": 0.5}
    runs = [failed("broken"), *(named(name, {"loss": loss}) for name, loss in losses.items())]
    rows = compare(runs, tmp_path)
    assert [row["name"] for row in rows] == ["good", "poor", "wild", "broken"]
    assert rows[-1] == {"name": "broken", "runs": 1, "status": "failed", "log": "broken/output.txt"}
    assert "| broken |" in (tmp_path / "comparison.md").read_text()


def test_more_of_an_accuracy_is_better(tmp_path: Path) -> None:
    runs = [named(name, {"test_accuracy": value}) for name, value in {"a": 0.5, "b": 0.9}.items()]
    assert [row["name"] for row in compare(runs, tmp_path)] == ["b", "a"]


def test_who_reached_the_target_first_is_best(tmp_path: Path) -> None:
    """The target's metric decides, though there is a loss."""
    metrics = {"loss": 1.0, "distance": 3.0}
    runs = [named("never", {**metrics, "distance": 1.0}, target="distance <= 0.5")]
    for name, seconds in {"late": 9.0, "soon": 2.0}.items():
        one = named(name, {**metrics, "distance": 0.4}, target="distance <= 0.5")
        runs.append({**one, "summary": {**SUMMARY, "status": "target", "seconds": seconds}})
    assert [row["name"] for row in compare(runs, tmp_path)] == ["soon", "late", "never"]


def test_a_name_whose_seeds_did_not_all_end_says_so(tmp_path: Path) -> None:
    (row,) = compare([run(0, {"loss": 1.0}), failed("SSP(3)")], tmp_path)
    assert (row["runs"], row["loss"], row["status"]) == (2, 1.0, "done, failed")


def test_where_nothing_was_evaluated_the_order_is_that_of_the_sweep(tmp_path: Path) -> None:
    runs = [{**named(name, {}), "evaluations": []} for name in ("b", "a")]
    assert [row["name"] for row in compare(runs, tmp_path)] == ["b", "a"]
    assert not (tmp_path / "comparison.png").exists()


@pytest.mark.parametrize("metric", ["layer2_loss", "score_error", "top1_accuracy_loss"])
def test_less_of_a_loss_is_better_whatever_else_its_name_has(tmp_path: Path, metric: str) -> None:
    runs = [named(name, {metric: value}) for name, value in {"a": 0.9, "b": 0.5}.items()]
    assert [row["name"] for row in compare(runs, tmp_path)] == ["b", "a"]
