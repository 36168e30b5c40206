"""The fold of events and answers into settled clocks, against what the judging model saw."""

import pytest

from jax_ssp.controller import Cancel, Drop, Merge
from jax_ssp.controller.rows import Fold
from jax_ssp.policies import ALL_POLICIES, SSP, KSync
from tests.helpers.harness import random_run

POLICIES = [*(policy() for policy in ALL_POLICIES), SSP(0), SSP(2, "lazy"), KSync(2)]


def seen(tape):
    """Of each start and each report when it was, found by looking through the whole tape."""
    starts, pushes = {}, {}
    for now, event, commands in tape:
        for command in commands:
            if type(command).__name__ == "StartClock":
                starts[command.token] = now, command
        if type(event).__name__ == "DeltaReady" and event.token not in pushes:
            pushes[event.token] = now, event
    return starts, pushes


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_each_settled_clock_is_a_row_and_nothing_else_is(policy, seed):
    run = random_run(policy, seed, losses=True, grant_ahead=seed == 2)
    tape, fold = run.drain(), Fold()
    starts, pushes = seen(tape)
    settled = 0
    for now, event, commands in tape:
        rows = fold.take(now, event, commands)
        wanted = []
        for command in commands:
            match command:
                case Merge(version, deltas):
                    wanted += [(version, d.staleness, d.lag, d.weight, d.token, "") for d in deltas]
                case Drop() | Cancel():
                    wanted.append((-1, 0, 0, 0.0, command.token, command.reason))
        about = [(r.merge_version, r.staleness, r.lag, r.weight, r.token, r.reason) for r in rows]
        assert about == wanted
        cancelled = {command.token for command in commands if type(command) is Cancel}
        for row in rows:
            began, start = starts[row.token]
            assert (row.worker, row.clock, row.start) == (start.worker, start.clock, began)
            assert row.base_version == start.version
            if row.token in cancelled:
                assert (row.finish, row.steps, row.samples, row.finite) == (now, 0, 0, True)
            else:
                finish, push = pushes[row.token]
                assert (row.finish, row.steps, row.samples, row.finite) == (finish, *push[4:7])
        settled += len(rows)
    model = run.model
    assert settled == len(model.stalenesses) + model.dropped + model.cancels
    assert not fold._running, "everybody has finished, or is lost"
    assert not fold._pushed, "and everything is settled"
