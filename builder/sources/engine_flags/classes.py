"""What classes of the sources have: bases, methods, values, fields."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, cast

from builder.sources.engine_flags.code import Ref

if TYPE_CHECKING:
    from collections.abc import Iterator


def find_method(owner: Ref, name: str, *, above: Ref | None = None) -> tuple[Ref, Ref] | None:
    """Return the class in which a class finds a method, and the method; `above`: `super()`."""
    line = lineage(owner)
    if above is not None:
        line = line[[each.node for each in line].index(above.node) + 1 :]
    for each in line:
        for node in cast("ast.ClassDef", each.node).body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                return each, Ref(each.module, node)
    return None


def lineage(owner: Ref) -> list[Ref]:
    """Return a class and those that it inherits from, nearest first."""
    line = [owner]
    for base in cast("ast.ClassDef", owner.node).bases:
        if isinstance(base, ast.Name):
            found = owner.module.find(base.id)
            if isinstance(found, Ref) and isinstance(found.node, ast.ClassDef):
                line += [each for each in lineage(found) if each not in line]
    return line


def base_names(owner: Ref) -> set[str]:
    """Return the last part of the names of all bases, those from outside included."""
    return {
        ast.unparse(base).rpartition(".")[2].partition("[")[0]
        for each in lineage(owner)
        for base in cast("ast.ClassDef", each.node).bases
    }


def class_values(owner: Ref) -> Iterator[tuple[str, ast.expr]]:
    """Yield the values that the body of a class gives names to."""
    for node in cast("ast.ClassDef", owner.node).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            yield node.target.id, node.value
