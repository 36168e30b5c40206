"""The quick loop takes some cases of long tables, CI more of them."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import is_rare

TESTS = Path(__file__).parent
SLOW_FILES = {  # of which each test starts processes or a cluster, or measures papers
    *("cli/test_signals.py", "test_optimized.py"),
    *("experiments/test_papers_robust.py", "experiments/test_papers_robust_two.py"),
    *(f"runtimes/ray/test_{name}.py" for name in ("runs", "failures", "spares", "command_line")),
    *(f"runtimes/ray/test_{name}.py" for name in ("joins", "joins_go_on", "slices_there")),
    *("runtimes/ray/test_controller.py", "runtimes/ray/test_rests.py"),
}


@pytest.mark.every(3)
@pytest.mark.parametrize("case", range(7))
def test_cases_between_the_third_ones_are_slow(case, request):
    assert bool(case % 3) == (request.node.get_closest_marker("slow") is not None)


@pytest.mark.every(2)
@pytest.mark.parametrize(
    "case", [0, pytest.param("slow by itself", marks=pytest.mark.slow), 1, 2, 3]
)
def test_what_is_slow_by_itself_is_not_counted(case, request):
    assert (case in (0, 2)) == (request.node.get_closest_marker("slow") is None)


@pytest.mark.slow
@pytest.mark.parametrize("case", range(60))
def test_of_many_slow_cases_three_quarters_are_rare(case, request):
    assert is_rare(request.node.nodeid) == (request.node.get_closest_marker("rare") is not None)


def test_a_quarter_of_any_table_is_not_rare():
    for rows in (5, 8, 13):
        table = [[is_rare(f"test[{row}-{column}]") for column in range(60)] for row in range(rows)]
        assert all(6 <= row.count(False) <= 26 for row in table)


@pytest.mark.slow
def test_of_every_file_but_a_few_there_is_something_in_it():
    words = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(words, cwd=TESTS.parent, capture_output=True, text=True, check=True)
    chosen = {line.split("::")[0] for line in done.stdout.splitlines() if "::" in line}
    files = {str(file.relative_to(TESTS.parent)) for file in TESTS.rglob("test_*.py")}
    assert files - chosen == {f"tests/{name}" for name in SLOW_FILES}
