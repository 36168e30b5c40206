"""What the tests of the house read off its source: imports, parameters, lengths."""

import ast
import functools
from dataclasses import dataclass
from pathlib import Path

import jax_ssp

PACKAGE = Path(jax_ssp.__file__).parent


def name_of(path):
    """The dotted name of a module; a package's own module is named like the package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
# Every module but the lazy list of public names.
MODULES = [name for name in PATHS if name != "jax_ssp"]


@functools.cache
def tree_of(module):
    return ast.parse(PATHS[module].read_text())


class Imports(ast.NodeVisitor):
    """The absolute names that a module imports, wherever it does: at its top, in a function, or
    under TYPE_CHECKING. `for_types` tells the last ones apart."""

    def __init__(self):
        self.names = []
        self.for_types = []
        self._typing = False

    def visit_If(self, node):
        outer = self._typing
        self._typing = outer or ast.unparse(node.test) == "TYPE_CHECKING"
        for each in node.body:
            self.visit(each)
        self._typing = outer
        for each in node.orelse:
            self.visit(each)

    def visit_Import(self, node):
        self._add([alias.name for alias in node.names])

    def visit_ImportFrom(self, node):
        assert node.level == 0, f"line {node.lineno}: a relative import"
        inside = [f"{node.module}.{alias.name}" for alias in node.names]
        modules = [name for name in inside if name in PATHS]
        if node.module == "jax_ssp":  # its lazy names would hide what is imported
            self._add([name for name in inside if name != "jax_ssp.__version__"])
        else:
            self._add(modules if len(modules) == len(inside) else [node.module, *modules])

    def _add(self, names):
        (self.for_types if self._typing else self.names).extend(names)


def imports(tree):
    """What a module imports, and what it imports for a type checker alone."""
    found = Imports()
    found.visit(tree)
    return found.names, found.for_types


@functools.cache
def imported(module):
    """The modules of the house that a module imports, and the names of others."""
    names = [name for found in imports(tree_of(module)) for name in found]
    ours = [name for name in names if name.startswith("jax_ssp.")]
    return ours, [name for name in names if name not in ours]


@dataclass(frozen=True)
class Function:
    """A function of the house, by its name with the class it is in."""

    name: str
    lines: int
    parameters: int


def functions(module):
    """All functions of a module, also those in classes and in other functions."""
    found = []

    def visit(node, inside):
        for child in ast.iter_child_nodes(node):
            name = f"{inside}.{child.name}" if hasattr(child, "name") else inside
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                arguments = child.args
                every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
                own = every[:1] and every[0].arg in ("self", "cls")
                stars = [each for each in (arguments.vararg, arguments.kwarg) if each]
                count = len(every) + len(stars) - bool(own)
                found.append(Function(name, _code_lines(child), count))
            visit(child, name)

    visit(tree_of(module), module)
    return found


def _code_lines(function):
    """How long a function is, its docstring left out."""
    lines = set(range(function.lineno, function.end_lineno + 1))
    if ast.get_docstring(function) is not None:
        first = function.body[0]
        lines -= set(range(first.lineno, first.end_lineno + 1))
    return len(lines)


def circles(graph):
    """The sets of nodes that can be reached from each other: of several, or a node from itself."""
    reached = {node: _reached(graph, node) for node in graph}
    found = []
    for node in graph:
        ring = {other for other in reached[node] if node in reached.get(other, ())}
        if ring and ring not in found:
            found.append(ring)
    return found


def _reached(graph, start):
    seen, todo = set(), list(graph[start])
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            todo += graph.get(node, ())
    return seen
