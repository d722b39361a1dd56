"""The shape of the code: who may import whom, and how large a thing may grow.

`ROWS` is the table of modules in CONTRIBUTING.md, top to bottom.
"""

import ast
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROWS: tuple[tuple[str, ...], ...] = (
    ("errors", "units"),
    ("console", "process", "files"),
    ("digest",),
    ("reference",),
    ("catalogue",),
    ("stack",),
    ("lock",),
    ("memory",),
    ("rules",),
    ("oci",),
    ("sources",),
    ("resolve", "fetch"),
    ("recipe", "plan"),
    ("dockerfile", "launcher"),
    ("assemble", "buildkit"),
    ("engine",),
    ("outputs",),
    ("smoke", "gate"),
    ("evidence", "release"),
    ("pipeline",),
    ("cli",),
)
"""A module imports from the rows above its own."""

NEIGHBOURS = {"console", "process", "files"}
"""The one row whose modules may import each other."""

ALONE = "launcher"
"""Runs inside the image: the standard library and itself only."""

FILE_LINES, FUNCTION_LINES, MEDIAN_LINES, PARAMETERS = 300, 60, 10, 5

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "builder"
OUTSIDE = {"__init__", "__main__", "_data"}
"""The package's own front door: no row."""

AnyImport = ast.Import | ast.ImportFrom
AnyFunction = ast.FunctionDef | ast.AsyncFunctionDef


def sources() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if "_data" not in p.parts)


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def unit(path: Path) -> str:
    """The module or package directly below `builder` that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(node: AnyImport) -> Iterator[str]:
    """Dotted names, `from builder import x` included as `builder.x`."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif node.module == "builder":
        yield from (f"builder.{alias.name}" for alias in node.names)
    else:
        yield node.module or ""


def imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, AnyImport):
            yield from ((node.lineno, name) for name in imported(node))


def row(name: str) -> int:
    """A stranger is below everything: `test_every_module_has_a_row` names it."""
    return next((number for number, names in enumerate(ROWS) if name in names), len(ROWS))


def allowed(importer: str, target: str) -> bool:
    """Whether one unit of `builder` may import another."""
    if importer == target or importer in OUTSIDE or target.startswith("_"):
        return True
    if importer == ALONE:
        return False
    return row(target) < row(importer) or {importer, target} <= NEIGHBOURS


def outside_launcher(name: str) -> bool:
    top, *rest = name.split(".")
    own = top == "builder" and rest[:1] == [ALONE]
    return not own and top not in sys.stdlib_module_names


def functions(path: Path) -> Iterator[AnyFunction]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, AnyFunction):
            yield node


def length(node: AnyFunction) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def parameters(node: AnyFunction) -> int:
    """How many parameters a caller may give; `self` and `cls` are not among them."""
    given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return sum(arg.arg not in {"self", "cls"} for arg in given)


def test_every_module_has_a_row() -> None:
    known = {name for names in ROWS for name in names} | OUTSIDE
    strangers = sorted({unit(path) for path in sources()} - known)
    assert not strangers, f"give these a row in ROWS and in CONTRIBUTING.md: {strangers}"


@pytest.mark.parametrize("path", sources(), ids=label)
def test_imports_point_upwards(path: Path) -> None:
    faults = [
        f"{label(path)}:{line}: {unit(path)} may not import {name}"
        for line, name in imports(path)
        if name.startswith("builder.") and not allowed(unit(path), name.split(".")[1])
    ]
    assert not faults, "\n".join(["imports against the table of modules:", *faults])


@pytest.mark.parametrize("path", [p for p in sources() if unit(p) == ALONE], ids=label)
def test_launcher_imports_only_the_standard_library(path: Path) -> None:
    faults = [f"{label(path)}:{n}: {name}" for n, name in imports(path) if outside_launcher(name)]
    assert not faults, "\n".join(["the image has no such module:", *faults])


@pytest.mark.parametrize("path", sources(), ids=label)
def test_files_are_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= FILE_LINES, f"{label(path)} has {lines} lines, limit {FILE_LINES}: split it"


@pytest.mark.parametrize("path", sources(), ids=label)
def test_functions_are_short(path: Path) -> None:
    faults = [
        f"{label(path)}:{node.lineno}: {node.name} has {length(node)} lines"
        for node in functions(path)
        if length(node) > FUNCTION_LINES
    ]
    assert not faults, "\n".join([f"functions over {FUNCTION_LINES} lines:", *faults])


@pytest.mark.parametrize("path", [p for p in sources() if unit(p) != "cli"], ids=label)
def test_functions_take_few_parameters(path: Path) -> None:
    faults = [
        f"{label(path)}:{node.lineno}: {node.name} takes {parameters(node)}"
        for node in functions(path)
        if parameters(node) > PARAMETERS
    ]
    assert not faults, "\n".join([f"functions with over {PARAMETERS} parameters:", *faults])


def test_the_usual_function_is_small() -> None:
    lengths = [length(node) for path in sources() for node in functions(path)]
    median = statistics.median(lengths) if lengths else 0
    assert median <= MEDIAN_LINES, f"median function has {median} lines, limit {MEDIAN_LINES}"
