"""Every public thing with wrong arguments: an error that helps, or a value that makes sense."""

import contextlib
import pathlib
import random
import subprocess
import sys

import pytest

import jax_ssp as ssp
from jax_ssp.checkpoint.metrics import MetricsWriter
from tests.helpers import oracle
from tests.helpers.pool import NAMES, pool
from tests.helpers.subjects import PARAMS, RUN, computing, subjects

SUBJECTS = subjects()
VERDICTS = ssp.testing.__all__  # which say by an AssertionError what is wrong with a part


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory):
    """A folder to work in, with what there is to be read."""
    with contextlib.chdir(tmp_path_factory.mktemp("fuzz")):
        ssp.write_tape("recorded.jsonl.gz", RUN.tape)
        ssp.checkpoint.save_params("saved", PARAMS)
        MetricsWriter("measured").close()
        pathlib.Path("a-run").mkdir()
        ssp.write_tape("a-run/tape.jsonl.gz", RUN.tape)
        yield


def tried(subject, names):
    """Call it with these values of the pool; gives what is not right, or None.

    Args:
        subject: what to call.
        names: names of values, by the argument that they are for.
    """
    values = pool()
    wrong = {argument: values[name] for argument, name in names.items()}
    about = ", ".join(f"{argument}={name}" for argument, name in names.items())
    try:
        with oracle.no_longer_than():
            try:
                subject.sense(subject.call(**{**subject.right, **wrong}))
            except AssertionError as error:
                if not (subject.name in VERDICTS and "See it again:" in str(error)):
                    raise
            except Exception as error:
                oracle.judge(error, wrong, subject.parameters)
    except Exception as problem:
        cause = problem.__cause__
        why = "" if cause is None else f": {type(cause).__name__}: {str(cause)[:300]}"
        return f"{subject.name}({about}): {type(problem).__name__} {str(problem)[:200]}{why}"
    return None


def singles(subject):
    """All ways to give one wrong argument."""
    return [
        {argument: name}
        for argument in subject.parameters
        for name in NAMES
        if not (name == "None" and argument in subject.maybe)
    ]


def pairs(subject, count, rng):
    """So many of the ways to give two wrong arguments at once."""
    if len(subject.parameters) < 2:
        return []
    return [
        {argument: rng.choice(NAMES) for argument in rng.sample(subject.parameters, 2)}
        for _ in range(count)
    ]


def judged(subject, inputs):
    problems = [problem for names in inputs if (problem := tried(subject, names))]
    assert not problems, f"{len(problems)} of {len(inputs)}:\n" + "\n".join(problems)


@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.whole
@pytest.mark.every(13)
def test_what_is_right_is_taken(name):
    subject = SUBJECTS[name]
    subject.sense(subject.call(**subject.right))


@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.whole
@pytest.mark.every(3)
def test_some_wrong_arguments(name):
    subject, rng = SUBJECTS[name], random.Random(name)
    judged(subject, rng.sample(singles(subject), 5) + pairs(subject, 2, rng))


@pytest.mark.slow
@pytest.mark.whole
@pytest.mark.parametrize("name", SUBJECTS)
def test_many_wrong_arguments(name):
    subject, rng = SUBJECTS[name], random.Random(f"many of {name}")
    every = singles(subject)
    several = rng.sample(every, len(every) // 5)
    judged(subject, several + pairs(subject, 8 * len(subject.parameters), rng))


@pytest.mark.slow
@pytest.mark.rare
@pytest.mark.parametrize("name", SUBJECTS)
def test_every_wrong_argument(name):
    judged(SUBJECTS[name], singles(SUBJECTS[name]))


@pytest.mark.slow
@pytest.mark.rare
@pytest.mark.parametrize("name", SUBJECTS)
def test_two_wrong_arguments(name):
    subject = SUBJECTS[name]
    judged(subject, pairs(subject, 40 * len(subject.parameters), random.Random(name)))


@pytest.mark.slow
def test_every_wrong_argument_of_a_run_that_computes():
    subject = computing()
    judged(subject, singles(subject))


SAMPLE = """
import random, sys
assert False, "assertions are off"
sys.path.insert(0, FOLDER)
from tests.fuzz import test_fuzz
problems = []
for name, subject in test_fuzz.SUBJECTS.items():
    for names in random.Random(name + " optimized").sample(test_fuzz.singles(subject), COUNT):
        problems.append(test_fuzz.tried(subject, names))
print(len(problems))
print(*filter(None, problems), sep="\\n")
"""


@pytest.mark.slow
def test_without_assertions_it_is_the_same():
    program = SAMPLE.replace("FOLDER", repr(str(pathlib.Path(__file__).parents[2])))
    program = program.replace("COUNT", "20")
    command = [sys.executable, "-O", "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, _, problems = done.stdout.partition("\n")
    assert int(count) == 20 * len(SUBJECTS)
    assert not problems.strip(), problems


def test_what_is_refused_is_refused_without_assertions():
    program = "from jax_ssp import checks\n" + "\n".join(
        f"try:\n    checks.{call}\nexcept (TypeError, ValueError) as error:\n    print(error)"
        for call in REFUSED
    )
    plain, optimized = (
        subprocess.run(
            [sys.executable, *option, "-c", program], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        for option in ([], ["-O"])
    )
    assert plain == optimized
    assert len(plain) == len(REFUSED)


REFUSED = (
    'integer("f(n=...)", 1.5)',
    'number("f(x=...)", True)',
    'share("f(x=...)", 2)',
    'seed("f(seed=...)", -1)',
    'flag("f(b=...)", "no")',
    'choice("f(c=...)", "c", ("a",))',
    'text("f(name=...)", "")',
    'path("f(folder=...)", 3)',
    'function("f(g=...)", lambda: 1, "(x) -> y")',
    'instance("f(o=...)", 1, str, "a string")',
    'several("f(each=...)", "a", "a list")',
)
