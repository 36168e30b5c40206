"""The house has floors, and imports only go down; and its rules of size and shape, over the tree.

An import inside a function is one like any other: it may put off a cost, but not hide a dependency.
So is one that only a type checker follows. The lazy list of public names is the one exception.
"""

import ast
import subprocess
import sys

import pytest

import jax_ssp
from tests.helpers.house import MODULES, PATHS, circles, functions, imported, imports, tree_of

FLOORS = {
    "ground": (
        *(
            "checks",
            "failures",
            "records",
            "files",
            "trees",
            "leaves",
            "layout",
            "buckets",
            "pairs",
        ),
        *(
            "rounds",
            "views",
            "surroundings",
            "placement",
            "fragments",
            "slices",
            "shardings",
            "where",
            "data",
            "policies",
            "mitigations",
            "compression",
        ),
    ),
    "protocol": ("controller",),
    "parties": ("server", "worker", "delays"),
    "worlds": ("runtimes", "checkpoint"),
    "face": ("training", "report", "cli", "testing"),
}
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS.values()) for room in rooms}
STANDARD_LIBRARY_ALONE = (
    *("checks", "failures", "records", "files", "surroundings", "policies", "controller"),
)

MOST_LINES = 300  # of a file
MOST_PARAMETERS = 8  # of a function, but for `train`
MOST_FUNCTION_LINES = 50  # but for its docstring


def room(module):
    return module.split(".")[1]


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_go_down(module):
    floor = FLOOR[room(module)]  # a KeyError: a new room needs a floor, above
    for name in imported(module)[0]:
        assert FLOOR[room(name)] <= floor, f"{module} imports {name}, which is upstairs"


@pytest.mark.parametrize("module", [m for m in MODULES if room(m) in STANDARD_LIBRARY_ALONE])
def test_the_core_stands_on_the_standard_library_alone(module):
    ours, others = imported(module)
    assert {room(name) for name in ours} <= set(STANDARD_LIBRARY_ALONE)
    assert {name.split(".")[0] for name in others} <= sys.stdlib_module_names


def test_no_module_imports_itself_by_way_of_others():
    graph = {module: imported(module)[0] for module in MODULES}
    assert {name for names in graph.values() for name in names} <= set(graph)
    assert circles(graph) == []


def test_a_file_is_read_at_one_sitting():
    lines = {module: len(path.read_text().splitlines()) for module, path in PATHS.items()}
    assert {module: count for module, count in lines.items() if count > MOST_LINES} == {}


def test_a_function_is_short_and_takes_few_parameters():
    """What a dataclass or a named tuple holds is data, so the fields of one are not counted."""
    every = [function for module in PATHS for function in functions(module)]
    assert [function for function in every if function.lines > MOST_FUNCTION_LINES] == []
    many = {function.name for function in every if function.parameters > MOST_PARAMETERS}
    assert many == {"jax_ssp.training.train.train"}


def test_a_platform_is_asked_for_in_one_file():
    readers = {
        module
        for module in PATHS
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Attribute) and node.attr == "platform"
    }
    assert readers == {"jax_ssp.placement"}


def test_what_is_read_off_a_module_is_what_it_imports():
    source = """
import a.b, c
from d.e import f
from jax_ssp import server, __version__, SSP
from jax_ssp.server import server, Server
if TYPE_CHECKING:
    from hidden import x
else:
    import shown
def function():
    from inner import y
"""
    here = ["a.b", "c", "d.e", "jax_ssp.server", "jax_ssp.SSP"]
    here += ["jax_ssp.server", "jax_ssp.server.server"]
    assert imports(ast.parse(source)) == ([*here, "shown", "inner"], ["hidden"])


def test_circles_are_found():
    assert circles({"a": ["b"], "b": ["c"], "c": []}) == []
    assert circles({"a": ["b"], "b": ["c"], "c": ["b"], "d": ["d"]}) == [{"b", "c"}, {"d"}]


def test_functions_are_measured():
    found = {function.name: function for function in functions("jax_ssp.trees")}
    assert found["jax_ssp.trees.check_like"].parameters == 6
    found = {function.name: function for function in functions("jax_ssp.placement")}
    assert found["jax_ssp.placement.Placement.named"].parameters == 3  # but for `cls`
    assert found["jax_ssp.placement.Placement.put"].lines == 4


@pytest.mark.slow
def test_nothing_starts_jax_before_a_run_has_said_which_devices_it_needs():
    program = (
        "import importlib, jax\n"
        f"for module in {MODULES}: importlib.import_module(module)\n"
        "jax.config.update('jax_num_cpu_devices', 3)\n"  # an error once JAX has started
        "assert len(jax.devices('cpu')) == 3"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_controller_runs_without_jax_and_numpy():
    program = (
        "import sys, jax_ssp, jax_ssp.controller, jax_ssp.policies\n"
        "jax_ssp.check_contract, jax_ssp.SSP, jax_ssp.Controller\n"
        "assert not {'jax', 'numpy', 'optax', 'flax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_loop_runs_without_jax():
    program = "import sys, jax_ssp.runtimes.resuming, jax_ssp.runtimes.clockwork\n"
    program += "assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_command_line_starts_without_jax():
    # A typo is answered at once; JAX and flax are imported when something is run.
    program = "import sys, jax_ssp.cli; assert not {'jax', 'flax', 'tyro'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("name", jax_ssp.__all__)
def test_every_public_name_is_there(name):
    assert getattr(jax_ssp, name) is not None
    assert name in dir(jax_ssp)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'jax_ssp' has no attribute 'trian'"):
        jax_ssp.trian  # noqa: B018
