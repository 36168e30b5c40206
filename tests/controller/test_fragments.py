"""Parameters in fragments: what the controller answers, by a brute-force model and by hand."""

import pytest

from jax_ssp.controller import (
    ContractViolation,
    Controller,
    Merge,
    StartClock,
    WorkerJoined,
    check_contract,
)
from jax_ssp.controller.tape import Tape
from jax_ssp.policies import (
    ASP,
    BSP,
    DSSP,
    SSP,
    BackupWorkers,
    Decoupled,
    FedBuff,
    KAsync,
    KBatchAsync,
    KBatchSync,
    KSync,
    Quorum,
    Rennala,
    Ringmaster,
    Softsync,
)
from jax_ssp.testing.driving import promises, random_run

POLICIES = [
    *(BSP(), SSP(0), SSP(2), SSP(2, "lazy"), ASP(), DSSP(1, 3), KAsync(2), KBatchAsync(3)),
    *(Softsync(2), BackupWorkers(1), Ringmaster(3), Quorum(2, 1.0), FedBuff(3)),
]


@pytest.mark.parametrize("fragments", [2, 3, 5])
@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_any_schedule_keeps_the_contract_fragment_by_fragment(policy, fragments):
    for seed, more in enumerate(
        [
            {"weight": "merged"},
            {"weight": "tokens"},
            {"losses": True, "resumes": True, "spoiled": 0.1},
            {"grant_ahead": True, "num_clocks": 9, "weight": "samples"},
        ]
    ):
        run = random_run(policy, seed, workers=4, events=70, fragments=fragments, **more)
        tape = run.drain()
        report = check_contract(tape)
        assert report.max_staleness == max(run.model.stalenesses, default=0)


@pytest.mark.parametrize(
    "policy", [KSync(2), KBatchSync(2), Rennala(2), Ringmaster(3, stops=True), Decoupled(2)]
)
def test_who_cancels_or_wants_one_version_does_not_go_with_fragments(policy):
    with pytest.raises(ValueError, match=r"`fragments=2`: .* use another policy, or no fragments"):
        Controller(policy, fragments=2)


def two_workers(policy=ASP()):  # noqa: B008 (immutable)
    """In two fragments worker 0 pushes six clocks while worker 1 runs its first; then it pushes."""
    controller, tape = Controller(policy, fragments=2), Tape(promises(policy, fragments=2))
    starts: dict[int, StartClock] = {}
    merges: list[Merge] = []

    def handle(event):
        now = float(len(tape))
        commands = controller.handle(event, now)
        tape.append(now, event, commands)
        starts.update({c.worker: c for c in commands if type(c) is StartClock})
        merges.extend(c for c in commands if type(c) is Merge)

    for event in (WorkerJoined(0), WorkerJoined(1)):
        handle(event)
    for worker in (0, 0, 0, 0, 0, 0, 1, 1):
        handle(starts[worker].finished())
    return tape, merges


def test_staleness_counts_the_versions_that_merged_the_fragment():
    tape, merges = two_workers()
    told = [(d.worker, d.clock, d.base, d.staleness) for m in merges for d in m.deltas]
    # Of worker 0 alone each delta is fresh, though another fragment was merged since its base.
    assert told[:6] == [
        (0, 0, 0, 0),
        (0, 1, 0, 0),
        (0, 2, 1, 0),
        (0, 3, 2, 0),
        (0, 4, 3, 0),
        (0, 5, 4, 0),
    ]
    # Worker 1 adopted both at version 0; since then each was merged three times by worker 0.
    assert told[6:] == [(1, 0, 0, 3), (1, 1, 0, 3)]
    assert check_contract(tape).max_staleness == 3


@pytest.mark.parametrize("change", ["whole", "base", "staleness"])
def test_a_tape_that_says_otherwise_is_found_out(change):
    tape, _ = two_workers()
    # The header does not say enough to recompute the answers: the clauses alone find it out.
    other = Tape(tape.header)
    done = False
    for now, event, commands in tape:
        changed = []
        for command in commands:
            if change == "whole" and type(command) is StartClock and command.clock == 3:
                command, done = command._replace(whole=True), True
            elif change != "whole" and type(command) is Merge and command.version == 4:
                (delta,) = command.deltas
                delta = delta._replace(**{change: getattr(delta, change) + 1})
                command, done = command._replace(deltas=(delta,)), True
            changed.append(command)
        other.append(now, event, changed)
    assert done
    with pytest.raises(ContractViolation):
        check_contract(other)


def test_a_header_of_other_fragments_is_found_out():
    tape, _ = two_workers()
    tape.header["experiment"]["fragments"]["number"] = 3
    with pytest.raises(ContractViolation):
        check_contract(tape)
