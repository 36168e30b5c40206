"""A controller made again from a tape: the same to the last answer, or the first that differs."""

from dataclasses import dataclass

import pytest

import jax_ssp as ssp
from jax_ssp.controller import Cancel, Controller, Drop, Merge, TapeMismatch
from jax_ssp.controller.tape import Tape
from jax_ssp.policies import ALL_POLICIES, Decision, LocalSteps, Policy

DELAY = ssp.delays.Exponential(mean=1.0)


def recorded(policy=None, clocks=6, **others):
    runtime = ssp.Virtual(num_workers=4, delay=DELAY, compute=False)
    return ssp.train(policy=policy, runtime=runtime, num_clocks=clocks, **others).tape


def cut(tape, rows, changed=lambda number, commands: commands):
    """The first rows of a tape, with other answers."""
    short = Tape(tape.header)
    for number, (now, event, commands) in enumerate(tape):
        if number < rows:
            short.append(now, event, changed(number, commands))
    short.complete = tape.complete and rows >= len(tape)
    return short


@pytest.mark.parametrize("policy", ALL_POLICIES, ids=lambda policy: policy.__name__)
def test_it_is_as_it_was_at_any_row(policy):
    weight = "mean" if policy().gives_weights else 0.3
    tape = recorded(policy(), local_steps=ssp.PostLocal(2, switch=3), weight=weight)
    whole = Controller.replayed(tape)
    assert whole.done
    half = Controller.replayed(cut(tape, len(tape) // 2))
    assert not half.done
    for now, event, commands in tape.entries(len(tape) // 2):  # and it goes on like the first
        assert half.handle(event, now) == commands
    assert (half.version, half.updates, half.ended) == (whole.version, whole.updates, whole.ended)


@pytest.mark.parametrize("overlap", [0, 1])
def test_the_first_answer_that_differs_is_named(overlap):
    tape = recorded(ssp.SSP(1), overlap=overlap)

    def heavier(number, commands):
        if number < 10:
            return commands
        return [
            c._replace(deltas=(c.deltas[0]._replace(weight=1.0),)) if type(c) is Merge else c
            for c in commands
        ]

    tenth = list(tape)[10]
    with pytest.raises(TapeMismatch, match=f"^at {tenth.now} s, .* weight=1.0, .*weight=0.25"):
        Controller.replayed(cut(tape, len(tape), heavier))
    with pytest.raises(TapeMismatch, match=rf"^at {tenth.now} s, .* answers \[\] and this run \[M"):
        Controller.replayed(cut(tape, 11, lambda n, commands: commands if n < 10 else []))


def test_messages_of_other_kinds_with_the_same_fields_differ():
    tape = recorded(ssp.BackupWorkers(1))

    def exchanged(number, commands):
        return [Cancel(*c) if type(c) is Drop else c for c in commands]

    assert any(type(c) is Drop for _, _, commands in tape for c in commands)
    with pytest.raises(TapeMismatch, match=r"answers Cancel\(.* and this run Drop\("):
        Controller.replayed(cut(tape, len(tape), exchanged))


def test_what_no_controller_takes_is_named():
    tape = recorded()
    doubled = cut(tape, 1)
    now, event, commands = next(iter(tape))
    doubled.append(now, event, commands)
    with pytest.raises(TapeMismatch, match=r"no controller takes WorkerJoined.*it is here already"):
        Controller.replayed(doubled)
    early = cut(tape, len(tape) - 1)
    early.complete = True
    with pytest.raises(TapeMismatch, match="complete, but its run goes on"):
        Controller.replayed(early)


@dataclass(frozen=True)
class Twos(Policy):
    """Merges two at a time."""

    often: int = 2

    def ready(self, view):
        return Decision(merge=tuple(view.buffered)[: 2 * (len(view.buffered) >= self.often)])


@dataclass(frozen=True)
class Growing(LocalSteps):
    def at(self, clock):
        return 1 + clock


def test_a_policy_and_a_schedule_of_ones_own_are_given():
    tape = recorded(Twos(often=3), local_steps=Growing())
    controller = Controller.replayed(tape, Twos, Growing)
    assert controller.done
    assert controller.policy == Twos(often=3)
    for kinds in ((), (Twos,), (Growing,)):
        with pytest.raises(ValueError, match=r"does not say all .*`Controller.replayed\(tape, "):
            Controller.replayed(tape, *kinds)
