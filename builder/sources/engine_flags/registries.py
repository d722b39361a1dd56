"""Names that modules register with a manager class: the parsers of tool calls and of reasoning."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from builder.sources.engine_flags.classes import find_method
from builder.sources.engine_flags.code import Assigned, Imported, Module, Ref

if TYPE_CHECKING:
    from collections.abc import Iterator


def is_manager(owner: Ref) -> bool:
    """Whether a class keeps such a register."""
    return (
        isinstance(owner.node, ast.ClassDef) and find_method(owner, "register_module") is not None
    )


def registered(manager: Ref) -> list[str]:
    """Return the names that the package of a manager registers with it."""
    package = manager.module.code.module(manager.module.name.rpartition(".")[0])
    if package is None:
        return []
    return sorted({*_listed(package), *_marked(package, manager.name)})


def _listed(package: Module) -> Iterator[str]:
    """Yield the keys of `_…_TO_REGISTER`, with which later releases do it."""
    for name, found in package.names.items():
        if name.endswith("_TO_REGISTER") and isinstance(found, Assigned):
            yield from (str(ast.literal_eval(key)) for key in _keys(found.node))


def _keys(node: ast.expr) -> list[ast.expr]:
    return [key for key in node.keys if key is not None] if isinstance(node, ast.Dict) else []


def _marked(package: Module, manager: str) -> Iterator[str]:
    """Yield what decorators of the package's modules register: `@Manager.register_module("x")`."""
    homes = {found.module for found in package.names.values() if isinstance(found, Imported)}
    for home in sorted(each for each in homes if each.startswith(package.name)):
        module = package.code.module(home)
        for node in ast.walk(module.tree) if module else ():
            for mark in node.decorator_list if isinstance(node, ast.ClassDef) else ():
                if isinstance(mark, ast.Call) and _is_register(mark, manager):
                    yield from _names(mark)


def _is_register(mark: ast.Call, manager: str) -> bool:
    return ast.unparse(mark.func) == f"{manager}.register_module"


def _names(mark: ast.Call) -> list[str]:
    given = [*mark.args, *(each.value for each in mark.keywords if each.arg == "name")]
    value: Any = ast.literal_eval(given[0])
    return [value] if isinstance(value, str) else list(value)
