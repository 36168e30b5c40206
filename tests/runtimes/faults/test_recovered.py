"""Faults under `Devices(recovery=...)`: the worker is lost, comes again, and the run ends well."""

import numpy as np
import pytest

import jax_ssp as ssp
from jax_ssp import delays, faults
from jax_ssp.controller import WorkerJoined, WorkerLost
from tests.helpers.problems import bits, linear

KINDS = {
    "raise": (lambda where: faults.Raise(**where, error=OSError("gone")), "OSError: gone"),
    "crash": (lambda where: faults.Crash(**where), "an injected fault"),
    "hang": (lambda where: faults.Hang(**where), "hang"),
    "lost push": (lambda where: faults.LostPush(**where), "hang"),
    "late": (lambda where: faults.Late(**where, seconds=0.05), "an injected fault"),
}
WHERE = {
    "step": {"worker": 1, "clock": 2},
    "push": {"worker": 1, "clock": 2, "phase": "push"},
    "join": {"worker": 1, "phase": "join"},
    "time": {"worker": 1, "at": 0.005},
}
TABLE = [
    (kind, where)
    for kind in KINDS
    for where in WHERE
    if not (
        (kind in ("lost push", "late") and where not in ("push", "time"))
        or (kind == "hang" and where == "push")
    )
]

LONG = 1.0  # seconds, which no clock takes but one that hangs


def recovered(wrong, recovery, **changes):
    runtime = ssp.Devices(
        num_workers=3, delay=delays.Constant(0.004), faults=wrong, recovery=recovery
    )
    spec = linear(**{"policy": ssp.SSP(2), "num_clocks": 6, **changes})
    result = ssp.train(runtime=runtime, **spec)
    ssp.check_contract(result.tape)
    again = ssp.train(runtime=ssp.Replay(result.tape), **spec)
    assert bits(again.params) == bits(result.params)
    np.testing.assert_array_equal(again.schedule, result.schedule)
    return result


def losses(result):
    return [event for _, event, _ in result.tape if type(event) is WorkerLost]


@pytest.mark.parametrize(("kind", "where"), TABLE)
@pytest.mark.every(8)
def test_a_worker_in_which_something_goes_wrong_comes_again(kind, where):
    make, reason = KINDS[kind]
    deadline = LONG if reason == "hang" else None
    result = recovered([make(WHERE[where])], ssp.Recovery(backoff=0.0, deadline=deadline))
    (lost,) = losses(result)
    assert lost.worker == 1
    phase = ("push: " if where == "push" else "step: ") if kind == "raise" else ""
    assert lost.reason.startswith(phase + reason)
    joined = [event.worker for _, event, _ in result.tape if type(event) is WorkerJoined]
    assert sorted(joined) == [0, 1, 1, 2]
    assert result.status == "done"
    assert max(row["clock"] for row in result.history if row["worker"] == 1) == 5


def test_no_memory_is_not_tried_again():
    result = recovered([faults.OutOfMemory(1, 2, size=1024)], ssp.Recovery(backoff=0.0))
    (lost,) = losses(result)
    assert "out of memory" in lost.reason
    assert "1,024 bytes" in lost.reason
    assert [loss.back_after for loss in result.losses] == [None]
    assert result.status == "done"


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [
        (faults.HoldLock, 1.5),
        pytest.param(faults.Stopped, 1.5, marks=pytest.mark.slow),
        pytest.param(faults.HoldLock, 70.0, marks=pytest.mark.slow),
        pytest.param(faults.Stopped, 20.0, marks=pytest.mark.slow),
    ],
)
def test_nobody_is_evicted_for_what_the_whole_process_suffers(kind, seconds):
    recovery = ssp.Recovery(deadline=LONG)
    result = recovered([kind(1, 2, seconds=seconds)], recovery)
    assert losses(result) == []
    assert result.updates == 18
