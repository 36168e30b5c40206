"""Controllers that count wrong: rounds, totals and own reads are proved from the tape alone."""

from collections import deque

import pytest

from jax_ssp.controller import (
    ContractViolation,
    Controller,
    Ends,
    Merge,
    StartClock,
    WorkerJoined,
    check_contract,
)
from jax_ssp.controller.tape import Tape
from jax_ssp.policies import ASP, SSP, KAsync
from tests.helpers.harness import promises


class RoundsOfNow(Controller):
    """Gives each start the round of the newest version, whatever the worker reads."""

    def _start(self, record, commands):
        record.round = self.round
        super()._start(record, commands)


class MergesAfter(Controller):
    """Says of a merge the round of the version that it makes."""

    def handle(self, event, now):
        commands = super().handle(event, now)
        return [c._replace(round=self.round) if type(c) is Merge else c for c in commands]


class CountsNothing(Controller):
    """Forgets that examples are merged, so that it never comes to `max_samples`."""

    def _count_samples(self, samples):
        self.round = self.round_at(samples)


class ReadsOwn(Controller):
    """Has workers read their own gradients."""

    def __init__(self, policy, **limits):
        super().__init__(policy, **{**limits, "reads_own": True})


RUN = {"num_workers": 3, "num_clocks": None, "max_updates": None, "max_steps": None}


def counted(kind, policy, reads_own=True, steps=1, **ends):
    """A tape of a run with examples, to its end, and the header's word for ends and rounds."""
    more = {"reads_own": reads_own, "round_samples": 7, "local_steps": steps}
    controller, running = kind(policy, ends=Ends(**ends), **more), deque()
    header = promises(policy, round_samples=7, reads_own=reads_own)
    header["experiment"] |= {**RUN, "max_samples": None, **ends}
    tape = Tape({**header, "num_workers": 3})
    events = deque(WorkerJoined(worker) for worker in range(3))
    while (events or running) and len(tape) < 60:
        at = 1 if len(running) > 1 and len(tape) % 3 else 0  # some are faster
        if not events:
            running.rotate(-at)
            start = running.popleft()
            running.rotate(at)
            events.append(start.finished(samples=3 * start.local_steps))
        event = events.popleft()
        commands = controller.handle(event, float(len(tape)))
        tape.append(float(len(tape)), event, commands)
        running += [command for command in commands if type(command) is StartClock]
    tape.complete = controller.done
    return tape


@pytest.mark.parametrize(
    ("mutant", "policy", "limits", "why"),
    [
        (RoundsOfNow, SSP(3, "lazy"), {"num_clocks": 6}, "but version . is of round"),
        (MergesAfter, SSP(2), {"num_clocks": 6}, "but version . is of round"),
        (MergesAfter, KAsync(2), {"num_clocks": 6}, "but version . is of round"),
        (CountsNothing, ASP(), {"max_samples": 20}, "is of round|but 20 samples are merged"),
        (CountsNothing, KAsync(2), {"max_samples": 20}, "is of round|but 20 samples are merged"),
        (
            ReadsOwn,
            SSP(3, "lazy"),
            {"num_clocks": 4, "reads_own": False},
            "is to have its own deltas",
        ),
    ],
    ids=lambda each: getattr(each, "__name__", str(each)),
)
def test_a_controller_that_counts_wrong_is_found_out(mutant, policy, limits, why):
    assert check_contract(counted(Controller, policy, **limits)).complete
    with pytest.raises(ContractViolation, match=why):
        check_contract(counted(mutant, policy, **limits))


@pytest.mark.parametrize("policy", [ASP(), KAsync(2)], ids=repr)
@pytest.mark.parametrize(
    ("name", "told", "why"),
    [
        ("max_samples", 20, "but 20 samples are merged"),
        ("max_steps", 10, "but 10 local steps are merged"),
        ("max_updates", 5, "but 5 deltas are merged"),
    ],
)
def test_a_run_that_goes_on_after_a_total_is_found_out(name, told, why, policy):
    tape = counted(Controller, policy, steps=2, **{name: told})
    assert check_contract(tape).complete
    further = counted(Controller, policy, steps=2, **{name: 2 * told})
    further.header["experiment"][name] = told
    with pytest.raises(ContractViolation, match=why):
        check_contract(further)
    tape.header["experiment"][name] = 2 * told
    with pytest.raises(ContractViolation, match=r"drops nothing|for no reason"):
        check_contract(tape)
