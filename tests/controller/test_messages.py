"""Messages are read by name: a field that is added to one is one edit."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import jax_ssp
from jax_ssp.controller.commands import COMMANDS, Merged, StartClock
from jax_ssp.controller.constructors import constructor
from jax_ssp.controller.events import EVENTS, DeltaReady, Token

PACKAGE = Path(jax_ssp.__file__).parent
START = StartClock(1, 2, 3, 4, (), 5, 0.2, Token(0, 6))


@pytest.mark.parametrize(
    "kind", [*EVENTS, *COMMANDS, Merged, Token], ids=lambda kind: kind.__name__
)
def test_a_constructor_makes_what_the_class_makes(kind):
    values = range(len(kind._fields))
    made = constructor(kind)(*values)
    assert type(made) is kind
    assert made == kind(*values)
    assert constructor(kind)(**dict(zip(kind._fields, values, strict=True))) == made
    with pytest.raises(TypeError, match="colour"):
        constructor(kind)(*values[1:], colour=0)


def test_a_constructor_knows_the_defaults():
    constructed = constructor(DeltaReady)(0, 1, 2, Token(0, 3))
    assert constructed == DeltaReady(0, 1, 2, Token(0, 3))
    assert constructed[4:] == tuple(DeltaReady._field_defaults.values())


def test_what_a_start_does_not_know_of_its_push_is_told_by_name():
    assert START.finished() == DeltaReady(1, 2, 4, Token(0, 6), 3)
    assert START.finished(steps=1, samples=8, finite=False, norm=2.5, version=3) == DeltaReady(
        1, 2, 3, Token(0, 6), steps=1, samples=8, finite=False, norm=2.5
    )
    with pytest.raises(TypeError, match="colour"):
        START.finished(colour="red")


# What the package does with a field of which nothing but the message knows.
PROGRAM = """
import sys
from jax_ssp.controller import *
from jax_ssp.controller.rows import Fold
from jax_ssp.controller.tape import Tape
from jax_ssp.controller.tape_file import read_tape, write_tape
from jax_ssp.policies import KAsync, SSP

for policy in (SSP(2), KAsync(2)):
    controller = Controller(policy, ends=Ends(num_clocks=3))
    tape = Tape({"bound": policy.guaranteed_bound})
    fold, settled, events, running = Fold(), [], [WorkerJoined(w) for w in range(3)], []
    while events or running:
        event = events.pop(0) if events else running.pop(0).finished(samples=8, words=512)
        commands = controller.handle(event, now=float(len(tape)))
        tape.append(float(len(tape)), event, commands)
        settled += fold.take(0.0, event, commands)
        running += [command for command in commands if type(command) is StartClock]
    tape.complete = True
    write_tape(sys.argv[1], tape)
    again = list(read_tape(sys.argv[1]))
    assert again == list(tape)
    pushes = [event for _, event, _ in again if type(event) is DeltaReady]
    merged = [d for _, _, all in again for c in all if type(c) is Merge for d in c.deltas]
    assert [push.words for push in pushes] == [512] * 9, pushes
    assert [delta.colour for delta in merged] == ["red"] * 9, merged
    assert [row.samples for row in settled] == [8] * 9
    assert check_contract(tape).merged == 9
    wrong = tape.lines(3).__next__().replace(",512]", ',"many"]')
    try:
        Tape({}).read_line(wrong)
    except ValueError as error:
        assert "`DeltaReady(words=...)` must be a count, got 'many'" in str(error), error
    else:
        raise AssertionError(wrong)
"""


def test_a_field_is_added_to_a_message_by_one_edit(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "jax_ssp", ignore=shutil.ignore_patterns("__pycache__"))
    for file, line, added in (
        ("events.py", "    tokens: int = 0\n", "    words: int = 0\n"),
        (
            "commands.py",
            "    weight: float\n    token: Token\n\n\nnew_merged",
            '    colour: str = "red"\n',
        ),
    ):
        path = tmp_path / "jax_ssp/controller" / file
        text = path.read_text()
        assert text.count(line) == 1
        end = line.index("\n\n\n") + 1 if "\n\n\n" in line else len(line)
        path.write_text(text.replace(line, line[:end] + added + line[end:]))
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "tape")]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
