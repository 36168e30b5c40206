"""What is written of a run can be read back, whole."""

import json
import math
import os
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from jax_ssp.checkpoint.metrics import MetricsWriter, read_metrics


class Clock:
    """Real time that stands still unless told."""

    def __init__(self, step: float = 0.0) -> None:
        self.now = 0.0
        self.step = step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def clock_row(
    updates: int, worker: int = 0, metrics: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    return {
        "worker": worker,
        "clock": updates,
        "steps": 2,
        "samples": 8,
        "start": updates - 0.5,
        "finish": float(updates),
        "base_version": updates - 3,
        "merge_version": updates,
        "staleness": 2,
        "lag": 1,
        "updates": updates,
        "samples_seen": 8 * updates,
        "metrics": {"loss": 1 / updates} if metrics is None else metrics,
    } | more


def eval_row(updates: int, **metrics: Any) -> dict[str, Any]:
    totals = {"updates": updates, "steps": 2 * updates, "samples": 8 * updates}
    return {"version": updates, **totals, "time": float(updates), "metrics": metrics}


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every (step, value) by tag, over all event files; checks the records' checksums."""
    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            assert struct.unpack("<I", data[8:12])[0] == masked_crc32c(data[:8])
            record, data = data[12 : 12 + length], data[12 + length :]
            assert struct.unpack("<I", data[:4])[0] == masked_crc32c(record)
            data = data[4:]
            event = Event.FromString(record)
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    for values in found.values():  # of files of the same second, no name says which was first
        values.sort(key=lambda each: each[0])
    return found


def strict(line: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(line, parse_constant=refuse)


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path)
    writer.on_start({"num_workers": 2})
    writer.on_clock(clock_row(1))
    writer.on_eval(eval_row(1, test_accuracy=0.5))
    writer.on_clock(clock_row(2, worker=np.int32(1), metrics={"loss": np.float32(0.25)}))
    writer.on_end("done")
    assert read_metrics(tmp_path) == [
        {"kind": "clock", **clock_row(1)},
        {"kind": "eval", **eval_row(1, test_accuracy=0.5)},
        {"kind": "clock", **clock_row(2, worker=1, metrics={"loss": 0.25})},
    ]


def test_what_is_not_finite_is_valid_json_and_comes_back(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path)
    writer.on_clock(clock_row(1, metrics={"loss": math.nan, "norm": np.float32(math.inf)}))
    writer.on_eval(eval_row(1, test_loss=-math.inf))
    writer.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    rows = [strict(line) for line in lines]
    assert rows[0]["metrics"] == {"loss": None, "norm": None}
    assert rows[0]["nonfinite"] == {"loss": "nan", "norm": "inf"}
    first, second = read_metrics(tmp_path / "metrics.jsonl")
    assert math.isnan(first["metrics"]["loss"])
    assert first["metrics"]["norm"] == math.inf
    assert second["metrics"] == {"test_loss": -math.inf}
    assert "nonfinite" not in first


def test_tensorboard_has_the_scalars(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, clock=Clock(step=0.2))  # each row is a point of its own
    writer.on_start({"num_workers": 2})
    writer.on_clock(clock_row(1, worker=0))
    writer.on_clock(clock_row(2, worker=1, staleness=4))
    writer.on_eval(eval_row(2, test_accuracy=0.75))
    writer.on_end("done")
    found = scalars(tmp_path)
    assert found["train/loss"] == [(1, 1.0), (2, 0.5)]
    assert found["ssp/staleness"] == [(1, 2.0), (2, 4.0)]
    assert found["ssp/lag"] == [(1, 1.0), (2, 1.0)]
    assert found["ssp/clock_seconds"] == [(1, 0.5), (2, 0.5)]
    assert found["eval/test_accuracy"] == [(2, 0.75)]
    assert found["ssp_by_worker/staleness/1"] == [(2, 4.0)]
    assert found["train_by_worker/loss/0"] == [(1, 1.0)]


def test_curves_of_metrics_and_of_the_schedule_do_not_mix(tmp_path: Path) -> None:
    """Whatever a metric is called."""
    writer = MetricsWriter(tmp_path)
    writer.on_start({"num_workers": 2})
    writer.on_clock(clock_row(1, metrics={"staleness": 7.0, "staleness/0": 8.0}, staleness=2))
    writer.close()
    found = scalars(tmp_path)
    assert found["train/staleness"] == found["train_by_worker/staleness/0"] == [(1, 7.0)]
    assert found["ssp/staleness"] == found["ssp_by_worker/staleness/0"] == [(1, 2.0)]
    assert found["train/staleness/0"] == found["train_by_worker/staleness/0/0"] == [(1, 8.0)]


def test_tensorboard_points_are_means_and_jsonl_is_whole(tmp_path: Path) -> None:
    clock = Clock()
    writer = MetricsWriter(tmp_path, clock=clock)
    writer.on_start({"num_workers": 2})
    for updates in (1, 2, 3):
        clock.now += 0.04
        writer.on_clock(clock_row(updates, metrics={"loss": float(updates)}))
    writer.on_clock(clock_row(4, metrics={"loss": 7.0}))
    writer.on_end("done")
    found = scalars(tmp_path)
    assert found["train/loss"] == [(3, 2.0), (4, 7.0)]
    assert found["ssp/samples_seen"] == [(3, 16.0), (4, 32.0)]
    assert found["ssp/samples"] == [(3, 8.0), (4, 8.0)]
    assert found["ssp/steps"] == [(3, 2.0), (4, 2.0)]
    assert len(read_metrics(tmp_path)) == 4


def test_dropped_deltas_have_no_staleness(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path)
    writer.on_clock(clock_row(1, merge_version=-1, base_version=-1, staleness=0, lag=0))
    writer.close()
    found = scalars(tmp_path)
    assert "train/loss" in found
    assert "ssp/staleness" not in found


def test_many_workers_share_their_curves(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path)
    writer.on_start({"num_workers": 17})
    for worker in range(17):
        writer.on_clock(clock_row(worker + 1, worker=worker))
    writer.close()
    assert not [tag for tag in scalars(tmp_path) if "by_worker" in tag]


def test_the_file_is_flushed_on_time(tmp_path: Path) -> None:
    clock = Clock()
    writer = MetricsWriter(tmp_path, interval=1.0, clock=clock)
    writer.on_clock(clock_row(1))
    assert read_metrics(tmp_path) == []
    clock.now = 1.0
    writer.on_clock(clock_row(2))
    assert len(read_metrics(tmp_path)) == 2
    clock.now = 10.0
    writer.on_clock(clock_row(3))
    assert scalars(tmp_path)["train/loss"]
    writer.close()


def test_no_thread_is_left_and_closing_twice_is_fine(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    writer = MetricsWriter(tmp_path / "deep" / "run")
    writer.on_clock(clock_row(1))
    writer.on_end("failed")
    writer.close()
    assert set(threading.enumerate()) <= before  # what others have left may end


def test_nothing_is_lost_if_the_end_never_comes(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, clock=Clock())
    writer.on_clock(clock_row(1))
    del writer
    assert len(read_metrics(tmp_path)) == 1
    assert scalars(tmp_path)["train/loss"] == [(1, 1.0)]


def test_a_resumed_run_goes_on_after_the_last_whole_line(tmp_path: Path) -> None:
    first = MetricsWriter(tmp_path)
    first.on_clock(clock_row(1))
    first.close()
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"kind": "clo')
    assert [row["updates"] for row in read_metrics(path)] == [1]
    second = MetricsWriter(tmp_path)
    second.on_clock(clock_row(2))
    second.close()
    assert [row["updates"] for row in read_metrics(path)] == [1, 2]
    assert scalars(tmp_path)["train/loss"] == [(1, 1.0), (2, 0.5)]


def test_a_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "eval", "metrics": {}}\nnot json\n')
    with pytest.raises(ValueError, match=r"line 2 is not JSON: 'not json'"):
        read_metrics(path)


def test_a_full_disk_is_said_once_and_what_waits_is_written_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = MetricsWriter(tmp_path, interval=0.0, clock=Clock(step=20.0))
    writer.on_clock(clock_row(1))
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        for updates in (2, 3):
            writer.on_clock(clock_row(updates))
            writer.on_eval(eval_row(updates, accuracy=0.5))
    assert not writer.whole
    shown = capsys.readouterr().err.splitlines()
    assert len([line for line in shown if "metrics.jsonl cannot be written: No space" in line]) == 1
    assert len(shown) == 2  # the other is TensorBoard's
    assert [row["updates"] for row in read_metrics(tmp_path)] == [1]
    writer.close()
    assert writer.whole
    assert [row["updates"] for row in read_metrics(tmp_path)] == [1, 2, 2, 3, 3]
    assert [step for step, _ in scalars(tmp_path)["train/loss"]] == [1, 2, 3]


def test_a_disk_that_stays_full_costs_no_end_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jax_ssp.checkpoint.events.MOST_WAITING", 500)
    writer = MetricsWriter(tmp_path)
    for updates in range(1, 9):
        writer.on_clock(clock_row(updates))
    writer.close()
    assert not writer.whole
    assert 0 < len(read_metrics(tmp_path)) < 8


def test_what_json_has_no_form_for_is_written_as_text(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path)
    writer.on_eval(eval_row(1, shape={1, 2}, many=np.arange(3)))
    writer.close()
    (row,) = read_metrics(tmp_path)
    assert row["metrics"] == {"shape": "{1, 2}", "many": "array([0, 1, 2])"}


def test_a_sync_brings_all_rows_up_to_it_to_the_disk_or_says_that_it_cannot(tmp_path, monkeypatch):
    writer = MetricsWriter(tmp_path)
    writer.on_clock(clock_row(1))
    sync = os.fsync

    def meanwhile(fd):
        writer.on_clock(clock_row(2))  # of another thread; it need not be there
        sync(fd)

    monkeypatch.setattr("os.fsync", meanwhile)
    writer.sync()
    monkeypatch.setattr("os.fsync", sync)
    assert [row["updates"] for row in read_metrics(tmp_path)] == [1]

    def full(*_):
        raise OSError("no space")

    monkeypatch.setattr("jax_ssp.files._write_all", full)
    with pytest.raises(OSError, match="cannot be written"):
        writer.sync()
    monkeypatch.undo()
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(OSError, match="moved or deleted"):
        writer.sync()
    writer.close()
