"""The house has floors, and imports only go down. The controller stands on Python alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jax_ssp

PACKAGE = Path(jax_ssp.__file__).parent
FLOORS = {
    0: ("checks", "controller", "failures", "policies", "records", "files"),
    1: ("placement", "trees", "layout", "pairs", "views", "data", "mitigations", "compression"),
    2: ("server", "worker", "delays"),
    3: ("runtimes", "checkpoint"),
    4: ("training", "report"),
    5: ("cli",),
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
# Every module but the lazy list of public names.
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path != PACKAGE / "__init__.py"
)


def room(module):
    return module.split(".")[1]


class Imports(ast.NodeVisitor):
    """The absolute names that a module imports, but for those that only a type checker follows."""

    def __init__(self):
        self.names = []

    def visit_If(self, node):
        if ast.unparse(node.test) != "TYPE_CHECKING":
            self.generic_visit(node)
            return
        for other in node.orelse:
            self.visit(other)

    def visit_Import(self, node):
        self.names += [alias.name for alias in node.names]

    def visit_ImportFrom(self, node):
        assert node.level == 0, f"line {node.lineno}: a relative import"
        if node.module == "jax_ssp":
            self.names += [f"jax_ssp.{alias.name}" for alias in node.names]
        else:
            self.names.append(node.module)


def imports(source):
    found = Imports()
    found.visit(ast.parse(source))
    return found.names


def source_of(module):
    path = PACKAGE.parent.joinpath(*module.split("."))
    return path.with_suffix(".py").read_text()


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_go_down(module):
    floor = FLOOR[room(module)]  # a KeyError: a new room needs a floor, above
    for name in imports(source_of(module)):
        if name.startswith("jax_ssp."):
            assert FLOOR[room(name)] <= floor, f"{module} imports {name}, which is upstairs"


@pytest.mark.parametrize("module", [name for name in MODULES if FLOOR[room(name)] == 0])
def test_the_ground_floor_is_the_standard_library_alone(module):
    for name in imports(source_of(module)):
        top = name.split(".")[0]
        assert top in sys.stdlib_module_names or top == "jax_ssp", name


def test_what_is_read_off_a_module_is_what_it_imports():
    source = """
import a.b, c
from d.e import f
from jax_ssp import server
if TYPE_CHECKING:
    from hidden import x
else:
    import shown
def function():
    from inner import y
"""
    assert imports(source) == ["a.b", "c", "d.e", "jax_ssp.server", "shown", "inner"]


def test_the_controller_runs_without_jax_and_numpy():
    program = (
        "import sys, jax_ssp, jax_ssp.controller, jax_ssp.policies\n"
        "jax_ssp.check_contract, jax_ssp.SSP, jax_ssp.Controller\n"
        "assert not {'jax', 'numpy', 'optax', 'flax'} & set(sys.modules)"
    )
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
