"""When a run is to be saved: what may be asked for, in Python and in words."""

import dataclasses
from pathlib import Path

import pytest
import tyro

import jax_ssp as ssp


@pytest.mark.parametrize(
    ("every", "seconds", "clocks"),
    [
        ("90s", 90.0, None),
        ("5min", 300.0, None),
        ("2h", 7200.0, None),
        ("0.5 s", 0.5, None),
        (200, None, 200),
        ("200", None, 200),
    ],
)
def test_a_period_is_a_time_or_a_number_of_clocks(every, seconds, clocks):
    checkpoints = ssp.Checkpoints(every=every)
    assert checkpoints.every_seconds == seconds
    assert checkpoints.every_clocks == clocks


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        (
            {"every": "5 parsecs"},
            ValueError,
            r'`Checkpoints\(every=...\)` .* such as "90s", "5min"',
        ),
        ({"every": "0s"}, ValueError, "above 0 seconds"),
        ({"every": "9" * 30 + "h"}, ValueError, "at most ten years"),
        ({"every": "9" * 30}, ValueError, "a number of clocks"),
        ({"every": "-5s"}, ValueError, "a number of clocks, or a time"),
        ({"every": 0}, ValueError, "at least 1"),
        ({"every": 1.5}, TypeError, "a number of clocks, or a time"),
        ({"every": None}, TypeError, "a number of clocks, or a time"),
        ({"keep": 0}, ValueError, r"`Checkpoints\(keep=...\)` must be at least 1"),
        ({"best": ""}, ValueError, r"`Checkpoints\(best=...\)` must be one line"),
        ({"mode": "least"}, ValueError, r"`Checkpoints\(mode=...\)` must be \"max\" or \"min\""),
        ({"keep_best": 0}, ValueError, "keep_best"),
        ({"grace": 30}, TypeError, r"`Checkpoints\(grace=...\)` must be a time such as"),
        ({"grace": "30"}, ValueError, r"`Checkpoints\(grace=...\)` must be a time such as"),
        ({"folder": 3}, TypeError, r"`Checkpoints\(folder=...\)` must be a path"),
    ],
)
def test_what_cannot_be_is_named(given, kind, message):
    with pytest.raises(kind, match=message):
        ssp.Checkpoints(**given)


def test_better_is_as_the_name_of_the_metric_says():
    assert ssp.Checkpoints(best="test_loss").better == "min"
    assert ssp.Checkpoints(best="accuracy").better == "max"
    assert ssp.Checkpoints(best="accuracy", mode="min").better == "min"


def test_a_path_is_kept_as_it_was_written():
    assert ssp.Checkpoints(Path("runs/mine")) == ssp.Checkpoints("runs/mine")


@dataclasses.dataclass(frozen=True)
class Config:
    checkpoint: ssp.Checkpoints = dataclasses.field(default_factory=ssp.Checkpoints)


@pytest.mark.parametrize(("every", "expected"), [("30s", "30s"), ("30", 30)])
def test_the_command_line_sets_its_fields(every, expected):
    words = ["--checkpoint.every", every, "--checkpoint.keep", "5", "--checkpoint.best", "loss"]
    found = tyro.cli(Config, args=words, config=(tyro.conf.AvoidSubcommands,))
    assert found.checkpoint == ssp.Checkpoints(every=expected, keep=5, best="loss")
